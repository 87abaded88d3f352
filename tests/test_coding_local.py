"""Local bits-back: a flow's walk on the lattice is undone exactly, and costs what the flow says."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from likely import build, registry
from likely.coding import Codec, container
from likely.coding.ans import Stack
from likely.coding.choice import scheme_for, schemes_of
from likely.coding.container import Kind
from likely.coding.guard import frozen
from likely.coding.local import FAR, FINE, LOGS, LocalBitsBack, Scaled, Unmovable, Walker, cell_of
from likely.coding.tables import TOTAL, Uniform
from likely.data import load
from likely.families.flow import Dequantised, Flow
from likely.families.flow.cells import BITS, NOISE_BITS, CellMap, Knots
from likely.families.flow.dequantise import LogitCells, MarginalCells
from likely.families.flow.moves import Given, Splined, on_lattice
from likely.families.flow.spline import Spline
from likely.families.flow.transforms import Linear, Transform
from likely.logprob import sample, scoring
from likely.noise import Noise
from likely.space import Integers, Reals

GLOW = {"architecture": "glow", "mixing": "linear"}
SPLINE = {"coupling": "spline", "bins": 4}
MASKED = {"architecture": "autoregressive"}
FIVE, IMAGE, LABEL = Integers((5,), 9), Integers((1, 4, 4), 11), Integers((), 3)
MODELS: dict[str, tuple[dict[str, Any], Integers, Integers | None]] = {
    "realnvp": ({}, FIVE, None),
    "realnvp, permutation, labels": ({"mixing": "permutation"}, FIVE, LABEL),
    "realnvp, image": ({}, IMAGE, None),
    "additive, normal prior": ({"coupling": "additive", "prior": "normal"}, FIVE, None),
    "one number": ({}, Integers((1,), 256), None),
    "bits": ({**GLOW}, Integers((6,), 2), None),
    "glow": ({**GLOW}, FIVE, None),
    "glow, image": ({**GLOW}, Integers((1, 8, 8), 256), None),
    "glow, odd image, labels in the prior": ({**GLOW, "conditioning": "prior"}, Integers((3, 3, 5), 256), LABEL),
    "glow, colour, labels": ({**GLOW}, Integers((3, 4, 6), 7), LABEL),
    "spline": ({**SPLINE, "mixing": "linear"}, FIVE, LABEL),
    "spline, image": ({**SPLINE, **GLOW}, IMAGE, None),
    "maf": ({**MASKED}, FIVE, LABEL),
    "maf, shifts alone": ({**MASKED, "coupling": "additive"}, IMAGE, None),
    "autoregressive splines": ({**MASKED, **SPLINE, "mixing": "linear"}, FIVE, None),
    "logit": ({"squash": "logit"}, FIVE, None),
    "variational": ({"dequantisation": "variational"}, FIVE, LABEL),
    "variational, image": ({**GLOW, "dequantisation": "variational", "squash": "logit"}, IMAGE, None),
    "variational, one number": ({"dequantisation": "variational"}, Integers((1,), 256), None),
}


def make(name: str, shake: float = 0.1, **more: Any) -> Any:
    """A model with a start from some rows and, if shaken, its parameters moved away from there."""
    fields, space, condition = MODELS[name]
    model: Any = registry.build(
        "flow", space, condition, seed=1, **{"depth": 2, "width": 8, "noise_depth": 2, **fields, **more}
    )
    x, y = rows(model, 60)
    model.prepare(x, y, noise=Noise(1, len(x)))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += shake * torch.randn(parameter.shape, generator=generator)
    return frozen(model)


def rows(model: Any, n: int, seed: int = 0) -> tuple[Tensor, Tensor | None]:
    """Rows that are unevenly spread."""
    generator, space = torch.Generator().manual_seed(seed), model.space
    x = (torch.rand((n, *space.shape), generator=generator).square() * space.levels).long()
    return x, None if model.condition is None else torch.arange(n) % model.condition.levels


# There and back -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shake", [0.0, 0.1])
@pytest.mark.parametrize("name", MODELS)
def test_rows_come_back_in_batches_of_any_size(name: str, shake: float) -> None:
    model = make(name, shake)
    x, y = rows(model, 75, seed=5)
    with scoring(model):
        x[:20] = sample(model, 20, None if y is None else y[:20], seed=0)
        data = LocalBitsBack(model, 4).encode(x, y).to_bytes()
        for size in (4, 5, 9):
            stack = Stack.from_bytes(data, LocalBitsBack.borrowing)
            found, labels = LocalBitsBack(model, 4).sized(size).decode(stack, len(x))
            assert torch.equal(found, x)
            assert y is None or torch.equal(labels, y)
            assert stack.is_empty()


@pytest.mark.parametrize("name", ["glow, image", "variational", "spline", "maf"])
def test_a_start_that_never_was(name: str) -> None:
    """A flow as it is built, without data: it is coded all the same."""
    fields, space, condition = MODELS[name]
    model = registry.build("flow", space, condition, seed=0, **{"depth": 1, "width": 4, **fields})
    x, y = rows(model, 300)
    codec = Codec(model, group=16)
    blob = codec.compress(x, y)
    assert torch.equal(codec.decompress(blob).long(), x)


class Counting(Walker):
    """Digits from a generator in place of a stack's: what is pushed less what is popped, in bits, is what x costs."""

    def __init__(self, size: int, seed: int) -> None:
        super().__init__(Stack(1), size, FINE)
        self.random, self.bits = np.random.default_rng(seed), 0.0

    def pop(self, sizes: np.ndarray) -> np.ndarray:
        self.bits -= float(np.log2(sizes).sum())
        return self.random.integers(0, sizes)

    def push(self, digits: np.ndarray, sizes: np.ndarray) -> None:
        assert ((digits >= 0) & (digits < sizes)).all()
        self.bits += float(np.log2(sizes).sum())

    def pop_noise(self, shape: tuple[int, ...], bits: int) -> np.ndarray:
        self.u = super().pop_noise(shape, bits)
        return self.u

    def pop_normal(self, n: int) -> np.ndarray:
        eps = self.random.normal(size=n)
        self.bits -= float((eps**2 / 2 + math.log(2 * math.pi) / 2).sum() / math.log(2)) + FINE * n
        self.eps = np.floor(eps * 2**FINE).astype(np.int64)
        return self.eps

    def normal(self, z: Tensor) -> None:
        """z under N(0, 1)."""
        value = (z.double() + 0.5) / 2**FINE
        self.bits += float((value.square() / 2 + math.log(2 * math.pi) / 2).sum() / math.log(2)) + FINE * z.numel()


class That:
    """Not a draw, but the noise that a walk took."""

    draws = 1

    def __init__(self, walker: Counting, n: int) -> None:
        self.walker, self.rows = walker, torch.arange(n)

    def uniform(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return (torch.from_numpy(self.walker.u).to(dtype) + 0.5) / 2**BITS

    def normal(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return ((torch.from_numpy(self.walker.eps).to(dtype) + 0.5) / 2**FINE).reshape(-1, *shape)

    def expand(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize("name", MODELS)
def test_a_walk_costs_what_the_flow_says_of_the_same_noise(name: str) -> None:
    """Row by row there is nothing random left: 60 walks of all rows differ by what the lattice cannot tell."""
    model = make(name)
    x, y = rows(model, 40, seed=3)
    with scoring(model):
        moves, gaps = model.moves(), []
        for seed in range(6):
            walker = Counting(len(x), seed)
            walker.normal(moves.forward(x, y, walker))
            says = -model.log_weight(x, y, noise=That(walker, len(x))).sum() / math.log(2)
            gaps.append((walker.bits - float(says)) / x.numel())
    assert abs(np.mean(gaps)) < 0.004 + 3 * np.std(gaps) / len(gaps) ** 0.5, gaps
    assert abs(np.mean(gaps)) < 0.012


def trained(family: str, **fields: Any) -> tuple[nn.Module, Tensor]:
    """A model trained on the digits for a second or two, and rows."""
    data = load("digits")
    model: Any = registry.build(family, data.space, seed=0, **fields)
    if hasattr(model, "prepare"):
        model.prepare(data.train.x, noise=Noise(0, len(data.train.x)))
    optimiser, order = torch.optim.Adam(model.parameters(), 2e-3), torch.Generator().manual_seed(0)
    for step in range(100):
        x = data.train.x[torch.randint(len(data.train.x), (64,), generator=order)]
        optimiser.zero_grad()
        model.loss(x, noise=Noise(step, 64)).backward()
        optimiser.step()
    return model.eval(), torch.cat([data.test.x, data.train.x])


RATES = {
    "flow": ("flow", {"preset": "digits", "width": 64, "depth": 4}),
    "a flow as prior": ("vae", {"latent": 6, "hidden": (64,), "prior": "flow", "flow": {"family": "flow", "depth": 2}}),
}


@pytest.mark.parametrize("name", RATES)
def test_a_file_is_as_long_as_the_bound(name: str) -> None:
    """1,797 rows: within 0.5 % of the mean of 16 draws of the bound, whose own error is below 0.05 %; and the first
    rows borrow less than 2 %."""
    family, fields = RATES[name]
    model, x = trained(family, **fields)
    codec = Codec(model)
    told = codec.report(x)
    with scoring(codec.model):
        draws = [-codec.model.elbo(x, noise=Noise(k, len(x))).sum() / math.log(2) for k in range(16)]
    bound, error = float(np.mean(draws)), float(np.std(draws)) / 4
    assert error < 0.0005 * bound
    assert told.raw == 0
    assert abs((told.coded - told.initial) / bound - 1) < 0.005
    assert 0 < told.initial < 0.02 * told.coded
    assert told.kind == "<="


def test_a_joint_is_coded_with_its_labels() -> None:
    data = load("digits")
    model: Any = registry.build("joint", data.space, Integers((), 10), part={"family": "flow", "levels": 0, "depth": 2})
    x, y = data.test.x[:200], data.test.y[:200]
    model.prepare(x, y, noise=Noise(0, len(x)))
    codec = Codec(model)
    blob = codec.compress(x, y)
    found = codec.read(blob)
    assert torch.equal(found.x.long(), x.long())
    assert torch.equal(found.y, y)
    assert {entry.kind for entry in container.read(blob).entries} == {Kind.MODEL}


# Refused, and stored as it is -----------------------------------------------------------------------------------------


def test_what_has_no_move_is_named() -> None:
    space = Integers((2,), 4)
    with pytest.raises(TypeError, match="its ExactJacobian has no moves"):
        schemes_of(registry.build("residual", space, jacobian="exact"))
    with pytest.raises(TypeError, match="residual is .*; accepts .* a flow of couplings"):
        schemes_of(registry.build("residual", space))
    flow: Any = Flow(registry.configure("flow"), Reals((2,)))

    class Bent(Transform):
        def forward(self, x: Tensor, y: Any = None, volume: Any = None) -> Any:
            return x.sinh(), x.cosh().log().sum(1)

        def inverse(self, z: Tensor, y: Any = None) -> Tensor:
            return z.asinh()

    flow.transform.parts.append(Bent())
    with pytest.raises(TypeError, match="its Bent has no move on a lattice"):
        schemes_of(Dequantised(flow, space))
    assert schemes_of(make("realnvp")) == (LocalBitsBack,)
    with pytest.raises(ValueError, match="accepts local-bits-back"):
        scheme_for(make("realnvp"), 3, name="sequential")


@pytest.mark.parametrize("spoil", [1e9, math.nan])
def test_numbers_that_cannot_be_moved_are_stored(spoil: float) -> None:
    model = make("realnvp")
    x, _ = rows(model, 50)
    with torch.no_grad():
        model.flow.transform.parts[0].mean.fill_(spoil)
    with scoring(model), pytest.raises(Unmovable):
        LocalBitsBack(model, 4).encode(x, None)
    with scoring(model):
        stack = Stack(1, LocalBitsBack.borrowing)
        if math.isfinite(spoil):
            assert LocalBitsBack(model, 4).decode(stack, 3)[0].shape == (3, 5)  # whatever it is, it does not raise
            codec = Codec(model)
            blob = codec.compress(x)
            assert {entry.kind for entry in container.read(blob).entries} == {Kind.RAW}
            assert torch.equal(codec.decompress(blob).long(), x)


def test_a_linear_map_too_large_for_exact_sums_stores_rows_and_never_raises_on_the_way_back() -> None:
    """Whatever digits are on the stack: what a damaged file, or the probe of the fingerprint, makes of them."""
    model = build("flow", Integers((6,), 16), mixing="linear", levels=0, depth=3, width=16)
    x = Noise(0, 30).integers(16, (6,))
    model.prepare(x, noise=Noise(1, 30))
    assert {entry.kind for entry in container.read(Codec(model).compress(x.repeat(40, 1))).entries} == {Kind.MODEL}
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, Linear):
                part.lower.mul_(1e6)
                part.upper.mul_(1e6)
    wide = frozen(model)
    with scoring(wide):
        for seed in range(5):
            stack = Stack(1, f"digits {seed}")
            assert LocalBitsBack(wide, 4).decode(stack, 3)[0].shape == (3, 6)
    codec = Codec(model)
    blob = codec.compress(x)
    assert {entry.kind for entry in container.read(blob).entries} == {Kind.RAW}
    assert torch.equal(codec.decompress(blob).long(), x)
    assert codec.report(x).rows == 30


# Parts of it ----------------------------------------------------------------------------------------------------------


@given(
    sizes=st.lists(st.integers(1, 2**40), min_size=1, max_size=30), seed=st.integers(0, 2**32), lanes=st.integers(1, 40)
)
@settings(max_examples=40, deadline=None)
def test_digits_of_any_size_are_pushed_and_popped(sizes: list[int], seed: int, lanes: int) -> None:
    stack, size = Stack(lanes, "likely/test"), np.array(sizes)
    walker = Walker(stack, 1, FINE)
    digits = np.random.default_rng(seed).integers(0, size)
    walker.push(digits, size)
    assert np.array_equal(walker.pop(size), digits)
    popped = walker.pop(size)  # of borrowed bits
    walker.push(popped, size)
    assert stack.is_empty()


def test_digits_cost_their_logarithm() -> None:
    for size in (3, 1000, 65535, 65537, 2**20, 2**33 + 5):
        stack = Stack(1)
        walker = Walker(stack, 1, FINE)
        walker.push(np.random.default_rng(0).integers(0, size, 3000), np.full(3000, size))
        assert abs(stack.bits - 64 - 16 - 3000 * math.log2(size)) < 64 + 3000 * 1e-4


@pytest.mark.parametrize("lanes", [1, 50])
def test_uniform_tables_of_several_sizes(lanes: int) -> None:
    size = np.random.default_rng(0).integers(1, 2**16 + 1, 500)
    table = Uniform(500, size)
    for c in (np.zeros(500, np.int64), np.full(500, TOTAL - 1), np.random.default_rng(1).integers(0, TOTAL, 500)):
        symbol = table.find(c)
        start, frequency = table.interval(symbol)
        assert ((symbol >= 0) & (symbol < size) & (start <= c) & (c < start + frequency)).all()
    assert (table.below(np.stack([np.zeros_like(size), size], 1)) == [0, TOTAL]).all()
    stack, symbols = Stack(lanes), np.random.default_rng(2).integers(0, size)
    stack.push(*table.interval(symbols))
    assert np.array_equal(stack.pop(table), symbols)
    assert stack.is_empty()


def test_normal_numbers() -> None:
    """Near ones cost what N(0, 1) says; the farthest can be pushed all the same."""
    stack = Stack(1, "likely/test")
    walker = Walker(stack, 1, FINE)
    far = np.array([0, -1, 5 << FINE, -(16 << FINE), (16 << FINE) - 1, 16 << FINE, FAR, -FAR, 77777777, -1234567])
    walker.push_any_normal(far)
    assert np.array_equal(walker.pop_any_normal(len(far)), far)
    assert stack.is_empty()
    z = walker.pop_normal(20000)
    assert abs(z.mean()) < 4 * 2**FINE / 20000**0.5
    assert abs(z.std() / 2**FINE - 1) < 0.02
    assert len(set((z & 127).tolist())) == 128
    entropy = FINE + math.log2(math.sqrt(2 * math.pi * math.e))
    assert abs(32 * stack.borrowed / 20000 - entropy) < 0.03
    walker.push_normal(z)
    assert stack.is_empty()


def test_noise_is_uniform_whatever_lies_on_the_stack() -> None:
    """Where a model is wrong, what was pushed under it is not uniform, and noise would not be what the bound takes."""
    found = []
    for pop in (lambda w: w.pop(np.full(4096, 16)), lambda w: w.pop_noise((4096,), 4)):
        stack = Stack(64, "likely/test")
        for _ in range(3):
            stack.push(np.full(4096, TOTAL - 64), np.full(4096, 64))  # a code in the far tail
        found.append(np.bincount(pop(Walker(stack, 1, FINE, 7)), minlength=16))
    chi = [float(((each - 256) ** 2 / 256).sum()) for each in found]
    assert chi[0] > 1000
    assert chi[1] < 45  # with 15 degrees of freedom: p = 1e-4


@given(seed=st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_cells_are_found_from_any_guess(seed: int) -> None:
    """Even where some are empty, or rounding made the edges fall."""
    r = np.random.default_rng(seed)
    edges = np.cumsum(r.integers(0, 4, 201)) - r.integers(0, 2, 201)
    edges[0], edges[-1] = 0, edges.max() + 1
    part = r.integers(0, edges[-1], 300)
    guess = r.integers(-500, 500, 300)
    z = cell_of(part, guess, np.full(300, -100), np.full(300, 100), lambda z, _index: edges[z + 100])
    assert ((edges[z + 100] <= part) & (part < edges[z + 101])).all()


def test_scales_are_ratios_of_integers() -> None:
    log = np.arange(-12 * LOGS, 12 * LOGS, 37)
    scale = Scaled(log)
    near = np.abs(log) < 4 * LOGS
    assert np.abs(np.log(scale.parts / 2.0**scale.bits) + log / LOGS)[near].max() < 0.01
    assert scale.parts.min() >= 1
    assert scale.parts.max() <= 1 << 12
    walker, i = Walker(Stack(1, "likely/test"), 1, FINE), np.arange(len(log)) - len(log) // 2
    j = scale.forward(i, walker)
    assert np.array_equal(scale.inverse(j, walker), i)
    assert walker.stack.is_empty()
    with pytest.raises(Unmovable, match="beyond"):
        Scaled(np.full(1, 5 * LOGS)).forward(np.full(1, FAR // 2), walker)


def test_splines_by_knots_are_the_splines() -> None:
    spline, walker = Spline(5, 3.0), Walker(Stack(1), 1, FINE)
    theta = torch.randn(spline.parameters, 4000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = torch.linspace(-4, 4, 4000, dtype=torch.float64)
    splined = Splined(spline, theta, walker)
    places = walker.places(z)
    edge = splined._edge(places, np.arange(4000)) / 2.0**12
    expected = spline.inverse(walker.value(torch.from_numpy(places)), theta)
    assert np.abs(edge / 2**FINE - expected.numpy()).max() < 0.002  # knots lie on a grid of 2^-16, slopes reach .001


def test_cells_are_what_dequantisation_makes_of_them() -> None:
    space = Integers((3,), 12)
    marginal = MarginalCells(space)
    marginal.start((torch.rand(200, 3, generator=torch.Generator().manual_seed(0)).square() * 12).long())
    for cells in (marginal.double(), LogitCells(space)):
        places = CellMap(cells.distribution, cells.masses(), BITS)
        x = torch.arange(12).repeat(3, 1).T
        for u in (0.01, 0.3, 0.5, 0.999):
            part = (x.numpy() << BITS) + int(u * 2**BITS)
            walker = Counting(1, 0)
            h = places.forward(part, walker)
            expected = cells(x, torch.full(x.shape, u, dtype=torch.float64), torch.full(x.shape, 1 - u).double())[0]
            assert np.abs(h / 2**FINE - expected.numpy()).max() < 0.002
            assert torch.equal(cells.cell(torch.from_numpy(h + 0.5) / 2**FINE), x)


def test_tables_of_distribution_functions_round_the_same_everywhere() -> None:
    """No knot lies so near a half that another maths library, good to 1e-14, could round it elsewhere."""
    marginal = MarginalCells(Integers((1,), 2)).distribution
    t = torch.arange(-24 * 256, 24 * 256 + 1, dtype=torch.float64) / 256
    for function in (torch.sigmoid, torch.special.ndtr, marginal):
        exact = function(t).numpy() * 2**30
        assert np.abs(exact - np.floor(exact) - 0.5).min() > 1e-14 * 2**30
        knots = Knots(function)
        assert (knots.rise >= 0).all()
        assert np.abs(knots.value - exact).max() <= 0.5 + 1e-6


def test_moves_that_keep_volumes_take_no_digits() -> None:
    model = make("maf, shifts alone")
    walker = Counting(4, 0)
    transform = on_lattice(nn.ModuleList(model.flow.transform.parts[1:3])[0])
    i = torch.randint(-(1 << FINE), 1 << FINE, (4, 16))
    j = transform(i, Given(None, walker))[0]
    assert walker.bits == 0
    assert torch.equal(transform.inverse(j, Given(None, walker)), i)
    assert NOISE_BITS > BITS

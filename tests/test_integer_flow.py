"""Integer flows: permutations in every batch size, probabilities that add up, gradients straight through roundings."""

from __future__ import annotations

import itertools
import math
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import likely as lk
from likely.families.flow.integer import Base, ShiftCoupling, centred, straight_round
from likely.families.flow.multiscale import with_features
from likely.noise import Noise
from likely.registry import build, tiny
from likely.space import Integers, Reals
from likely.verbs import Bounded, Exact, Invertible, Samples, Trainable, has

sys.path.append(str(Path(__file__).parent))
from toys import shaken

F64 = torch.float64


def every(shape: tuple[int, ...], levels: int) -> Tensor:
    grid = torch.cartesian_prod(*[torch.arange(levels)] * math.prod(shape))
    return grid.reshape(-1, *shape)


class Says(nn.Module):
    """A network that always says the same."""

    def __init__(self, value: float, outputs: int) -> None:
        super().__init__()
        self.value, self.outputs = nn.Parameter(torch.tensor(value, dtype=F64)), outputs

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return self.value.expand(x.shape[0], self.outputs)


def test_what_it_promises() -> None:
    model = build("integer-flow", Integers((2, 2), 4))
    assert has(model, Trainable, Samples, Exact, Invertible) and not has(model, Bounded)
    assert model.straight_through


def test_a_shift_wraps_around() -> None:
    # t = 0.9 * (5 - 1) / 2 = 1.8, rounded 2; then the first part by the second's new value
    coupling = ShiftCoupling(5, [1, 1], [Says(0.9, 1), Says(-0.4, 1)])
    x = torch.tensor([[0.0, 0.0], [2.0, 1.0], [4.0, 3.0]], dtype=F64)
    z, log_det = coupling(x)
    assert z.tolist() == [[2, 4], [4, 0], [1, 2]] and log_det.tolist() == [0, 0, 0]
    assert coupling.inverse(z).tolist() == x.tolist()


@pytest.mark.parametrize("value", [1e9, -1e12, 1e15, 0.25, -0.75])
def test_huge_shifts_and_ties_keep_integers(value: float) -> None:
    coupling = ShiftCoupling(256, [1, 1], [Says(value, 1), Says(value / 3, 1)])
    x = every((2,), 256).to(F64)
    z = coupling(x)[0]
    assert torch.equal(z, z.round()) and z.detach().aminmax() == (0, 255)
    assert len(z.unique(dim=0)) == 256**2
    assert torch.equal(coupling.inverse(z), x)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_what_the_trunk_gives_is_integers(dtype: torch.dtype) -> None:
    """A learned gain on a rounded shift would be no integer; it starts at one or zero, where nobody sees it."""
    model = shaken(build("integer-flow", Integers((1, 4, 4), 9), depth=1, width=6, dtype=dtype))
    x = Noise(0, 30).integers(9, (1, 4, 4))
    for scale in model._scales(x.to(dtype), None):
        assert torch.equal(scale, scale.round())
        assert float(scale.detach().min()) >= 0 and float(scale.detach().max()) <= 8
    assert not torch.equal(model.encode(x), x.flatten(1))


@pytest.mark.parametrize("condition", [None, Integers((), 2)])
def test_two_scales_permute_and_sum_to_one(condition: Integers | None) -> None:
    model = build("integer-flow", Integers((1, 4, 4), 2), condition, depth=1, parts=2, width=4, components=2)
    shaken(model.double(), 1, 0.6)
    assert len(model.bases) == 2
    x = every((1, 4, 4), 2)
    for y in [None] if condition is None else [torch.zeros(len(x)).long(), torch.ones(len(x)).long()]:
        z = model.encode(x, y)
        assert len(z.unique(dim=0)) == len(x) and not torch.equal(z, x.flatten(1))
        assert torch.equal(model.decode(z, y), x)
        with torch.no_grad():
            log_p = model.log_prob(x, y)
        assert abs(float(log_p.exp().sum()) - 1) < 1e-9
        # draws: the frequency of each of 16 quadrant patterns, and of each number
        drawn = model.sample(20_000, None if y is None else y[:20_000], noise=Noise(3, 20_000))
        p = (log_p.exp()[:, None] * x.flatten(1)).sum(0)
        seen = drawn.flatten(1).double().mean(0)
        assert float(((seen - p) / (p * (1 - p) / 20_000).sqrt()).abs().max()) < 5.5
        pairs = lambda v: (v.flatten(1)[:, :8] ^ v.flatten(1)[:, 8:]).double()  # noqa: E731
        p = (log_p.exp()[:, None] * pairs(x)).sum(0)
        assert float(((pairs(drawn).mean(0) - p) / (p * (1 - p) / 20_000).sqrt()).abs().max()) < 5.5


def test_factored_half_hangs_on_the_kept_one() -> None:
    model = shaken(build("integer-flow", Integers((1, 4, 4), 3), depth=1, width=4, dtype=F64), 1, 0.6)
    x = Noise(0, 6).integers(3, (1, 4, 4)).to(F64)
    first = model._scales(x, None)[0]
    kept, out = first[:, :2], first[:, 2:]
    plain, moved = (model.bases[0].log_prob(out, k, None) for k in (kept, (kept + 1) % 3))
    assert float((plain - moved).abs().min()) > 1e-3


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 12, 8), (2, 7, 7), (1, 7, 7), (30,), (4, 5), (1,)])
@pytest.mark.parametrize("mixing", ["reversal", "permutation"])
def test_round_trips_in_other_batch_sizes(shape: tuple[int, ...], mixing: str) -> None:
    """float32 parameters, 256 levels: encoded in one batching, decoded in another, in training mode as well."""
    model = build("integer-flow", Integers(shape, 256), Integers((), 3), width=8, mixing=mixing, depth=3)
    shaken(model, 2, 0.2)
    n = 61
    x, y = Noise(0, n).integers(256, shape), torch.arange(n) % 3
    generator = torch.Generator().manual_seed(5)

    def pieces() -> list[Tensor]:
        cut = torch.randint(1, n, (4,), generator=generator).sort().values.unique().tolist()
        return [torch.arange(a, b) for a, b in itertools.pairwise([0, *cut, n])]

    z = torch.cat([model.encode(x[i], y[i]) for i in pieces()])
    assert z.shape == (n, math.prod(shape)) and z.dtype == torch.int64
    model.train()
    for _ in range(2):
        assert torch.equal(torch.cat([model.decode(z[i], y[i]) for i in pieces()]), x)
    order = torch.randperm(n, generator=generator)
    assert torch.equal(model.encode(x[order], y[order]), z[order])


def test_answers_in_float64_whatever_the_parameters() -> None:
    """Widening the parameters changes no bit of z, and log p by float32's last step alone."""
    space = Integers((1, 4, 4), 256)
    model = shaken(build("integer-flow", space, width=8), 2, 0.2)
    wide = build("integer-flow", space, width=8, dtype=F64)
    wide.load_state_dict({k: v.double() if v.is_floating_point() else v for k, v in model.state_dict().items()})
    x = Noise(0, 300).integers(256, space.shape)
    assert torch.equal(model.encode(x), wide.encode(x))
    narrow, exact = model.log_prob(x), wide.log_prob(x)
    assert narrow.dtype == torch.float32 and torch.equal(narrow, exact.float())
    assert torch.equal(model.sample(50, noise=Noise(1, 50)), wide.sample(50, noise=Noise(1, 50)))
    assert all(f.dtype == torch.float32 for f in model.features(x))


def test_gradients_pass_straight_through() -> None:
    t = torch.tensor([-1.5, -0.5, 0.2, 0.5, 2.7, 1e7, -3.2], requires_grad=True)
    r = straight_round(t)
    assert torch.equal(r, t.round())
    r.sum().backward()
    assert t.grad is not None and t.grad.tolist() == [1.0] * 7
    # a coupling's gradient by its network is that of x + t, all the way through a second coupling
    one, two = (shaken(build("integer-flow", Integers((4,), 50), depth=1, width=6, dtype=F64), s) for s in (1, 2))
    x = Noise(0, 5).integers(50, (4,)).to(F64)
    first, second = one.trunk.levels[0].parts[0], two.trunk.levels[0].parts[0]
    weight = next(first.parameters())
    (found,) = torch.autograd.grad(second(first(x)[0])[0].square().sum(), weight)

    def soft(frozen: list[Tensor] | None, log: list[Tensor]) -> Tensor:
        """The two couplings with x + t + c, where c is what rounding and wrapping added, held fast."""
        now, at = x, 0
        for coupling in (first, second):
            parts = list(now.split(coupling.sizes, 1))
            for i in range(len(parts)):
                others = torch.cat([*parts[:i], *parts[i + 1 :]], 1)
                t = coupling.nets[i](centred(others, 50)) * 24.5
                hard = (parts[i] + t.round()).remainder(50)
                log.append((hard - parts[i] - t).detach())
                parts[i] = parts[i] + t + (log[-1] if frozen is None else frozen[at])
                at += 1
            now = torch.cat(parts, 1)
        return now.square().sum()

    log: list[Tensor] = []
    soft(None, log)
    step, values = 1e-6, []
    with torch.no_grad():
        direction = Noise(3, 1).normal(weight.shape, dtype=F64)[0]
        for sign in (1, -1):
            weight += sign * step * direction
            values.append(float(soft(log, [])))
            weight -= sign * step * direction
    slope = (values[0] - values[1]) / (2 * step)
    assert abs(slope - float((found * direction).sum())) < 1e-5 * abs(slope)


@pytest.mark.parametrize("lost", [0.3, -0.2, 0.0])
def test_the_base_slopes_to_the_neighbour_on_the_circle(lost: float) -> None:
    """By hand from the table of log P: the side that rounding hid, and from either edge to the other one."""
    base = Base(5, (1,), 2).double()
    z = torch.arange(5, dtype=F64)[:, None]
    table = base.log_prob(z, None, None).detach()
    free = z.clone().requires_grad_()
    (found,) = torch.autograd.grad(
        base.log_prob(torch.complex(free, torch.full_like(free, lost)), None, None).sum(), free
    )
    above, below = table.roll(-1) - table, table - table.roll(1)
    expected = above if lost > 0 else below if lost < 0 else (above + below) / 2
    torch.testing.assert_close(found[:, 0], expected)


def test_a_coupling_keeps_what_rounding_lost() -> None:
    # t is 1.8 and -0.8, rounded 2 and -1: lost are -0.2 and 0.2, on top of what was lost before
    coupling = ShiftCoupling(5, [1, 1], [Says(0.9, 1), Says(-0.4, 1)])
    z = coupling(torch.tensor([[4.0 + 0.5j, 3.0 + 0.0j]], dtype=torch.complex128))[0]
    assert z.real.tolist() == [[1, 2]]
    torch.testing.assert_close(z.imag, torch.tensor([[0.3, 0.2]], dtype=F64))


@pytest.mark.parametrize(("preset", "steps", "most"), [("digits", 100, 2.65), ("small", 60, 2.6)])
def test_training_on_digits_lowers_bits_per_dim(preset: str, steps: int, most: float) -> None:
    """By the derivative of log P in z the score rose from 4.4 to 10.6 bits in 100 steps."""
    data = lk.load("digits")
    model = build("integer-flow", data.space, preset=preset)
    model.prepare(data.train.x, noise=Noise(0, len(data.train.x)))
    before = float(lk.log_prob(model, data.valid.x).nats.mean())
    history = lk.fit(model, data, steps=steps, lr=2e-3, valid_every=steps // 2, log_every=10, progress=False).history
    train = [line["bits_per_dim"] for line in history if line["kind"] == "step"]
    after = -float(lk.log_prob(model, data.valid.x).nats.mean()) / (64 * math.log(2))
    assert train[-1] < train[len(train) // 2] < train[0] and after < most < -before / (64 * math.log(2))


def test_learns_what_hangs_together() -> None:
    """x2 is x1 or one more, round the corner: log 16 + log 2 = 3.466 nats; apart they have 2 log 16 = 5.545."""
    n = 256
    noise = Noise(0, n)
    first = noise.integers(16)
    x = torch.stack([first, (first + noise.integers(2)) % 16], 1)
    model = build("integer-flow", Integers((2,), 16), depth=2, parts=2, width=32)
    model.prepare(x, noise=noise)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(400):
        optimiser.zero_grad()
        model.loss(x, noise=noise).backward()
        optimiser.step()
    nats = -float(model.log_prob(x).detach().double().mean())
    assert 3.3 < nats < 4.6


def test_prepare_starts_the_base_once() -> None:
    space = Integers((1, 4, 4), 256)
    x = (200 + 10 * Noise(0, 600).normal(space.shape)).round().clamp(0, 255).long()
    model = build("integer-flow", space, width=8)
    before = float(model.loss(x, noise=Noise(0, 600)))
    model.prepare(x, noise=Noise(0, 600))
    after = float(model.loss(x, noise=Noise(0, 600)))
    normal = 16 * (0.5 * math.log(2 * math.pi * math.e) + math.log(10))
    assert after < before - 10 and normal - 0.1 < after < normal + 2
    model.prepare(255 - x, noise=Noise(0, 600))
    assert float(model.loss(x, noise=Noise(0, 600))) == after
    same = build("integer-flow", space, width=8)
    same.prepare(x[:0], noise=Noise(0, 0))
    assert not bool(same.bases[0].started)


def test_constant_numbers_get_components_of_their_own() -> None:
    """Components that start alike would stay alike."""
    model = build("integer-flow", Integers((3,), 17))
    model.prepare(torch.zeros(40, 3, dtype=torch.int64), noise=Noise(0, 40))
    means = model.bases[0].offset[:, 1].detach()
    assert len(means[:, 0].unique()) == 5


@pytest.mark.parametrize("conditioning", ["prior", "coupling", "both"])
def test_y_moves_what_it_should(conditioning: str) -> None:
    fields = {"depth": 1, "width": 6, "conditioning": conditioning}
    model = shaken(build("integer-flow", Integers((1, 4, 4), 9), Integers((), 2), **fields), 0, 0.6)
    x, zero = Noise(0, 40).integers(9, (1, 4, 4)), torch.zeros(40).long()
    same_z = torch.equal(model.encode(x, zero), model.encode(x, zero + 1))
    assert same_z == (conditioning == "prior")
    with torch.no_grad():
        assert float((model.log_prob(x, zero) - model.log_prob(x, zero + 1)).abs().max()) > 1e-3
    with pytest.raises(ValueError, match="y is None"):
        model.encode(x)


def test_features_are_what_leaves_each_scale() -> None:
    model = shaken(build("integer-flow", Integers((1, 8, 8), 17), width=8))
    x = Noise(0, 5).integers(17, (1, 8, 8))
    features = model.features(x)
    assert [tuple(f.shape) for f in features] == [(5, 4, 4, 4), (5, 8, 2, 2)]
    assert all(float(f.detach().abs().max()) <= 1 for f in features)
    loss, again = model.loss_and_features(x, noise=Noise(0, 5))
    assert float(loss.detach()) == pytest.approx(-float(model.log_prob(x).detach().mean()), rel=1e-5)
    for a, b in zip(features, again, strict=True):
        torch.testing.assert_close(a, b)
    used = [p for part in model.trunk.levels for p in part.parameters()]
    grads = torch.autograd.grad(sum(f.square().sum() for f in again), used, allow_unused=True)
    assert all(g is not None and bool(g.isfinite().all()) for g in grads)
    flat = build("integer-flow", Integers((5,), 9))
    assert [tuple(f.shape) for f in flat.features(torch.zeros(3, 5).long())] == [(3, 5)]


def test_nothing_is_left_on_the_model_by_hooks() -> None:
    model = build("integer-flow", Integers((4,), 9))
    with_features(model, lambda: None)
    model.log_prob(torch.zeros(2, 4).long())
    assert all(not level._forward_hooks for level in model.trunk.levels)


def test_bits_are_permuted_too() -> None:
    model = shaken(build("integer-flow", Integers((6,), 2), depth=2, width=6, dtype=F64), 0, 1.0)
    x = every((6,), 2)
    z = model.encode(x)
    assert len(z.unique(dim=0)) == 64 and not torch.equal(z, x) and torch.equal(model.decode(z), x)
    assert abs(float(model.log_prob(x).detach().exp().sum()) - 1) < 1e-12


def test_bytes_through_the_door() -> None:
    model = build("integer-flow", Integers((3, 8, 8), 256), preset="small")
    x = Noise(0, 5).integers(256, (3, 8, 8)).to(torch.uint8)
    reading = lk.log_prob(model, x)
    assert str(reading).startswith("bpd = ") and len(reading) == 5
    assert torch.equal(lk.log_prob(model, x[2:3]).nats, reading.nats[2:3])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build("integer-flow", Reals((2,))), "accepts arrays of Integers"),
        (lambda: build("integer-flow", Integers((), 4)), "accepts arrays of Integers"),
        (lambda: build("integer-flow", Integers((2,), 2**17)), "at most 65536"),
        (lambda: build("integer-flow", Integers((2,), 4), Integers((3,), 4)), "accepts a label"),
        (lambda: build("integer-flow", Integers((2,), 4), parts=1), "parts"),
        (lambda: build("integer-flow", Integers((2,), 4)).decode(torch.tensor([[0, 4]])), "z holds values 0 .. 4"),
        (lambda: build("integer-flow", Integers((2,), 4)).decode(torch.tensor([[0, 1, 2]])), r"z has shape \(1, 3\)"),
    ],
)
def test_bad_input(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_floats_are_no_z() -> None:
    with pytest.raises(TypeError, match="z holds float32"):
        build("integer-flow", Integers((2,), 4)).decode(torch.zeros(1, 2))


def test_every_tiny_instance_has_labels_or_parts_of_its_own() -> None:
    """Each choice that changes the distribution is there."""
    configs = [t.config for t in tiny("integer-flow").values()]
    assert {c.parts for c in configs} == {2, 3, 4}
    assert {c.mixing for c in configs} == {"reversal", "permutation"}
    assert {c.conditioning for c in configs} == {"prior", "coupling", "both"}

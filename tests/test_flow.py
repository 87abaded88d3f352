"""Flows: inverses, log-determinants against autograd, mass by quadrature, dequantisation against its own integral."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import likely as lk
from likely.families.flow import Dequantised, Flow, FlowNoise, LogitCells, MarginalCells, UniformNoise
from likely.families.flow import transforms as T
from likely.families.flow.conditioner import Conditioner
from likely.families.flow.multiscale import Squeeze
from likely.noise import Noise
from likely.registry import build, configure, presets, tiny
from likely.space import Integers, Reals
from likely.verbs import Bounded, Estimated, Exact, Invertible, Samples, Trainable, Weighted, has

sys.path.append(str(Path(__file__).parent))
from toys import shaken

F64 = torch.float64
REALS = [name for name, t in tiny("flow").items() if isinstance(t.space, Reals)]
INTEGERS = [name for name, t in tiny("flow").items() if isinstance(t.space, Integers)]


def small(name: str) -> nn.Module:
    t = tiny("flow")[name]
    return shaken(build(t.config, t.space, t.condition, dtype=F64), size=0.2 if isinstance(t.space, Reals) else 0.06)


def a_condition(model: nn.Module, n: int) -> Tensor | None:
    if model.condition is None:
        return None
    if isinstance(model.condition, Integers):
        return torch.arange(n) % model.condition.levels
    return Noise(11, n).normal(model.condition.shape, dtype=F64)


def net(inputs: int, outputs: int, **kwargs) -> nn.Module:
    return Conditioner(inputs, outputs, width=6, hidden=2, activation="silu", **kwargs)


def a_transform(name: str) -> tuple[T.Transform, tuple[int, ...], tuple[int, ...]]:
    """A transform, the shape of its x, the shape of its context (the empty shape for none)."""
    torch.manual_seed(1)
    return {
        "affine": lambda: (T.AffineCoupling(2, net(2, 6)), (5,), ()),
        "affine, context": lambda: (T.AffineCoupling(2, net(2, 6, context=3)), (5,), (3,)),
        "affine, image": lambda: (
            T.AffineCoupling(2, net(2, 4, context=3, image=True, norm=True)),
            (4, 2, 3),
            (3, 1, 1),
        ),
        "additive": lambda: (T.AdditiveCoupling(1, net(1, 3)), (4,), ()),
        "split": lambda: (T.GaussianSplit(2, net(2, 4, image=True)), (4, 2, 2), ()),
        "reversal": lambda: (T.Reversal(), (5,), ()),
        "permutation": lambda: (T.Permutation(7), (7,), ()),
        "linear": lambda: (T.Linear(4), (4,), ()),
        "linear, image": lambda: (T.Linear(3), (3, 2, 2), ()),
        "actnorm": lambda: (T.ActNorm(3), (3,), ()),
        "actnorm, image": lambda: (T.ActNorm(3), (3, 2, 2), ()),
        "standardise": lambda: (T.Standardise(3), (3, 1, 2), ()),
        "squeeze": lambda: (Squeeze(), (2, 4, 2), ()),
        "learned normal": lambda: (T.LearnedNormal((2, 2), 3), (2, 2), (3,)),
        "chain": lambda: (T.Chain([T.Linear(4), T.AffineCoupling(2, net(2, 4)), T.Reversal()]), (4,), ()),
    }[name]()


TRANSFORMS = [
    "affine", "affine, context", "affine, image", "additive", "split", "reversal", "permutation", "linear",
    "linear, image", "actnorm", "actnorm, image", "standardise", "squeeze", "learned normal", "chain",
]  # fmt: skip


def jacobian_log_det(f, x: Tensor) -> Tensor:
    """log |det| of f at one x, through autograd."""
    jacobian = torch.autograd.functional.jacobian(lambda v: f(v[None])[0].flatten(), x)
    return torch.linalg.slogdet(jacobian.reshape(x.numel(), x.numel()))[1]


@pytest.mark.parametrize("name", TRANSFORMS)
def test_each_transform_inverts_and_knows_its_log_det(name: str) -> None:
    transform, shape, context = a_transform(name)
    shaken(transform.double())
    if name == "standardise":
        transform.start(3 * Noise(5, 50).normal(shape, dtype=F64) + 2)
    x = 2 * Noise(3, 4).normal(shape, dtype=F64)
    y = Noise(4, 4).normal(context, dtype=F64) if context else None
    z, log_det = transform(x, y)
    assert log_det.shape == (4,)
    torch.testing.assert_close(transform.inverse(z, y), x, rtol=0, atol=1e-10)
    for i in range(4):
        here = None if y is None else y[i : i + 1]
        want = jacobian_log_det(lambda v, here=here: transform(v, here)[0], x[i])
        assert abs(float(log_det[i] - want)) < 1e-8


@pytest.mark.parametrize("name", REALS)
def test_whole_flows_invert_and_know_their_log_det(name: str) -> None:
    model = small(name)
    x = Noise(3, 5).normal(model.space.shape, dtype=F64)
    y = a_condition(model, 5)
    model.prepare(4 * x + 7, y, noise=Noise(0, 5))
    x = 4 * x + 7
    z = model.encode(x, y)
    assert z.shape == (5, model.space.dims)
    torch.testing.assert_close(model.decode(z, y), x, rtol=0, atol=1e-9)
    for i in range(5):
        here = None if y is None else y[i : i + 1]
        log_det = jacobian_log_det(lambda v, here=here: model.encode(v, here), x[i])
        want = log_det + torch.distributions.Normal(0.0, 1.0).log_prob(z[i]).sum()
        assert abs(float(model.log_prob(x[i : i + 1], here)[0] - want)) < 1e-8


@pytest.mark.parametrize("mixing", ["permutation", "linear"])
@pytest.mark.parametrize("architecture", ["realnvp", "glow"])
@pytest.mark.parametrize(
    "shape", [(1, 8, 8), (3, 4, 12), (1, 28, 28), (4, 7, 7), (2, 6, 10), (1, 7, 7), (1, 1, 6), (2, 3)]
)
def test_images_of_any_size(architecture: str, mixing: str, shape: tuple[int, ...]) -> None:
    fields = {"architecture": architecture, "mixing": mixing, "depth": 2, "width": 4, "levels": 3}
    model = build("flow", Reals(shape), Integers((), 3), dtype=F64, **fields)
    x, y = Noise(0, 4).normal(shape, dtype=F64), torch.tensor([0, 1, 2, 0])
    model.prepare(x, y, noise=Noise(0, 4))
    shaken(model, size=0.05)
    z = model.encode(x, y)
    assert z.shape == (4, math.prod(shape))
    torch.testing.assert_close(model.decode(z, y), x, rtol=0, atol=1e-9)
    single = build("flow", Reals(shape), Integers((), 3), **fields)
    single.load_state_dict(model.state_dict())
    x32 = x.float()
    assert float((single.decode(single.encode(x32, y), y) - x32).detach().abs().max()) < 1e-4
    if math.prod(shape) <= 48:
        want = jacobian_log_det(lambda v: model.encode(v, y[:1]), x[0])
        want = want - 0.5 * z[0].square().sum() - 0.5 * math.log(2 * math.pi) * z.shape[1]
        assert abs(float(model.log_prob(x, y)[0] - want)) < 1e-8


def test_the_levels_of_a_multiscale_flow() -> None:
    flow = build("flow", Reals((1, 28, 28)), levels=3, depth=1, width=4)
    assert flow.transform.shapes == [(4, 14, 14), (8, 7, 7)]  # seven is odd: no third level
    flow = build("flow", Reals((1, 4, 4)), levels=0, depth=1, width=4)
    assert flow.shape == (16,)  # a vector
    flow = build("flow", Reals((3, 8, 8)), levels=3, depth=1, width=4)
    assert flow.transform.shapes == [(12, 4, 4), (24, 2, 2), (48, 1, 1)]


# a spline's density has kinks, where an even grid is good to 1e-4: the suite's adaptive quadrature takes those (D2)
SMOOTH = [name for name in REALS if tiny("flow")[name].space.dims <= 2 and "spline" not in name]


@pytest.mark.parametrize("name", SMOOTH)
def test_mass_is_one(name: str) -> None:
    model = small(name)
    side, points = 20.0, 501
    axis = torch.linspace(-side, side, points, dtype=F64)
    grid = torch.cartesian_prod(*[axis] * model.space.dims).reshape(-1, *model.space.shape)
    y = a_condition(model, 2)
    for label in range(1 if y is None else 2):
        here = None if y is None else y[label : label + 1].expand(len(grid), *y.shape[1:])
        with torch.no_grad():
            mass = model.log_prob(grid, here).exp().sum() * (2 * side / (points - 1)) ** model.space.dims
        assert abs(float(mass) - 1) < 1e-6, (name, label)


@pytest.mark.parametrize("name", ["realnvp", "glow, image", "additive"])
def test_change_of_units(name: str) -> None:
    """The same flow told that its data come in other units gives a density lower by the log of the ratio (D6)."""
    model = small(name)
    x, dims = Noise(0, 300).normal(model.space.shape, dtype=F64), model.space.dims
    other = small(name)
    model.prepare(x, noise=Noise(0, 300))
    other.prepare(100 * x - 3, noise=Noise(0, 300))
    moved = other.log_prob(100 * x - 3) - model.log_prob(x)
    torch.testing.assert_close(moved, torch.full_like(moved, -dims * math.log(100)), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", REALS)
def test_samples_follow_the_density(name: str) -> None:
    """E[log p(sample)] is minus the entropy of the base plus the mean log-det of decoding: a z-test of the moments."""
    model = small(name)
    n = 4000
    y = a_condition(model, n)
    with torch.no_grad():
        x = model.sample(n, y, noise=Noise(2, n))
        z = model.encode(x, y)
    assert x.shape == (n, *model.space.shape)
    assert float(z.mean(0).abs().max()) < 6 / math.sqrt(n)
    assert float((z.square().mean(0) - 1).abs().max()) < 6 * math.sqrt(2 / n)
    torch.testing.assert_close(z, Noise(2, n).normal((model.space.dims,), dtype=F64), rtol=0, atol=1e-7)


@pytest.mark.parametrize("prior", ["normal", "learned"])
@pytest.mark.parametrize("conditioning", ["prior", "coupling", "both"])
@pytest.mark.parametrize("condition", [None, Integers((), 3), Reals((2,))])
@pytest.mark.parametrize("space", [Reals((3,)), Reals((2, 2, 2)), Integers((2, 2, 2), 5)])
def test_every_prior_with_and_without_y(prior, conditioning, condition, space) -> None:
    model = build("flow", space, condition, depth=2, width=4, prior=prior, conditioning=conditioning)
    shaken(model)
    n = 3
    y = None if condition is None else (torch.arange(n) if isinstance(condition, Integers) else torch.randn(n, 2))
    x = lk.sample(model, n, y, seed=0)
    assert x.shape == (n, *space.shape)
    assert torch.isfinite(lk.log_prob(model, x, y, k=2).nats).all()
    if condition is not None:
        other = 1 - y if isinstance(condition, Reals) else (y + 1) % 3
        assert (lk.log_prob(model, x, y, k=1).nats != lk.log_prob(model, x, other, k=1).nats).all()
        with pytest.raises(ValueError, match="y is None"):
            lk.log_prob(model, x)


def test_the_data_dependent_start_happens_once() -> None:
    glow = configure("flow", architecture="glow", mixing="linear", depth=3, width=8, levels=2)
    x = 5 * Noise(0, 64).normal((1, 4, 4)) + 40
    model = build(glow, Reals((1, 4, 4)))
    before = lk.log_prob(model, x).mean
    model.prepare(x, noise=Noise(0, 64))
    norms = [m for m in model.modules() if isinstance(m, T.ActNorm)]
    assert len(norms) == 2 * 3 * 3  # in the chain, and two in every coupling's network
    assert all(m.started for m in norms)
    assert lk.log_prob(model, x).mean > before + 10
    state = {k: v.clone() for k, v in model.state_dict().items()}
    loaded = build(glow, Reals((1, 4, 4)), seed=9)
    loaded.load_state_dict(state)
    loaded.prepare(-1000 * x, noise=Noise(1, 64))
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_actnorm_starts_at_mean_zero_deviation_one() -> None:
    norm, x = T.ActNorm(3), 5 * Noise(0, 200).normal((3, 2, 2)) - 4
    assert torch.equal(norm(x)[0], x)  # the identity before its start
    T.start_from(norm, lambda: norm(x))
    z = norm(x)[0].transpose(0, 1).flatten(1)
    torch.testing.assert_close(z.mean(1), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.std(1, correction=0), torch.ones(3), atol=1e-5, rtol=0)


def test_constant_data_and_empty_data_start_finitely() -> None:
    for x in (torch.full((10, 3), 4.0), torch.zeros(0, 3)):
        model = build("flow", Reals((3,)), architecture="glow", depth=2, width=4)
        model.prepare(x, noise=Noise(0, len(x)))
        assert torch.isfinite(model.log_prob(torch.full((2, 3), 4.0))).all()


def test_the_linear_map_stays_invertible_under_any_step() -> None:
    """Glow's W drifted to singular matrices; here |det W| = exp(sum log |s|) for any parameters."""
    linear = T.Linear(6).double()
    torch.testing.assert_close(
        linear(torch.eye(6, dtype=F64))[0] @ linear(torch.eye(6, dtype=F64))[0].T,
        torch.eye(6, dtype=F64),
        atol=1e-5,
        rtol=0,
    )
    shaken(linear, size=3.0)
    x = Noise(0, 8).normal((6,), dtype=F64)
    z, log_det = linear(x)
    want = torch.linalg.slogdet(linear(torch.eye(6, dtype=F64))[0])[1]
    assert abs(float(log_det[0] - want)) < 1e-8
    torch.testing.assert_close(linear.inverse(z), x, rtol=1e-6, atol=1e-6)


def test_affine_coupling_is_glow_s() -> None:
    """Shift before scale, and s = sigmoid(r + 2), by hand."""

    class Constant(nn.Module):
        def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
            return torch.tensor([[3.0, -1.0]]).expand(len(x), 2)  # t = 3, r = -1

    z, log_det = T.AffineCoupling(1, Constant())(torch.tensor([[10.0, 5.0]]))
    s = 1 / (1 + math.exp(-1.0))
    assert z.tolist() == [[10.0, pytest.approx((5 + 3) * s)]]
    assert float(log_det) == pytest.approx(math.log(s))


@pytest.mark.parametrize("architecture", ["realnvp", "glow"])
def test_no_nan_at_the_start_nor_on_wild_data(architecture: str) -> None:
    model = build("flow", Reals((1, 8, 8)), architecture=architecture, depth=3, width=8)
    x = torch.cat([1e4 * Noise(0, 8).normal((1, 8, 8)), torch.zeros(8, 1, 8, 8)])
    model.prepare(x, noise=Noise(0, 16))
    loss = model.loss(x, noise=Noise(0, 16))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


# --- integers


def quadrature(model: nn.Module, x: Tensor, y: Tensor | None, points: int) -> Tensor:
    """P(x) as an integral over the cell with uniform noise on a Gauss-Legendre grid, (B,)."""
    dims = model.space.dims
    import numpy as np

    node, weight = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(points))
    u = torch.cartesian_prod(*[(node + 1) / 2] * dims).reshape(-1, *model.space.shape)
    w = torch.cartesian_prod(*[weight / 2] * dims).reshape(-1, dims).prod(1)
    total = []
    for i in range(len(x)):
        here = x[i : i + 1].expand(len(u), *x.shape[1:])
        h, log_jacobian = model.cells(here, u, 1 - u)
        label = None if y is None else y[i : i + 1].expand(len(u))
        total.append(((model.flow.log_prob(h, label) + log_jacobian).exp() * w).sum())
    return torch.stack(total)


def all_states(space: Integers) -> Tensor:
    return torch.cartesian_prod(*[torch.arange(space.levels)] * space.dims).reshape(-1, *space.shape)


@pytest.mark.parametrize("squash", ["marginal", "logit"])
def test_the_cells_hold_all_of_the_mass(squash: str) -> None:
    """Sum over all states of the integral over the cell is 1: T reaches every real number."""
    space = Integers((2,), 4)
    model = shaken(build("flow", space, depth=2, width=8, squash=squash, dtype=F64), size=0.1)
    x = lk.sample(model, 500, seed=3)
    model.prepare(x, noise=Noise(0, 500))
    with torch.no_grad():
        p = quadrature(model, all_states(space), None, 100)
    assert abs(float(p.sum()) - 1) < 1e-4


@pytest.mark.parametrize("name", INTEGERS)
def test_weights_are_unbiased_and_bounds_in_order(name: str) -> None:
    """E[exp log_weight] = P(x) (a z-test against quadrature), sums to 1 over the states, and E[elbo] <= log P(x)."""
    model = small(name)
    space, draws = model.space, 4000 if model.space.dims == 2 else 300
    x = all_states(space)
    y = None if model.condition is None else torch.ones(len(x), dtype=torch.long)
    with torch.no_grad():
        log_w = model.log_weight(x, y, noise=Noise(0, len(x), draws)).reshape(len(x), draws)
    w = log_w.exp()
    error = w.std(1) / math.sqrt(draws)
    assert abs(float(w.mean(1).sum()) - 1) < 6 * float(error.square().sum().sqrt())
    assert float(error.square().sum().sqrt()) < 0.02  # the test could see a loss of an eighth of the mass
    if space.dims == 2:
        with torch.no_grad():
            p = quadrature(model, x, y, 100)
        assert ((w.mean(1) - p).abs() < 6 * error + 1e-4).all()
        slack = 6 * log_w.std(1) / math.sqrt(draws)
        assert (log_w.mean(1) <= p.log() + slack).all()


@pytest.mark.parametrize("name", INTEGERS)
def test_samples_fall_into_the_cells_with_their_probability(name: str) -> None:
    model = small(name)
    space, n = model.space, 4000
    x = all_states(space)
    y = None if model.condition is None else torch.ones(len(x), dtype=torch.long)
    with torch.no_grad():
        drawn = model.sample(n, None if y is None else y[:1].expand(n), noise=Noise(1, n)).reshape(n, -1)
        p = model.log_weight(x, y, noise=Noise(0, len(x), 400)).reshape(len(x), 400).exp().mean(1)
    place = space.levels ** torch.arange(space.dims - 1, -1, -1)
    count = torch.bincount((drawn * place).sum(1), minlength=len(x)).double()
    keep = n * p > 5
    chi2 = ((count - n * p).square() / (n * p))[keep].sum()
    degrees = int(keep.sum())
    # p carries the noise of 400 draws beside that of the 4000 samples: twice the critical value covers it
    assert float(chi2) < 2 * (degrees + 6 * math.sqrt(2 * degrees))


@pytest.mark.parametrize("squash", ["marginal", "logit"])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_cells_come_back(squash: str, dtype: torch.dtype) -> None:
    space = Integers((3, 2, 2), 256)
    cells = (MarginalCells(space) if squash == "marginal" else LogitCells(space)).to(dtype)
    x = Noise(0, 500).integers(256, space.shape)
    x[:20] = 0
    x[20:40] = 255
    if squash == "marginal":
        cells.start(x)
    for u in (
        torch.full(x.shape, 0.01),
        Noise(1, 500).uniform(space.shape).clamp(0.01, 0.99),
        torch.full(x.shape, 0.99),
    ):
        h, log_jacobian = cells(x, u.to(dtype), 1 - u.to(dtype))
        assert torch.isfinite(h).all()
        assert torch.isfinite(log_jacobian).all()
        assert torch.equal(cells.cell(h), x)
    # the ends of the outermost cells lie at the ends of the reals
    tiny_u = torch.full(x.shape, 2.0**-24, dtype=dtype)
    low, high = cells(x, tiny_u, 1 - tiny_u)[0], cells(x, 1 - tiny_u, tiny_u)[0]
    assert float(low[:20].max()) < -5 < 5 < float(high[20:40].min())
    assert torch.equal(cells.cell(low)[:20], x[:20])
    assert torch.equal(cells.cell(high)[20:40], x[20:40])


@pytest.mark.parametrize("squash", ["marginal", "logit"])
def test_cell_jacobian(squash: str) -> None:
    space = Integers((3,), 5)
    cells = (MarginalCells(space) if squash == "marginal" else LogitCells(space)).double()
    x = Noise(0, 40).integers(5, (3,))
    if squash == "marginal":
        cells.start(x)
    u = Noise(1, 40).uniform((3,), dtype=F64)
    for i in range(40):
        want = jacobian_log_det(lambda v, i=i: cells(x[i : i + 1], v, 1 - v)[0], u[i])
        assert abs(float(cells(x[i : i + 1], u[i : i + 1], 1 - u[i : i + 1])[1] - want)) < 1e-9


def test_noise_covers_the_whole_cell() -> None:
    """Not half of it, as (1 - u) / 2 does; and the variational noise starts out uniform."""
    space = Integers((1, 2, 2), 17)
    config = configure("flow", width=8)
    x = Noise(0, 20_000).integers(17, space.shape)
    torch.manual_seed(0)
    for module in (UniformNoise(space), FlowNoise(config, space)):
        u, rest, log_q = module(x, Noise(1, 20_000), torch.float32)
        torch.testing.assert_close(u + rest, torch.ones_like(u))
        u = u.detach().flatten().sort().values
        grid = (torch.arange(len(u)) + 0.5) / len(u)
        assert float((u - grid).abs().max()) < 2.7 / math.sqrt(len(u))  # Kolmogorov-Smirnov, false alarm 1e-6
        torch.testing.assert_close(log_q.detach(), torch.zeros(20_000), atol=1e-4, rtol=0)


def test_variational_noise_knows_its_density() -> None:
    """log q(u given x) against autograd: u as a function of eps."""
    config = configure("flow", width=8, noise_depth=2)
    for space in (Integers((3,), 5), Integers((1, 2, 2), 5)):
        torch.manual_seed(0)
        module = shaken(FlowNoise(config, space).double(), size=0.2)
        x = Noise(0, 1).integers(5, space.shape)

        class Given:
            draws = 1

            def __init__(self, eps: Tensor) -> None:
                self.eps = eps

            def normal(self, shape, *, dtype):
                return self.eps

            def expand(self, values: Tensor) -> Tensor:
                return values

        eps = Noise(2, 1).normal((space.dims,), dtype=F64)[0]
        log_det = jacobian_log_det(lambda e, m=module, x=x, g=Given: m(x, g(e), F64)[0], eps)
        want = torch.distributions.Normal(0.0, 1.0).log_prob(eps).sum() - log_det
        assert abs(float(module(x, Given(eps[None]), F64)[2] - want)) < 1e-9


def test_a_uniform_density_costs_log2_levels() -> None:
    """An identity flow over uniform cells: 8 bits a dimension for 256 levels, exactly, whatever the noise draws."""
    space = Integers((4,), 256)
    flow = build("flow", Reals((4,)), dtype=F64)
    for part in flow.transform.parts:
        if isinstance(part, T.AffineCoupling):
            part.net.last.bias.data[part.net.last.bias.shape[0] // 2 :] = 30.0  # sigmoid(32) is 1
    model = Dequantised(flow, space).double()
    x = 8 + Noise(0, 10).integers(240, (4,))  # the tails of MarginalCells are a little off
    bits = lk.log_prob(model, x).bits_per_dim
    torch.testing.assert_close(bits, torch.full_like(bits, 8.0), atol=1e-9, rtol=0)


def test_an_identity_flow_is_the_product_of_histograms() -> None:
    space = Integers((2,), 3)
    cells = MarginalCells(space).double()
    x = torch.tensor([[0, 2]] * 6 + [[1, 2]] * 3 + [[2, 0]] * 1)
    cells.start(x)
    u = Noise(0, 10).uniform((2,), dtype=F64)
    h, log_jacobian = cells(x, u, 1 - u)
    log_normal = torch.distributions.Normal(0.0, 1.0).log_prob(h).sum(1)
    want = cells.mass[0, x[:, 0]].log() + cells.mass[1, x[:, 1]].log()
    inner = (h.abs() < 2.5).all(1)
    assert inner.any()
    torch.testing.assert_close((log_normal + log_jacobian)[inner], want[inner], atol=1e-6, rtol=0)
    assert float((cells.mass.sum(1) - 1).abs().max()) < 1e-6
    assert cells.mass[0, 0] > cells.mass[0, 1] > cells.mass[0, 2] > 0
    before = cells.mass.clone()
    cells.start(2 - x)
    assert torch.equal(cells.mass, before)  # once


class Guess(nn.Module):
    """A standard normal that only estimates its density."""

    space, condition, config, unbiased = Reals((2,)), None, None, True

    def log_prob_estimate(self, x, y=None, *, noise):
        x = noise.expand(x)
        return -0.5 * x.square().sum(1) - math.log(2 * math.pi) + noise.normal(dtype=x.dtype)

    def sample(self, n, y=None, *, noise):
        return noise.normal((2,))


def test_dequantised_promises_what_its_density_keeps() -> None:
    assert isinstance(Guess(), Estimated)
    over = Dequantised(Guess(), Integers((2,), 4))
    assert has(over, Bounded, Samples) and not has(over, Weighted) and not has(over, Estimated)
    consistent = Guess()
    consistent.unbiased = False
    over = Dequantised(consistent, Integers((2,), 4))
    assert has(over, Estimated, Samples) and not has(over, Bounded) and not has(over, Weighted)
    x = torch.tensor([[0, 1], [3, 2]])
    assert over.log_prob_estimate(x, noise=Noise(0, 2, 3)).shape == (6,)
    reading = lk.log_prob(over, x, k=4096)
    assert reading.nats == pytest.approx(math.log(1 / 16), abs=0.2)  # uniform but for Jensen's gap and the guess
    with pytest.raises(TypeError, match="Dequantised needs a model that is Exact or Estimated"):
        Dequantised(nn.Identity(), Integers((2,), 4))
    with pytest.raises(ValueError, match=r"accepts one over Reals\(\(3,\)\)"):
        Dequantised(build("flow", Reals((2,))), Integers((3,), 4))


def test_any_exact_density_can_be_dequantised() -> None:
    model = Dequantised(build("mixture", Reals((2,)), preset="default"), Integers((2,), 4))
    assert has(model, Weighted, Bounded, Samples)
    assert lk.sample(model, 5, seed=0).shape == (5, 2)


def test_verbs_follow_the_instance() -> None:
    flow, bytes_ = build("flow", Reals((2,))), build("flow", Integers((2,), 256))
    assert isinstance(flow, Flow)
    assert has(flow, Trainable, Samples, Exact, Invertible)
    assert not has(flow, Bounded)
    assert has(bytes_, Trainable, Samples, Bounded, Weighted)
    assert not has(bytes_, Exact)
    assert not has(bytes_, Invertible)


def test_draws_of_a_row_and_batches() -> None:
    for variational in ("uniform", "variational"):
        model = shaken(
            build(
                "flow", Integers((1, 4, 4), 9), Integers((), 3), depth=2, width=4, dequantisation=variational, dtype=F64
            )
        )
        x, y = Noise(0, 5).integers(9, (1, 4, 4)), torch.tensor([0, 1, 2, 1, 0])
        with torch.no_grad():
            five = model.log_weight(x, y, noise=Noise(3, 5, 4))
            assert five.shape == (20,)
            each = [
                model.log_weight(x[i : i + 1], y[i : i + 1], noise=Noise(3, torch.tensor([i]), 4)) for i in range(5)
            ]
            torch.testing.assert_close(five, torch.cat(each), rtol=0, atol=1e-9)
            assert model.log_weight(x[:0], y[:0], noise=Noise(0, 0)).shape == (0,)
            assert model.sample(0, y[:0], noise=Noise(0, 0)).shape == (0, 1, 4, 4)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="a flow accepts a label"):
        build("flow", Reals((2,)), Integers((3,), 4))
    with pytest.raises(ValueError, match="not a scalar"):
        build("flow", Integers((), 4))
    with pytest.raises(ValueError, match="coupling"):
        build("flow", Reals((2,)), coupling="afine")


@pytest.mark.parametrize("preset", list(presets("flow")))
def test_presets_build_and_take_a_step(preset: str) -> None:
    space = Reals((2,)) if preset == "toys2d" else Integers((1, 8, 8), 17)
    model = build("flow", space, Integers((), 3), preset=preset)
    x = Noise(0, 6).normal((2,)) if preset == "toys2d" else Noise(0, 6).integers(17, (1, 8, 8))
    y = torch.arange(6) % 3
    model.prepare(x, y, noise=Noise(0, 6))
    loss = model.loss(x, y, noise=Noise(1, 6))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_learns_two_moons() -> None:
    """From the standardised normal's 2.0-odd nats towards the data's entropy."""
    data = lk.load("moons")
    model = build("flow", data.space, preset="toys2d", depth=4, width=32)
    x = data.train.x[:4000].float()
    model.prepare(x, noise=Noise(0, len(x)))
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    before = lk.log_prob(model, data.test.x[:256]).mean
    for step in range(40):
        rows = Noise(step, 256).integers(len(x))
        optimiser.zero_grad()
        model.loss(x[rows], noise=Noise(step, 256)).backward()
        optimiser.step()
    assert lk.log_prob(model, data.test.x[:256]).mean > before + 0.1

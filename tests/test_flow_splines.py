"""Spline and masked autoregressive flows: inverses, slopes, knots, tails, and the work that an inverse may cost."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from likely.families.flow import masked as M
from likely.families.flow.conditioner import Conditioner
from likely.families.flow.spline import FLOOR, Spline, SplineCoupling
from likely.nets.masked import MaskedMLP
from likely.noise import Noise
from likely.registry import build
from likely.space import Integers, Reals
from likely.verbs import Exact, Invertible, Samples, Trainable, has

F64 = torch.float64
BINS, BOUND = 5, 4.0
SPLINE = Spline(BINS, BOUND)
EACH = {"affine": M.Affine(), "shift": M.Shift(), "spline": SPLINE}


def shaken(model: nn.Module, size: float = 0.3) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p += size * torch.randn(p.shape, generator=generator, dtype=F64).to(p.dtype)
    return model


def by_hand(theta: list[float]) -> tuple[list[float], list[float], list[float]]:
    """Knots, their images and the slopes there, from the paper's words: softmax, cumulative sum, softplus."""

    def edges(raw: list[float]) -> list[float]:
        weights = [math.exp(v) for v in raw]
        shares = [FLOOR + (1 - BINS * FLOOR) * w / sum(weights) for w in weights]
        return [BOUND * (2 * sum(shares[:k]) - 1) for k in range(BINS + 1)]

    shift = math.log(math.expm1(1 - FLOOR))
    inner = [FLOOR + math.log1p(math.exp(v + shift)) for v in theta[2 * BINS :]]
    return edges(theta[:BINS]), edges(theta[BINS : 2 * BINS]), [1.0, *inner, 1.0]


def a_spline(precision: torch.dtype = F64, n: int = 40, size: float = 1.0) -> tuple[Tensor, Tensor]:
    """Points (n, m) and parameters (3 K - 1, n, m), one spline a row: everywhere, on every knot, at and past bounds."""
    theta = size * Noise(1, n).normal((3 * BINS - 1,), dtype=F64)
    on_knots = torch.tensor([by_hand(row.tolist())[0] for row in theta], dtype=F64)
    single = torch.tensor(BOUND, dtype=precision)
    ends = torch.stack([single, -single, single.nextafter(single * 2), single.nextafter(single * 0)]).double()
    far = torch.tensor([-1e6, -40.0, -BOUND - 1e-3, BOUND + 0.5, 300.0], dtype=F64)
    points = [3 * Noise(2, n).normal((30,), dtype=F64), on_knots, ends.expand(n, 4), far.expand(n, 5)]
    x = torch.cat(points, 1).to(precision)
    return x, theta.to(precision).T[:, :, None].expand(-1, -1, x.shape[1]).contiguous()


@pytest.mark.parametrize(("precision", "limit"), [(F64, 1e-10), (torch.float32, 1e-4)])
@pytest.mark.parametrize("each", EACH)
def test_round_trips(each: str, precision: torch.dtype, limit: float) -> None:
    # parameters of half the size in float32: a slope of 1/1000 costs three digits, whatever the formula
    x, theta = a_spline(precision, size=1.0 if precision == F64 else 0.5)
    theta = theta[: EACH[each].parameters]
    z, log_slope = EACH[each].forward(x, theta)
    back = EACH[each].inverse(z, theta)
    assert z.dtype == back.dtype == precision
    assert float(((back - x).abs() / (1 + x.abs())).max()) < limit
    again = EACH[each].forward(EACH[each].inverse(x, theta), theta)[0]
    assert float(((again - x).abs() / (1 + x.abs())).max()) < limit
    assert torch.isfinite(log_slope).all()


def test_a_wild_spline_comes_back_in_float32_as_well_as_its_slope_lets_it() -> None:
    """An error of x is one of z over the slope: measured in z, it stays at the last bits of the bound."""
    x, theta = a_spline(torch.float32, size=3.0)
    inside = x.abs() < BOUND
    z, log_slope = SPLINE.forward(x, theta)
    back = SPLINE.inverse(z, theta)
    exact, _ = SPLINE.forward(back.double(), theta.double())
    assert float(((exact - z).abs() * inside).max()) < 1e-4 * BOUND
    assert torch.isfinite(back).all() and torch.isfinite(log_slope).all()


def test_the_spline_is_the_paper_s() -> None:
    """Equations 4 and 5 with knots by hand, one number after the other."""
    x, theta = a_spline(n=10)
    z, log_slope = SPLINE.forward(x, theta)
    for i in range(len(x)):
        xs, ys, ds = by_hand(theta[:, i, 0].tolist())
        for at, got, got_slope in zip(x[i].tolist(), z[i].tolist(), log_slope[i].tolist(), strict=True):
            want, slope = at, 1.0
            for k in range(BINS):
                if xs[k] <= at < xs[k + 1] and abs(at) < BOUND:
                    w, h = xs[k + 1] - xs[k], ys[k + 1] - ys[k]
                    s, xi = h / w, (at - xs[k]) / w
                    below = s + (ds[k + 1] + ds[k] - 2 * s) * xi * (1 - xi)
                    want = ys[k] + h * (s * xi**2 + ds[k] * xi * (1 - xi)) / below
                    above = ds[k + 1] * xi**2 + 2 * s * xi * (1 - xi) + ds[k] * (1 - xi) ** 2
                    slope = s**2 * above / below**2
            assert got == pytest.approx(want, abs=1e-9)
            assert got_slope == pytest.approx(math.log(slope), abs=1e-9)


@pytest.mark.parametrize("each", EACH)
def test_slopes_are_those_of_autograd(each: str) -> None:
    x, theta = a_spline()
    theta = theta[: EACH[each].parameters]
    x.requires_grad_()
    value, log_slope = EACH[each].forward(x, theta)
    (slope,) = torch.autograd.grad(value.sum(), x)
    torch.testing.assert_close(log_slope.detach(), slope.log(), rtol=0, atol=1e-8)
    z = value.detach().requires_grad_()
    (back,) = torch.autograd.grad(EACH[each].inverse(z, theta).sum(), z)
    torch.testing.assert_close(log_slope.detach(), -back.log(), rtol=0, atol=1e-8)


def test_a_network_in_half_precision_still_gives_single_log_slopes() -> None:
    x, theta = a_spline(torch.float32)
    rounded = theta.bfloat16()
    for got, want in zip(SPLINE.forward(x, rounded), SPLINE.forward(x, rounded.float()), strict=True):
        assert got.dtype == torch.float32 and torch.equal(got, want)


def test_gradients_reach_every_parameter_of_the_bin_and_are_right() -> None:
    x, theta = a_spline(n=3)
    x, theta = x[:, :30].contiguous(), theta[:, :, :30].contiguous().requires_grad_()
    assert torch.autograd.gradcheck(lambda t: SPLINE.forward(x, t), theta)
    assert torch.autograd.gradcheck(lambda t: SPLINE.inverse(x, t), theta)


@pytest.mark.parametrize("size", [0.0, 1.0, 4.0])
def test_monotone_and_continuous_over_knots_and_bounds(size: float) -> None:
    theta = size * Noise(1, 20).normal((3 * BINS - 1,), dtype=F64)
    x = torch.linspace(-BOUND - 1, BOUND + 1, 20001, dtype=F64).expand(20, -1)
    wide = theta.T[:, :, None].expand(-1, -1, x.shape[1])
    z, log_slope = SPLINE.forward(x, wide)
    assert bool((z.diff(dim=1) > 0).all())
    assert bool((log_slope[:, [0, -1]] == 0).all()) and torch.equal(z[:, [0, -1]], x[:, [0, -1]])
    knots = torch.tensor([by_hand(row.tolist())[0] for row in theta], dtype=F64)
    wide = theta.T[:, :, None].expand(-1, -1, BINS + 1)
    sides = [SPLINE.forward(knots + step, wide) for step in (-1e-9, 1e-9)]
    for left, right in zip(*sides, strict=True):
        assert size > 1 or float((left - right).abs().max()) < 1e-4  # wilder splines bend more than that in 2e-9
    if not size:  # parameters of zero are the identity
        torch.testing.assert_close(z, x, rtol=0, atol=1e-12)


def test_a_coupling_moves_one_half_by_the_other() -> None:
    for image in (False, True):
        net = Conditioner(2, 3 * (3 * BINS - 1), width=6, hidden=2, activation="silu", context=2, image=image)
        coupling = shaken(SplineCoupling(2, net, SPLINE).double())
        shape = (5, 2, 3) if image else (5,)
        x, y = 3 * Noise(0, 6).normal(shape, dtype=F64), Noise(1, 6).normal((2, 1, 1) if image else (2,), dtype=F64)
        z, log_det = coupling(x, y)
        torch.testing.assert_close(coupling.inverse(z, y), x, rtol=0, atol=1e-10)
        assert torch.equal(z[:, :2], x[:, :2])
        for i in range(3):
            jacobian = torch.autograd.functional.jacobian(
                lambda v, i=i, coupling=coupling, y=y: coupling(v[None], y[i : i + 1])[0][0], x[i]
            )
            want = torch.linalg.slogdet(jacobian.reshape(x[i].numel(), -1))[1]
            assert abs(float((log_det[i] - want).detach())) < 1e-8
        # a channel's parameters stand together: moving one bias of the last layer moves one channel
        with torch.no_grad():
            net.last.bias[2 * (3 * BINS - 1)] += 1.0  # the first parameter of the third moved channel
        moved = (coupling(x, y)[0] - z).abs().transpose(0, 1).flatten(1).amax(1) > 0
        assert moved.tolist() == [False, False, False, False, True]


def masked(each: str, dims: int = 6, context: int = 0, **fields) -> M.MaskedAutoregressive:
    sizes = {"features": 1, "width": 20, "layers": 2, "classes": context, "residual": False, **fields}
    net = MaskedMLP(dims, outputs=EACH[each].parameters, **sizes)
    return shaken(M.MaskedAutoregressive(net, EACH[each]).double())


def naive_inverse(transform: M.MaskedAutoregressive, z: Tensor, y: Tensor | None) -> Tensor:
    """D full passes: after pass i the first i dimensions are right."""
    x = torch.zeros_like(z)
    for _ in range(z.shape[1]):
        theta = transform.net(x[:, None], y).movedim(1, 0)
        x = transform.each.inverse(z, theta)
    return x


@pytest.mark.parametrize("context", ["none", "labels", "numbers"])
@pytest.mark.parametrize("each", EACH)
def test_the_inverse_is_that_of_d_passes(each: str, context: str) -> None:
    transform = masked(each, context=0 if context == "none" else 3)
    x = 2 * Noise(0, 7).normal((6,), dtype=F64)
    y = {"none": None, "labels": torch.arange(7) % 3, "numbers": Noise(1, 7).normal((3,), dtype=F64)}[context]
    z, log_det = transform(x, y)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            back = transform.inverse(z, y)
        torch.testing.assert_close(back, x, rtol=0, atol=1e-10)
        torch.testing.assert_close(back, naive_inverse(transform, z, y), rtol=0, atol=1e-10)
    jacobian = torch.autograd.functional.jacobian(lambda v: transform(v, y)[0].sum(0), x).transpose(0, 1)
    assert float(jacobian.triu(1).abs().max()) == 0  # z_i does not see x_j behind it
    assert each == "shift" or float(jacobian.tril(-1).abs().amax(0)[1:].amax(1).min()) > 1e-3  # but those before
    torch.testing.assert_close(log_det, torch.linalg.slogdet(jacobian)[1], rtol=0, atol=1e-8)
    inverse = torch.autograd.functional.jacobian(lambda v: transform.inverse(v, y).sum(0), z).transpose(0, 1)
    torch.testing.assert_close(jacobian @ inverse, torch.eye(6, dtype=F64).expand(7, 6, 6), rtol=0, atol=1e-8)
    if y is not None:
        assert bool((transform(x, y.roll(-1, 0))[0][0] != z[0]).all())  # the first dimension sees y as well


def test_labels_and_their_one_hot_numbers_say_the_same() -> None:
    transform, x = masked("affine", context=3), Noise(0, 9).normal((6,), dtype=F64)
    y = torch.arange(9) % 3
    numbers = nn.functional.one_hot(y, 3).double()
    torch.testing.assert_close(transform(x, y)[0], transform(x, numbers)[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(transform.inverse(x, y), transform.inverse(x, numbers), rtol=0, atol=1e-12)
    assert bool((transform(x, numbers)[0] != transform(x, -numbers)[0]).all())


def passes_and_flops(flow: nn.Module, run) -> tuple[int, int]:
    """Full passes through masked networks while `run()`, and the multiplications and additions of all products."""
    count = 0

    def seen(*_) -> None:
        nonlocal count
        count += 1

    nets = [part for part in flow.modules() if isinstance(part, MaskedMLP)]
    hooks = [net.register_forward_hook(seen) for net in nets]
    with torch.no_grad(), FlopCounterMode(display=False) as flops:
        run()
    for hook in hooks:
        hook.remove()
    return count, flops.get_total_flops()


@pytest.mark.parametrize("preset", ["maf", "spline-ar"])
def test_a_score_is_one_pass_and_a_draw_no_more_work(preset: str) -> None:
    flow = build("flow", Reals((16,)), preset=preset, depth=3, mixing="reversal")
    x = Noise(0, 32).normal((16,))
    passes, forward = passes_and_flops(flow, lambda: flow.log_prob(x))
    assert passes == 3  # one for each of the three transforms
    passes, back = passes_and_flops(flow, lambda: flow.sample(32, noise=Noise(1, 32)))
    assert passes == 0
    assert 0.3 * forward < back <= forward
    naive = flow.transform.parts[1]
    _, sixteen = passes_and_flops(flow, lambda: naive_inverse(naive, x, None))
    assert sixteen > 10 * back / 3


def test_far_tails_have_the_density_of_the_normal() -> None:
    """Beyond the bounds a spline flow is its base, at any parameters."""
    flow = shaken(build("flow", Reals((2,)), coupling="spline", depth=3, width=8, prior="normal", dtype=F64))
    x = torch.tensor([[6.0, -7.0], [30.0, 1e3], [-1e4, 5.5]], dtype=F64)
    want = torch.distributions.Normal(0.0, 1.0).log_prob(x).sum(1)
    torch.testing.assert_close(flow.log_prob(x), want, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(flow.decode(flow.encode(x)), x, rtol=1e-12, atol=0)


@pytest.mark.parametrize("preset", ["spline", "maf", "spline-ar"])
@pytest.mark.parametrize("condition", [None, Integers((), 3), Reals((2,))])
@pytest.mark.parametrize("space", [Reals((4,)), Reals((1, 2, 3)), Reals((1,))])
def test_presets_over_every_space_and_condition(preset: str, condition, space) -> None:
    flow = build("flow", space, condition, preset=preset, width=16, dtype=F64)
    assert has(flow, Trainable, Samples, Exact, Invertible)
    x = 50 + 9 * Noise(0, 8).normal(space.shape, dtype=F64)
    y = None
    if condition is not None:
        y = torch.arange(8) % 3 if isinstance(condition, Integers) else Noise(1, 8).normal((2,), dtype=F64)
    flow.prepare(x, y, noise=Noise(0, 8))
    shaken(flow, 0.1)
    z = flow.encode(x, y)
    torch.testing.assert_close(flow.decode(z, y), x, rtol=1e-9, atol=1e-9)
    single = build("flow", space, condition, preset=preset, width=16)
    single.load_state_dict(flow.state_dict())
    y = y.float() if isinstance(condition, Reals) else y
    back = single.decode(single.encode(x.float(), y), y)
    assert float(((back - x) / x).detach().abs().max()) < 1e-4
    if condition is not None:
        other = (y + 1) % 3 if isinstance(condition, Integers) else -y
        assert bool((single.log_prob(x.float(), y) != single.log_prob(x.float(), other)).all())


def test_a_spline_coupling_works_on_images() -> None:
    flow = build("flow", Reals((1, 4, 4)), preset="glow", coupling="spline", depth=2, levels=2, width=8, dtype=F64)
    x = Noise(0, 3).normal((1, 4, 4), dtype=F64)
    flow.prepare(x, noise=Noise(0, 3))
    shaken(flow, 0.05)
    z = flow.encode(x)
    torch.testing.assert_close(flow.decode(z), x, rtol=0, atol=1e-9)
    jacobian = torch.autograd.functional.jacobian(lambda v: flow.encode(v[None])[0], x[0]).reshape(16, 16)
    want = torch.linalg.slogdet(jacobian)[1] + torch.distributions.Normal(0.0, 1.0).log_prob(z[0]).sum()
    assert abs(float(flow.log_prob(x)[0] - want)) < 1e-8


def test_a_scale_is_bounded() -> None:
    x, theta = torch.ones(3, dtype=F64), torch.tensor([[0.0] * 3, [-1e9, 0.0, 1e9]], dtype=F64)
    _, log_slope = M.Affine().forward(x, theta)
    assert log_slope.tolist() == [M.LIMIT, 0.0, -M.LIMIT]


def test_splines_learn_what_shifts_and_scales_cannot() -> None:
    """Two heaps of one number, 1.1 nats below the normal of the same deviation: one spline bends a normal into them."""
    n = 512
    x = torch.where(Noise(0, n).uniform((1,)) < 0.5, 3.0, -3.0) + 0.5 * Noise(1, n).normal((1,))
    reached = {}
    for coupling in ("affine", "spline"):
        flow = build("flow", Reals((1,)), architecture="autoregressive", coupling=coupling, depth=1, width=4)
        flow.prepare(x, noise=Noise(0, n))
        optimiser = torch.optim.Adam(flow.parameters(), lr=3e-2)
        for step in range(80):
            optimiser.zero_grad()
            loss = flow.loss(x, noise=Noise(step, n))
            loss.backward()
            optimiser.step()
        reached[coupling] = float(loss.detach())
    entropy = math.log(2) + 0.5 * math.log(2 * math.pi * math.e * 0.25)
    assert reached["affine"] > entropy + 1.0
    assert entropy - 0.1 < reached["spline"] < entropy + 0.2


@pytest.mark.parametrize(
    ("fields", "said"),
    [({"bins": 1}, "bins"), ({"bound": 0.0}, "bound"), ({"bound": math.inf}, "bound"), ({"bins": 300}, "bins")],
)
def test_refusals(fields: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        build("flow", Reals((2,)), coupling="spline", **fields)
    with pytest.raises(ValueError, match=f"{said} is .* a spline accepts"):
        Spline(**{"bins": 8, "bound": 5.0, **fields})

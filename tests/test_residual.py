"""Residual flows and i-DenseNets: contractions, their inverses, and log-determinants against autograd's."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

import likely as lk
from likely.config.residual import Residual
from likely.families.flow import Dequantised
from likely.families.flow.fixed_point import fixed_point, solve
from likely.families.flow.logdet import Exact as ExactVolume
from likely.families.flow.logdet import Scored, Trained, reached
from likely.families.flow.residual import Block, Contraction, ExactJacobian, ResidualFlow
from likely.families.flow.transforms import ActNorm
from likely.nets.densenet import Concatenated
from likely.nets.lipschitz import Conv2d, Linear, LipSwish, Spectral, concatenated_bound, normalise, swish_bound
from likely.noise import Noise
from likely.registry import build, configure, presets
from likely.space import Integers, Reals
from likely.train import fit
from likely.verbs import Bounded, Estimated, Exact, Invertible, Samples, Trainable, Weighted, has

F64 = torch.float64
FALSE_ALARM = 1e-6
KINDS = {
    "dense": {"block": "dense", "growth": 8},
    "residual": {"block": "residual", "activation": "lipswish", "width": 8},
    "residual, concatenated": {"block": "residual", "width": 8},
}


def shaken(model: nn.Module, seed: int = 0, size: float = 0.5) -> nn.Module:
    """The model after one wild update: noise on every parameter, then `after_step`, which leaves it near its bounds."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p += size * torch.randn(p.shape, generator=generator, dtype=F64).to(p.dtype)
    model.after_step()  # ty: ignore
    return model


def small(kind: str, shape: tuple[int, ...] = (3,), **fields: object) -> ResidualFlow:
    fields = {"blocks": 2, "levels": 2, "depth": 2, "tail_growth": 6, "tail_width": 6} | KINDS[kind] | fields
    return shaken(build("residual", Reals(shape), dtype=F64, **fields))  # ty: ignore


def rows(model: nn.Module, n: int, seed: int = 3) -> Tensor:
    return 1.5 * Noise(seed, n).normal(model.space.shape, dtype=F64)  # ty: ignore


def true_log_p(model: nn.Module, x: Tensor, y: Tensor | None = None) -> Tensor:
    """log p of each row by autograd's Jacobian of `encode`."""
    n, d = len(x), x[0].numel()
    jacobian = torch.autograd.functional.jacobian(lambda v: model.encode(v, y).sum(0), x)  # ty: ignore
    log_det = torch.linalg.slogdet(jacobian.reshape(d, n, d).transpose(0, 1)).logabsdet
    z = model.encode(x, y)  # ty: ignore
    return log_det - 0.5 * z.square().sum(1) - 0.5 * d * math.log(2 * math.pi)


def a_contraction(kind: str = "dense", shape: tuple[int, ...] = (3,), **fields: object) -> Contraction:
    return next(part.g for part in small(kind, shape, **fields).modules() if isinstance(part, Block))


def operator(layer: Spectral) -> Tensor:
    """The whole matrix of a layer: (outputs, inputs) with its positions, at its real size."""
    shape = layer.v.shape if layer.v.ndim > 1 else (*layer.v.shape, *[1] * (layer.weight.ndim - 2))
    eye = torch.eye(math.prod(shape), dtype=layer.weight.dtype).reshape(-1, *shape)
    return layer.along(eye).flatten(1).T.detach()


# --- Lipschitz constants


def test_constants_are_derived() -> None:
    """The published constants are 1.1 and 1.004; what they round was measured: .999854 and 1.003965."""
    assert swish_bound() / 1.1 == pytest.approx(0.999854, abs=1e-6)
    assert concatenated_bound() / 1.1 == pytest.approx(1.003965, abs=1e-6)


@pytest.mark.parametrize("concatenated", [False, True])
@pytest.mark.parametrize("b", [-3.0, 0.5, 4.0])
def test_lipswish_reaches_slope_one_and_no_more(concatenated: bool, b: float) -> None:
    act = LipSwish(concatenated=concatenated, axis=-1).double()
    act.b.data.fill_(b)
    x = torch.linspace(-60, 60, 400_001, dtype=F64)[:, None]
    y, push = act.linearise(x)
    slope = push(torch.ones_like(x)).norm(dim=1).detach()
    assert 1 - 1e-4 < float(slope.max()) <= 1
    torch.testing.assert_close(y, act(x), rtol=1e-14, atol=1e-14)
    wide, beta = x[::997], math.log1p(math.exp(b))
    want = wide * torch.sigmoid(beta * wide)
    if concatenated:
        want = torch.cat([want, -wide * torch.sigmoid(-beta * wide)], 1)
    torch.testing.assert_close(act(wide) * act.bound, want, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kernel", [1, 3])
def test_convolutions_are_normalised_as_they_act(kernel: int) -> None:
    """At the real size with its border of zeros: a kernel taken as a matrix has another norm."""
    torch.manual_seed(0)
    layer = Conv2d(2, 3, kernel, (4, 5), 0.9).double()
    layer.weight.data.mul_(20)
    normalise(layer, tolerance=1e-9, rounds=1000)
    norm = float(torch.linalg.matrix_norm(operator(layer), 2))
    assert norm == pytest.approx(0.9, rel=1e-5)
    if kernel == 3:
        assert abs(float(torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)) - 0.9) > 0.1
    assert layer.u.shape == ((3, 4, 5) if kernel == 3 else (3,))


def test_normalisation_never_scales_up_and_is_warm() -> None:
    torch.manual_seed(0)
    layer = Linear(30, 20, 0.9).double()
    layer.weight.data.mul_(0.01)
    before = layer.weight.clone()
    normalise(layer, tolerance=1e-3, rounds=100)
    assert torch.equal(layer.weight, before)
    layer.weight.data.mul_(1000)
    normalise(layer, tolerance=1e-12, rounds=5000)
    assert float(torch.linalg.matrix_norm(layer.weight, 2)) == pytest.approx(0.9, rel=1e-6)
    layer.weight.data.add_(1e-4 * torch.randn(20, 30, dtype=F64)).mul_(2)
    normalise(layer, tolerance=1e-12, rounds=1)  # the singular vectors are still there: one round is enough
    assert float(torch.linalg.matrix_norm(layer.weight, 2)) == pytest.approx(0.9, rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(3,), (2, 4, 4)])
def test_every_block_is_a_contraction(kind: str, shape: tuple[int, ...]) -> None:
    """By the norms of its layers, by the norm of Jacobians, and by random pairs."""
    model = small(kind, shape, tail_blocks=1, tolerance=1e-8)
    for layer in model.modules():
        if isinstance(layer, Spectral):
            assert float(torch.linalg.matrix_norm(operator(layer), 2)) <= 0.98 * 1.001
    x = rows(model, 6)
    seen = 0

    def measure(block: Block, inputs: tuple[Tensor, ...], _: object) -> None:
        nonlocal seen
        seen += 1
        at, d = inputs[0].detach(), inputs[0][0].numel()
        _, push = block.g.linearise(at)
        eye = torch.eye(d, dtype=F64).reshape(d, 1, *at.shape[1:]).expand(d, *at.shape)
        jacobian = push(eye).reshape(d, 6, d).transpose(0, 1)
        by_autograd = torch.autograd.functional.jacobian(lambda v: block.g(v).sum(0), at).reshape(d, 6, d)
        torch.testing.assert_close(jacobian.mT, by_autograd.transpose(0, 1), rtol=0, atol=1e-12)
        assert float(torch.linalg.matrix_norm(jacobian, 2).max()) < 1
        a, b = (3 * Noise(i, 500).normal(at.shape[1:], dtype=F64) for i in (5, 6))
        for other in (b, a + 1e-3 * b):
            ratio = (block.g(a) - block.g(other)).flatten(1).norm(dim=1) / (a - other).flatten(1).norm(dim=1)
            assert float(ratio.max()) < 1

    hooks = [part.register_forward_hook(measure) for part in model.modules() if isinstance(part, Block)]
    model.encode(x)
    for hook in hooks:
        hook.remove()
    assert seen == (2 if len(shape) == 1 else 5)


def test_a_lagging_power_iteration_is_found_out() -> None:
    """Mistake 6. Weights that changed without `after_step` break the bound: the inverse says so, and does not guess."""
    model = small("residual")
    x = rows(model, 5)
    torch.testing.assert_close(model.decode(model.encode(x)), x, rtol=0, atol=1e-10)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, Spectral):
                layer.weight.mul_(4)
    with pytest.raises(RuntimeError, match=r"inverse of block [12] does not converge: .* accepts 1e-09.*after_step"):
        model.decode(model.encode(x))
    model.after_step()
    torch.testing.assert_close(model.decode(model.encode(x)), x, rtol=0, atol=1e-10)


def test_the_bound_holds_through_training() -> None:
    """Large steps of Adam, power iteration warm: no layer's true norm above its coefficient by a per cent."""
    model = build("residual", Reals((4,)), blocks=2, growth=16, depth=2)
    x = 3 * Noise(0, 256).normal((4,)).abs()
    model.prepare(x, noise=Noise(1, 256))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.03)
    worst = 0.0
    for step in range(60):
        optimiser.zero_grad()
        model.loss(x, noise=Noise(step, 256)).backward()
        optimiser.step()
        model.after_step()
        norms = [torch.linalg.matrix_norm(m.weight.detach(), 2) for m in model.modules() if isinstance(m, Spectral)]
        worst = max(worst, float(torch.stack(norms).max()))
    assert 0.97 < worst < 0.98 * 1.01
    z = model.encode(x)
    torch.testing.assert_close(model.decode(z), x, rtol=0, atol=1e-4)


# --- the inverse


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1,), (3,), (1, 4, 4)])
def test_round_trips(kind: str, shape: tuple[int, ...]) -> None:
    model = small(kind, shape)
    x = torch.cat([rows(model, 5), 30 * rows(model, 5)])
    torch.testing.assert_close(model.decode(model.encode(x)), x, rtol=1e-10, atol=1e-10)
    narrow = build(model.config, model.space)
    narrow.load_state_dict(model.state_dict())
    gap = (narrow.decode(narrow.encode(x.float())) - x.float()).detach().flatten(1).abs().amax(1)
    assert float((gap / (1 + x.flatten(1).abs().amax(1))).max()) < 2e-5


@pytest.mark.parametrize("kind", KINDS)
def test_the_fixed_point_and_its_residual(kind: str) -> None:
    g = a_contraction(kind, (6,))
    z = 3 * Noise(0, 40).normal((6,), dtype=F64)
    with torch.no_grad():
        for window in (0, 1, 5):
            x, residual, _ = solve(g, z, window)
            gap = (x + g(x) - z).abs().amax(1)
            assert float(gap.max()) < 1e-8  # F4; the following is what is aimed at
            torch.testing.assert_close(gap / (1 + z.abs().amax(1)), residual, rtol=0, atol=1e-15)
            assert float(residual.max()) < 2e-14


class Slow(nn.Module):
    """g(x) = rate x: plain iteration needs log(eps) / log(rate) rounds."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        return self.rate * x * torch.linspace(0.5, 1, x.shape[1], dtype=x.dtype)


def test_acceleration_saves_evaluations() -> None:
    z = Noise(0, 10).normal((8,), dtype=F64)
    want = z / (1 + 0.95 * torch.linspace(0.5, 1, 8, dtype=F64))
    plain, fast = solve(Slow(0.95), z, 0), solve(Slow(0.95), z)
    for x, residual, _ in (plain, fast):
        assert float(residual.max()) < 1e-13
        torch.testing.assert_close(x, want, rtol=0, atol=1e-11)
    assert fast[2] < plain[2] / 5


def test_a_row_s_inverse_does_not_depend_on_its_neighbours() -> None:
    """Bit by bit in a batch of one size: rows that are there wait, and change no more."""
    g = a_contraction("dense", (4,))
    z = Noise(0, 64).normal((4,), dtype=F64)
    wild = torch.cat([z[:32], 1e4 * z[32:]])
    with torch.no_grad():
        assert torch.equal(solve(g, z)[0][:32], solve(g, wild)[0][:32])


def test_no_convergence_is_an_error_that_names_block_and_residual() -> None:
    z = Noise(0, 4).normal((3,), dtype=F64)
    with pytest.raises(RuntimeError, match=r"inverse of block 7 does not converge: \|x \+ g\(x\) - z\| = .* in 4 of 4"):
        fixed_point(Slow(3.0), z, "block 7")
    model = small("dense")
    z[1, 2] = math.nan
    with pytest.raises(RuntimeError, match=r"inverse of block 2 .* = nan of 1 \+ \|z\| in 1 of 4 rows"):
        model.decode(z)


def test_the_inverse_has_the_right_gradient() -> None:
    model = small("dense")
    x = rows(model, 4)
    z = model.encode(x).detach()
    there = torch.autograd.functional.jacobian(lambda v: model.encode(v).sum(0), x).transpose(0, 1)
    back = torch.autograd.functional.jacobian(lambda v: model.decode(v).sum(0), z).transpose(0, 1)
    torch.testing.assert_close(there @ back, torch.eye(3, dtype=F64).expand(4, 3, 3), rtol=0, atol=1e-10)
    weight = next(p for p in model.parameters() if p.ndim == 2)
    (found,) = torch.autograd.grad(model.decode(z).sin().sum(), weight)
    values = []
    with torch.no_grad():
        for step in (1e-6, -2e-6):
            weight[0, 0] += step
            values.append(float(model.decode(z).sin().sum()))
    assert float(found[0, 0]) == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-6)


# --- log-determinants


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1,), (2,), (3,), (1, 4, 4)])
def test_exact_is_slogdet(kind: str, shape: tuple[int, ...]) -> None:
    model = ExactJacobian(small(kind, shape, tail_blocks=1))
    x = rows(model, 5)
    torch.testing.assert_close(model.log_prob(x), true_log_p(model, x), rtol=0, atol=1e-9)
    assert model.log_prob(x[:0]).shape == (0,)


def z_limit(comparisons: int) -> float:
    return float(stats.norm.isf(FALSE_ALARM / 2 / comparisons))


@pytest.mark.parametrize("tail", ["poisson", "geometric"])
@pytest.mark.parametrize("volume", [Scored, Trained])
def test_the_roulette_is_unbiased(volume: type, tail: str) -> None:
    """Every term of the series has its weight: a z-test that would see 2 % of the log-determinant missing."""
    g = a_contraction("dense", (3,), depth=1, tail=tail)
    x = 0.7 * Noise(0, 1).normal((3,), dtype=F64)
    want = float(ExactVolume()(g, x)[1])
    assert abs(want) > 0.05
    n = 400_000
    with torch.no_grad():
        draws = volume(Noise(1, n), 1, tail)(g, x.expand(n, 3))[1]
    error = float(draws.std()) / math.sqrt(n)
    assert error * (z_limit(1) + 3) < 0.02 * abs(want)  # power .999
    assert abs(float(draws.mean()) - want) < z_limit(1) * error


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_sign_and_weight_of_each_term(k: int) -> None:
    """Mistake 1: terms from the second on lost their sign and 1/k. By a linear g, term by term."""
    a = torch.tensor([[0.5, 0.2], [-0.3, 0.4]], dtype=F64)

    class Matrix(nn.Module):
        law = torch.tensor([2.0, 0.0])

        def linearise(self, x: Tensor):
            return x @ a.T, lambda t: t @ a.T

    class FirstTerms(Scored):
        def _drawn(self, g: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
            v, weights = super()._drawn(g, x)
            return v, weights[: self.terms]

    x, noise = torch.zeros(8, 2, dtype=F64), Noise(0, 8)
    up_to, before = (FirstTerms(Noise(0, 8), terms, "poisson")(Matrix(), x)[1] for terms in (k, k - 1))
    v = noise.integers(2, (2,)).double() * 2 - 1
    want = (-1) ** (k + 1) / k * (v * (v @ torch.linalg.matrix_power(a, k).T)).sum(1)
    torch.testing.assert_close(up_to - before, want, rtol=0, atol=1e-14)


def test_the_law_of_the_number_of_terms() -> None:
    poisson, geometric = reached("poisson", 2.0, 0.0), reached("geometric", 0.0, 0.0)
    torch.testing.assert_close(torch.tensor(poisson[:20]), torch.from_numpy(stats.poisson(2).sf(range(20))).float())
    assert geometric[:4] == (1.0, 0.5, 0.25, 0.125)
    assert sum(poisson) == pytest.approx(2) and sum(geometric) == pytest.approx(2)
    assert poisson[-1] > 1e-17 and geometric[-1] > 1e-17  # as far as a uniform number can tell
    law = small("dense", tail="geometric", tail_mean=4.0).transform.parts[1].g.law  # ty: ignore
    assert sum(reached("geometric", *law.tolist())) == pytest.approx(4)


@pytest.mark.parametrize("kind", ["dense", "residual"])
def test_the_gradient_is_unbiased(kind: str) -> None:
    """The Neumann gradient against autograd of the exact log-density, parameter by parameter: z-tests."""
    model = small(kind, (2,), blocks=1, depth=1, hidden=1, train_terms=1)
    x = rows(model, 4)
    parameters = [p for p in model.parameters() if p.requires_grad]
    exact = torch.autograd.grad(-ExactJacobian(model).log_prob(x).mean(), parameters)
    n, draws = 64, 2000
    found = []
    for block in range(n):
        loss = model.loss(x, noise=Noise(block, 4, draws))
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]))
    each, want = torch.stack(found), torch.cat([g.flatten() for g in exact])
    error = each.std(0) / math.sqrt(n)
    scores = (each.mean(0) - want).abs() / error.clamp(min=1e-12)
    limit = float(stats.t.isf(FALSE_ALARM / 2 / len(want), n - 1))
    assert float(scores.max()) < limit
    assert float(error.square().sum().sqrt()) * 10 < 0.05 * float(want.norm())  # it would see a gap of 5 %


def test_the_training_figure_is_the_log_density() -> None:
    """Mistake 7: the scalar whose gradient is Neumann's is no log-det. The loss has the mean of -log p all the same."""
    model = small("dense", (2,))
    x = rows(model, 4)
    want = -float(true_log_p(model, x).mean())
    with torch.no_grad():
        draws = torch.stack([model.loss(x, noise=Noise(i, 4, 500)) for i in range(64)])
    error = float(draws.std()) / 8
    assert error < 0.005
    assert abs(float(draws.mean()) - want) < 6.5 * error
    assert model.gradient_in_expectation and not getattr(model, "surrogate", False)


@pytest.mark.parametrize("shape", [(6,), (2, 4, 4)])
def test_memory_does_not_grow_with_the_number_of_terms(shape: tuple[int, ...]) -> None:
    def kept(terms: int, volume: type) -> int:
        model = small("dense", shape, train_terms=terms, score_terms=terms)
        x, sizes = rows(model, 8), {}

        def keep(tensor: Tensor) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            noise = Noise(0, 8)
            loss = model.loss(x, noise=noise) if volume is Trained else model.log_prob_estimate(x, noise=noise).sum()
            loss.backward()
        return sum(sizes.values())

    assert kept(40, Trained) == kept(2, Trained)
    assert kept(40, Scored) > 2 * kept(2, Scored)  # which is what the measure would see


def test_two_readings_are_the_same_bits_and_say_what_they_are() -> None:
    """Peers' residual flows answer with another number at every call, under the name of a likelihood."""
    model = build("residual", Reals((16,)), blocks=2)
    x = Noise(0, 70).normal((16,))
    first, second = lk.log_prob(model, x), lk.log_prob(model, x)
    assert torch.equal(first.nats, second.nats) and first.kind == "~"
    assert not torch.equal(first.nats, lk.log_prob(model, x, seed=1).nats)
    exact = lk.log_prob(ExactJacobian(model), x)
    assert exact.kind == "="
    many = lk.log_prob(model, x, k=64)
    assert float((many.nats - exact.nats).abs().max()) < float((first.nats - exact.nats).abs().max())


# --- dense blocks


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("jacobian", ["exact", "estimated"])
def test_a_compiled_loss_has_the_same_gradient(jacobian: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`torch.compile` goes through LipSwish's own backward pass, and through noise behind a break of the graph."""
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", True)  # which the compiler switches off
    model = build("residual", Reals((2,)), blocks=2, depth=2, growth=8, levels=0, jacobian=jacobian)
    x, fast = Noise(1, 64).normal((2,)), torch.compile(model.loss)  # ty: ignore

    def gradients(loss: Any, seed: int) -> list[Tensor]:
        value = loss(x, noise=Noise(seed, 64))
        return [value, *torch.autograd.grad(value, [p for p in model.parameters() if p.requires_grad])]

    for seed in range(3):  # the graphs of the roulette differ from draw to draw
        torch.testing.assert_close(gradients(fast, seed), gradients(model.loss, seed), rtol=1e-4, atol=1e-5)
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0, "nothing was compiled"


def test_concatenation_weights() -> None:
    layer = Concatenated(Linear(3, 2, 0.9), 0.9, axis=-1, learnable=True).double()
    for k in ([1.0, 1.0], [-5.0, 3.0], [8.0, 0.0]):
        layer.k.data.copy_(torch.tensor(k))
        e1, e2 = layer.weights()
        assert float(e1**2 + e2**2) == pytest.approx(0.81)
        a = [math.log1p(math.exp(v)) + 0.1 for v in k]
        assert float(e1) == pytest.approx(0.9 * a[0] / math.hypot(*a))
        x = Noise(0, 2).normal((3,), dtype=F64)
        torch.testing.assert_close(layer(x), torch.cat([e1 * x, e2 * layer.f(x)], 1))


def concatenations(model: nn.Module) -> Tensor:
    return torch.stack([part.k.detach().clone() for part in model.modules() if isinstance(part, Concatenated)])


def test_concatenation_is_symmetric_until_its_time() -> None:
    model = build("residual", Reals((2,)), blocks=1, growth=4, symmetric_steps=3)
    x = Noise(0, 16).normal((2,))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = []
    for step in range(5):
        optimiser.zero_grad()
        model.loss(x, noise=Noise(step, 16)).backward()
        optimiser.step()
        model.after_step()
        k = concatenations(model)
        seen.append(bool((k == 1).all()))
    assert seen == [True, True, True, False, False]
    assert int(model.updates) == 5
    fixed = build("residual", Reals((2,)), blocks=1, growth=4, concatenation="fixed")
    assert not any(name.endswith(".k") for name, _ in fixed.named_parameters())


@pytest.mark.parametrize("ema", [None, 0.9])
def test_resume_is_bitwise(tmp_path, ema: float | None) -> None:
    """Singular vectors and the schedule's counter resume: a run cut inside the symmetric phase equals the whole one."""
    data = lk.load("moons")
    fields = {"batch": 32, "lr": 1e-2, "save_every": 3, "threads": 1, "ema": ema}
    config = configure("residual", blocks=2, levels=0, growth=6, depth=2, symmetric_steps=4)
    whole, part = build(config, data.space), build(config, data.space)
    fit(whole, data, steps=8, run=tmp_path / "whole", progress=False, schedule="constant", **fields)
    fit(part, data, steps=3, run=tmp_path / "part", progress=False, schedule="constant", **fields)
    again = build(config, data.space, seed=5)
    fit(again, data, steps=8, run=tmp_path / "part", resume=True, progress=False, schedule="constant", **fields)
    assert not (concatenations(whole) == 1).all()
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


# --- the family


PUBLISHED = [
    ("i-densenet-cifar10", {}, 24_894_690),
    ("residual-flow-cifar10", {}, 25_174_233),
    ("i-densenet-imagenet32", {}, 46_981_074),
    ("residual-flow-imagenet32", {}, 47_099_289),
    ("i-densenet-cifar10", {"blocks": 4, "depth": 2, "growth": 318}, 8_763_510),
    ("i-densenet-cifar10-small", {}, 8_695_158),
    ("i-densenet-cifar10", {"blocks": 4, "depth": 4, "growth": 122}, 8_724_302),
    ("i-densenet-cifar10", {"blocks": 4, "depth": 5, "growth": 92}, 8_839_086),
    ("residual-flow-cifar10", {"blocks": 4}, 8_730_441),
]


@pytest.mark.parametrize(("preset", "fields", "count"), PUBLISHED)
def test_published_sizes(preset: str, fields: dict[str, int], count: int) -> None:
    with torch.device("meta"):
        model = build("residual", Integers((3, 32, 32), 256), preset=preset, **fields)
    assert sum(p.numel() for p in model.parameters()) == count
    laws = [p for name, p in model.named_parameters() if name.endswith(".law")]
    assert not any(p.requires_grad for p in laws)  # two numbers a block that are counted, as there, and never trained
    assert sum(p.numel() for p in model.parameters() if not p.requires_grad) == 2 * len(laws)


def test_verbs_follow_the_instance() -> None:
    flow, exact = (build("residual", Reals((2,)), blocks=1, jacobian=j) for j in ("estimated", "exact"))
    assert has(flow, Trainable, Samples, Estimated, Invertible) and flow.unbiased and not has(flow, Exact)
    assert has(exact, Trainable, Samples, Exact, Invertible) and not has(exact, Estimated)
    space = Integers((2,), 4)
    over, over_exact = Dequantised(flow, space), Dequantised(exact, space)
    assert has(over, Bounded) and not has(over, Weighted) and not has(over, Estimated)
    assert has(over_exact, Bounded, Weighted)
    assert over.gradient_in_expectation and not over_exact.gradient_in_expectation
    with pytest.raises(TypeError, match="ExactJacobian accepts a ResidualFlow"):
        ExactJacobian(over)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("space", [Reals((2,)), Reals((2, 6, 4)), Integers((1, 4, 4), 9), Integers((3,), 4)])
@pytest.mark.parametrize("condition", [None, Integers((), 3)])
def test_a_step_reaches_every_parameter(kind: str, space, condition) -> None:
    fields = {"blocks": 1, "tail_blocks": 1, "levels": 2, "tail_growth": 6, "tail_width": 6}
    model = build("residual", space, condition, **fields, **KINDS[kind])
    x = Noise(0, 6).normal(space.shape) if isinstance(space, Reals) else Noise(0, 6).integers(4, space.shape)
    y = None if condition is None else torch.arange(6) % 3
    model.prepare(x, y, noise=Noise(0, 6))
    shaken(model, size=0.05)
    loss = model.loss(x, y, noise=Noise(1, 6))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is not None and p.grad.any() for p in model.parameters() if p.requires_grad)
    wanted = [(6, space.dims)] if len(space.shape) == 1 else None
    shapes = [tuple(f.shape) for f in model.features(x, y)]
    assert shapes == (wanted or [(6, *space.shape), (6, 4 * space.shape[0], space.shape[1] // 2, space.shape[2] // 2)])
    if isinstance(space, Reals):
        same, features = model.loss_and_features(x, y, noise=Noise(1, 6))
        assert float(same.detach()) == float(loss.detach()) and [tuple(f.shape) for f in features] == shapes
    if condition is not None:
        first, other = (lk.log_prob(model, x, label).nats for label in (y, (y + 1) % 3))
        assert (first != other).all()


def test_actnorm_stands_first_and_behind_every_block() -> None:
    model = build("residual", Reals((2, 4, 4)), blocks=2, levels=2, tail_blocks=1, tail_growth=6, growth=6)
    order = [type(m).__name__ for m in model.modules() if isinstance(m, ActNorm | Block)]
    assert order == ["ActNorm"] + ["Block", "ActNorm"] * 5
    x = 5 * Noise(0, 64).normal((2, 4, 4)) + 40
    model.prepare(x, noise=Noise(0, 64))
    z = model.encode(x)
    torch.testing.assert_close(z.mean(0), torch.zeros(32), rtol=0, atol=1e-3)
    torch.testing.assert_close(z.std(0, correction=0), torch.ones(32), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lipschitz": 1.0}, "lipschitz"),
        ({"lipschitz": 1.5}, "less than 1"),
        ({"growth": 7}, "growth is 7; accepts an even number"),
        ({"tail_growth": 7}, "tail_growth is 7; accepts an even number"),
        ({"block": "residual", "width": 9}, "width is 9; accepts an even number"),
        ({"tail": "geometric", "tail_mean": 0.5}, "tail_mean is 0.5; accepts more than 1"),
        ({"block": "densenet"}, "block"),
    ],
)
def test_refusals(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("residual", Reals((2,)), **fields)


def test_odd_growth_is_fine_where_nothing_is_doubled() -> None:
    build("residual", Reals((2,)), blocks=1, growth=7, activation="lipswish")
    with pytest.raises(ValueError, match="arrays of Reals or Integers"):
        build("residual", Integers((), 4))


@pytest.mark.parametrize("preset", [name for name in presets("residual") if "0" not in name and "32" not in name])
def test_presets_take_a_step(preset: str) -> None:
    space = Reals((2,)) if preset.startswith("toys2d") else Integers((1, 8, 8), 17)
    model = build("residual", space, preset=preset)
    x = Noise(0, 8).normal((2,)) if isinstance(space, Reals) else Noise(0, 8).integers(17, space.shape)
    model.prepare(x, noise=Noise(0, 8))
    model.loss(x, noise=Noise(1, 8)).backward()
    model.after_step()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", ["checkerboard", "moons"])
def test_learns_a_toy_and_stays_above_its_entropy(name: str) -> None:
    """A mean -log p more than .03 nats under the entropy would be a wrong log-determinant."""
    from likely.data.toys import TOYS

    data = lk.load(name)
    model = build("residual", data.space, preset="toys2d", blocks=4, growth=16)
    before = lk.log_prob(model, data.test.x[:512]).mean
    fit(model, data, steps=60, batch=128, lr=1e-2, progress=False, threads=1)
    after = lk.log_prob(model, data.test.x[:2000]).mean
    assert after > before + 0.1
    assert -after > TOYS[name].entropy - 0.03


def test_config_is_frozen_and_lists_its_presets() -> None:
    assert presets("residual")["default"] == Residual()
    assert configure("residual", "i-densenet-cifar10").growth == 172

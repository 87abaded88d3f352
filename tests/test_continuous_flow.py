"""Continuous flows: closed forms of linear fields, divergences against autograd, solutions row by row."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import likely as lk
from likely.conformance import check
from likely.families.flow.continuous import ContinuousFlow, StepLimit
from likely.families.flow.dequantise import DequantisedEstimate
from likely.families.flow.field import (
    ConvField,
    ExactDivergence,
    Field,
    Hutchinson,
    MlpField,
    Rate,
    along_axes,
    condition_on,
)
from likely.noise import Noise
from likely.registry import build
from likely.space import Integers, Reals
from likely.tasks.evaluate import Evaluation
from likely.verbs import Estimated, Exact, Invertible, Samples, Trainable, has

sys.path.append(str(Path(__file__).parent))
from toys import shaken

F64 = torch.float64


class LinearField(Field):
    """f = g(t) A x + b on flattened x; g(t) = 1 or 2 t, both with integral 1 over (0, 1)."""

    def __init__(self, matrix: Tensor, shift: Tensor, rising: bool = False) -> None:
        super().__init__()
        self.matrix, self.shift, self.rising = nn.Parameter(matrix), nn.Parameter(shift), rising

    def _gain(self, t: Tensor) -> Tensor | float:
        return 2 * t if self.rising else 1.0

    def forward(self, t: Tensor, x: Tensor, y: Tensor | None) -> Tensor:
        return (self._gain(t) * (x.flatten(1) @ self.matrix.T) + self.shift).reshape(x.shape)

    def with_tangents(self, t: Tensor, x: Tensor, y: Tensor | None, e: Tensor) -> tuple[Tensor, Tensor]:
        along = self._gain(t) * (e.flatten(2) @ self.matrix.T)
        return self(t, x, y), along.reshape(*along.shape[:2], *x.shape[1:])


def linear(shape: tuple[int, ...], matrix: Tensor, *, rising: bool = False, **fields) -> ContinuousFlow:
    """A flow whose samples are N(m, e^A e^A^T); m is zero where the field changes with t."""
    model = build("continuous-flow", Reals(shape), dtype=F64, **{"tolerance": 1e-7, **fields})
    d = matrix.shape[0]
    shift = torch.zeros(d, dtype=F64) if rising else torch.linspace(-1, 1, d, dtype=F64)
    model.field = model.transform.parts[1].field = LinearField(matrix, shift, rising)
    return model


def a_matrix(d: int, seed: int = 0) -> Tensor:
    return Noise(seed, 1).normal((d, d), dtype=F64)[0] / d**0.5 - 0.5 * torch.eye(d, dtype=F64)


def closed_form(model: ContinuousFlow) -> torch.distributions.MultivariateNormal:
    a, b = model.field.matrix.detach(), model.field.shift.detach()
    step = torch.linalg.matrix_exp(a)
    mean = torch.linalg.solve(a, (step - torch.eye(len(a), dtype=F64)) @ b)  # int_0^1 e^{A (1 - t)} b dt
    return torch.distributions.MultivariateNormal(mean, step @ step.T)


def test_what_it_promises() -> None:
    model = build("continuous-flow", Reals((2,)))
    assert has(model, Trainable, Samples, Estimated, Invertible) and not has(model, Exact)
    assert model.unbiased is False and not model.surrogate
    assert build("continuous-flow", Reals((2,)), preset="matching").surrogate
    over = build("continuous-flow", Integers((2,), 4), preset="matching")
    assert isinstance(over, DequantisedEstimate) and over.surrogate and not over.unbiased
    assert not build("continuous-flow", Integers((2,), 4)).surrogate


# Closed forms -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rising", [False, True])
@pytest.mark.parametrize(("shape", "net"), [((3,), "mlp"), ((3, 2, 2), "mlp"), ((3, 2, 2), "conv")])
def test_a_linear_field_is_a_gaussian(shape: tuple[int, ...], net: str, rising: bool) -> None:
    """Divergence integrated over time, with its sign; exact, and the mean of Hutchinson's draws."""
    d = math.prod(shape)
    model = linear(shape, a_matrix(d), rising=rising, net=net)
    truth, noise, n = closed_form(model), Noise(1, 5), 4000
    x = 2 * Noise(0, 5).normal(shape, dtype=F64)
    log_p = truth.log_prob(x.flatten(1))
    with torch.no_grad():
        mine = model.log_prob_estimate(x, noise=noise)
        assert float(((mine - log_p) / (1 + log_p.abs())).abs().max()) < 1e-6
        z = model.encode(x)
        assert float((model.decode(z) - x).abs().max()) < 1e-5
        drawn = model.sample(n, noise=Noise(2, n)).flatten(1)
    scaled = torch.linalg.solve_triangular(truth.scale_tril, (drawn - truth.mean).T, upper=False)
    assert float(scaled.mean(1).abs().max()) < 5.5 / n**0.5
    assert float((scaled @ scaled.T / n - torch.eye(d, dtype=F64)).abs().max()) < 5.5 * (2 / n) ** 0.5
    for probe in ("rademacher", "normal"):
        model = linear(shape, a_matrix(d), rising=rising, net=net, divergence="hutchinson", probe=probe, tolerance=1e-4)
        with torch.no_grad():
            draws = model.log_prob_estimate(x, noise=Noise(3, 5, 1000)).reshape(5, -1)
        t = (draws.mean(1) - log_p) / (draws.std(1) / 1000**0.5)
        assert float(t.abs().max()) < 5.5 and float(draws.std(1).min()) > 0.1


def test_exact_and_hutchinson_agree_where_nothing_is_random() -> None:
    """e^T A e = tr A for every sign vector e where A is diagonal; images of shape (5, 3, 2, 2) in a batch."""
    matrix = torch.diag(torch.linspace(-1, 0.7, 12, dtype=F64))
    x = Noise(0, 5).normal((3, 2, 2), dtype=F64)
    exact, estimate = (linear((3, 2, 2), matrix, net="conv", divergence=d) for d in ("exact", "hutchinson"))
    with torch.no_grad():
        a, b = (m.log_prob_estimate(x, noise=Noise(1, 5)) for m in (exact, estimate))
        k = estimate.log_prob_estimate(x, noise=Noise(1, 5, 3)).reshape(5, 3)
    torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    torch.testing.assert_close(k, a[:, None].expand(5, 3), rtol=0, atol=1e-6)


FIELDS = [
    ("mlp", 1, "silu"), ("mlp", 1, "tanh"), ("mlp", 2, "silu"), ("mlp", 2, "tanh"), ("mlp", 3, "silu"),
    ("conv", 1, "tanh"), ("conv", 3, "silu"),
]  # fmt: skip


@pytest.mark.parametrize(("net", "hidden", "activation"), FIELDS)
def test_divergences_are_those_of_autograd(net: str, hidden: int, activation: str) -> None:
    shape = (3, 2, 3) if net == "conv" else (5,)
    make = ConvField if net == "conv" else MlpField
    field = shaken(make(shape[0], 7, hidden, activation, 2).double())
    x, y = 2 * Noise(0, 4).normal(shape, dtype=F64), Noise(1, 4).normal((2,), dtype=F64)
    g = Rate(field, torch.tensor([[0.3]], dtype=F64), y)
    jacobian = torch.autograd.functional.jacobian(lambda v: g(v).sum(0), x)  # (*shape, 4, *shape)
    d = math.prod(shape)
    jacobian = jacobian.reshape(d, 4, d).transpose(0, 1)
    trace = jacobian.diagonal(dim1=1, dim2=2).sum(1)
    for value, divergence in (ExactDivergence()(g, x), along_axes(g, x)):
        torch.testing.assert_close(value, g(x), rtol=0, atol=1e-12)
        torch.testing.assert_close(divergence, trace, rtol=0, atol=1e-10)
    e = Noise(2, 4).normal(shape, dtype=F64)
    value, along = Hutchinson(e)(g, x)
    torch.testing.assert_close(value, g(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(along, torch.einsum("bi,bij,bj->b", e.flatten(1), jacobian, e.flatten(1)))
    assert bool((trace.abs() > 1e-3).all())


def test_many_axes_go_in_pieces() -> None:
    field = shaken(MlpField(150, 6, 3, "tanh").double())
    x = Noise(0, 3).normal((150,), dtype=F64)
    g = Rate(field, torch.tensor([[0.6]], dtype=F64), None)
    jacobian = torch.stack([torch.autograd.functional.jacobian(lambda v: g(v[None])[0], row) for row in x])
    torch.testing.assert_close(along_axes(g, x)[1], jacobian.diagonal(dim1=1, dim2=2).sum(1))


def test_the_field_is_told_the_time() -> None:
    angle = 2 * math.pi * 0.3
    want = [0.3, math.sin(angle), math.sin(2 * angle), math.cos(angle), math.cos(2 * angle)]
    torch.testing.assert_close(condition_on(torch.tensor([[0.3]], dtype=F64), None)[0], torch.tensor(want, dtype=F64))
    for make in (MlpField, ConvField):
        field = shaken(make(2, 6, 2, "silu").double())
        x = torch.ones(1, 2, *((1, 1) if make is ConvField else ()), dtype=F64)
        early, late = (field(torch.tensor([[t]], dtype=F64), x, None) for t in (0.1, 0.8))
        assert float((early - late).detach().abs().min()) > 1e-3


# A density ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{}, {"hidden": 3}, {"hidden": 1, "activation": "tanh"}])
def test_the_density_integrates_to_one_and_draws_follow_it(fields: dict) -> None:
    model = shaken(build("continuous-flow", Reals((2,)), width=8, tolerance=1e-5, dtype=F64, **fields), 3, 0.5)
    n, side = 5000, torch.linspace(-9, 9, 121, dtype=F64)
    grid = torch.cartesian_prod(side, side)
    cell = float(side[1] - side[0]) ** 2
    with torch.no_grad():
        p = model.log_prob_estimate(grid, noise=Noise(0, len(grid))).exp() * cell
        drawn = model.sample(n, noise=Noise(1, n))
        log_p = model.log_prob_estimate(drawn, noise=Noise(2, n))
    assert abs(float(p.sum()) - 1) < 2e-3
    entropy = float((p * (p / cell).clamp(min=1e-300).log()).sum())
    assert abs(float(log_p.mean()) - entropy) < 5.5 * float(log_p.std()) / n**0.5 + 2e-3
    moments = lambda v: torch.stack([v[:, 0], v[:, 1], v[:, 0] * v[:, 1], v[:, 0] ** 2, v[:, 1] ** 2], 1)  # noqa: E731
    mine, truth = moments(drawn), p @ moments(grid)
    assert float(((mine.mean(0) - truth).abs() / (mine.std(0) / n**0.5)).max()) < 5.5


def correlated(n: int) -> tuple[Tensor, float]:
    """Rows of N(m, S) with deviations 3 and 0.5 and correlation 0.9, and its entropy."""
    scale = torch.tensor([[3.0, 0.0], [0.45, 0.5 * (1 - 0.81) ** 0.5]])
    x = Noise(5, n).normal((2,)) @ scale.T + torch.tensor([10.0, -2.0])
    return x, math.log(2 * math.pi * math.e) + float(scale.diagonal().log().sum())


@pytest.mark.parametrize("fields", [{"objective": "matching"}, {}, {"divergence": "hutchinson", "hidden": 3}])
def test_both_objectives_learn_the_density(fields: dict) -> None:
    """Two standardised normals without their correlation cost 0.83 nats more."""
    x, entropy = correlated(2048)
    model = build("continuous-flow", Reals((2,)), width=32, tolerance=1e-4, **{"steps": 4, **fields})
    model.prepare(x, noise=Noise(0, 2048))
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    for step in range(300 if model.surrogate else 120):
        rows = torch.arange(256) + 256 * (step % 8)
        optimiser.zero_grad()
        model.loss(x[rows], noise=Noise(step, rows)).backward()
        optimiser.step()
    test = correlated(2048)[0][:512]
    k = 8 if fields.get("divergence") else 1
    nats = -lk.log_prob(model, test, k=k).mean
    assert entropy - 0.15 < nats < entropy + 0.25
    drawn = lk.sample(model, 2000, seed=0).double()
    assert float(torch.corrcoef(drawn.T)[0, 1]) == pytest.approx(0.9, abs=0.06)
    assert drawn.mean(0).tolist() == pytest.approx([10, -2], abs=0.4)


def test_the_loss_is_that_of_the_grid_it_trains_on() -> None:
    model = shaken(build("continuous-flow", Reals((3,)), width=8, steps=5, divergence="hutchinson", dtype=F64))
    x, noise = Noise(0, 6).normal((3,), dtype=F64), lambda: Noise(1, 6)
    loss = model.loss(x, noise=noise())
    torch.testing.assert_close(loss, -model.log_prob_at(x, steps=5, noise=noise()).mean())
    same, features = model.loss_and_features(x, noise=noise())
    torch.testing.assert_close(loss, same)
    torch.testing.assert_close(features[0], model.encode(x), rtol=0, atol=1e-2)
    matching = shaken(build("continuous-flow", Reals((3,)), width=8, objective="matching", dtype=F64))
    loss, features = matching.loss_and_features(x, noise=noise())
    torch.testing.assert_close(loss, matching.loss(x, noise=noise()))
    torch.testing.assert_close(features[0], matching.encode(x), rtol=0, atol=1e-2)


def test_matching_is_the_error_of_the_velocity() -> None:
    """Of a field that is zero: E |x_1 - (1 - sigma) x_0|^2 = |x_1|^2 + (1 - sigma)^2 d."""
    model = build("continuous-flow", Reals((3,)), objective="matching", sigma_min=0.4, dtype=F64)
    x = torch.tensor([[1.0, -2.0, 0.5]], dtype=F64).expand(50_000, 3)
    loss = float(model.loss(x, noise=Noise(0, 50_000)).detach())
    assert loss == pytest.approx(5.25 + 0.36 * 3, abs=0.1)


# Solutions ----------------------------------------------------------------------------------------------------------


def stiff(**fields) -> ContinuousFlow:
    """Rows far out are much harder to solve than those in the middle."""
    return shaken(build("continuous-flow", Reals((2,)), width=16, **fields), 1, 0.6)


def test_a_hard_neighbour_moves_no_bit() -> None:
    model = stiff(dtype=F64, tolerance=1e-4)
    easy, hard = 0.05 * Noise(0, 8).normal((2,), dtype=F64), 6 * Noise(1, 8).normal((2,), dtype=F64)
    grids: list[int] = []
    ode = model.transform.parts[1]
    plain = ode._grid
    ode._grid = lambda x, y, how, start, end, steps: grids.append(steps) or plain(x, y, how, start, end, steps)
    alone = lk.log_prob(model, easy).nats
    few = max(grids)
    beside = lk.log_prob(model, torch.cat([easy, hard])).nats[:8]
    assert max(grids) > few  # the neighbours did need more
    assert torch.equal(alone, beside)
    rows = torch.cat([lk.log_prob(model, x).nats for x in easy.split(1)])
    assert torch.equal(alone, rows)


def test_the_error_is_within_the_tolerance() -> None:
    x = 3 * Noise(1, 64).normal((2,), dtype=F64)
    for tolerance in (1e-3, 1e-5, 1e-7):
        model = stiff(dtype=F64, tolerance=tolerance)
        with torch.no_grad():
            mine = model.log_prob_estimate(x, noise=Noise(0, 64))
            truth = model.log_prob_at(x, steps=1024, noise=Noise(0, 64))
        assert float(((mine - truth).abs() / (1 + truth.abs())).max()) < 5 * tolerance


@pytest.mark.parametrize("call", ["log_prob", "encode", "decode", "sample"])
def test_the_step_limit_is_an_error(call: str) -> None:
    model = stiff(steps=4, max_steps=4, tolerance=1e-6)
    x = 5 * torch.ones(3, 2)
    calls = {
        "log_prob": lambda: lk.log_prob(model, x),
        "encode": lambda: model.encode(x),
        "decode": lambda: model.decode(x),
        "sample": lambda: lk.sample(model, 30, seed=0),
    }
    with pytest.raises(StepLimit, match=r"not solved to tolerance 1e-06 in 4 steps \(\d+ of \d+ rows, the last"):
        calls[call]()


def test_a_field_that_blows_up_is_an_error_and_no_number() -> None:
    model = linear((2,), 500 * torch.eye(2, dtype=F64), max_steps=64)
    with torch.no_grad(), pytest.raises(StepLimit, match="raise max_steps or tolerance"):
        model.decode(1e300 * torch.ones(1, 2, dtype=F64))


def test_float32_is_not_asked_for_more_than_it_has() -> None:
    model = shaken(build("continuous-flow", Reals((2,)), width=8, tolerance=1e-12))
    reading = lk.log_prob(model, Noise(0, 20).normal((2,)))
    assert "to 8e-06" in reading.note


def test_the_number_says_its_tolerance() -> None:
    x = Noise(0, 4).normal((2,))
    reading = lk.log_prob(build("continuous-flow", Reals((2,))), x)
    assert reading.note == "ODE by rk4 to 1e-05, exact divergence"
    assert str(reading).startswith("bpd ~ ") and str(reading).endswith("(ODE by rk4 to 1e-05, exact divergence)")
    both = lk.log_prob(build("continuous-flow", Reals((2,)), divergence="hutchinson", tolerance=1e-3), x, k=3)
    assert str(both).endswith("(k=3, ODE by rk4 to 1e-03, Hutchinson's divergence)")
    over = lk.log_prob(build("continuous-flow", Integers((2,), 4)), torch.zeros(2, 2).long())
    assert over.note == reading.note
    record = json.loads(json.dumps(Evaluation(reading, False).to_json()))
    assert record["note"] == reading.note
    plain = lk.log_prob(build("flow", Reals((2,))), x)
    assert plain.note == "" and "note" not in Evaluation(plain, False).to_json() and "(" not in str(plain)


def test_the_suite_finds_a_wrong_order() -> None:
    """A solver that lost its order, and one that counts the divergence against the wrong time, fail F5."""
    model = shaken(build("continuous-flow", Reals((2,)), width=8, tolerance=1e-4), 0, 0.3)
    assert check(model, only="F5").passed
    model.order = 6
    report = check(model, only="F5")
    assert not report.passed and "order" not in report.failures[0].detail[:5]


# The adaptive solver ------------------------------------------------------------------------------------------------


def test_dopri5_agrees_and_keeps_rows_apart() -> None:
    pytest.importorskip("torchdiffeq")
    x = Noise(0, 5).normal((2,), dtype=F64)
    for fields in ({}, {"divergence": "hutchinson"}):
        a, b = (stiff(dtype=F64, tolerance=1e-8, solver=s, **fields) for s in ("rk4", "dopri5"))
        with torch.no_grad():
            mine = b.log_prob_estimate(x, noise=Noise(1, 5))
            torch.testing.assert_close(mine, a.log_prob_estimate(x, noise=Noise(1, 5)), rtol=1e-6, atol=1e-5)
            alone = torch.cat([b.log_prob_estimate(x[i : i + 1], noise=Noise(1, torch.tensor([i]))) for i in range(5)])
            assert torch.equal(alone, mine)
            assert float((b.decode(b.encode(x)) - x).abs().max()) < 1e-4
        assert float(b.loss(x, noise=Noise(1, 5)).detach()) == pytest.approx(-float(mine.mean()), rel=1e-5)
    assert "dopri5" in b.reading_note
    short = stiff(dtype=F64, tolerance=1e-8, solver="dopri5", steps=2, max_steps=2)
    with torch.no_grad(), pytest.raises(StepLimit, match="in 2 steps"):
        short.encode(5 * x)


def test_dopri5_says_which_extra_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torchdiffeq", None)
    with pytest.raises(ImportError, match=r"likely\[ode\]"):
        build("continuous-flow", Reals((2,)), solver="dopri5")


# Images, conditions, mistakes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_images_and_labels(divergence: str) -> None:
    model = build("continuous-flow", Reals((3, 4, 4)), Integers((), 3), net="conv", width=8, divergence=divergence)
    x, y = Noise(0, 5).normal((3, 4, 4)), torch.tensor([0, 1, 2, 0, 1])
    model.prepare(3 * x + 1, y, noise=Noise(0, 5))
    shaken(model, 0, 0.2)
    assert lk.log_prob(model, x, y).nats.shape == (5,)
    z = model.encode(x, y)
    assert z.shape == (5, 48)
    torch.testing.assert_close(model.decode(z, y), x, rtol=0, atol=1e-3)
    assert not torch.equal(model.encode(x, (y + 1) % 3), z)
    assert model.sample(2, y[:2], noise=Noise(0, 2)).shape == (2, 3, 4, 4)
    model.loss(x, y, noise=Noise(0, 5)).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build("continuous-flow", Reals((4,)), net="conv"), "choose net 'mlp'"),
        (lambda: build("continuous-flow", Integers((), 4)), "accepts arrays"),
        (lambda: build("continuous-flow", Reals((2,)), tolerance=0.0), "tolerance"),
        (lambda: build("continuous-flow", Reals((2,)), steps=8, max_steps=4), "max_steps"),
        (lambda: build("continuous-flow", Reals((2,)), Integers((), 2)).encode(torch.zeros(1, 2)), "y is None"),
    ],
)
def test_bad_input(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()

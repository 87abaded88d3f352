"""The suite over every tiny instance of the registry, over the toys, and over models that break their promises."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from likely.conformance import CHECKS, check
from likely.conformance.enumerate import index_of, integrate, states, stratify
from likely.conformance.saving import digest, digests_in_new_process
from likely.conformance.statistics import dkw_limit, draws_needed, g_test, t_limit, t_scores
from likely.conformance.subject import Subject
from likely.noise import Noise
from likely.registry import FAMILIES, build, tiny
from likely.space import Column, Integers, Reals, Table

sys.path.append(str(Path(__file__).parent))
from toys import BITS, LABELS, TOYS, Affine, Chain, Classes, Gauss, Independent, LinearGaussian, Normal, Switch

FAST = [name for name in CHECKS if name != "G4p"]
"""All but the new Python process, which takes seconds: one process for the whole registry instead, below."""
INSTANCES = [(family, name) for family in FAMILIES for name in tiny(family)]


def instance(family: str, name: str) -> torch.nn.Module:
    config, space, condition = tiny(family)[name]
    return build(config, space, condition)


@pytest.mark.parametrize(("family", "name"), INSTANCES, ids=[f"{family}: {name}" for family, name in INSTANCES])
def test_registry(family, name):
    report = check(instance(family, name), only=FAST)
    assert report.passed, f"\n{report}"


@pytest.mark.parametrize("name", TOYS)
def test_toys(name):
    report = check(TOYS[name](), only=FAST)
    assert report.passed, f"\n{report}"


def test_one_new_process_gives_the_same_bytes():
    """G4p for the first tiny instance of every family, in one process."""
    subjects = [Subject(instance(family, next(iter(tiny(family)))), 0) for family in FAMILIES]
    assert digests_in_new_process(subjects) == [digest(s.copied(), s) for s in subjects]


@pytest.mark.long
def test_every_new_process_gives_the_same_bytes():
    subjects = [Subject(instance(family, name), 0) for family, name in INSTANCES]
    assert digests_in_new_process(subjects) == [digest(s.copied(), s) for s in subjects]


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 4))
@pytest.mark.parametrize(("family", "name"), INSTANCES, ids=[f"{family}: {name}" for family, name in INSTANCES])
def test_registry_under_other_seeds(family, name, seed):
    report = check(instance(family, name), only=FAST, seed=seed)
    assert report.passed, f"\n{report}"


# The report ---------------------------------------------------------------------------------------------------------


def test_report_says_everything():
    seen = []
    report = check(Chain(BITS), only=["D1", "D2", "P"], progress=seen.append)
    assert [o.id for o in report.outcomes] == ["D1", "D2", "P1", "P2", "P3", "P4", "P5"]
    assert seen == list(report.outcomes)
    assert {o.id: o.status for o in report.outcomes}["D2"] == "skipped"
    record = json.loads(json.dumps(report.to_json()))
    assert record["passed"] is True
    assert record["outcomes"][0].keys() == {"id", "title", "status", "detail", "seconds"}
    assert "3 passed, 0 failed, 4 skipped" in str(report)
    assert re.search(r"^D1 +passed", str(report), re.M)


def test_check_refuses_what_is_no_model():
    with pytest.raises(TypeError, match="without a `space`"):
        check(torch.nn.Linear(2, 2))

    class Empty:
        space, condition = BITS, None

    with pytest.raises(TypeError, match="with no verb"):
        check(Empty())
    with pytest.raises(ValueError, match="only names 'D11'; accepts .* did you mean 'D1'"):
        check(Chain(BITS), only="D11")


def test_a_model_that_raises_gets_a_report():
    class Broken(Chain):
        def log_prob(self, x: Tensor, y: object = None) -> Tensor:
            raise RuntimeError("out of order")

    report = check(Broken(BITS), only=["D1", "G2", "P5"])
    assert {o.id: o.status for o in report.outcomes} == {"G2": "failed", "D1": "failed", "P5": "passed"}
    assert "RuntimeError: out of order" in str(report)


def test_the_model_itself_is_left_as_it_is():
    model = Classes(Independent(BITS, LABELS)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    check(model, only=FAST)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.training
    assert all(p.grad is None for p in model.parameters())


def test_large_models_skip_what_must_be_counted():
    report = check(Independent(Integers((1, 8, 8), 17)), only=FAST)
    assert report.passed, f"\n{report}"
    status = {o.id: o.status for o in report.outcomes}
    assert (status["D1"], status["P1"], status["G2"], status["P5"]) == ("skipped", "skipped", "passed", "passed")


def test_every_check_states_its_promise():
    for name, each in CHECKS.items():
        text = each.test.__doc__ or ""
        assert text.startswith(f"{name} "), name
        assert len(text.split()) > 15, f"{name}: promise and tolerance belong into the docstring"
    ids = {*(f"G{i}" for i in range(1, 11)), *(f"D{i}" for i in (1, 2, 3, 4, 6)), "F1", "F2", "F3", "L1", "L3", "L4"}
    assert ids | {f"P{i}" for i in range(1, 6)} | {"N1", "J1"} <= set(CHECKS)


# L2: a bound is tight where q is the posterior ------------------------------------------------------------------------


def test_bound_is_tight_at_the_exact_posterior():
    """L2: a linear-Gaussian VAE with the exact posterior has log w = log p(x), the evidence of pPCA, to 1e-8."""
    model = LinearGaussian().double()
    x = Noise(0, 20).normal((2,), dtype=torch.float64) * 2
    model.exact_posterior()
    with torch.no_grad():
        weights = model.log_weight(x, noise=Noise(1, 20, 8)).reshape(20, 8)
        bounds = model.elbo(x, noise=Noise(1, 20, 4096)).reshape(20, -1)
        assert float((weights - model.evidence(x)[:, None]).abs().max()) < 1e-8
        assert float(t_scores(bounds.T, model.evidence(x)).abs().max()) < t_limit(20)


# The tools are right ----------------------------------------------------------------------------------------------


def test_states_are_all_there_and_found_again():
    for space in (BITS, Integers((3,), 5), Table((Column("a", ("x", "y")), Column("b", ("u", "v", "w"))))):
        every = states(space)
        assert torch.equal(index_of(space, every), torch.arange(space.len(every)))
    assert states(Integers((13,), 2)) is None
    assert states(Integers((3, 32, 32), 256)) is None
    assert states(Reals((2,))) is None


@pytest.mark.parametrize("d", [1, 2, 3])
def test_quadrature_of_a_normal_and_of_kinks(d):
    """A normal far from the centre it starts from, and exp(-|x|), whose integral is 2^d."""
    mean, scale = torch.full((d,), 0.7, dtype=torch.float64), torch.eye(d, dtype=torch.float64)
    normal = integrate(lambda x: Gauss(mean, mean * 0 - 1.0).log_prob(x), mean * 0, scale)
    assert abs(float(normal.mass.sum()) - 1) < 1e-6 + normal.error
    assert normal.error < 1e-3
    if d < 3:
        kinks = integrate(lambda x: -x.abs().sum(1), mean * 0, scale)
        assert abs(float(kinks.mass.sum()) - 2**d) < 1e-6


def test_strata_are_unbiased_for_a_region():
    law = Gauss(torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64))
    points, mass = stratify(law.log_prob, torch.zeros(2).double(), torch.eye(2).double(), 100_000, 0)
    inside = points.norm(dim=1) < 1
    assert float(mass[inside].sum()) == pytest.approx(1 - math.exp(-0.5), abs=2e-3)


def test_tests_fail_as_rarely_as_they_say():
    """p-values and scores of right samples are uniform enough: at 1e-2 none of the tests fires more than 3 %."""
    p = torch.tensor([0.5, 0.3, 0.15, 0.05])
    edges, low, over = p.cumsum(0), 0, 0
    for seed in range(300):
        counts = torch.bincount(torch.searchsorted(edges, Noise(seed, 1).uniform((2000,))[0]).clamp(max=3), minlength=4)
        low += g_test(counts, p)[0] < 0.01
        over += abs(float(t_scores(Noise(seed, 1).normal((2048,))[0]))) > 2.66  # 1 % of t with 63 degrees of freedom
    assert low <= 9
    assert over <= 9


def test_tests_have_the_power_they_say():
    """At the effect that `draws_needed` is made for, a G-test at 1e-6 rejects in every one of 30 runs."""
    n, tilt = draws_needed(8), 0.1
    for seed in range(30):
        u = Noise(seed, 1).uniform((n, 2))[0]
        shifted = ((u[:, 0] * 4).long() + 4 * (u[:, 1] < 0.5 * (1 + tilt)).long()).clamp(max=7)
        assert g_test(torch.bincount(shifted, minlength=8), torch.full((8,), 1 / 8))[0] < 1e-6
    assert g_test(torch.tensor([5, 1]), torch.tensor([1.0, 0.0]))[0] == 0.0, "an impossible state was drawn"
    assert dkw_limit(20_000) < 0.02


# Broken promises are found ------------------------------------------------------------------------------------------


def failures(model: object, *only: str) -> set[str]:
    return {outcome.id for outcome in check(model, only=only or FAST).failures}


def changed(toy: type, **methods: object) -> type:
    return type(toy.__name__, (toy,), methods)


BROKEN = {
    "unnormalised weights": (
        "D1",
        lambda: changed(Independent, _log=lambda self, n, y: self.logits.expand(n, -1, -1))(Integers((2, 2), 3)),
    ),
    "mean for sum": (
        "D1",
        lambda: changed(Chain, log_prob=lambda self, x, y=None: self.log_prob_sites(x).mean(1))(BITS),
    ),
    "mask one too wide": (
        "D4",
        lambda: changed(Chain, _logits=lambda self, b: b @ self.weight.tril(0).T + self.bias)(BITS),
    ),
    "inverse a little off where encode contracts": ("F1", lambda: _contracting(slope=1e-7, off=1e-5)),
    "nothing left to invert": ("F1", lambda: _contracting(slope=0.0, off=0.0)),
    "log-det dropped": (
        "F2",
        lambda: changed(
            Affine,
            log_prob=lambda self, x, y=None: -0.5 * self.encode(x, y).square().sum(1) - math.log(2 * math.pi),
        )(),
    ),
    "a half log 2 pi forgotten": (
        "D2",
        lambda: changed(
            Affine, log_prob=lambda self, x, y=None: Affine.log_prob(self, x, y) + 0.5 * math.log(2 * math.pi)
        )(),
    ),
    "KL with the other sign": (
        "L3",
        lambda: changed(
            LinearGaussian,
            log_weight=lambda self, x, y=None, *, noise: _terms(self, x, noise, -1),
        )(),
    ),
    "prior missing": (
        "L4",
        lambda: changed(LinearGaussian, log_weight=lambda self, x, y=None, *, noise: _terms(self, x, noise, 0))(),
    ),
    "p(y) missing": (
        "J1",
        lambda: changed(
            Classes,
            log_posterior=lambda self, x: (Classes.log_posterior(self, x) - self.logits).log_softmax(1),
        )(Independent(BITS, LABELS)),
    ),
    "sampler ignores the label": (
        "P1",
        lambda: changed(
            Independent,
            sample=lambda self, n, y=None, *, noise: Independent.sample(
                self, n, None if y is None else y * 0, noise=noise
            ),
        )(BITS, LABELS),
    ),
    "sampler too narrow": (
        "P2",
        lambda: changed(Normal, sample=lambda self, n, y=None, *, noise: 0.9 * Normal.sample(self, n, noise=noise))(),
    ),
    "global random numbers": (
        "G5",
        lambda: changed(Normal, sample=lambda self, n, y=None, *, noise: torch.randn(n, 2, dtype=self.mean.dtype))(),
    ),
    "draws depend on the batch": (
        "P5",
        lambda: changed(Normal, sample=lambda self, n, y=None, *, noise: Noise(noise.seed, n).normal((2,)))(),
    ),
    "rows see each other": (
        "G2",
        lambda: changed(Normal, log_prob=lambda self, x, y=None: Normal.log_prob(self, x) - 1e-3 * x.mean())(),
    ),
    "gradient detached": (
        "G6",
        lambda: changed(Affine, loss=lambda self, x, y=None, *, player="model", noise: _detached(self, x, y))(),
    ),
    "scoring counts its calls": ("G9", lambda: _Counting()),
    "marginal left unseen cells in": (
        "D5",
        lambda: changed(
            Normal, log_marginal=lambda self, x, seen, y=None: Normal.log_marginal(self, x, seen | (seen.sum() > 0))
        )(),
    ),
    "steps that give the sites back in another order": (
        "C1",
        lambda: changed(Chain, from_sites=lambda self, x: Chain.from_sites(self, x.flip(2)))(BITS),
    ),
    "steps that charge for another density": (
        "C1",
        lambda: changed(
            Chain,
            log_prob=lambda self, x, y=None: Chain.log_prob(self, x) + 0.2 * x.flatten(1).sum(1),
        )(BITS),
    ),
    "a density for a bound": (
        "D1",
        lambda: changed(Switch, log_prob=lambda self, x, y=None: self.elbo(x, noise=Noise(0, len(x))))(BITS),
    ),
}


def _terms(self: LinearGaussian, x: Tensor, noise: Noise, sign: int) -> Tensor:
    z, x, q = self._draw(x, noise)
    if sign:
        return self.likelihood(z).log_prob(x) - self.prior().log_prob(z) + q.log_prob(z)
    return self.likelihood(z).log_prob(x) - q.log_prob(z)


def _detached(self: Affine, x: Tensor, y: Tensor | None) -> Tensor:
    _, scale, _, inner = self._of(x[:, 0], y)
    return (0.5 * self.encode(x, y).square().sum(1) + scale + inner.detach()).mean()


def _contracting(slope: float, off: float) -> torch.nn.Module:
    """z2 = 3 + slope x2, whose inverse is off by a share of x2."""
    return changed(
        Affine,
        encode=lambda self, x, y=None: torch.stack([x[:, 0], 3 + slope * x[:, 1]], 1),
        decode=lambda self, z, y=None: torch.stack([z[:, 0], (z[:, 1] - 3) / (slope or 1) * (1 + off)], 1),
        sample=lambda self, n, y=None, *, noise: noise.normal((2,), dtype=self.inner.dtype),
    )().double()  # float32 could not tell x2 at all


def test_f1_allows_for_rounding_where_encode_contracts():
    slope = 1e-7
    x = torch.linspace(-1, 1, 9, dtype=torch.float64)
    assert ((3 + slope * x - 3) / slope - x).abs().max() > 2e-10, "float64 loses more than F1 grants elsewhere"
    report = check(_contracting(slope=slope, off=0.0), only="F1")
    assert report.outcomes[0].detail.startswith("float64 within"), f"{report}"
    assert "rows where encode contracts too far" in report.outcomes[0].detail


class _Counting(Normal):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def log_prob(self, x: Tensor, y: object = None) -> Tensor:
        self.calls += 1
        return super().log_prob(x, y)


@pytest.mark.long
def test_planted_bugs_are_found():
    """A handful of bench/mutants.py: the others are in its table. Also, that each of them still has its place."""
    sys.path.append(str(Path(__file__).parent.parent / "bench"))
    import mutants

    lost = [m.kind for m in mutants.MUTANTS if (mutants.PACKAGE / m.file).read_text().count(m.old) != 1]
    assert not lost, f"these bugs' lines have changed, bench/mutants.toml has not: {lost}"
    for kind in ("bin width x2", "first-layer mask as B", "flip log-det sign", "KL sign", "p(y) missing"):
        mutant = next(m for m in mutants.MUTANTS if m.kind == kind)
        assert mutants.run(mutant, mutant.instances, {}), kind


@pytest.mark.parametrize("name", BROKEN)
def test_broken_promise_is_found(name):
    expected, make = BROKEN[name]
    found = failures(make(), expected)
    assert expected in found

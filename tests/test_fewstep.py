"""Mean flows and consistency models: closed forms on Gaussians, derivatives by differences, and one step that works.

And starts from trained weights, which consistency models need.
"""

from __future__ import annotations

import copy
import math
import shutil
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

import likely as lk
from likely.cli import main
from likely.conformance import check
from likely.families.diffusion.consistency import Consistency
from likely.families.diffusion.meanflow import MeanFlow, target
from likely.noise import Noise
from likely.registry import build
from likely.space import Integers, Reals
from likely.train import Ledger, load_model
from likely.verbs import verbs

F64 = torch.float64
CENTRE, SPREAD = torch.tensor([0.7, -0.2], dtype=F64), torch.tensor([0.5, 1.3], dtype=F64)
"""Data x ~ N(CENTRE, SPREAD^2) in every dimension by itself."""


def width(t: Tensor) -> Tensor:
    """Standard deviation of z_t = (1 - t) x + t eps, (B, 2)."""
    return (((1 - t)[:, None] * SPREAD).square() + t[:, None].square()).sqrt()


def exact(z: Tensor, r: Tensor, t: Tensor) -> Tensor:
    """The mean velocity of Gaussian data for r < t: the flow keeps (z_t - mean_t) / width_t, so that
    z_r = mean_r + width_r / width_t (z_t - mean_t)."""
    mean_t, mean_r = ((1 - time)[:, None] * CENTRE for time in (t, r))
    z_r = mean_r + width(r) / width(t) * (z - mean_t)
    return (z - z_r) / (t - r)[:, None]


def velocity(z: Tensor, t: Tensor) -> Tensor:
    """E[eps - x given z_t = z] of Gaussian data, by regression: cov(eps - x, z_t) / var z_t."""
    gain = (t[:, None] - (1 - t)[:, None] * SPREAD.square()) / width(t).square()
    return gain * (z - (1 - t)[:, None] * CENTRE) - CENTRE


def points(n: int = 64, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """z, r < t."""
    noise = Noise(seed, n)
    pair = noise.uniform((2,), dtype=F64).sort(1).values
    return 2 * noise.normal((2,), dtype=F64), pair[:, 0], pair[:, 1] + 0.01


def shaken(family: str, *space, seed: int = 0, size: float = 0.2, **fields):
    """A small model in float64 whose every parameter has been moved: nothing is zero."""
    small = {"net": "mlp", "width": 16, "blocks": (1,)}
    if family == "consistency":
        small = {"diffusion": small | fields.pop("diffusion", {})}
    model = build(family, *space, dtype=F64, **{**small, **fields})
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            parameter.add_(size * Noise(seed + i, 1).normal(parameter.shape, dtype=F64)[0])
    return model.eval()


def test_the_exact_mean_flow_of_a_gaussian_is_the_fixed_point_of_the_target():
    z, r, t = points()
    v = velocity(z, t)
    torch.testing.assert_close(target(exact, z, r, t, v), exact(z, r, t), rtol=1e-9, atol=1e-9)
    wrong = target(lambda z, r, t: exact(z, r, t) + 0.1 * (t - r)[:, None], z, r, t, v)
    assert (wrong - exact(z, r, t)).abs().max() > 0.01  # and only that one is
    near = exact(z, t - 1e-6, t)
    torch.testing.assert_close(near, v, rtol=1e-4, atol=1e-4)  # the two closed forms agree


def test_with_the_pairs_own_velocity_the_target_is_the_mean_flow_on_average():
    # E[eps - x given z] is the velocity, and the target is affine in it: residuals are orthogonal to functions of z
    noise = Noise(0, 200_000)
    x, eps = CENTRE + SPREAD * noise.normal((2,), dtype=F64), noise.normal((2,), dtype=F64)
    t = noise.uniform(dtype=F64) * 0.98 + 0.02
    r = t * noise.uniform(dtype=F64) * 0.99
    z = (1 - t)[:, None] * x + t[:, None] * eps
    residual = target(exact, z, r, t, eps - x) - exact(z, r, t)
    for test in (torch.ones_like(z), z, z * t[:, None], r[:, None] * z.sin()):
        values = residual * test
        score = values.mean(0) / (values.std(0) / math.sqrt(len(z)))
        assert score.abs().max() < 5


def test_the_target_is_that_of_finite_differences():
    model, h = shaken("meanflow", Reals((2,))), 1e-5
    z, r, t = points(16)
    t = t.clamp(max=0.99)
    v = Noise(3, 16).normal((2,), dtype=F64)
    slope = (model.mean_velocity(z + h * v, r, t + h) - model.mean_velocity(z - h * v, r, t - h)) / (2 * h)
    with torch.no_grad():
        torch.testing.assert_close(target(model.mean_velocity, z, r, t, v), v - (t - r)[:, None] * slope)
    assert (slope.abs() > 1e-3).all()


@pytest.mark.parametrize("equal", [0.0, 0.6, 1.0])
def test_the_loss_is_its_definition(equal):
    model = shaken("meanflow", Reals((2,)), equal=equal, offset=0.3)
    x = Noise(1, 64).normal((2,), dtype=F64)
    seen = {}

    class Spy(MeanFlow):
        def mean_velocity(self, z, r, t, condition=None):
            seen.setdefault("at", (z, r, t))
            return super().mean_velocity(z, r, t, condition)

    model.__class__ = Spy
    loss = model.loss(x, noise=Noise(5, 64))
    model.__class__ = MeanFlow
    z, r, t = seen["at"]
    assert (r <= t).all()
    assert abs(float((r == t).double().mean()) - equal) < 0.2
    eps = (z - (1 - t)[:, None] * x) / t[:, None]  # scaled is raw here: centre 0, scale 1
    v = eps - x
    assert abs(float(eps.mean())) < 0.4
    u = model.mean_velocity(z, r, t)
    with torch.no_grad():
        goal = target(model.mean_velocity, z, r, t, v)
    torch.testing.assert_close(loss, ((u - goal).square().sum(1) + 0.3).log().mean())
    if equal == 1:  # flow matching, to the last bit that float64 leaves
        torch.testing.assert_close(loss, ((u - v).square().sum(1) + 0.3).log().mean(), rtol=1e-12, atol=1e-12)
    logit = (t / (1 - t)).log()
    assert -1 < float(logit.mean()) < 0.8


def test_no_gradient_flows_through_the_target():
    model = shaken("meanflow", Reals((2,)), equal=0.0)
    x, teacher = Noise(1, 32).normal((2,), dtype=F64), shaken("meanflow", Reals((2,)), equal=0.0)
    own = torch.autograd.grad(model.loss(x, noise=Noise(5, 32)), list(model.parameters()))
    taught = torch.autograd.grad(model.loss(x, noise=Noise(5, 32), teacher=teacher), list(model.parameters()))
    for a, b in zip(own, taught, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize("evaluations", [1, 2, 5])
def test_the_exact_mean_flow_draws_the_data_in_any_number_of_steps(evaluations, monkeypatch):
    model = build("meanflow", Reals((2,)), net="mlp", width=8, evaluations=evaluations, dtype=F64)
    monkeypatch.setattr(model, "mean_velocity", lambda z, r, t, condition: exact(z, r, t))
    states = list(model.path(Noise(0, 9).normal((2,), dtype=F64)))
    assert len(states) == evaluations
    torch.testing.assert_close(states[-1], CENTRE + SPREAD * Noise(0, 9).normal((2,), dtype=F64))


def test_it_denoises_as_a_gaussian_does(monkeypatch):
    model = build("meanflow", Reals((2,)), net="mlp", width=8, dtype=F64)
    monkeypatch.setattr(model, "mean_velocity", lambda z, r, t, condition: velocity(z, t))
    log_snr = torch.linspace(-6, 6, 13, dtype=F64)
    alpha, sigma = log_snr.sigmoid().sqrt()[:, None], (-log_snr).sigmoid().sqrt()[:, None]
    x_t = Noise(0, 13).normal((2,), dtype=F64)
    # x given x_t is normal: precision 1 / SPREAD^2 + alpha^2 / sigma^2
    mean = (CENTRE / SPREAD.square() + alpha * x_t / sigma.square()) / (1 / SPREAD.square() + (alpha / sigma).square())
    torch.testing.assert_close(model.denoise(x_t, log_snr), mean)


def test_attention_has_a_forward_mode():
    model = build("meanflow", Integers((1, 4, 4), 4), width=8, multipliers=(1,), attention=(0,), head=8, equal=0.0)
    x = Noise(0, 4).integers(4, (1, 4, 4))
    model.loss(x, noise=Noise(1, 4)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_mean_flow_says_what_it_is():
    model = build("meanflow", Integers((2,), 4), net="mlp", width=8)
    assert verbs(model) == ("Trainable", "Samples", "Denoiser")
    with pytest.raises(TypeError, match="meanflow is Trainable, Samples, Denoiser"):
        lk.log_prob(model, torch.zeros(1, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="accepts arrays"):
        build("meanflow", Integers((), 4))


def test_a_taught_gradient_that_flows_through_the_target_is_found():
    class Leaky(MeanFlow):
        def loss(self, x, y=None, *, player="model", noise, teacher=None):
            u = (teacher or self).mean_velocity(self.scaled(x), x[:, 0] * 0, x[:, 0] * 0 + 1)
            return super().loss(x, y, noise=noise, teacher=teacher) + u.square().mean()

    model = build("meanflow", Reals((2,)), net="mlp", width=8, blocks=(1,))
    model.__class__ = Leaky
    assert [outcome.status for outcome in check(model, only="G6").outcomes] == ["failed"]


# Consistency -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", ["edm", "v", "velocity", "noise"])
def test_the_end_of_a_path_without_noise_is_x(prediction):
    model = shaken("consistency", Reals((2,)), diffusion={"prediction": prediction})
    x = Noise(0, 8).normal((2,), dtype=F64)
    for t, near in ((1e-8, 1e-6), (1e-3, 0.1)):
        torch.testing.assert_close(model.end(x, torch.full((8,), t, dtype=F64)), x, rtol=0, atol=near)
    assert (model.end(x, torch.full((8,), 1.0, dtype=F64)) - x).abs().max() > 0.01


def test_a_prediction_of_x_has_no_boundary():
    with pytest.raises(ValueError, match=r"prediction is 'x'.*accepts 'v'"):
        build("consistency", Reals((2,)), diffusion={"prediction": "x"})


def test_partners_are_those_of_the_paper():
    model = shaken("consistency", Reals((2,)), stage_steps=3, q=2.0)
    t = torch.tensor([0.1, 1.0, 5.0, 80.0], dtype=F64)
    near = [1 + 8 / (1 + math.exp(float(v))) for v in t]
    for stage in range(12):
        assert float(model.stage) == stage
        r = model.partner(t)
        wanted = [float(v) * (1 - n / 2 ** (stage + 1)) for v, n in zip(t, near, strict=True)]
        wanted = [v if v >= model.ends[0] else 0.0 for v in wanted]
        torch.testing.assert_close(r, torch.tensor(wanted, dtype=F64))
        assert ((r < t) & (r >= 0)).all()
        for _ in range(3):
            model.after_step()
    assert wanted[0] > 0.09
    assert model.partner(t * 0 + model.ends[0]).abs().max() == 0


def ends_seen(model: Consistency, x: Tensor, n: int) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """The loss, and the (z, t) that f was asked about in it."""
    seen = []

    class Spy(Consistency):
        def end(self, z, t, condition=None):
            seen.append((z, t))
            return super().end(z, t, condition)

    model.__class__ = Spy
    loss = model.loss(x, noise=Noise(5, n))
    model.__class__ = Consistency
    return loss, seen


@pytest.mark.parametrize("stage", [0, 3])
def test_the_loss_of_a_pair_is_its_definition(stage):
    model = shaken("consistency", Reals((2,)), stage_steps=1, c=0.2, diffusion={"high": 7.0})
    model.seen += stage
    x = Noise(1, 400).normal((2,), dtype=F64)
    loss, [(z_r, r), (z_t, t)] = ends_seen(model, x, 400)
    y_r, y_t = (z * (1 + s.square()).sqrt()[:, None] for z, s in ((z_r, r), (z_t, t)))
    eps = (y_t - x) / t[:, None]
    torch.testing.assert_close((y_r - x) / r[:, None], eps)  # the same noise at both times
    assert abs(float(eps.mean())) < 0.2 and abs(float(eps.std()) - 1) < 0.1
    partner = model.partner(t)
    assert ((partner == r) | (partner == 0)).all() and (partner == 0).any() and (partner > 0).any()
    with torch.no_grad():
        goal = torch.where(partner[:, None] > 0, model.end(z_r, r), x)
    distance = ((model.end(z_t, t) - goal).square().sum(1) + 0.04).sqrt() - 0.2
    torch.testing.assert_close(loss, ((1 / t**2 + 4) * distance).mean())  # sigma_data = 1/2
    inside = (t > model.ends[0] * 1.001) & (t < model.ends[1] * 0.999)
    logs = t[inside].log()
    assert abs(float(t.log().median()) + 1.1) < 0.3 and 1 < float(logs.std()) < 2
    grown = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    taught = model.loss(x, noise=Noise(5, 400), teacher=copy.deepcopy(model))
    for a, b in zip(grown, torch.autograd.grad(taught, list(model.parameters()), allow_unused=True), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_both_times_have_the_same_dropout():
    times = {"log_sigma_mean": 0.0, "log_sigma_std": 0.5}
    model = shaken("consistency", Reals((2,)), stage_steps=1, **times, diffusion={"dropout": 0.5}).train()
    model.seen += 40  # r = t (1 - 1e-11): nothing but dropout could tell f(t) from f(r)
    x = Noise(1, 64).normal((2,), dtype=F64)
    with torch.random.fork_rng(devices=[]):
        loss = float(model.loss(x, noise=Noise(5, 64)).detach())
        a, b = (model.end(x, torch.ones(64, dtype=F64)) for _ in range(2))
    assert loss < 1e-6
    assert (a - b).abs().max() > 0.01  # there is dropout


@pytest.mark.parametrize("again", [(), (0.8,), (2.0, 0.3)])
def test_the_exact_ends_draw_the_data_in_any_number_of_steps(again, monkeypatch):
    model = build("consistency", Reals((2,)), again=again, diffusion={"net": "mlp", "width": 8}, dtype=F64)

    def exact_end(z, t, condition):  # f = mean + sd / sqrt(sd^2 + t^2) (x + t eps - mean)
        t = t[:, None].double()
        return CENTRE + SPREAD / (SPREAD.square() + t.square()).sqrt() * (z * (1 + t.square()).sqrt() - CENTRE)

    monkeypatch.setattr(model, "end", exact_end)
    drawn = model.sample(100_000, noise=Noise(0, 100_000))
    assert len(list(model.path(Noise(0, 3).normal((2,), dtype=F64), noise=Noise(1, 3)))) == 1 + len(again)
    # of the noise at the first step 1 - alpha^2 = 1e-4 is missing, and with it as much of the variance
    assert ((drawn.mean(0) - CENTRE).abs() < 0.03).all()
    assert ((drawn.std(0) / SPREAD - 1).abs() < 0.01).all()


def test_a_consistency_model_says_what_it_is():
    assert verbs(build("consistency", Integers((2,), 4), diffusion="diffusion:vector")) == ("Trainable", "Samples")


def test_draws_can_have_other_settings():
    flow, tuned = shaken("meanflow", Reals((2,))), shaken("consistency", Reals((2,)))
    for model, settings in ((flow, {"evaluations": 3}), (tuned, {"again": (1.0, 0.2)})):
        other = model.drawn(**settings)
        assert (
            len(
                list(
                    other.path(torch.zeros(2, 2, dtype=F64), **({"noise": Noise(0, 2)} if "again" in settings else {}))
                )
            )
            == 3
        )
        assert model.config != other.config and next(model.parameters()) is next(other.parameters())
        with pytest.raises(ValueError, match="name is no setting of"):
            model.drawn(name="ddim")


def test_noise_beyond_that_of_the_process_is_refused():
    with pytest.raises(ValueError, match=r"again is \[1000.0\]; accepts sigma / alpha from 0.0183 to 90"):
        build("consistency", Reals((2,)), diffusion={**NET, "high": 8.0}, again=(1000.0,))
    with pytest.raises(ValueError, match=r"again is \[0.5, 0.01\]"):
        build("consistency", Reals((2,)), diffusion={**NET, "high": 8.0}).drawn(again=[0.5, 0.01])


def test_a_mean_flow_serves_the_tasks_that_ask_for_its_verb():
    model = build("meanflow", Integers((1, 4, 4), 8), **NET, time_mean=-1.0)
    t = torch.sigmoid(-1.0 + Noise(0, 100_000).normal(dtype=F64))
    low, high = model.log_snr_range
    seen = 2 * ((1 - t) / t).log()
    assert low < float(seen.quantile(0.001)) < float(seen.quantile(0.999)) < high
    assert (low + high) / 2 == pytest.approx(2.0)
    x = Noise(0, 3).integers(8, (1, 4, 4))
    assert lk.denoise(model, x, sd=1.0).mean.shape == (3, 1, 4, 4)
    assert lk.impute(model, x, torch.arange(4).expand(4, 4) < 2, evaluations=8).draws.shape == (3, 1, 4, 4)


def test_what_belongs_to_the_likelihood_rests():
    inner = {**NET, "schedule": "learned", "weighting": "bound", "decoder": "separate"}
    model = build("consistency", Integers((2,), 4), diffusion=inner)
    learning = {name.split(".")[1] for name, p in model.named_parameters() if p.requires_grad}
    assert learning == {"core"}
    model.loss(torch.zeros(8, 2).long(), noise=Noise(0, 8)).backward()


# One step against one step ------------------------------------------------------------------------------------------


def energy(a: Tensor, b: Tensor) -> float:
    """The energy distance of two samples, both halves without their diagonals."""

    def within(x: Tensor) -> float:
        return float(torch.cdist(x, x).sum()) / (len(x) * (len(x) - 1))

    return 2 * float(torch.cdist(a, b).mean()) - within(a) - within(b)


def ring(n: int, seed: int) -> Tensor:
    """Five narrow Gaussians on a circle of radius 2."""
    noise = Noise(seed, n)
    angle = noise.integers(5) * (2 * math.pi / 5)
    return 2 * torch.stack([angle.cos(), angle.sin()], 1) + 0.15 * noise.normal((2,))


def some_data(x: Tensor, y: Tensor | None = None) -> SimpleNamespace:
    return SimpleNamespace(train=SimpleNamespace(x=x, y=y), valid=None)


NET = {"net": "mlp", "width": 64, "blocks": (2,)}
RING = {**NET, "prediction": "edm", "schedule": "edm", "high": 8.0}


@pytest.fixture(scope="module")
def teacher():
    model = build("diffusion", Reals((2,)), **RING, sampler={"name": "ddim", "evaluations": 1})
    lk.fit(model, some_data(ring(2000, 0)), steps=400, batch=256, lr=3e-3, ema=0.99, progress=False)
    return model


def test_one_step_of_each_beats_one_step_of_diffusion(teacher):
    held, data = ring(1000, 1), some_data(ring(2000, 0))
    settings = {"batch": 256, "lr": 3e-3, "ema": 0.98, "progress": False}
    flow = build("meanflow", Reals((2,)), **NET)
    lk.fit(flow, data, steps=250, **settings)
    tuned = build("consistency", Reals((2,)), diffusion=teacher.config, stage_steps=60)
    lk.fit(tuned, data, steps=400, start=teacher, **settings)
    models = {"ddim": teacher, "meanflow": flow, "ect": tuned, "ect, two steps": tuned.drawn(again=[0.8])}
    got = {name: energy(lk.sample(model, 1000, seed=2), held) for name, model in models.items()}
    # 200 pairs of 1000 points of the ring itself: |distance| < 0.012; one step of DDIM ends near the mean, at 1.3
    assert got["ddim"] > 1, got
    assert max(got["meanflow"], got["ect"]) < 0.3 * got["ddim"], got
    assert got["ect, two steps"] < 0.1, got


# Starts -------------------------------------------------------------------------------------------------------------


def test_a_start_is_the_other_models_weights_and_its_scaling(teacher, tmp_path):
    tuned = build("consistency", Reals((2,)), diffusion=teacher.config)
    moved = some_data(ring(300, 3) * 7 + 5)
    lk.fit(tuned, moved, steps=1, lr=1e-12, start=teacher, run=tmp_path / "run", progress=False)
    for name, tensor in teacher.state_dict().items():
        torch.testing.assert_close(tuned.diffusion.state_dict()[name], tensor, rtol=0, atol=1e-9)
    said = Ledger(tmp_path / "run").last("start")["start"]
    assert said["family"] == "diffusion" and len(said["weights"]) == 64 and said["from"] is None
    again = build("consistency", Reals((2,)), diffusion=teacher.config, again=(0.5,))
    lk.fit(again, moved, steps=1, lr=1e-12, start=tmp_path / "run", run=tmp_path / "more", progress=False)
    assert int(again.seen) == 2  # of its own family, all of it
    assert Ledger(tmp_path / "more").last("start")["start"]["from"] == str(tmp_path / "run")
    fresh = build("diffusion", Reals((2,)), **RING)
    lk.fit(fresh, moved, steps=1, progress=False)
    assert float((fresh.scaling.centre - teacher.scaling.centre).abs().max()) > 1  # without a start, the data's own


def test_what_does_not_fit_is_said_and_changes_nothing(teacher):
    data = some_data(ring(64, 0))
    for fields, space, sentence in (
        ({"prediction": "v"}, Reals((2,)), "start, diffusion, has prediction = 'edm', not 'v': its weights mean"),
        ({"width": 32}, Reals((2,)), "width = 64, not 32"),
        ({}, Reals((3,)), r"start, diffusion, has the space Reals\(\(2,\)"),
    ):
        model = build("consistency", space, diffusion={**RING, **fields})
        before = copy.deepcopy(model.state_dict())
        rows = data if space == Reals((2,)) else some_data(torch.zeros(64, 3))
        with pytest.raises(ValueError, match=sentence):
            lk.fit(model, rows, steps=1, start=teacher, progress=False)
        for name, tensor in model.state_dict().items():
            torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
    with pytest.raises(ValueError, match="start is diffusion; meanflow accepts the weights of meanflow"):
        lk.fit(build("meanflow", Reals((2,)), **NET), data, steps=1, start=teacher, progress=False)
    with pytest.raises(ValueError, match="has the condition None, the model has"):
        model = build("diffusion", Reals((2,)), Integers((), 3), **RING)
        lk.fit(model, some_data(ring(64, 0), torch.zeros(64).long()), steps=1, start=teacher, progress=False)
    free = build("diffusion", Reals((2,)), **RING | {"dropout": 0.2, "times": "lognormal", "high": 7.0})
    lk.fit(free, data, steps=1, start=teacher, progress=False)


def test_train_from_a_run_on_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quick = ["--data", "digits", "batch=8", "train.log_every=1"]

    def likely(*words):
        with pytest.raises(SystemExit) as stopped:
            main([str(word) for word in words])
        return stopped.value.code

    inner = ["net=mlp", "width=8", "blocks=[1]", "prediction=edm"]
    assert likely("train", "diffusion", *quick, *inner, "--steps", "2", "--out", "first", "--json") == 0
    tuning = ["again=[0.5]", "model.diffusion.dropout=0.2", "--start", "first", "--steps", "3", "--out", "tuned"]
    assert likely("train", "consistency", *quick, *tuning, "--json") == 0
    first, tuned = load_model("first"), load_model("tuned")
    assert tuned.config.again == (0.5,)
    assert tuned.config.diffusion == first.config.model_copy(update={"dropout": 0.2})
    line = Ledger("tuned").last("start")
    assert line["start"]["from"] == "first" and line["asked"]["recipe"]["start"] == "first"
    shutil.rmtree("first")  # the run is whole without the one that it came from
    assert likely("resume", "tuned", "--steps", "4", "--json") == 0
    assert likely("train", "consistency", *quick, "--start", "tuned", "--steps", "1", "--out", "more") == 0
    assert load_model("more").config == tuned.config
    capsys.readouterr()
    for words, sentence in (
        (["train", "vae", *quick, "--start", "tuned"], "start is tuned, a run of consistency; vae accepts vae"),
        (["train", "consistency", *quick, "--start", "none"], "path is none, where there is nothing"),
        (["train", "consistency", *quick, "--start", "tuned", "--preset", "two-step"], "preset is 'two-step' beside"),
    ):
        assert likely(*words) == 2
        assert sentence in capsys.readouterr().err.replace("\n", " ")

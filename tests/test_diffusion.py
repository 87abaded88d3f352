"""Diffusion: the parts of the core, each against a second way of finding the same thing."""

from __future__ import annotations

import math
import re

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import likely as lk
from likely.config.diffusion import PRESETS
from likely.families.diffusion import TINY
from likely.families.diffusion import model as make
from likely.families.diffusion.core import COEFFICIENTS, Core
from likely.families.diffusion.decoder import Cells, Discretised, Gaussian, Softmax, Standardised
from likely.families.diffusion.schedule import SCHEDULES, signal_noise
from likely.noise import Noise
from likely.train.ema import Average
from likely.verbs import verbs

SPACE = lk.Integers((2, 3), 5)
LEVELS = torch.arange(5)


def every_level(decoder, m, s):
    """log p of every level at a single place m, (5,)."""
    space = lk.Integers((1,), 5)
    assert isinstance(decoder.scaling, Cells) and decoder.scaling.levels == space.levels
    return decoder.log_prob(
        LEVELS[:, None], torch.full((5, 1), m, dtype=torch.float64), torch.tensor(s, dtype=torch.float64)
    )


@pytest.mark.parametrize("kind", [Softmax, Discretised])
@pytest.mark.parametrize("s", [1e-3, 0.05, 0.4, 3.0])
@pytest.mark.parametrize("m", [-1.7, -0.8, 0.03, 0.41, 0.99])
def test_decoders_of_levels_sum_to_one(kind, m, s):
    assert float(every_level(kind(Cells(SPACE)), m, s).logsumexp(0)) == pytest.approx(0, abs=1e-9)


def test_softmax_is_bayes_rule_for_a_uniform_level():
    m, s = 0.37, 0.3
    centres = (2 * LEVELS.double() + 1) / 5 - 1
    wanted = torch.distributions.Normal(centres, s).log_prob(torch.tensor(m, dtype=torch.float64)).log_softmax(0)
    torch.testing.assert_close(every_level(Softmax(Cells(SPACE)), m, s), wanted, rtol=1e-12, atol=1e-12)


def test_discretised_is_the_mass_of_the_cell():
    m, s = 0.37, 0.3
    edges = torch.tensor([-math.inf, -0.6, -0.2, 0.2, 0.6, math.inf], dtype=torch.float64)
    wanted = torch.special.ndtr((edges - m) / s).diff().log()
    torch.testing.assert_close(every_level(Discretised(Cells(SPACE)), m, s), wanted, rtol=1e-10, atol=1e-10)


def test_discretised_keeps_its_digits_far_out_and_has_gradients():
    m = torch.full((5, 1), 30.0, dtype=torch.float64, requires_grad=True)
    log_p = Discretised(Cells(SPACE)).log_prob(LEVELS[:, None], m, torch.tensor(1.0).double())
    log_p.sum().backward()
    assert torch.isfinite(log_p).all() and torch.isfinite(m.grad).all()
    assert bool((log_p.diff() > 30 * 0.39).all())  # each cell is .4 wide: about 30 * .4 nats from the next


@pytest.mark.parametrize("kind", [Softmax, Discretised])
@pytest.mark.parametrize("s", [0.01, 0.3])
def test_decoders_draw_what_they_score(kind, s):
    n, m = 20_000, torch.tensor([-0.55, 0.0, 0.97], dtype=torch.float64)
    decoder = kind(Cells(SPACE))
    drawn = decoder.sample(m.expand(n, 3), torch.tensor(s, dtype=torch.float64), lk.Noise(1, n))
    for place in range(3):
        p = every_level(decoder, float(m[place]), s).exp()
        share = torch.bincount(drawn[:, place], minlength=5) / n
        assert float(((share - p).abs() / (p * (1 - p) / n + 1e-9).sqrt()).max()) < 5  # sd of each share, plus rounding


def test_standardised_reals_change_units_by_their_volume():
    scaling = Standardised(lk.Reals((3,)), 0.5)
    x = 7 + 20 * lk.Noise(0, 500).normal((3,), dtype=torch.float64)
    scaling.double().prepare(x)
    inside = scaling.scaled(x, torch.float64)
    assert float(inside.square().mean().sqrt()) == pytest.approx(0.5, rel=1e-9)
    torch.testing.assert_close(scaling.unscaled(inside), x)
    s = torch.tensor(0.1, dtype=torch.float64)
    raw_s = 0.1 * scaling.log_scale.exp()
    wanted = torch.distributions.Normal(scaling.unscaled(inside + 0.05), raw_s).log_prob(x).sum(1)
    torch.testing.assert_close(Gaussian(scaling).log_prob(x, inside + 0.05, s), wanted)


@pytest.mark.parametrize("prediction", COEFFICIENTS)
def test_every_prediction_reads_back_x(prediction):
    n, noise = 40, lk.Noise(3, 40)
    x, eps = noise.normal((2, 3), dtype=torch.float64), noise.normal((2, 3), dtype=torch.float64)
    log_snr = 20 * noise.uniform(dtype=torch.float64) - 10
    alpha, sigma = (a.reshape(n, 1, 1) for a in signal_noise(log_snr))
    core = Core(torch.nn.Identity(), prediction, 0.5)
    z = alpha * x + sigma * eps
    torch.testing.assert_close(core.read(core.target(x, eps, log_snr), z, log_snr), x, rtol=1e-7, atol=1e-7)


def test_edm_is_minus_v_at_unit_variance():
    log_snr = torch.linspace(-9, 9, 7).double()
    for edm, v in zip(COEFFICIENTS["edm"](log_snr, 1.0), COEFFICIENTS["v"](log_snr, 1.0), strict=True):
        torch.testing.assert_close(edm, -v)


def test_the_network_sees_unit_variance():
    seen = []

    class Net(torch.nn.Module):
        def forward(self, x, log_snr, condition):
            seen.append(x)
            return x

    core = Core(Net(), "v", 0.5)
    n, noise = 20_000, lk.Noise(0, 20_000)
    x, eps = 0.5 * noise.normal(), noise.normal()
    for level in (-6.0, 0.0, 6.0):
        log_snr = torch.full((n,), level).double()
        alpha, sigma = signal_noise(log_snr)
        core.predict((alpha * x + sigma * eps).float(), log_snr)
    assert [float(x.std()) for x in seen] == pytest.approx([1, 1, 1], abs=0.03)


def test_min_snr_is_the_published_weight():
    """min(SNR, 5) |x - x_hat|^2 at times even on a cosine schedule (Hang et al., 2023, eq. 8), up to a factor; what is
    weighted are the bound's terms, |eps - eps_hat|^2 = SNR |x - x_hat|^2 at even log-SNRs."""
    from likely.families.diffusion.model import WEIGHTS

    cosine = SCHEDULES["cosine"](9.0, -9.0)
    t = torch.linspace(0, 1, 11).double()
    log_snr = cosine.log_snr(t)
    ours = -cosine.slope(t) * WEIGHTS["min-snr"](log_snr) * log_snr.exp()
    theirs = log_snr.exp().clamp(max=5)
    torch.testing.assert_close(ours / ours[5], theirs / theirs[5])


def test_a_bad_schedule_is_an_error():
    with pytest.raises(ValueError, match="low is 3.0 and high 1.0"):
        SCHEDULES["cosine"](1.0, 3.0)
    with pytest.raises(ValueError, match="leave nothing of this curve"):
        SCHEDULES["ddpm"](30.0, 20.0)
    with pytest.raises(ValueError, match="accepts times in"):
        SCHEDULES["linear"](9.0, -9.0).log_snr(torch.tensor([0.5, 1.5]))


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_is_the_same_with_and_without_a_look_at_the_times(name):
    schedule, t = SCHEDULES[name](7.0, -6.0, 0.5), torch.linspace(0.01, 0.99, 9, dtype=torch.float64)
    log_snr, slope = schedule.unchecked(t)
    assert torch.equal(log_snr, schedule.log_snr(t)) and torch.equal(slope, schedule.slope(t))
    torch.testing.assert_close(schedule.time(log_snr), t)
    around = (schedule.log_snr(t + 1e-6) - schedule.log_snr(t - 1e-6)) / 2e-6
    torch.testing.assert_close(slope, around, rtol=1e-6, atol=0)


class Waits(TorchDispatchMode):
    """An error where data goes from the CPU to the device, which makes a GPU wait. (That a value is read from the
    device is an error anyway: the device of these tests holds none.)"""

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        given = {part.device.type for part in arguments if isinstance(part, torch.Tensor)}
        if given == {"cpu"} and isinstance(result, torch.Tensor) and result.device.type != "cpu":
            raise RuntimeError(f"{function} copies to the device")
        return result


@pytest.mark.parametrize("name", TINY)
def test_a_step_of_training_never_waits_for_its_device(name):
    """On `meta`, a device without values. The window of levels around a *learned* first log-SNR has to be read."""
    tiny, device = TINY[name], torch.device("meta")
    with device:
        model = make(tiny.config, tiny.space, tiny.condition, None)

    def rows(space):
        return torch.zeros(4, *space.shape, device=device, dtype=(torch.float32, torch.int64)[hasattr(space, "levels")])

    x, y = rows(tiny.space), None if tiny.condition is None else rows(tiny.condition)
    noise = Noise(0, torch.arange(4, device=device))
    SCHEDULES["ddpm"](9.0, -9.0).log_snr(torch.zeros(0, device=device))  # its table is copied once in a process
    with Waits():
        if tiny.config.schedule == "learned" and tiny.config.weighting == "bound":
            with pytest.raises(RuntimeError, match=r"item\(\) cannot be called"):
                model.loss(x, y, noise=noise)
        else:
            model.loss(x, y, noise=noise).backward()


def tiny(**fields):
    return lk.build("diffusion", SPACE, lk.Integers((), 3), net="mlp", width=16, blocks=(1,), **fields)


def test_drawing_otherwise_has_no_likelihood():
    model = tiny()
    guided = model.drawn(guidance=2.0)
    assert verbs(guided) == ("Samples",)
    with pytest.raises(TypeError, match="log_prob needs a model that is"):
        lk.log_prob(guided, torch.zeros(1, 2, 3, dtype=torch.long), torch.zeros(1, dtype=torch.long))


def test_guidance_of_weight_one_is_the_model_and_more_is_not():
    model, y = tiny(), torch.tensor([0, 1, 2, 0])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * lk.Noise(parameter.numel(), 1).normal(parameter.shape)[0])
    plain = lk.sample(model, 4, y, seed=1)
    assert torch.equal(lk.sample(model.drawn(guidance=1.0), 4, y, seed=1), plain)
    assert not torch.equal(lk.sample(model.drawn(guidance=5.0), 4, y, seed=1), plain)
    nowhere = model.drawn(guidance=5.0, guidance_from=100.0)
    assert torch.equal(lk.sample(nowhere, 4, y, seed=1), plain)


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="trained with drop=0"):
        tiny(drop=0.0).drawn(guidance=2.0)
    with pytest.raises(ValueError, match="heun accepts 15 or more"):
        tiny().drawn(name="heun", evaluations=6)
    with pytest.raises(ValueError, match="has no condition"):
        lk.build("diffusion", SPACE, net="mlp", width=8, blocks=(1,)).drawn(guidance=2.0)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"schedule": "learned"}, "schedule is 'learned' with weighting 'mse'; accepts it with weighting 'bound'"),
        ({"times": "lognormal", "weighting": "sigmoid"}, "times is 'lognormal' with weighting 'sigmoid'"),
        ({"times": "lognormal", "weighting": "bound"}, "times is 'lognormal' with weighting 'bound'"),
        ({"shift": -1.0, "schedule": "linear"}, "shift is -1 on schedule 'linear'"),
        ({"shift": 2.0, "schedule": "edm"}, "move high and low instead"),
        ({"sampler": {"eta": 0.5}}, "eta is 0.5, which dpmpp_2m has no use for; accepts 0, or name=ddim"),
        ({"sampler": {"name": "ddim", "churn": 3}}, "churn is 3, which ddim has no use for"),
    ],
)
def test_a_choice_that_would_do_nothing_is_refused(fields, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        lk.build("diffusion", SPACE, **{"net": "mlp", **fields})


@pytest.mark.parametrize("name", ["linear", "learned", "edm"])
def test_a_shift_of_these_schedules_is_none(name):
    """Why the config refuses it: between fixed ends their curves look the same wherever they stand."""
    t = torch.linspace(0, 1, 9).double()
    here, there = (SCHEDULES[name](9.0, -9.0, shift).log_snr(t) for shift in (0.0, 3.0))
    torch.testing.assert_close(here, there)
    assert not torch.allclose(SCHEDULES["cosine"](9.0, -9.0, 3.0).log_snr(t), SCHEDULES["cosine"](9.0, -9.0).log_snr(t))


@pytest.mark.parametrize("settings", [{"rescale": 0.7}, {"guidance_from": 1.0}, {"guidance_to": 1.0}])
def test_settings_of_guidance_without_guidance_are_refused(settings):
    with pytest.raises(ValueError, match="without guidance; accepts it with a guidance other than 1"):
        tiny().drawn(**settings)


def test_an_interval_of_guidance_rises():
    with pytest.raises(ValueError, match="guidance_from is 3 and guidance_to 1"):
        tiny().drawn(guidance=2.0, guidance_from=3.0, guidance_to=1.0)


def test_averaging_leaves_the_learned_schedule_alone():
    model = tiny(schedule="learned", weighting="bound")
    average = Average(model, 0.9)
    for _ in range(3):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1.0)
        average.update()
    ready = average.ready()
    assert torch.equal(ready.schedule.moved, model.schedule.moved)
    assert not torch.equal(ready.core.net.net.first.weight, model.core.net.net.first.weight)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_build(name):
    space = lk.Reals((5,)) if name == "vector" else lk.Integers((1, 8, 8), 17)
    with torch.device("meta"):
        model = lk.build("diffusion", space, preset=name)
    assert sum(p.numel() for p in model.parameters()) > 1000


def test_a_net_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="choose 'mlp'"):
        lk.build("diffusion", lk.Reals((4,)))
    with pytest.raises(ValueError, match="blocks is"):
        lk.build("diffusion", lk.Reals((1, 8, 8)), blocks=(1, 2), multipliers=(1, 2, 2))


def test_stratified_noise_is_uniform_and_spread():
    u = lk.Noise(5, 1000, 4).stratified()
    assert u.shape == (4000,) and float(u.min()) > 0 and float(u.max()) < 1
    for part in (u[:64], u.reshape(1000, 4)[:64, 0]):  # neighbours fill the line; of 64 at random a gap would be 4 / 64
        assert float(part.sort().values.diff().max()) < 2.6 / 64
    over_seeds = torch.stack([lk.Noise(seed, 1).stratified() for seed in range(2000)])
    assert abs(float(over_seeds.mean()) - 0.5) < 5 / math.sqrt(12 * 2000)
    assert abs(float(over_seeds.var()) - 1 / 12) < 0.01


def test_two_calls_of_stratified_noise_fill_the_square():
    noise = lk.Noise(5, 4096)
    u, v = noise.stratified(), noise.stratified()
    boxes = torch.bincount((u * 16).long() * 16 + (v * 16).long(), minlength=256)
    assert int(boxes.min()) >= 8 and int(boxes.max()) <= 24  # 16 on average


def test_a_source_of_another_high_word_fills_the_square_too():
    """What `log_joint` judges its guess on has the seed + 2^64: with the same lattice its times would be the others
    moved by a constant, the same for every row."""
    u, v = (lk.Noise(seed, 4096).stratified() for seed in (5, 5 + 2**64))
    boxes = torch.bincount((u * 16).long() * 16 + (v * 16).long(), minlength=256)
    assert int(boxes.min()) >= 8 and int(boxes.max()) <= 24  # 16 on average


def test_stratified_noise_depends_on_row_and_draw_alone():
    whole = lk.Noise(7, 10, 6).stratified().reshape(10, 6)
    rows = torch.tensor([3, 8, 3])
    assert torch.equal(lk.Noise(7, rows, range(2, 5)).stratified().reshape(3, 3), whole[rows, 2:5])
    source = lk.Noise(7, 10, 6)
    assert torch.equal(source.at(rows).stratified().reshape(3, 6), whole[rows])

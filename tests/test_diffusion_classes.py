"""The diffusion classifier: a joint whose bounds are bounds, paired noise, and classes that drop out early."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import likely as lk
from likely.config.diffusion import Diffusion as Config
from likely.conformance.subject import perturb
from likely.data import Split
from likely.elimination import bound_of_mixture, race, rounds
from likely.families.diffusion import ClassDiffusion
from likely.families.diffusion.core import along
from likely.families.diffusion.schedule import signal_noise
from likely.logprob import BATCH, Kind, can_eliminate, log_joint, log_posterior, log_prob, scoring
from likely.tasks.decide import decide
from likely.tasks.evaluate import evaluate
from likely.verbs import verbs

LEVELS, CLASSES = 6, 3
SPACE, LABELS = lk.Integers((2,), LEVELS), lk.Integers((), CLASSES)
EVERY = torch.cartesian_prod(torch.arange(LEVELS), torch.arange(LEVELS))


class Known(nn.Module):
    """The exact denoiser of p(x given y), a product of two known categoricals for each class."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer(
            "log_p", (1.5 * torch.randn(CLASSES, 2, LEVELS, generator=torch.Generator().manual_seed(1)))
        )
        self.log_p = self.log_p.double().log_softmax(2)

    def denoise(self, z, log_snr, condition):
        """E[x given z, y], site by site."""
        log_p = self.log_p[condition.vector[:, 0].round().long()]  # (n, 2, L)
        centres = (2 * torch.arange(LEVELS).double() + 1) / LEVELS - 1
        alpha, sigma = (along(part, z) for part in signal_noise(log_snr))
        log_q = log_p - ((z - alpha * centres[:, None, None]) / sigma).square().movedim(0, 2) / 2
        return log_q.softmax(2) @ centres


def known() -> tuple[ClassDiffusion, torch.Tensor]:
    """A model whose bound is all but log p(x given y), and the true log p(x, y) of every state, (36, K)."""
    config = Config(net="mlp", width=4, blocks=(1,), low=-12.0)
    model = lk.build(config, SPACE, LABELS).double()
    assert isinstance(model, ClassDiffusion)
    model.core = Known()
    model.embedding.read = nn.Embedding.from_pretrained(torch.arange(CLASSES).double()[:, None].repeat(1, 4))
    model.logits.copy_(torch.tensor([0.5, 0.2, 0.3]).log())
    log_p = model.core.log_p
    given = log_p[:, 0][:, EVERY[:, 0]] + log_p[:, 1][:, EVERY[:, 1]]
    return model, given.T + model.logits


class Independent(lk.Noise):
    """Noise whose times are independent from row to row, so that rows are a sample to judge by."""

    def stratified(self):
        return self.uniform(dtype=torch.float64)


@torch.no_grad()
def judged(verb, times: int, k: int = 1):
    """Mean and standard error of the verb's mean of k draws, of every state, over `times` rows of each."""
    x = EVERY.repeat(times, 1)
    values = verb(x, noise=Independent(0, len(x), k))
    values = values.reshape(times, len(EVERY), k, -1).mean(2)
    return (values.mean(0).squeeze(1), values.std(0).squeeze(1) / math.sqrt(times))


@torch.no_grad()
def test_bounds_of_an_exact_denoiser_are_log_p_of_x_and_y():
    model, truth = known()
    mean, error = judged(model.log_joint_bound, 1000, 4)
    assert float(((mean - truth) / error).abs().max()) < 6  # of 108, a little heavy in their tails
    assert abs(float((mean - truth).mean())) < 0.05


@torch.no_grad()
def test_the_bound_on_p_of_x_is_one_and_near():
    model, truth = known()
    log_p, losses = truth.logsumexp(1), []
    for k in (1, 8, 32):
        mean, error = judged(model.elbo, 3200 // k, k)
        assert float(((mean - log_p) / error).max()) < 5
        losses.append(float((log_p - mean).mean()))
    assert losses[0] > losses[1] > losses[2] > 0.01  # r is not the posterior: less is lost with more draws


@torch.no_grad()
def test_noise_shared_by_guess_and_bound_would_lie():
    """What the docstring of `elbo` warns of. With r = softmax(b) from b itself, sum_y r (b - log r) is the log-sum-exp.

    Judged against an estimate on the same noise, of known expectation, so that what all classes share cancels.
    """
    model, truth = known()
    posterior = truth.softmax(1)

    def above(x, noise, second):
        """A draw of the bound, less the mean of b under the true posterior."""
        b = model.log_joint_bound(x, noise=noise)
        log_r = b.log_softmax(1)
        if second:
            b = model.log_joint_bound(x, noise=noise)
        return (log_r.exp() * (b - log_r)).sum(1) - (posterior.repeat(len(x) // 36, 1) * b).sum(1)

    wanted = truth.logsumexp(1) - (posterior * truth).sum(1)
    lie, error = judged(lambda x, noise: above(x, noise, False), 1000)
    assert float(((lie - wanted) / error).max()) > 10 and float((lie - wanted).mean()) > 0.5
    bound, error = judged(lambda x, noise: above(x, noise, True), 1000)
    assert float(((bound - wanted) / error).max()) < 5 and float((bound - wanted).mean()) < -0.5


@torch.no_grad()
@pytest.mark.parametrize("guess", ["posterior", "uniform", "wrong"])
def test_any_guess_gives_a_bound_and_the_posterior_a_tight_one(guess):
    model, truth = known()
    log_r = {
        "posterior": truth.log_softmax(1),
        "uniform": torch.zeros_like(truth).log_softmax(1),
        "wrong": truth.roll(1, 1).log_softmax(1),
    }[guess]
    lost = (log_r.exp() * (log_r - truth.log_softmax(1))).sum(1)  # KL(r || posterior)
    mean, error = judged(lambda x, noise: bound_of_mixture(model, x, log_r.repeat(1000, 1), noise=noise), 1000, 4)
    assert float(((mean + lost - truth.logsumexp(1)) / error).abs().max()) < 5.5


@torch.no_grad()
def test_classes_share_their_noise():
    model, _ = known()
    every = model.log_joint_bound(EVERY, noise=lk.Noise(3, len(EVERY), 4))
    for label in range(CLASSES):
        alone = model.elbo(EVERY, torch.full((len(EVERY),), label), noise=lk.Noise(3, len(EVERY), 4))
        torch.testing.assert_close(every[:, label], alone + model.logits.log_softmax(0)[label], rtol=1e-12, atol=1e-12)
    among = torch.tensor([[2, 0]]).expand(len(EVERY), 2)
    some = model.log_joint_bound(EVERY, noise=lk.Noise(3, len(EVERY), 4), among=among)
    assert torch.equal(some, every[:, [2, 0]])


# Elimination -----------------------------------------------------------------------------------------------------


def table(n, classes, k, spread, seed=0):
    """Scores (n, classes, k): a row's common noise of 10 nats, the classes' own of 1 nat, means `spread` apart."""
    noise = lk.Noise(seed, n)
    means = spread * noise.normal((classes,), dtype=torch.float64)
    common = 10 * noise.normal((1, k), dtype=torch.float64)
    return means, means[:, :, None] + common + noise.normal((classes, k), dtype=torch.float64)


def test_rounds_cover_all_draws_once():
    for k in range(1, 70):
        assert [draw for piece in rounds(k) for draw in piece] == list(range(k))
        assert max(len(piece) for piece in rounds(k)) <= 16
    assert rounds(40) == [range(0, 4), range(4, 8), range(8, 16), range(16, 32), range(32, 40)]


def test_the_race_finds_the_winner_and_spares_most_draws():
    means, scores = table(200, 10, 64, 5.0)
    score, drawn = race(lambda rows, labels, piece: scores[rows, labels][:, piece.start : piece.stop], 200, 10, 64, 4.0)
    full = scores.mean(2)
    agree = (score.argmax(1) == full.argmax(1)).double().mean()
    assert float(agree) > 0.98
    assert float(drawn.double().mean()) < 16
    assert bool((score.max(1).values == 0).all())
    # what is said of the losers is right to the noise of their difference, not of their scores
    gap = score - (means - means.gather(1, score.argmax(1, keepdim=True)))
    assert float(gap.square().mean().sqrt()) < 1.0


def test_without_losers_the_race_is_the_plain_mean():
    _, scores = table(50, 4, 20, 1.0)
    score, drawn = race(lambda rows, labels, piece: scores[rows, labels][:, piece.start : piece.stop], 50, 4, 20, 1e9)
    assert bool((drawn == 20).all())
    torch.testing.assert_close(score.log_softmax(1), scores.mean(2).log_softmax(1), rtol=1e-10, atol=1e-10)


def test_losers_stay_behind_those_they_lost_to():
    """A leader that lost too takes those it beat with it: class 0 beats 2 at first, then loses to 1."""
    k = 16
    draw = torch.arange(k).double()
    jitter = 0.01 * torch.cos(draw)
    first = torch.where(draw < 4, 3.0, -9.0).double()
    second = torch.where(draw < 4, 10.0 * (-1) ** draw, 0.0)
    scores = torch.stack([first, second, first - 5 + jitter])[None]
    score, drawn = race(lambda rows, labels, piece: scores[rows, labels][:, piece.start : piece.stop], 1, 3, k, 2.0)
    assert drawn.tolist() == [[16, 16, 4]]
    torch.testing.assert_close(score, torch.tensor([[-6.0, 0.0, -11.0 + float(jitter[:4].mean())]]).double())


@torch.no_grad()
def test_elimination_through_the_door():
    model, truth = known()
    x = EVERY.repeat(3, 1)
    plain = log_posterior(model, x, 64)
    assert torch.equal(log_posterior(model, x, 64, eliminate=0.0).nats, plain.nats) and plain.saved == 0
    quick = log_posterior(model, x, 64, eliminate=3.0)
    assert quick.kind == plain.kind == Kind.ESTIMATE
    assert quick.saved > 0.05
    best = truth.log_softmax(1).repeat(3, 1)
    wrong = [float((p.nats.exp() - best.exp()).abs().mean()) for p in (plain, quick)]
    assert wrong[0] < 0.12 and wrong[1] < 0.14
    assert float((quick.nats.logsumexp(1)).abs().max()) < 1e-9
    # a guess that an elimination made bounds p(x) as well as any
    reading, same = log_joint(model, x, 64, eliminate=3.0)
    assert torch.equal(same.nats, quick.nats) and reading.kind == Kind.BOUND and reading.k == 64
    log_p = truth.logsumexp(1).repeat(3)
    readings = [log_joint(model, x, 16, eliminate=3.0, seed=seed)[0].nats for seed in range(16)]
    off = torch.stack([(nats - log_p).mean() for nats in readings])
    assert float(off.mean() / off.std()) * 4 < 4.5
    assert -0.5 < float(off.mean()) < -0.05  # some is lost to guesses of 16 draws


@torch.no_grad()
def test_eliminated_rows_do_not_see_each_other():
    model, _ = known()
    model.float()
    model.core.log_p = model.core.log_p.double()
    x = EVERY.repeat(9, 1)  # 324 rows: more than one race
    reading, every = log_joint(model, x, 20, eliminate=3.0, seed=5)
    for n in (1, 7, BATCH + 1, 300):
        fewer, part = log_joint(model, x[:n], 20, eliminate=3.0, seed=5)
        assert torch.equal(part.nats, every.nats[:n]) and torch.equal(part.drawn, every.drawn[:n])
        assert torch.equal(fewer.nats, reading.nats[:n])


def test_elimination_needs_a_model_that_can_and_a_sound_number():
    model, _ = known()
    assert can_eliminate(model)
    for bad in (-1.0, math.nan, True):
        with pytest.raises(ValueError, match="eliminate is"):
            log_posterior(model, EVERY, eliminate=bad)
    joint = lk.build("joint", lk.Integers((2, 2), 2), LABELS, part={"family": "vae", "latent": 2, "hidden": (6,)})
    x = torch.zeros(3, 2, 2, dtype=torch.uint8)
    assert not can_eliminate(joint)
    assert torch.equal(log_posterior(joint, x, 3, eliminate=4.0).nats, log_posterior(joint, x, 3).nats)


# The model's life ------------------------------------------------------------------------------------------------


def tiny(**fields) -> ClassDiffusion:
    return lk.build(Config(net="mlp", width=16, blocks=(1,), **fields), SPACE, LABELS)


def test_labels_make_a_joint_and_vectors_do_not():
    assert isinstance(tiny(), ClassDiffusion)
    vector = lk.build(Config(net="mlp", width=16, blocks=(1,)), SPACE, lk.Reals((2,)))
    assert verbs(vector) == ("Trainable", "Samples", "Bounded", "Denoiser")
    assert verbs(tiny()) == ("Trainable", "Samples", "Bounded", "Denoiser", "JointBound")


def test_class_frequencies_come_from_the_labels_that_are_there():
    model, y = tiny(), torch.tensor([0, 0, 2, -1, -1, 0, 1])
    model.prepare(torch.zeros(7, 2, dtype=torch.uint8), y, noise=lk.Noise(0, 7))
    torch.testing.assert_close(model.logits.exp(), torch.tensor([4.0, 2.0, 2.0]) / 8)
    with pytest.raises(ValueError, match="y is None"):
        model.prepare(torch.zeros(7, 2, dtype=torch.uint8), None, noise=lk.Noise(0, 7))


def test_a_row_without_a_label_is_one_whose_label_is_hidden():
    model = tiny(drop=0.0)
    perturb(model, 0)  # a fresh network looks at nothing
    x = EVERY[:8].to(torch.uint8)
    for y in (torch.zeros(8, dtype=torch.int64), torch.arange(8) % 3):
        hidden, seen = (model.loss(x, labels, noise=lk.Noise(0, 8)) for labels in (torch.full((8,), -1), y))
        assert not torch.equal(hidden, seen)
    z, log_snr = torch.randn(8, 2), torch.zeros(8)
    model.config = model.config.model_copy(update={"drop": 0.1})
    unknown = model.denoise(z, log_snr, torch.full((8,), -1))
    assert torch.equal(unknown, model.denoise(z, log_snr))


def test_without_a_class_the_class_is_drawn():
    model, _ = known()
    n = 4000
    with scoring(model):
        x = model.sample(n, noise=lk.Noise(2, n))
    share = torch.bincount(x[:, 0].long(), minlength=LEVELS).double() / n
    log_p = model.core.log_p[:, 0].exp()
    wanted = (model.logits.exp()[:, None] * log_p).sum(0)
    assert float((share - wanted).abs().max()) < 0.04  # 20 evaluations of the sampler, 4000 draws


def test_it_learns_to_tell_classes_apart():
    """Three prototypes, 3 levels apart: decisions, evaluation and draws of a class agree with them."""
    y = torch.arange(300) % 3
    x = (torch.tensor([[0, 4], [3, 3], [4, 0]])[y] + lk.Noise(0, 300).integers(2, (2,))).to(torch.uint8)
    split = lambda low, high: Split(x[low:high], y[low:high])  # noqa: E731
    model = tiny(weighting="bound")
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    model.prepare(x[:200], y[:200], noise=lk.Noise(0, 200))
    for step in range(200):
        optimiser.zero_grad()
        model.loss(x[:200], y[:200], noise=lk.Noise(step, 200)).backward()
        optimiser.step()
    result = evaluate(model, split(200, 300))
    assert result.accuracy > 0.97 and not result.given and result.log_prob.k == ClassDiffusion.draws
    decisions = decide(model, x[200:250], x[250:], novelty=0.05)
    assert decisions.posterior.kind == Kind.ESTIMATE and decisions.posterior.k == 32
    assert float((decisions.posterior.label == y[200:250]).double().mean()) > 0.95
    assert " ~ " in decisions.verdict(0)


def test_draws_that_nobody_asked_for():
    model = tiny()
    x, y = EVERY[:3], torch.zeros(3, dtype=torch.int64)
    assert log_prob(model, x).k == 32 and log_prob(model, x, y).k == 1 and log_prob(model, x, k=2).k == 2
    assert log_posterior(model, x).k == 32 and log_posterior(model, x, 5).k == 5
    with pytest.raises(ValueError, match="k is 0"):
        log_posterior(model, x, 0)

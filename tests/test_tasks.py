"""Evaluate, decide, the codecs, pictures: against hand-made truths."""

from __future__ import annotations

import itertools
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from likely import registry
from likely.logprob import Kind, Posterior
from likely.space import Integers, Reals
from likely.tasks.codecs import codec_bits
from likely.tasks.conformal import conformal
from likely.tasks.decide import decide
from likely.tasks.describe import describe, families, markdown
from likely.tasks.evaluate import evaluate, kept_accuracy
from likely.tasks.metrics import auroc
from likely.tasks.pictures import grid, save_values, suffixes
from likely.tasks.samples import digest, proof_seed


class TwoGaussians(nn.Module):
    """p(y) = 1/2, x given y ~ N(-2, 1) or N(2, 1): everything about it is known."""

    space, condition = Reals((1,)), Integers((), 2)

    def _joint(self, x: Tensor) -> Tensor:
        centre = torch.tensor([-2.0, 2.0], dtype=torch.float64)
        return -0.5 * (x.double() - centre) ** 2 - 0.5 * math.log(2 * math.pi) - math.log(2)

    def log_prob(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        joint = self._joint(x)
        return joint.logsumexp(1) if y is None else joint.gather(1, y[:, None])[:, 0] + math.log(2)

    def log_posterior(self, x: Tensor) -> Tensor:
        return self._joint(x).log_softmax(1)


def held_out(n: int = 999, seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.tensor(rng.normal(rng.choice([-2.0, 2.0], n), 1.0))[:, None]


def test_decide_knows_a_class_a_doubt_and_a_stranger() -> None:
    x = torch.tensor([[-2.8], [2.9], [0.0], [40.0]], dtype=torch.float64)
    result = decide(TwoGaussians(), x, held_out(), novelty=0.01, unsure=0.05, classes=("left", "right"))
    assert result.label.tolist() == [0, 1, -1, -1]
    assert result.unsure.tolist() == [False, False, True, False]
    assert result.novel.tolist() == [False, False, False, True]
    assert result.verdict(0).startswith("left")
    assert "not like anything" in result.verdict(3)
    assert [row["verdict"] for row in result.to_json()] == ["class", "class", "unsure", "novel"]
    json.dumps(result.to_json(), allow_nan=False)


def test_decide_holds_its_rates() -> None:
    # 20 calibrations of 199 rows, each judging 500 fresh ones: the mean share called novel is at most 0.1 (two-sided
    # conformal), and a binomial with 20 x 500 trials around it has sd < 0.02 even with the calibrations shared.
    shares, doubts = [], []
    for seed in range(20):
        result = decide(TwoGaussians(), held_out(500, 100 + seed), held_out(199, seed), novelty=0.1, unsure=0.2)
        shares.append(float(result.novel.double().mean()))
        doubts.append(float(result.unsure.double().mean()))
    assert 0.06 < np.mean(shares) < 0.13
    assert 0.15 < np.mean(doubts) < 0.25


def test_conformal_is_the_count() -> None:
    scores = torch.tensor([1.0, 2.0, 2.0, 5.0])
    for s in (0.5, 1.0, 2.0, 3.0, 9.0):
        truth = (1 + sum(h <= s for h in scores.tolist())) / 5
        assert conformal(torch.tensor([s]), scores).item() == truth


def test_decide_refuses_what_it_cannot_do() -> None:
    model, x = TwoGaussians(), held_out(10)
    with pytest.raises(ValueError, match=r"novelty is 1\.5"):
        decide(model, x, x, novelty=1.5)
    with pytest.raises(ValueError, match="resolve rates"):
        decide(model, x, x, novelty=0.01)
    with pytest.raises(ValueError, match="classes has 3"):
        decide(model, x, held_out(), classes=("a", "b", "c"))
    flow = registry.build("flow", Reals((1,)), depth=1, width=4)
    with pytest.raises(TypeError, match="decide needs a model that is Joint or JointBound; flow is"):
        decide(flow, x, x)


def test_evaluate_against_hand_values() -> None:
    x, y = torch.tensor([[-2.0], [3.0]]), torch.tensor([0, 0])
    result = evaluate(TwoGaussians(), SimpleNamespace(x=x, y=y))
    density = [0.5 * sum(math.exp(-((v - c) ** 2) / 2) / math.sqrt(2 * math.pi) for c in (-2, 2)) for v in (-2, 3)]
    assert math.isclose(result.log_prob.mean, sum(map(math.log, density)) / 2, rel_tol=1e-9)
    assert result.accuracy == 0.5
    assert math.isclose(
        result.class_nats, (math.log1p(math.exp(-8)) + 12 + math.log1p(math.exp(-12))) / 2, rel_tol=1e-9
    )
    record = result.to_json()
    assert record["bits_per_dim"] == pytest.approx(-result.log_prob.mean / math.log(2))
    assert record["kind"] == "="
    assert record["accuracy"] == 0.5
    with pytest.raises(ValueError, match="empty"):
        evaluate(TwoGaussians(), SimpleNamespace(x=x[:0], y=y[:0]))


def test_auroc_and_kept_accuracy_against_brute_force() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        a, b = rng.integers(0, 5, 7), rng.integers(0, 5, 6)  # many ties
        pairs = [(x > y) + 0.5 * (x == y) for x, y in itertools.product(a, b)]
        ours = auroc(torch.tensor(a).double(), torch.tensor(b).double())
        assert ours == pytest.approx(np.mean(pairs))
        assert ours == pytest.approx(roc_auc_score([1] * 7 + [0] * 6, np.concatenate([a, b])))
    trust, right = torch.tensor([3.0, 2.0, 2.0, 1.0]), torch.tensor([True, False, True, True])
    orders = [
        p for p in itertools.permutations(range(4)) if all(trust[i] >= trust[j] for i, j in itertools.pairwise(p))
    ]
    for keep in (1, 2, 3, 4):
        truth = np.mean([np.mean([bool(right[i]) for i in order[:keep]]) for order in orders])
        assert kept_accuracy(trust, right, keep) == pytest.approx(truth)


def test_log_odds_order_rows_whose_probability_rounds_to_one() -> None:
    nats = torch.tensor([[0.0, -50.0], [0.0, -60.0], [-60.0, 0.0]], dtype=torch.float64).log_softmax(1)
    posterior = Posterior(nats, Kind.EXACT)
    assert (posterior.nats.max(1).values.exp() == 1).all()
    assert posterior.log_odds.tolist() == pytest.approx([50, 60, 60])


def test_codecs_hold_the_pixels(tmp_path) -> None:
    space = Integers((3, 8, 8), 256)
    flat = codec_bits(torch.zeros(16, 3, 8, 8, dtype=torch.uint8), space)
    noise = codec_bits(torch.randint(0, 256, (16, 3, 8, 8), generator=torch.Generator().manual_seed(0)), space)
    assert all(flat[name] < 1 and 7.9 < noise[name] < 9 for name in ("PNG", "WebP", "xz"))
    with pytest.raises(ValueError, match="accept images"):
        codec_bits(torch.zeros(1, 5), Integers((5,), 2))


def test_pictures_are_written_as_they_are(tmp_path) -> None:
    space = Integers((1, 2, 2), 3)
    x = torch.tensor([[[[0, 1], [2, 0]]], [[[2, 2], [0, 0]]]])
    sheet = np.asarray(grid(x, space, columns=2, scale=1))
    assert sheet[2:4, 2:4].tolist() == [[0, 128], [255, 0]]
    for suffix in suffixes(space):
        save_values(x, space, tmp_path / f"x{suffix}")
    assert np.load(tmp_path / "x.npz")["x"].tolist() == x.tolist()
    assert Image.open(tmp_path / "x.png").mode == "L"
    with pytest.raises(ValueError, match=r"accepts \.png, \.npz, \.csv"):
        save_values(x, space, tmp_path / "x.jpg")


def test_proof_seed_follows_from_everything() -> None:
    seed = proof_seed("weights", {"n": 64}, "nonce")
    assert seed == proof_seed("weights", {"n": 64}, "nonce")
    assert 0 <= seed < 2**62
    others = [proof_seed("other", {"n": 64}, "nonce"), proof_seed("weights", {"n": 65}, "nonce")]
    assert seed not in [*others, proof_seed("weights", {"n": 64}, "once")]
    assert digest(torch.tensor([1, 2])) != digest(torch.tensor([[1, 2]]))


def test_describe_counts() -> None:
    model = registry.build("vae", Integers((4,), 2), hidden=(8,), latent=2)
    record = describe(model)
    assert record["parameters"] == sum(p.numel() for p in model.parameters())
    assert record["parameters"] == sum(record["parameters_by_part"].values())
    # encoder 4x8 + 8x4, decoder 2x8 + 8x4 multiply-adds a row in a score
    assert record["score"]["multiply_adds_per_row"] == 4 * 8 + 8 * 4 + 2 * 8 + 8 * 4
    assert record["train_step"]["multiply_adds_per_row"] > record["score"]["multiply_adds_per_row"]


def test_table_of_families() -> None:
    table = families()
    assert set(table) == set(registry.FAMILIES)
    assert table["mixture"]["ClosedForm"] == "yes"
    assert table["mixture"]["Ordered"] == "some"
    assert table["vae"]["Weighted"] == "yes"
    assert table["vae"]["Exact"] == "no"
    assert markdown(table).splitlines()[0].startswith("| verb | mixture |")


def test_between_colour_pictures_the_sheet_is_white() -> None:
    sheet = grid(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), Integers((3, 4, 4), 256), scale=2)
    assert sheet.getpixel((0, 0)) == (255, 255, 255)
    assert sheet.getpixel((3, 3)) == (0, 0, 0)

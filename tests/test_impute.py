"""Completions: against conditionals that are known, and against what may never change."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import likely
from likely.noise import Noise
from likely.space import Column, Integers, Reals, Rows, Table
from likely.tasks import impute as completing
from likely.tasks.gauge import Gauge
from likely.tasks.impute import impute
from likely.tasks.masks import hide, read_mask

sys.path.insert(0, str(Path(__file__).parent))
from analytic import F64
from test_denoise import Known, likely_, run, smooth  # noqa: F401  (run is a fixture)
from toys import TOYS, Chain, OnlySamples


def conditional(model: Any, x: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of the cells that are not seen."""
    S, C = seen, model.covariance
    gain = C[~S][:, S] @ torch.linalg.inv(C[S][:, S])
    return model.mean[~S] + gain @ (x[S] - model.mean[S]), C[~S][:, ~S] - gain @ C[S][:, ~S]


def whitened(draws: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """Standard normal rows where `draws` are N(mean, covariance)."""
    return torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), (draws - mean).T, upper=False).T


@pytest.mark.parametrize("what", ["half", "random"])
def test_draws_of_a_denoiser_have_the_conditional_mean_and_covariance(what: str) -> None:
    """Of a Gaussian; the limits are a few times what the steps of the sampler and 1,500 draws leave. RePaint fails."""
    model, n = Known(smooth(12, 4.0)), 1500
    seen = torch.arange(12) < 6 if what == "half" else hide(model.space, "random:0.5", 1, seed=3)[0]
    x = model.draw(1, seed=5)
    got = impute(model, x, seen, n)
    assert got.kind == "~" and got.evaluations == 120
    w = whitened(got.draws[:, ~seen], *conditional(model, x[0], seen))
    assert float(w.mean(0).abs().max()) < 0.12
    variances = torch.linalg.eigvalsh(torch.cov(w.T))
    assert float(variances.min()) > 0.86 and float(variances.max()) < 1.25
    assert torch.equal(got.draws[:, seen], x[:, seen].expand(n, -1))  # to the last bit
    torch.testing.assert_close(got.mean[0], got.draws.mean(0))
    torch.testing.assert_close(got.spread[0, ~seen], got.draws[:, ~seen].std(0, correction=0))


@pytest.mark.parametrize("log_snr", [-6.0, 0.0, 5.0])
def test_the_steered_mean_is_the_posterior_mean(log_snr: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """E[x given z, seen] of a Gaussian, where conjugate gradients may run to their end."""
    monkeypatch.setattr(completing, "SOLVES", 12)
    model, seen, lam = Known(smooth(8, 2.0)), torch.arange(8) % 3 > 0, torch.tensor(log_snr, dtype=F64)
    alpha, sigma = lam.sigmoid().sqrt(), (-lam).sigmoid().sqrt()
    x = model.scaled(model.draw(4))
    z = alpha * x + sigma * Noise(3, 4).normal((8,), dtype=F64)
    got = completing.steered(Gauge(model, "test"), z, lam, x, seen.expand(4, 8))
    for i in range(4):
        mean, covariance = conditional(model.inside, x[i], seen)
        gain = alpha * covariance @ torch.linalg.inv(alpha**2 * covariance + sigma**2 * torch.eye(3, dtype=F64))
        torch.testing.assert_close(got[i, ~seen], mean + gain @ (z[i, ~seen] - alpha * mean), rtol=0, atol=1e-6)
        assert torch.equal(got[i, seen], x[i, seen])


def test_more_evaluations_come_nearer() -> None:
    """Here the sampler's error, which fewer than 120 evaluations make large, is what counts."""
    model, seen, n = Known(smooth(12, 4.0)), torch.arange(12) < 6, 800
    x = model.draw(1, seed=5)
    errors = []
    for evaluations in (16, 48, 160):
        w = whitened(
            impute(model, x, seen, n, evaluations=evaluations).draws[:, ~seen], *conditional(model, x[0], seen)
        )
        covariance = torch.cov(w.T)
        kl = 0.5 * (covariance.trace() + w.mean(0).square().sum() - 6 - covariance.logdet())
        errors.append(float(kl))
    assert errors[0] > 5 * errors[1] and errors[1] > errors[2]
    assert errors[2] < 0.05


def test_what_is_not_seen_does_not_matter() -> None:
    model = Known(smooth(6))
    x, seen = model.draw(3), torch.tensor([True, False, True, True, False, False])
    junk = torch.where(seen, x, math.nan)
    assert torch.equal(impute(model, x, seen, 2).draws, impute(model, junk, seen, 2).draws)
    pictures = Known(smooth(6), levels=16)
    grey = pictures.draw(2).round().clamp(0, 15).to(torch.uint8)
    got = impute(pictures, grey, seen, 3)
    assert got.draws.dtype == torch.uint8 and int(got.draws.max()) < 16
    assert torch.equal(got.draws[:, seen], grey[:, seen].repeat_interleave(3, 0))
    assert torch.equal(got.draws, impute(pictures, torch.where(seen, grey, 99), seen, 3).draws)


def test_a_draw_depends_on_its_row_and_number_alone() -> None:
    model, seen = Known(smooth(6)), torch.arange(6) % 2 == 0
    x = model.draw(40)
    whole, part = impute(model, x, seen, 3), impute(model, x[:5], seen, 1)
    assert torch.equal(whole.draws.reshape(40, 3, 6)[:5, 0], part.draws)
    assert not torch.equal(whole.draws[0], whole.draws[1])
    other = impute(model, x[:5], seen, 1, seed=1)
    assert not torch.equal(part.draws, other.draws)
    assert impute(model, x[:0], seen).draws.shape == (0, 6)
    masks = hide(model.space, "random:0.5", 5, seed=0)  # a mask for each row
    each = impute(model, x[:5], masks).draws
    assert torch.equal(each[masks], x[:5][masks])
    assert torch.equal(each[3], impute(model, x[:5], masks[3]).draws[3])


def test_a_marginal_model_draws_exactly() -> None:
    model = TOYS["normal in 5-D"]().double()
    seen = torch.tensor([True, False, True, False, False])
    x = torch.tensor([[0.7, 0.0, -1.2, 0.0, 0.0]], dtype=F64)
    got = impute(model, x, seen, 4000)
    assert got.kind == "=" and got.evaluations is None
    with torch.no_grad():
        model.covariance = model._factor @ model._factor.T
        w = whitened(got.draws[:, ~seen], *conditional(model, x[0], seen))
    assert float(w.mean(0).abs().max()) < 0.08
    torch.testing.assert_close(torch.cov(w.T), torch.eye(3, dtype=F64), rtol=0, atol=0.12)
    assert torch.equal(got.draws[:, seen], x[:, seen].expand(4000, -1))


def test_tables_with_missing_cells() -> None:
    space = Table((Column("a", missing=True), Column("b", missing=True), Column("c", ("no", "yes"))))
    noise = Noise(0, 400)
    a = noise.normal(dtype=F64)
    cells = torch.stack([a, a + 0.1 * noise.normal(dtype=F64), (a > 0).double()], 1)
    model, whole = likely.build("mixture", space, components=2), Rows(cells, torch.ones_like(cells, dtype=torch.bool))
    model.prepare(whole, noise=Noise(0, 400))
    for _ in range(20):
        model.absorb(model.statistics(whole))
    gaps = cells[:6].clone()
    gaps[::2, 0] = math.nan
    gaps[1, 1] = math.nan
    got = impute(model, gaps, n=200)
    assert got.kind == "=" and bool(got.draws.seen.all())
    there = ~gaps.isnan()
    kept = got.draws.cells.reshape(6, 200, 3)
    for i in range(6):
        assert torch.equal(kept[i][:, there[i]].double(), gaps[i][there[i]].float().double().expand(200, -1))
    assert float((got.mean[0, 0] - cells[0, 0]).abs()) < 0.5
    hidden = impute(model, gaps, hide(space, "c", 6), n=5)  # what is hidden comes on top of what is missing
    assert hidden.seen[0].tolist() == [False, True, False]


def test_what_comes_last_is_drawn_site_after_site() -> None:
    model = Chain(Integers((1, 2, 3), 2)).double()
    x = torch.tensor([[[[1, 0, 1], [0, 0, 0]]]])
    seen = torch.tensor([[True, True, True], [False, False, False]])
    n = 4000
    got = impute(model, x, seen, n)
    assert got.kind == "=" and got.how == "site after site"
    states = torch.tensor([[[[1, 0, 1], list(end)]] for end in product((0, 1), repeat=3)])
    with torch.no_grad():
        want = model.log_prob(states).softmax(0)
    code = (got.draws[:, 0, 1] * torch.tensor([4, 2, 1])).sum(1)
    share = torch.bincount(code, minlength=8) / n
    assert torch.equal(got.draws[:, 0, 0], x[:, 0, 0].expand(n, -1))
    assert float(((share - want) / (want * (1 - want) / n).sqrt()).abs().max()) < 4.5
    with pytest.raises(ValueError, match="accepts what is seen in front"):
        impute(model, x, ~seen)
    with pytest.raises(ValueError, match="in an order that it does not tell"):
        impute(Chain(Integers((2, 1, 2), 2)), torch.zeros(1, 2, 1, 2, dtype=torch.int64), torch.ones(1, 2) > 0)


SEEN = torch.arange(6) < 3
BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "a GAN": (lambda: impute(OnlySamples(), torch.zeros(1, 2), SEEN[:2]), TypeError, "Marginal or Denoiser or Ordered"),
    "no mask": (lambda: impute(Known(smooth(6)), torch.zeros(1, 6)), ValueError, "seen is None"),
    "numbers": (lambda: impute(Known(smooth(6)), torch.zeros(1, 6), torch.ones(6)), TypeError, "seen holds float32"),
    "mask shape": (lambda: impute(Known(smooth(6)), torch.zeros(1, 6), SEEN[:4]), ValueError, "seen has shape"),
    "masks": (lambda: impute(Known(smooth(6)), torch.zeros(3, 6), SEEN.expand(2, 6)), ValueError, "seen has 2 rows"),
    "x shape": (lambda: impute(Known(smooth(6)), torch.zeros(3, 5), SEEN), ValueError, "x has shape"),
    "x seen NaN": (lambda: impute(Known(smooth(6)), torch.full((1, 6), math.nan), SEEN), ValueError, "x has NaN"),
    "n": (lambda: impute(Known(smooth(6)), torch.zeros(1, 6), SEEN, 0), ValueError, "n is 0"),
    "y": (lambda: impute(Known(smooth(6)), torch.zeros(1, 6), SEEN, y=[0]), (ValueError), "y was given"),
    "few": (lambda: impute(Known(smooth(6)), torch.zeros(1, 6), SEEN, evaluations=7), ValueError, "accepts 8 or more"),
    "hide": (lambda: hide(Integers((1, 8, 8), 17), "up", 1), ValueError, "accepts left, right, top, bottom, center"),
    "share": (lambda: hide(Reals((3,)), "random:1.5", 1), ValueError, "between 0 and 1"),
    "column": (lambda: hide(Table((Column("a"),)), "b", 1), ValueError, "columns of a"),
}


@pytest.mark.parametrize("name", BAD)
def test_mistakes_get_a_sentence(name: str) -> None:
    call, kind, text = BAD[name]
    with pytest.raises(kind, match=text):
        call()


def test_masks_by_name(tmp_path: Path) -> None:
    space = Integers((3, 8, 6), 256)
    assert hide(space, "left", 2)[1, 2].tolist() == [[False] * 3 + [True] * 3] * 8
    assert not hide(space, "bottom", 1)[0, 0, 4:].any() and hide(space, "bottom", 1)[0, 0, :4].all()
    assert int((~hide(space, "center", 1)[0, 0]).sum()) == 4 * 4
    random = hide(space, "random:0.25", 50, seed=1)
    assert torch.equal(random[:, 0], random[:, 2])  # all channels together
    assert abs(float(random.double().mean()) - 0.75) < 0.03
    assert not torch.equal(random[0], random[1])
    white = np.zeros((16, 12), np.uint8)
    white[:8] = 255
    Image.fromarray(white).save(tmp_path / "mask.png")
    assert torch.equal(read_mask(tmp_path / "mask.png", space), hide(space, "top", 1)[0])
    with pytest.raises(ValueError, match="is 9 wide and 7 high; accepts"):
        Image.new("L", (9, 7), 255).save(tmp_path / "other.png")
        read_mask(tmp_path / "other.png", space)
    Image.fromarray(white * 0).save(tmp_path / "black.png")
    with pytest.raises(ValueError, match="has no white cell"):
        read_mask(tmp_path / "black.png", space)
    with pytest.raises(ValueError, match="is no file"):
        read_mask(tmp_path / "none.png", space)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match="can be read"):
        read_mask(tmp_path / "text.png", space)


def test_the_command_line(
    run: Path,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("impute", run, "-n", 2, "--limit", 2, "--evaluations", 8)
    status, out, err = likely_(capsys, *words, "--hide", "right", "-o", "out", "--json")
    assert status == 0, err
    told = json.loads(out)
    assert told["kind"] == "~" and told["hidden"] == 0.5 and told["page"] == str(run / "impute.html")
    assert Path(told["page"]).read_text().count("<img") == 2 * 6
    assert [Path(path).name for path in told["out"]] == ["test-0-1.png", "test-0-2.png", "test-1-1.png", "test-1-2.png"]
    x = likely.load("digits").test.x[:2, 0, :, :4].double()
    for i, path in enumerate(told["out"]):
        shown = np.array(Image.open(path)).astype(float) * 16 / 255
        assert np.abs(shown[:, :4] - x[i // 2].numpy()).max() < 0.04
    white = np.zeros((8, 8), np.uint8)
    white[:4] = 255
    Image.fromarray(white).save("mask.png")
    status, out, err = likely_(capsys, *words, "--mask", "mask.png", "--page", "sheet.png")
    assert status == 0, err
    assert out.startswith("2 rows, 50% of the cells filled in, 2 times ~ (moment matching along 2 steps)")
    assert Image.open("sheet.png").width > 300
    for more, sentence in (
        ((), "hide is missing"),
        (("--hide", "left", "--mask", "mask.png"), "mask was given and hide too"),
        (("--hide", "inside"), "hide is 'inside'"),
        (("--mask", "gone.png"), "mask is gone.png, which is no file"),
        (("--hide", "left", "-o", "out"), "out is out, which is not empty"),
        (("--hide", "left", "--page", "sheet.png"), "exists"),
    ):
        status, out, err = likely_(capsys, *words, *more)
        assert status == 2 and sentence in err, err

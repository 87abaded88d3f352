"""Denoising: against a Gaussian whose posterior, its doubt and the likelihood of its noise are known."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import likely
from likely.noise import Noise
from likely.space import Integers, Reals
from likely.tasks.denoise import denoise

sys.path.insert(0, str(Path(__file__).parent))
from analytic import F64, Gaussian
from toys import TOYS

CENTRE, SCALE = 7.0, 2.5


class Known(nn.Module):
    """Denoiser: raw x is N(CENTRE + SCALE mean, SCALE^2 covariance), or such rows on 256 levels."""

    condition = None
    log_snr_range = (-9.0, 12.0)

    def __init__(self, covariance: Tensor, levels: int | None = None) -> None:
        super().__init__()
        d = len(covariance)
        self.space = Reals((d,)) if levels is None else Integers((d,), levels)
        self.inside = Gaussian([0.1 * (i % 3) for i in range(d)], covariance.tolist())
        self.centre, self.scale = (CENTRE, SCALE) if levels is None else ((levels - 1) / 2, levels / 2)

    @property
    def mean(self) -> Tensor:
        return self.centre + self.scale * self.inside.mean

    @property
    def covariance(self) -> Tensor:
        return self.scale**2 * self.inside.covariance

    def scaled(self, x: Tensor) -> Tensor:
        return (x.to(F64) - self.centre) / self.scale

    def unscaled(self, x: Tensor) -> Tensor:
        return x * self.scale + self.centre

    def denoise(self, x_t: Tensor, log_snr: Tensor, y: Any = None) -> Tensor:
        return self.inside.denoise(x_t, log_snr)

    def draw(self, n: int, seed: int = 0) -> Tensor:
        return Noise(seed, n).normal(self.mean.shape, dtype=F64) @ torch.linalg.cholesky(self.covariance).T + self.mean


def smooth(d: int, reach: float = 3.0) -> Tensor:
    i = torch.arange(d, dtype=F64)
    return 0.25 * torch.exp(-(i[:, None] - i).abs() / reach)


def noised(x: Tensor, sd: float | Tensor, seed: int = 9) -> Tensor:
    return x + sd * Noise(seed, len(x)).normal(x.shape[1:], dtype=F64)


def test_the_posterior_mean_in_raw_units() -> None:
    model = Known(smooth(6))
    x = model.draw(70)
    sd = torch.linspace(0.05, 9.0, 70, dtype=F64)
    v = noised(x, sd[:, None])
    got = denoise(model, v, sd)
    assert not got.estimated
    torch.testing.assert_close(got.sd, sd)
    for i in (0, 20, 69):
        inverse = torch.linalg.inv(model.covariance + sd[i] ** 2 * torch.eye(6, dtype=F64))
        want = model.mean + model.covariance @ inverse @ (v[i] - model.mean)
        torch.testing.assert_close(got.mean[i], want, rtol=0, atol=1e-10)
    assert torch.equal(got.x, got.mean)
    torch.testing.assert_close(denoise(model, v[20:21], float(sd[20])).mean[0], got.mean[20], rtol=0, atol=1e-12)


def test_what_it_expects_of_its_own_error_is_the_posterior_deviation() -> None:
    model, sd = Known(smooth(16)), 1.0
    x = model.draw(1500)
    got = denoise(model, noised(x, sd), sd, clean=x)
    inverse = torch.linalg.inv(model.covariance + sd**2 * torch.eye(16, dtype=F64))
    posterior = model.covariance - model.covariance @ inverse @ model.covariance
    want = float((posterior.trace() / 16).sqrt())
    assert float(got.expected_error.square().mean().sqrt()) == pytest.approx(want, rel=0.01)
    assert float(got.error.square().mean().sqrt()) == pytest.approx(want, rel=0.03)
    assert float(got.error_before.square().mean().sqrt()) == pytest.approx(sd, rel=0.03)
    assert got.psnr is None  # reals have no peak


def test_unknown_noise_is_estimated_by_maximum_likelihood() -> None:
    """With a diagonal covariance one random direction has the trace exactly, so the estimate is that of a search."""
    variance = torch.linspace(0.001, 0.6, 24, dtype=F64)
    model = Known(variance.diag())
    x = model.draw(5)
    v = noised(x, torch.tensor([0.3, 0.7, 1.5, 4.0, 12.0], dtype=F64)[:, None])
    got = denoise(model, v)
    assert got.estimated
    grid = torch.linspace(math.log(0.01), math.log(100), 40001, dtype=F64).exp()
    total = model.covariance.diagonal() + grid[:, None] ** 2  # (grid, d)
    for i in range(5):
        log_p = -0.5 * ((v[i] - model.mean).square() / total + total.log()).sum(1)
        assert float(got.sd[i]) == pytest.approx(float(grid[log_p.argmax()]), rel=0.004)


@pytest.mark.parametrize("sd", [1.0, 2.5, 8.0])
def test_the_estimate_is_as_near_as_the_truth_allows(sd: float) -> None:
    """The deviation of log sd is at best 1 / sqrt(2 sum (sd^2 / (variance + sd^2))^2), Fisher's information."""
    model = Known(smooth(100))
    x = model.draw(40)
    got = denoise(model, noised(x, sd), clean=x)
    error = (got.sd / sd).log()
    bound = float((2 * (sd**2 / (torch.linalg.eigvalsh(model.covariance) + sd**2)).square().sum()) ** -0.5)
    assert float(error.square().mean().sqrt()) < 1.4 * bound < 0.25
    assert abs(float(error.mean())) < 0.5 * bound
    given = denoise(model, noised(x, sd), sd, clean=x)
    assert float(got.error.mean()) < 1.02 * float(given.error.mean())


def test_rows_do_not_depend_on_their_neighbours() -> None:
    model = Known(smooth(8))
    v = noised(model.draw(70), 1.0)
    whole, part = denoise(model, v), denoise(model, v[:3])
    for name in ("mean", "sd", "expected_error"):
        assert torch.equal(getattr(whole, name)[:3], getattr(part, name))
    assert len(denoise(model, v[:0])) == 0


def test_integers_come_back_as_integers() -> None:
    model = Known(smooth(30), levels=256)
    clean = model.draw(20).round().clamp(0, 255)
    v = noised(clean, 40.0)
    got = denoise(model, v, 40.0, clean=clean.long())
    assert got.x.dtype == torch.uint8
    assert torch.equal(got.x.double(), got.mean.round().clamp(0, 255))
    before, after = got.psnr
    rms = (v - clean).square().mean(1).sqrt()
    torch.testing.assert_close(before, 20 * torch.log10(255 / rms))
    assert float(after.mean()) > float(before.mean()) + 2
    row = got.to_json()[3]
    assert row["sd"] == pytest.approx(40.0)
    assert row["psnr"] == pytest.approx(float(after[3]))
    whole = denoise(model, v.round().clamp(0, 255).to(torch.uint8), 40.0)  # whole numbers will do
    assert whole.mean.shape == v.shape
    assert "sd given 40" in str(got) and "PSNR" in str(got)


class TwoScales(Known):
    def unscaled(self, x: Tensor) -> Tensor:
        return x * torch.arange(1, 7, dtype=F64)


BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "no denoiser": (lambda: denoise(TOYS["normal"](), torch.zeros(1, 2), 1.0), TypeError, "needs a model that is Den"),
    "two scales": (lambda: denoise(TwoScales(smooth(6)), torch.zeros(1, 6), 1.0), ValueError, "one positive scale"),
    "sd 0": (lambda: denoise(Known(smooth(6)), torch.zeros(1, 6), 0.0), ValueError, "sd is 0; accepts .* from 0.0061"),
    "sd below 0": (lambda: denoise(Known(smooth(6)), torch.zeros(1, 6), -1.0), ValueError, "sd is -1"),
    "sd NaN": (lambda: denoise(Known(smooth(6)), torch.zeros(1, 6), math.nan), ValueError, "sd is nan"),
    "sd huge": (lambda: denoise(Known(smooth(6)), torch.zeros(1, 6), 1e4), ValueError, "to 225"),
    "sds": (lambda: denoise(Known(smooth(6)), torch.zeros(3, 6), torch.ones(2)), ValueError, "one for each of 3"),
    "shape": (lambda: denoise(Known(smooth(6)), torch.zeros(1, 7), 1.0), ValueError, "x has shape"),
    "NaN": (lambda: denoise(Known(smooth(6)), torch.full((1, 6), math.nan), 1.0), ValueError, "x has NaN"),
    "bool": (lambda: denoise(Known(smooth(6)), torch.ones(1, 6) > 0, 1.0), TypeError, "x holds bool"),
    "y": (lambda: denoise(Known(smooth(6)), torch.zeros(1, 6), 1.0, y=[1]), ValueError, "without a condition"),
    "clean": (
        lambda: denoise(Known(smooth(6)), torch.zeros(2, 6), 1.0, clean=torch.zeros(1, 6)),
        ValueError,
        "clean has 1 rows; accepts 2",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_mistakes_get_a_sentence(name: str) -> None:
    call, kind, text = BAD[name]
    with pytest.raises(kind, match=text):
        call()


def test_a_denoiser_without_units_is_told_what_it_lacks() -> None:
    class Bare(nn.Module):
        space, condition = Reals((2,)), None

        def denoise(self, x_t: Tensor, log_snr: Tensor, y: Any = None) -> Tensor:
            return x_t

    with pytest.raises(TypeError, match="Bare lacks scaled, unscaled, log_snr_range"):
        denoise(Bare(), torch.zeros(1, 2), 1.0)


# The command line ----------------------------------------------------------------------------------------------------


def likely_(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    from likely.cli import main

    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    said = capsys.readouterr()
    return int(caught.value.code or 0), said.out, said.err


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from likely.cli import main

    out = tmp_path_factory.mktemp("runs") / "diffusion"
    words = ["train", "diffusion", "--preset", "digits", "--data", "digits", "--steps", "30", "model.width=8"]
    words += ["valid_every=0", "valid_rows=8", "batch=32", "--out", str(out)]
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert not caught.value.code
    return out


def test_a_demonstration_on_the_runs_own_data(
    run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, err = likely_(capsys, "denoise", run, "--add-sd", 6, "--sd", 6, "--limit", 5, "--json")
    assert status == 0, err
    told = json.loads(out)
    assert len(told["rows"]) == 5
    assert all(row["error"] < row["error_before"] for row in told["rows"])
    page = Path(told["page"])
    assert page == run / "denoise.html"
    html = page.read_text()
    assert html.count("<img") == 4 * 5 and "<script" not in html
    model, data = likely.load_model(run), likely.load("digits")
    clean = data.test.x[:5].double()
    mine = denoise(model, noised(clean, 6.0, seed=0), 6.0, clean=clean)
    assert told["rows"][2]["error"] == pytest.approx(float(mine.error[2]))
    last = json.loads((run / "ledger.jsonl").read_text().splitlines()[-1])
    assert last["kind"] == "denoise" and last["figures"] == told


def test_pictures_in_pictures_out(
    run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    pixels = (likely.load("digits").test.x[:2, 0].double() * (255 / 16)).round().numpy()
    for i, each in enumerate(pixels):
        Image.fromarray(each.astype(np.uint8)).save(f"in/{i}.png")
    np.savez("noisy.npz", x=noised(likely.load("digits").test.x[:3].double(), 4.0).numpy().astype(np.float32))
    status, out, err = likely_(capsys, "denoise", run, "in", "-o", "out")
    assert status == 0, err
    assert "sd estimated" in out and sorted(p.name for p in Path("out").iterdir()) == ["0.png", "1.png"]
    assert Image.open("out/1.png").size == (8, 8)
    status, out, err = likely_(capsys, "denoise", run, "noisy.npz", "--page", "sheet.png", "--json", "--split", "train")
    assert status == 0, err
    assert len(json.loads(out)["out"]) >= 1 and Image.open("sheet.png").width > 300
    for words, sentence in (
        ((), "inputs is missing"),
        (("in", "-o", "out"), "out is out, which is not empty"),
        (("in", "--sd", 0, "-o", "other"), "sd is 0; accepts"),
        (("in", "--add-sd", -1, "-o", "other"), "add_sd is -1"),
        (("--add-sd", 1, "--limit", 0), "limit is 0"),
        (("in", "-y", "3", "-o", "other"), "this model has no classes"),
        (("noisy.npz", "-o", "other"), "noisy.npz has no rows in its split 'test'; try another --split"),
    ):
        status, out, err = likely_(capsys, "denoise", run, *words)
        assert status == 2 and sentence in err, err
    assert not Path("other").exists()

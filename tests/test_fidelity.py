"""PSNR and MS-SSIM: against their definitions, and figures that pytorch_msssim 1.0.0 gives for the same pictures."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.ndimage import correlate1d

from likely.coding.fidelity import SMALLEST, WEIGHTS, ms_ssim, psnr
from likely.noise import Noise


def pair(channels: int, height: int, width: int, sd: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A smooth picture of bytes with an edge in it, and the same with noise: formulas, no data."""
    rows = torch.arange(height, dtype=torch.float64)[:, None] / height
    columns = torch.arange(width, dtype=torch.float64)[None] / width
    waves = [(9 * rows * (c + 1) + 7 * columns).sin() * (23 * columns).cos() for c in range(channels)]
    a = 127 + 80 * torch.stack(waves)[None] + 40 * (rows > columns)
    noise = Noise(seed, 1).normal((channels, height, width), dtype=torch.float64)
    return tuple(x.round().clamp(0, 255).to(torch.uint8) for x in (a, a + sd * noise))  # ty: ignore


def test_psnr_is_its_definition() -> None:
    a = torch.full((2, 3, 4, 5), 100, dtype=torch.uint8)
    b = a.clone()
    b[0, 0, 0, 0] = 160  # 60^2 / 60 pixels: a mean of 60
    assert psnr(a, b)[0].item() == pytest.approx(10 * math.log10(255**2 / 60))
    assert psnr(a, b)[1].item() == math.inf
    assert psnr(a / 255, b / 255, 1.0)[0].item() == pytest.approx(psnr(a, b)[0].item(), rel=1e-5)


@pytest.mark.parametrize(
    ("channels", "height", "width", "sd", "value"),
    [
        (1, 176, 176, 4.0, 0.9932402430420468),
        (1, 192, 256, 25.0, 0.8219636681001322),
        (3, 256, 192, 10.0, 0.9660566177429667),
        (3, 208, 192, 60.0, 0.673440850298221),
    ],
)
def test_ms_ssim_is_what_pytorch_msssim_says(channels: int, height: int, width: int, sd: float, value: float) -> None:
    """The package of learned compression, on whole windows too; it has its window in float32.

    torchmetrics 1.9.0 mirrors the edges for the coarsest luminance: 0.99324, 0.82198, 0.96605 for the first three.
    """
    assert ms_ssim(*pair(channels, height, width, sd)).item() == pytest.approx(value, abs=5e-6)


def test_one_scale_of_it_by_another_hand() -> None:
    """The finest scale's contrast and structure, with SciPy's filters."""
    from likely.coding.fidelity import _compare

    a, b = (x.double() for x in pair(1, 40, 52, 12.0))
    window = torch.exp(-(torch.arange(-5.0, 6.0, dtype=torch.float64) ** 2) / 4.5).numpy()
    window /= window.sum()

    def mean(x: torch.Tensor) -> torch.Tensor:
        filtered = correlate1d(correlate1d(x[0, 0].numpy(), window, 0), window, 1)
        return torch.from_numpy(filtered[5:-5, 5:-5])

    c1, c2 = 2.55**2, 7.65**2
    covariance = mean(a * b) - mean(a) * mean(b)
    cs = (2 * covariance + c2) / (mean(a * a) - mean(a) ** 2 + mean(b * b) - mean(b) ** 2 + c2)
    luminance = (2 * mean(a) * mean(b) + c1) / (mean(a) ** 2 + mean(b) ** 2 + c1)
    found = _compare(a, b, 255.0)
    assert found[0].item() == pytest.approx((luminance * cs).mean().item(), rel=1e-10)
    assert found[1].item() == pytest.approx(cs.mean().item(), rel=1e-10)


def test_ms_ssim_of_rows_is_that_of_each_and_falls_with_noise() -> None:
    a, weak = pair(3, 176, 180, 5.0)
    strong = pair(3, 176, 180, 40.0)[1]
    both = ms_ssim(torch.cat([a, a]), torch.cat([weak, strong]))
    torch.testing.assert_close(both, torch.cat([ms_ssim(a, weak), ms_ssim(a, strong)]))
    assert 1 > both[0] > both[1] > 0
    assert ms_ssim(a, a).item() == pytest.approx(1)
    assert sum(WEIGHTS) == pytest.approx(1, abs=1e-3)


def test_ms_ssim_has_a_gradient() -> None:
    a, b = (x.double() for x in pair(1, SMALLEST, SMALLEST, 5.0))
    b.requires_grad_()
    (1 - ms_ssim(a, b)).sum().backward()
    assert b.grad is not None and bool(b.grad.isfinite().all()) and b.grad.abs().max() > 0


def test_what_has_no_fifth_scale_is_refused() -> None:
    a = torch.zeros(1, 1, SMALLEST - 1, 300)
    with pytest.raises(ValueError, match=r"a has shape \(1, 1, 175, 300\).*176"):
        ms_ssim(a, a)
    with pytest.raises(ValueError, match="a has shape"):
        psnr(a, a[..., 1:])

"""How near a decoded picture is to the one that went in: PSNR and MS-SSIM.

    PSNR = 10 log10(peak^2 / mean (a - b)^2)   dB

MS-SSIM compares luminance l, contrast and structure cs in windows, at five scales, each half of the one before:

    l  = (2 mu_a mu_b + C1) / (mu_a^2 + mu_b^2 + C1)            cs = (2 s_ab + C2) / (s_a^2 + s_b^2 + C2)
    MS-SSIM = mean(l cs at scale 5)^w5  x  product over j < 5 of mean(cs at scale j)^wj

with windows of 11 x 11 (Gaussian, standard deviation 1.5, whole windows only), C1 = (0.01 peak)^2,
C2 = (0.03 peak)^2. Colours are compared channel by channel and averaged, as the literature on learned compression
does. "Multiscale structural similarity for image quality assessment" (Wang, Simoncelli, Bovik, 2003).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents w of the scales, finest first."""
WINDOW, DEVIATION = 11, 1.5
SMALLEST = WINDOW * 2 ** (len(WEIGHTS) - 1)
"""Pixels of the shorter side that the fifth scale needs: a window."""


def psnr(a: Tensor, b: Tensor, peak: float = 255.0) -> Tensor:
    """dB for each row of two batches of values in 0 .. peak, (B,) float64; infinite where they are equal."""
    _check(a, b)
    error = (a.double() - b.double()).square().flatten(1).mean(1)
    return 10 * torch.log10(peak**2 / error)


def ms_ssim(a: Tensor, b: Tensor, peak: float = 255.0) -> Tensor:
    """MS-SSIM of each pair of pictures (B, C, H, W) with values in 0 .. peak, (B,); 1 where they are equal.

    In float64 for integers, else in the type that came; differentiable. Raises `ValueError` for pictures with a side
    of less than 176 pixels, which have no fifth scale.
    """
    _check(a, b)
    if a.ndim != 4 or min(a.shape[2:]) < SMALLEST:
        raise ValueError(f"a has shape {tuple(a.shape)}; MS-SSIM accepts (B, C, H, W) of {SMALLEST} pixels or more")
    if not a.dtype.is_floating_point or not b.dtype.is_floating_point:
        a, b = a.double(), b.double()
    product = a.new_ones(a.shape[:2])
    for scale, weight in enumerate(WEIGHTS):
        if scale:
            a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
        similarity, structure = _compare(a, b, peak)
        last = scale == len(WEIGHTS) - 1
        product = product * (similarity if last else structure).clamp(min=0) ** weight
    return product.mean(1)


def _compare(a: Tensor, b: Tensor, peak: float) -> tuple[Tensor, Tensor]:
    """The means of l cs and of cs over all windows, (B, C) each."""
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    mean_a, mean_b, aa, bb, ab = (_windowed(x) for x in (a, b, a * a, b * b, a * b))
    structure = (2 * (ab - mean_a * mean_b) + c2) / (aa - mean_a**2 + bb - mean_b**2 + c2)
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return (luminance * structure).mean((2, 3)), structure.mean((2, 3))


def _windowed(x: Tensor) -> Tensor:
    """Means over all windows that lie within the picture."""
    away = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - WINDOW // 2
    window = (-(away**2) / (2 * DEVIATION**2)).exp()
    window = window / window.sum()
    rows, _, height, width = x.shape
    x = x.reshape(-1, 1, height, width)
    x = F.conv2d(F.conv2d(x, window[None, None, :, None]), window[None, None, None])
    return x.reshape(rows, -1, *x.shape[2:])


def _check(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape or a.ndim < 2:
        raise ValueError(f"a has shape {tuple(a.shape)}, b {tuple(b.shape)}; accepts two batches of one shape")

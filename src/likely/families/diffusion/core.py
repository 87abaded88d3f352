"""The denoiser: a network behind one scaling of its input and one reading of its output.

The network sees z / std(z), the log-SNR and the condition, and answers with F = a x + b eps; which combination that is
changes what is easy to learn and nothing else, for at a given z every one of them is an affine map of any other:

    x_hat = (sigma F - b z) / (a sigma - b alpha).

"Elucidating the Design Space of Diffusion-Based Generative Models" (Karras et al., 2022), "Progressive Distillation for
Fast Sampling of Diffusion Models" (Salimans and Ho, 2022), for v; "Flow Matching for Generative Modeling" (Lipman et
al., 2023), for the velocity.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from likely.families.diffusion.schedule import signal_noise
from likely.nets.embedding import Condition

Pair = tuple[Tensor, Tensor]


def _edm(log_snr: Tensor, sigma_data: float) -> Pair:
    """EDM's own F: minus v where the data have variance one."""
    s = (-log_snr / 2).exp()  # sigma / alpha
    norm = sigma_data * (s.square() + sigma_data**2).sqrt()
    return s / norm, -(sigma_data**2) / norm


def _v(log_snr: Tensor, sigma_data: float) -> Pair:
    alpha, sigma = signal_noise(log_snr)
    return -sigma, alpha


COEFFICIENTS: dict[str, Callable[[Tensor, float], Pair]] = {
    "x": lambda log_snr, _: (log_snr * 0 + 1, log_snr * 0),
    "noise": lambda log_snr, _: (log_snr * 0, log_snr * 0 + 1),
    "v": _v,
    "velocity": lambda log_snr, _: (log_snr * 0 - 1, log_snr * 0 + 1),
    "edm": _edm,
}
"""Prediction -> (log-SNR, standard deviation of the data) -> (a, b) with F = a x + b eps."""


class Core(nn.Module):
    """`denoise(z, log_snr, condition)` from a network that predicts "x", "noise", "v", "velocity" or "edm"."""

    def __init__(self, net: nn.Module, prediction: str, sigma_data: float) -> None:
        super().__init__()
        self.net, self.prediction, self.sigma_data = net, prediction, sigma_data

    def predict(self, z: Tensor, log_snr: Tensor, condition: Condition | None = None) -> Tensor:
        """F for z (B, *shape) at log-SNRs (B,)."""
        wide = log_snr.double()
        c_in = (wide.sigmoid() * self.sigma_data**2 + (-wide).sigmoid()).rsqrt()  # alpha^2 and sigma^2
        return self.net(along(c_in, z) * z, log_snr.to(z.dtype), condition or Condition())

    def denoise(self, z: Tensor, log_snr: Tensor, condition: Condition | None = None) -> Tensor:
        """x_hat = E[x given z], (B, *shape)."""
        return self.read(self.predict(z, log_snr, condition), z, log_snr)

    def read(self, F: Tensor, z: Tensor, log_snr: Tensor) -> Tensor:
        """x_hat from the network's F."""
        wide = log_snr.double()
        (alpha, sigma), (a, b) = signal_noise(wide), COEFFICIENTS[self.prediction](wide, self.sigma_data)
        scale = a * sigma - b * alpha
        return along(sigma / scale, z) * F - along(b / scale, z) * z

    def target(self, x: Tensor, eps: Tensor, log_snr: Tensor) -> Tensor:
        """The F that the network should answer with."""
        a, b = COEFFICIENTS[self.prediction](log_snr.double(), self.sigma_data)
        return along(a, x) * x + along(b, x) * eps


def along(values: Tensor, like: Tensor) -> Tensor:
    """One number a row, (B,), or one for all, (), shaped and typed to multiply rows `like` (B, ...)."""
    values = values.to(like.dtype)
    return values.reshape(-1, *[1] * (like.ndim - 1)) if values.ndim else values

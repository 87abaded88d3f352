"""Schedules: how much noise there is when. t in [0, 1] to the log-SNR lambda = log alpha^2 / sigma^2, falling.

The log-SNR is the clock of everything in this family: noising processes with equal lambda differ by a rescaling alone
("Variational Diffusion Models", Kingma, Salimans, Poole, Ho, 2021, section 4). Inside, z = alpha x + sigma eps keeps
the variance: alpha^2 = sigmoid(lambda), sigma^2 = sigmoid(-lambda).

Every schedule is a falling curve lambda = f(u), cut to the stretch between two log-SNRs `high` and `low`, along which t
runs evenly in u. The maths is float64. Schedules have no buffers, and no averaging of weights ever touches one.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import cache

import torch
from torch import Tensor, nn

DDPM_STEPS, DDPM_BETAS = 1000, (1e-4, 0.02)
RHO = 7.0


class Schedule(nn.Module, ABC):
    """A curve, cut to [low, high] and moved by `shift`. Abstract.

    `shift` is added to every log-SNR of the curve before it is cut: 2 log(64 / d) for pictures of side d as noisy as
    those of side 64 ("simple diffusion", Hoogeboom, Heek, Salimans, 2023), -2 log s for the shift s of rectified flows.
    """

    most: float = math.inf
    """The largest log-SNR on the curve."""
    least: float = -math.inf
    """The smallest."""

    def __init__(self, high: float, low: float, shift: float = 0.0) -> None:
        super().__init__()
        if not low < high:
            raise ValueError(f"low is {low} and high {high}; a schedule falls, so it accepts log-SNRs with low < high")
        self.shift = shift
        self.ends = min(high, self.most + shift), max(low, self.least + shift)
        if not self.ends[1] < self.ends[0]:
            raise ValueError(
                f"high {high} and low {low} leave nothing of this curve, which runs from {self.most + shift:.2f} to "
                f"{self.least + shift:.2f}"
            )
        first, last = self.place(torch.tensor(self.ends, dtype=torch.float64, device="cpu") - shift).tolist()
        self._fixed = first, last - first

    @abstractmethod
    def curve(self, u: Tensor) -> Tensor:
        """f(u)."""

    @abstractmethod
    def place(self, log_snr: Tensor) -> Tensor:
        """u with f(u) = log_snr."""

    @abstractmethod
    def steepness(self, u: Tensor) -> Tensor:
        """f'(u) < 0."""

    @property
    def high(self) -> Tensor:
        """The log-SNR at t = 0: a float64 number, on the CPU unless it is learned, where a GPU takes it as it is."""
        return torch.tensor(self.ends[0], dtype=torch.float64)

    @property
    def low(self) -> Tensor:
        """The log-SNR at t = 1, float64."""
        return torch.tensor(self.ends[1], dtype=torch.float64)

    def log_snr(self, t: Tensor) -> Tensor:
        """lambda at times t in [0, 1], float64, of the same shape. Raises `ValueError` for other times."""
        return self.unchecked(checked_times(t))[0]

    def slope(self, t: Tensor) -> Tensor:
        """d lambda / dt, float64, below 0. Raises `ValueError` for times outside [0, 1]."""
        return self.unchecked(checked_times(t))[1]

    def unchecked(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """`log_snr` and `slope` at float64 times known to lie in [0, 1]: to look at them would be to wait for a GPU."""
        first, length = self._stretch()
        u = first + t * length
        return self.curve(u) + self.shift, self.steepness(u) * length

    def time(self, log_snr: Tensor) -> Tensor:
        """t in [0, 1] of log-SNRs between low and high, float64."""
        first, length = self._stretch()
        return (self.place(log_snr.double() - self.shift) - first) / length

    def _stretch(self) -> tuple[float | Tensor, float | Tensor]:
        """u at t = 0, and how far it goes."""
        return self._fixed


class Linear(Schedule):
    """lambda falls evenly (Kingma et al., 2021)."""

    def curve(self, u: Tensor) -> Tensor:
        return -u

    def place(self, log_snr: Tensor) -> Tensor:
        return -log_snr

    def steepness(self, u: Tensor) -> Tensor:
        return -torch.ones_like(u)


class Learned(Linear):
    """lambda falls evenly between two learned log-SNRs (Kingma et al., 2021, section 4.2 and appendix H)."""

    averaged = False
    """The running average of the weights takes these two as they are."""

    def __init__(self, high: float, low: float, shift: float = 0.0) -> None:
        super().__init__(high, low, shift)
        self.moved = nn.Parameter(torch.zeros(()))  # the low end, from where it was
        self.stretched = nn.Parameter(torch.zeros(()))  # the logarithm of the range, from what it was

    @property
    def high(self) -> Tensor:
        return self.low + (self.ends[0] - self.ends[1]) * self.stretched.double().exp()

    @property
    def low(self) -> Tensor:
        return self.ends[1] + self.moved.double()

    def _stretch(self) -> tuple[Tensor, Tensor]:
        high, low = self.high, self.low
        return self.shift - high, high - low


class Cosine(Schedule):
    """alpha = cos(pi u / 2) ("Improved Denoising Diffusion Probabilistic Models", Nichol, Dhariwal, 2021, eq. 17)."""

    def curve(self, u: Tensor) -> Tensor:
        return -2 * (math.pi / 2 * u).tan().log()

    def place(self, log_snr: Tensor) -> Tensor:
        return 2 / math.pi * (-log_snr / 2).exp().atan()

    def steepness(self, u: Tensor) -> Tensor:
        return -2 * math.pi / (math.pi * u).sin()


class Flow(Schedule):
    """alpha : sigma = 1 - u : u, straight lines from data to noise ("Flow Straight and Fast", Liu, Gong, Liu, 2023)."""

    def curve(self, u: Tensor) -> Tensor:
        return 2 * ((1 - u) / u).log()

    def place(self, log_snr: Tensor) -> Tensor:
        return (-log_snr / 2).sigmoid()

    def steepness(self, u: Tensor) -> Tensor:
        return -2 / (u * (1 - u))


class EDM(Schedule):
    """(sigma / alpha)^(1/7) grows evenly ("Elucidating the Design Space of Diffusion-Based Generative Models", Karras,
    Aittala, Aila, Laine, 2022, eq. 5)."""

    def curve(self, u: Tensor) -> Tensor:
        return -2 * RHO * u.log()

    def place(self, log_snr: Tensor) -> Tensor:
        return (-log_snr / (2 * RHO)).exp()

    def steepness(self, u: Tensor) -> Tensor:
        return -2 * RHO / u


class DDPM(Schedule):
    """alpha^2 = prod(1 - beta) over 1,000 betas from 1e-4 to .02, lambda even between them ("Denoising Diffusion
    Probabilistic Models", Ho, Jain, Abbeel, 2020). t = 0 is the first noise level, t = 1 the last: 999 steps."""

    table = (1 - torch.linspace(*DDPM_BETAS, DDPM_STEPS, dtype=torch.float64)).log().cumsum(0)
    table = table - (-table.expm1()).log()  # log alpha^2 - log(1 - alpha^2)
    most, least = float(table[0]), float(table[-1])

    def curve(self, u: Tensor) -> Tensor:
        i, table = self._piece(u), _ddpm_table(u.device)
        return table[i] + (u - i) * (table[i + 1] - table[i])

    def place(self, log_snr: Tensor) -> Tensor:
        table = _ddpm_table(log_snr.device)
        i = (torch.searchsorted(-table, -log_snr.detach().contiguous(), right=True) - 1).clamp(0, DDPM_STEPS - 2)
        return i + (log_snr - table[i]) / (table[i + 1] - table[i])

    def steepness(self, u: Tensor) -> Tensor:
        i, table = self._piece(u), _ddpm_table(u.device)
        return table[i + 1] - table[i]

    def _piece(self, u: Tensor) -> Tensor:
        return u.detach().floor().long().clamp(0, DDPM_STEPS - 2)


@cache
def _ddpm_table(device: torch.device) -> Tensor:
    return DDPM.table.to(device)


SCHEDULES: dict[str, type[Schedule]] = {
    "linear": Linear,
    "learned": Learned,
    "cosine": Cosine,
    "flow": Flow,
    "edm": EDM,
    "ddpm": DDPM,
}


def signal_noise(log_snr: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and sigma of the variance-preserving process at these log-SNRs, in their precision."""
    return log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()


def checked_times(t: Tensor) -> Tensor:
    """t as float64. Raises `ValueError` unless all lie in [0, 1]."""
    t = t.double()
    if t.numel() and not bool(((t >= 0) & (t <= 1)).all()):
        raise ValueError(f"t goes from {float(t.min()):g} to {float(t.max()):g}; accepts times in [0, 1]")
    return t

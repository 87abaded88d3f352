"""Distributions whose denoiser x_hat(z, lambda) = E[x | z] is known exactly, for z = alpha x + sigma eps.

alpha^2 = sigmoid(lambda), sigma^2 = sigmoid(-lambda); z is (B, D), lambda (B,), everything in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from likely.noise import Noise

F64 = torch.float64


def signal_noise(log_snr: Tensor) -> tuple[Tensor, Tensor]:
    """alpha and sigma, (B, 1)."""
    return log_snr.sigmoid().sqrt()[:, None], (-log_snr).sigmoid().sqrt()[:, None]


class Design:
    """In the place of a `Noise`: rows whose draws have mean 0 and covariance I over the rows exactly, call by call and
    across calls. What is linear in its draws has over these rows the moments that it has in truth."""

    def __init__(self, calls: int, dims: int) -> None:
        self.dims, self.calls, self.count = dims, 0, 2 * calls * dims
        self.all = torch.eye(calls * dims, dtype=F64) * math.sqrt(calls * dims)

    def normal(self, shape: Sequence[int], *, dtype: torch.dtype) -> Tensor:
        """The next draw, (count, dims)."""
        assert tuple(shape) == (self.dims,)
        assert dtype == F64
        column = self.all[:, self.calls * self.dims : (self.calls + 1) * self.dims]
        self.calls += 1
        return torch.cat([column, -column])


class Gaussian:
    """N(mean, covariance)."""

    def __init__(self, mean: Sequence[float], covariance: Sequence[Sequence[float]]) -> None:
        self.mean, self.covariance = torch.tensor(mean, dtype=F64), torch.tensor(covariance, dtype=F64)
        self.variance, self.axes = torch.linalg.eigh(self.covariance)

    def denoise(self, z: Tensor, log_snr: Tensor) -> Tensor:
        """mean + alpha C (alpha^2 C + sigma^2 I)^-1 (z - alpha mean)."""
        alpha, sigma = signal_noise(log_snr)
        gain = alpha * self.variance / (alpha**2 * self.variance + sigma**2)
        return self.mean + (gain * ((z - alpha * self.mean) @ self.axes)) @ self.axes.T

    def flow(self, z: Tensor, start: float, end: float) -> Tensor:
        """Where the probability-flow ODE takes z from one log-SNR to another: along each axis of the covariance,
        y - mean grows with the deviation sqrt(variance + sigma~^2) of y = z / alpha."""
        alphas, sigmas = signal_noise(torch.tensor([start, end], dtype=F64))
        deviation = (self.variance + (sigmas / alphas) ** 2).sqrt()
        along = (z / alphas[0] - self.mean) @ self.axes
        return alphas[1] * (self.mean + (along * deviation[1] / deviation[0]) @ self.axes.T)

    def moments(self, log_snr: float) -> tuple[Tensor, Tensor]:
        """Mean and covariance of z at a log-SNR."""
        alpha, sigma = signal_noise(torch.tensor([log_snr], dtype=F64))
        return alpha[0] * self.mean, alpha**2 * self.covariance + sigma**2 * torch.eye(len(self.mean), dtype=F64)

    def marginal(self, xi: Tensor, log_snr: float) -> Tensor:
        """z at a log-SNR, made of standard normal xi (B, D)."""
        mean, covariance = self.moments(log_snr)
        return mean + xi @ torch.linalg.cholesky(covariance).T


class Mixture:
    """sum_k weight_k N(mean_k, sd^2 I); with sd = 0 a distribution over points."""

    def __init__(self, means: Sequence[Sequence[float]], sd: float, weights: Sequence[float]) -> None:
        self.means, self.sd = torch.tensor(means, dtype=F64), sd
        self.weights = torch.tensor(weights, dtype=F64)

    def _joint(self, z: Tensor, log_snr: Tensor) -> Tensor:
        """log p(z, k), (B, K)."""
        alpha, sigma = signal_noise(log_snr)
        variance = (alpha * self.sd) ** 2 + sigma**2
        square = (z[:, None] - alpha[:, None] * self.means).square().sum(2)
        return self.weights.log() - square / (2 * variance) - z.shape[1] / 2 * (2 * math.pi * variance).log()

    def log_prob(self, z: Tensor, log_snr: Tensor) -> Tensor:
        """log p(z) at a log-SNR, (B,)."""
        return self._joint(z, log_snr).logsumexp(1)

    def posterior(self, z: Tensor, log_snr: Tensor) -> Tensor:
        """p(k | z), (B, K)."""
        return self._joint(z, log_snr).softmax(1)

    def denoise(self, z: Tensor, log_snr: Tensor) -> Tensor:
        """sum_k p(k | z) E[x | z, k]."""
        alpha, sigma = signal_noise(log_snr)
        gain = alpha * self.sd**2 / ((alpha * self.sd) ** 2 + sigma**2)
        centre = self.posterior(z, log_snr) @ self.means
        return centre + gain * (z - alpha * centre)

    def sample(self, n: int, seed: int = 0) -> Tensor:
        """n draws of x."""
        noise = Noise(seed, n)
        k = (self.weights.log() + noise.gumbel(self.weights.shape, dtype=F64)).argmax(1)
        return self.means[k] + self.sd * noise.normal(self.means.shape[1:], dtype=F64)

    def marginal(self, n: int, log_snr: float, seed: int = 0) -> Tensor:
        """n draws of z at a log-SNR."""
        alpha, sigma = signal_noise(torch.tensor([log_snr], dtype=F64))
        return alpha * self.sample(n, seed) + sigma * Noise(seed + 1, n).normal(self.means.shape[1:], dtype=F64)


def two_blobs() -> Mixture:
    """The mixture of the specification's section 7."""
    return Mixture([[-0.6, 0.3], [0.5, -0.2]], 0.15, [0.35, 0.65])


def pixel() -> Mixture:
    """The categorical pixel of the specification's section 7: 4 levels at their cells' centres, entropy 1.279854."""
    return Mixture([[2 * (k + 0.5) / 4 - 1] for k in range(4)], 0.0, [0.1, 0.4, 0.3, 0.2])


def followed(denoise: Callable[[Tensor, Tensor], Tensor], z: Tensor, start: float, end: float, steps: int) -> Tensor:
    """Where the probability-flow ODE takes z, by Runge and Kutta's fourth-order method in l = log(sigma / alpha) on
    y = z / alpha: dy / dl = y - x_hat."""

    def slope(y: Tensor, l: float) -> Tensor:  # noqa: E741
        log_snr = torch.full((len(y),), -2 * l, dtype=F64)
        return y - denoise(y * signal_noise(log_snr)[0], log_snr)

    y, l, h = z * math.sqrt(1 + math.exp(-start)), -start / 2, (start - end) / 2 / steps  # noqa: E741
    for _ in range(steps):
        k1 = slope(y, l)
        k2 = slope(y + h / 2 * k1, l + h / 2)
        k3 = slope(y + h / 2 * k2, l + h / 2)
        k4 = slope(y + h * k3, l + h)
        y, l = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), l + h  # noqa: E741
    return y / math.sqrt(1 + math.exp(-end))


def order(error: Callable[[int], float], few: int, many: int) -> float:
    """The power of the number of steps with which an error falls between few and many steps."""
    return math.log(error(few) / error(many)) / math.log(many / few)

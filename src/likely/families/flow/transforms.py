"""Invertible maps, each with its own inverse and its own log-determinant.

z = f(x), log_det = log |det dz/dx| of every row. Everything works on vectors (B, D) and on images (B, C, H, W); axis 1
is the one that is split and mixed. The second argument is a context: None, (B, F), or on images (B, F, 1 or H, 1 or W).

"Density estimation using Real NVP" (Dinh, Sohl-Dickstein, Bengio, 2017); "NICE" (Dinh, Krueger, Bengio, 2015);
"Glow: Generative Flow with Invertible 1x1 Convolutions" (Kingma, Dhariwal, 2018), with the choices of its code.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Answer = tuple[Tensor, Tensor]


class Volume(ABC):
    """How the log-determinant of z = x + g(x) is found, which has no closed form. Abstract."""

    @abstractmethod
    def __call__(self, g: Callable[[Tensor], Tensor], x: Tensor) -> Answer:
        """g(x) (B, ...) and log |det(I + dg/dx)| (B,), exactly or as one draw of an estimate."""


class Transform(nn.Module, ABC):
    """A bijection. Abstract; x and z are (B, ...), log-determinants (B,) in nats.

    `volume` is for transforms without a closed form of their log-determinant: without it theirs is NaN.
    """

    @abstractmethod
    def forward(self, x: Tensor, y: Tensor | None = None, volume: Volume | None = None) -> Answer:
        """z and log |det dz/dx|."""

    @abstractmethod
    def inverse(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """x. (Its log-determinant is that of `forward` at x, negated, and nobody asks for it.)"""


class Elementwise(ABC):
    """A monotone map of every number of x by numbers of its own. Abstract; theta is (parameters, *x.shape).

    At theta = 0 it is the identity.
    """

    parameters: int

    @abstractmethod
    def forward(self, x: Tensor, theta: Tensor) -> Answer:
        """z and log dz/dx of every number, both shaped as x."""

    @abstractmethod
    def inverse(self, z: Tensor, theta: Tensor) -> Tensor:
        """x and log dx/dz of every number, both shaped as z."""


class DataStart(Transform, ABC):
    """A transform that takes its first values from the first data it sees, once. Abstract.

    The buffer `started` travels with the weights, so a loaded model is never started again. Before its start the
    transform is the identity.
    """

    started: Tensor

    @abstractmethod
    def start(self, x: Tensor) -> None:
        """Take values from x (B, ...), unless that was done before or x is empty."""


class Chain(Transform):
    """One transform after the other."""

    def __init__(self, parts: Iterable[Transform]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor, y: Tensor | None = None, volume: Volume | None = None) -> Answer:
        total = no_change(x)
        for part in self.parts:
            x, log_det = part(x, y, volume)
            total = total + log_det
        return x, total

    def inverse(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        for part in reversed(self.parts):
            z = part.inverse(z, y)  # ty: ignore
        return z


class AffineCoupling(Transform):
    """z1 = x1, z2 = (x2 + t) s with t, r = net(x1, y) and s = sigmoid(r + 2).

    The shift comes before the scale, and the scale is bounded by 1: with an exponential in its place the gradients
    are unbounded (the authors, on openai/glow).
    """

    def __init__(self, kept: int, net: nn.Module) -> None:
        super().__init__()
        self.kept, self.net = kept, net

    def forward(self, x: Tensor, y: Tensor | None = None, volume: Volume | None = None) -> Answer:
        x1, x2 = x[:, : self.kept], x[:, self.kept :]
        t, r = self.net(x1, y).chunk(2, 1)
        log_s = F.logsigmoid(r + 2)
        return torch.cat([x1, (x2 + t) * log_s.exp()], 1), log_s.flatten(1).sum(1)

    def inverse(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        z1, z2 = z[:, : self.kept], z[:, self.kept :]
        t, r = self.net(z1, y).chunk(2, 1)
        return torch.cat([z1, z2 / torch.sigmoid(r + 2) - t], 1)


class AdditiveCoupling(Transform):
    """z1 = x1, z2 = x2 + net(x1, y); the volume is kept."""

    def __init__(self, kept: int, net: nn.Module) -> None:
        super().__init__()
        self.kept, self.net = kept, net

    def forward(self, x: Tensor, y: Tensor | None = None, volume: Volume | None = None) -> Answer:
        x1, x2 = x[:, : self.kept], x[:, self.kept :]
        return torch.cat([x1, x2 + self.net(x1, y)], 1), no_change(x)

    def inverse(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        z1, z2 = z[:, : self.kept], z[:, self.kept :]
        return torch.cat([z1, z2 - self.net(z1, y)], 1)


class GaussianSplit(Transform):
    """z1 = x1, z2 = (x2 - mu) / sigma with mu, log sigma = net(x1, y): what z2 should be if it is to be N(0, 1).

    Factoring z2 out under a standard normal is then factoring x2 out under N(mu, sigma), Glow's `split2d`.
    """

    def __init__(self, kept: int, net: nn.Module) -> None:
        super().__init__()
        self.kept, self.net = kept, net

    def forward(self, x: Tensor, y: Tensor | None = None, volume: Volume | None = None) -> Answer:
        x1, x2 = x[:, : self.kept], x[:, self.kept :]
        mu, log_sigma = self.net(x1, y).chunk(2, 1)
        return torch.cat([x1, (x2 - mu) * (-log_sigma).exp()], 1), -log_sigma.flatten(1).sum(1)

    def inverse(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        z1, z2 = z[:, : self.kept], z[:, self.kept :]
        mu, log_sigma = self.net(z1, y).chunk(2, 1)
        return torch.cat([z1, mu + z2 * log_sigma.exp()], 1)


class Reversal(Transform):
    """The order of axis 1 reversed."""

    def forward(self, x: Tensor, y: Tensor | None = None, volume: Volume | None = None) -> Answer:
        return x.flip(1), no_change(x)

    def inverse(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return z.flip(1)


class Permutation(Transform):
    """Axis 1 in one fixed random order."""

    order: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("order", torch.randperm(channels))

    def forward(self, x: Tensor, y: Tensor | None = None, volume: Volume | None = None) -> Answer:
        return x[:, self.order], no_change(x)

    def inverse(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return z[:, self.order.argsort()]


class Linear(Transform):
    """z = W x along axis 1, at every pixel: Glow's invertible 1x1 convolution, W = P L (U + diag(s)).

    P is a fixed permutation, L and U are strictly triangular (L with a unit diagonal), and s keeps its sign while
    log |s| is learned: W is never singular, and log |det W| = sum log |s| costs nothing. The start is a random
    rotation.
    """

    permutation: Tensor
    sign: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        rotation = torch.linalg.qr(torch.randn(channels, channels))[0]
        permutation, lower, upper = torch.linalg.lu(rotation)
        diagonal = upper.diagonal()
        self.register_buffer("permutation", permutation)
        self.register_buffer("sign", diagonal.sign())
        self.log_s = nn.Parameter(diagonal.abs().log())
        self.lower, self.upper = nn.Parameter(lower.tril(-1)), nn.Parameter(upper.triu(1))

    def _factors(self) -> tuple[Tensor, Tensor]:
        """P L and U."""
        one = torch.eye(self.log_s.shape[0], dtype=self.log_s.dtype, device=self.log_s.device)
        upper = self.upper.triu(1) + torch.diag(self.sign * self.log_s.exp())
        return self.lower.tril(-1) + one, upper

    def _log_det(self, x: Tensor) -> Tensor:
        return (self.log_s.sum() * math.prod(x.shape[2:])).expand(x.shape[0])

    def forward(self, x: Tensor, y: Tensor | None = None, volume: Volume | None = None) -> Answer:
        lower, upper = self._factors()
        return _along_axis_1(self.permutation @ (lower @ upper), x), self._log_det(x)

    def inverse(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        lower, upper = self._factors()
        half = torch.linalg.solve_triangular(lower, self.permutation.T, upper=False, unitriangular=True)
        return _along_axis_1(torch.linalg.solve_triangular(upper, half, upper=True), z)


class ActNorm(DataStart):
    """z = (x + b) exp(l), one b and l per element of axis 1; after its start z has mean 0 and deviation 1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift, self.log_scale = nn.Parameter(torch.zeros(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def start(self, x: Tensor) -> None:
        if self.started or not x.shape[0]:
            return
        with torch.no_grad():
            mean, deviation = _moments(x)
            self.shift.copy_(-mean)
            self.log_scale.copy_(-deviation.log())
            self.started.fill_(True)

    def forward(self, x: Tensor, y: Tensor | None = None, volume: Volume | None = None) -> Answer:
        log_det = (self.log_scale.sum() * math.prod(x.shape[2:])).expand(x.shape[0])
        return (x + _as_axis_1(self.shift, x)) * _as_axis_1(self.log_scale.exp(), x), log_det

    def inverse(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return z * _as_axis_1((-self.log_scale).exp(), z) - _as_axis_1(self.shift, z)


class Standardise(DataStart):
    """z = (x - mean) / deviation with the data's own moments, fixed: raw units go in, whatever they are."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("deviation", torch.ones(channels))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def start(self, x: Tensor) -> None:
        if self.started or not x.shape[0]:
            return
        mean, deviation = _moments(x)
        self.mean.copy_(mean)
        self.deviation.copy_(deviation)
        self.started.fill_(True)

    def _log_det(self, x: Tensor) -> Tensor:
        return (-self.deviation.log().sum() * math.prod(x.shape[2:])).expand(x.shape[0])

    def forward(self, x: Tensor, y: Tensor | None = None, volume: Volume | None = None) -> Answer:
        return (x - _as_axis_1(self.mean, x)) / _as_axis_1(self.deviation, x), self._log_det(x)

    def inverse(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        return z * _as_axis_1(self.deviation, z) + _as_axis_1(self.mean, z)


class LearnedNormal(Transform):
    """z = (x - mu) / sigma, one mu and sigma a number: a standard normal z means that x is N(mu, sigma).

    With a context, mu and log sigma are linear in it: a normal for each class.
    """

    def __init__(self, shape: Sequence[int], context: int = 0) -> None:
        super().__init__()
        self.shape = tuple(shape)
        self.mu, self.log_sigma = nn.Parameter(torch.zeros(self.shape)), nn.Parameter(torch.zeros(self.shape))
        self.weight = nn.Parameter(torch.zeros(context, 2 * math.prod(self.shape))) if context else None

    def _moments(self, y: Tensor | None) -> tuple[Tensor, Tensor]:
        """mu and log sigma, (B or 1, *shape)."""
        mu, log_sigma = self.mu[None], self.log_sigma[None]
        if self.weight is None or y is None:
            return mu, log_sigma
        by_y = (y.flatten(1) @ self.weight).reshape(-1, 2, *self.shape)
        return mu + by_y[:, 0], log_sigma + by_y[:, 1]

    def forward(self, x: Tensor, y: Tensor | None = None, volume: Volume | None = None) -> Answer:
        mu, log_sigma = self._moments(y)
        return (x - mu) * (-log_sigma).exp(), -log_sigma.flatten(1).sum(1).expand(x.shape[0])

    def inverse(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        mu, log_sigma = self._moments(y)
        return mu + z * log_sigma.exp()


def start_from(model: nn.Module, run: Callable[[], object]) -> None:
    """Give every `DataStart` in the model its values from what reaches it while `run()` sends data through."""

    def begin(part: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        part.start(inputs[0])  # ty: ignore

    hooks = [part.register_forward_pre_hook(begin) for part in model.modules() if isinstance(part, DataStart)]
    try:
        with torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()


def no_change(x: Tensor) -> Tensor:
    """The log-determinant of a map that keeps volumes: B zeros."""
    return x.new_zeros(x.shape[0])


def _as_axis_1(values: Tensor, x: Tensor) -> Tensor:
    """A vector shaped so that it broadcasts along axis 1 of x."""
    return values.reshape(-1, *[1] * (x.ndim - 2))


def _along_axis_1(matrix: Tensor, x: Tensor) -> Tensor:
    """matrix @ x at every pixel."""
    return F.linear(x, matrix) if x.ndim == 2 else F.conv2d(x, matrix[:, :, None, None])


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each element of axis 1; 1 for the deviation of a constant."""
    each = x.transpose(0, 1).flatten(1)
    deviation = each.std(1, correction=0)
    return each.mean(1), torch.where(deviation > 1e-6 * each.abs().amax(1).clamp(min=1e-12), deviation, 1.0)

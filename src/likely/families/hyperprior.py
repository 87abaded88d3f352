"""A lossy codec of pictures: rounded latents under a scale hyperprior, with a checkerboard of contexts.

    y = g_a(x),  z = h_a(y);   what is coded: z^ = [z a_r],  y^ = [y b_r - mu] + mu;   x^ = g_s(y^ c_r)

[.] rounds to integers. A picture is cut into blocks of `patch` x `patch` pixels; y has a number of latents for every
block, z for every 4 x 4 blocks. z^ has learned tables, a mixture of logistics for each of its channels. y^ is coded in
two passes over the blocks, laid out as a checkerboard: the anchors from z^ alone, the others from z^ and the anchors
around them,

    y^ ~ cells of N(mu, sigma^2),   (mu, sigma) = p(h_s(z^), context of anchors)

One model serves all rates r: the gains a_r, b_r, c_r of every channel are learned for each lambda of

    loss = bits / pixel + lambda_r (255-scaled squared error)                                                       (1)

with r drawn for each row, and lie on a line (of their logarithms) between two rates. The error is that of rounded
latents, whose rounding error the gradient takes for a constant; bits are those of y and z with uniform noise in the
place of rounding, or of the rounded ones. A y is rounded towards mu where that saves enough bits.

The first layer of g_a and the last of g_s are windows of 2 patch x 2 patch pixels that start as a cosine transform
over channels, rows and columns, of whose coefficients the `latent` that vary most are kept, each scaled to variance 1.
So a model that has learned nothing already codes pictures, and learns what to do better.

What decoding has to reproduce exactly is the way from z^ and the anchors to mu and sigma; g_s is not part of it.
There is no log p(x): the rate is that of the latents.

References: "Variational image compression with a scale hyperprior" (Balle, Minnen, Singh, Hwang, Johnston, 2018);
"Joint autoregressive and hierarchical priors for learned image compression" (Minnen, Balle, Toderici, 2018);
"Checkerboard context model for efficient learned image compression" (He et al., 2021); "Asymmetric gained deep image
compression with continuous rate adaptation" (Cui et al., 2021).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from likely.config.hyperprior import Hyperprior as Config
from likely.families import Tiny
from likely.noise import Noise
from likely.observation import Rounded
from likely.space import Integers, Space

Walk = Generator[Rounded, Tensor, Tensor]
FINEST = {"normal": math.log(0.11), "logistic": math.log(0.04)}
"""Log-scales of latents lie above this: what is predicted so well costs some 1e-5 bits."""
PACE, SLOW = 0.03, 0.1
"""The cosine windows learn at this pace: their weights are divided by it, what they act on is multiplied by it. And
what is added to their work is multiplied by the second. At the full pace the first steps would undo the transform."""


class Block(nn.Module):
    """x + f(x) / 10, f narrow: 1 x 1, 3 x 3, 1 x 1."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 1),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + SLOW * self.body(x)


class Smooth(nn.Module):
    """x + f(x) / 10 for pictures, f at half the resolution; it knows the rate by a row of `bias`, (B, F)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.enter = nn.Conv2d(4 * channels, width, 3, padding=1)
        self.middle = nn.Conv2d(width, width, 3, padding=1)
        self.leave = nn.Conv2d(width, 4 * channels, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)  # ty: ignore[invalid-argument-type]

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        h = F.silu(self.enter(F.pixel_unshuffle(x, 2)) + bias[:, :, None, None])
        return x + SLOW * F.pixel_shuffle(self.leave(F.silu(self.middle(h))), 2)


class Hyperprior(nn.Module):
    """The model: `Trainable` and `Lossy` over pictures of any height and width; those of `space` are what it learns."""

    players = ("model",)
    surrogate = True
    self_taught = True  # rounding errors are held still

    def __init__(self, config: Config, space: Integers) -> None:
        super().__init__()
        self.config, self.space, self.condition = config, space, None
        channels, patch, latent, hyper = space.shape[0], config.patch, config.latent, config.hyper
        self.lams, self.multiple = config.lams, 4 * patch
        rates = len(config.lams)

        basis, deviation = cosines(channels, patch, latent)
        edge = (patch // 2,) * 4
        self.enter = nn.Conv2d(channels, latent, 2 * patch, stride=patch, padding=patch // 2)
        self.leave = nn.ConvTranspose2d(latent, channels, 2 * patch, stride=patch, padding=patch // 2)
        with torch.no_grad():
            self.enter.weight.copy_(F.pad(basis / deviation[:, None, None, None], edge) / PACE)
            self.leave.weight.copy_(F.pad(basis * deviation[:, None, None, None], edge) / PACE)
            self.enter.bias.zero_()  # ty: ignore[unresolved-attribute]
            self.leave.bias.zero_()  # ty: ignore[unresolved-attribute]
        self.analysis = nn.Sequential(*(Block(latent, config.width) for _ in range(config.blocks)))
        self.synthesis = nn.Sequential(*(Block(latent, config.width) for _ in range(config.blocks)))
        for block in [*self.analysis, *self.synthesis]:
            nn.init.zeros_(block.body[-1].weight)
            nn.init.zeros_(block.body[-1].bias)
        self.smooth = Smooth(channels, config.smooth)

        self.hyper_analysis = nn.Sequential(
            nn.Conv2d(latent, hyper, 5, stride=2, padding=2),
            nn.SiLU(),
            nn.Conv2d(hyper, hyper, 5, stride=2, padding=2),
        )
        self.hyper_synthesis = nn.Sequential(
            nn.Conv2d(hyper, 4 * hyper, 3, padding=1),
            nn.PixelShuffle(2),
            nn.SiLU(),
            nn.Conv2d(hyper, 4 * hyper, 3, padding=1),
            nn.PixelShuffle(2),
        )
        self.context = nn.Conv2d(latent, hyper, 5, padding=2)
        self.predict = nn.Sequential(
            nn.SiLU(), nn.Conv1d(2 * hyper, 2 * hyper, 1), nn.SiLU(), nn.Conv1d(2 * hyper, 2 * latent, 1)
        )

        # at the step that suits lambda (entropy-coded uniform quantisers at high rates: D = step^2 / 12)
        steps = torch.tensor([math.sqrt(6 * channels / (math.log(2) * lam)) / 127.5 for lam in config.lams])
        log_gain = (deviation / steps[:, None]).log()
        self.log_gain = nn.Parameter(log_gain)
        self.log_inverse = nn.Parameter(-log_gain)
        self.log_hyper_gain = nn.Parameter(torch.full((rates, hyper), math.log(4.0)))
        self.rate_bias = nn.Parameter(0.1 * torch.randn(rates, hyper))
        self.smooth_bias = nn.Parameter(0.1 * torch.randn(rates, config.smooth))
        parts = (rates, hyper, config.components)
        self.hyper_logits = nn.Parameter(torch.zeros(parts))
        self.hyper_mean = nn.Parameter(torch.randn(parts))
        self.hyper_log_scale = nn.Parameter(torch.zeros(parts))

    # Lossy -------------------------------------------------------------------------------------------------------

    def latents(self, x: Tensor, rate: Tensor) -> list[Tensor]:
        """The numbers to be rounded, group after group, (B, C, S) each: z, y of the anchors, y of the others.

        Pictures x (B, C, H, W); `rate` (B,) from 1 to the number of rates, with anything between.
        """
        dtype = self.log_gain.dtype
        y = self.analysis(self.enter(PACE * self._filled(self.space.centred(x, dtype))))
        z = self.hyper_analysis(y) * self._at(self.log_hyper_gain, rate).exp()[:, :, None, None]
        y = y * self._at(self.log_gain, rate).exp()[:, :, None, None]
        anchors = checkerboard(*y.shape[2:], y.device)
        return [z.flatten(2), y[..., anchors], y[..., ~anchors]]

    def groups(self, height: int, width: int, rate: Tensor) -> Walk:
        """For B pictures: yields how each group of latents is distributed, takes its rounded values, returns all."""
        rows, times = len(rate), self.multiple
        high, wide = -(-height // times), -(-width // times)
        parts = (self.hyper_logits, self.hyper_mean, self.hyper_log_scale)
        logits, mean, log_scale = (self._at(p, rate)[:, :, None].expand(-1, -1, high * wide, -1) for p in parts)
        z = yield Rounded("logistic", torch.zeros_like(mean[..., 0]), logits, mean, log_scale)

        z = z.reshape(rows, -1, high, wide) * (-self._at(self.log_hyper_gain, rate)).exp()[:, :, None, None]
        side = self.hyper_synthesis(z) + self._at(self.rate_bias, rate)[:, :, None, None]
        anchors = checkerboard(4 * high, 4 * wide, z.device)
        first = yield self._given(side[..., anchors], torch.zeros_like(side[..., anchors]), rate)
        y = side.new_zeros(rows, self.config.latent, 4 * high, 4 * wide)
        y[..., anchors] = first
        around = self.context(y * (-self._at(self.log_gain, rate)).exp()[:, :, None, None])
        second = yield self._given(side[..., ~anchors], around[..., ~anchors], rate)
        y = y.clone()
        y[..., ~anchors] = second
        return y

    def reconstruct(self, y: Tensor, height: int, width: int, rate: Tensor) -> Tensor:
        """Pictures (B, C, H, W) from what `groups` returned, on the scale 0 .. 255, neither rounded nor cut off."""
        y = self.synthesis(y * self._at(self.log_inverse, rate).exp()[:, :, None, None])
        x = self.smooth(self.leave(PACE * y), self._at(self.smooth_bias, rate))
        return (x[..., :height, :width] + 1) * 127.5

    def rate_distortion(self, x: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
        """Bits of the rounded latents under the model, and the mean squared error on the scale 0 .. 255; (B,) each."""
        bits, found = self._walked(x, rate, None)
        return bits, self._error(x, found)

    # Trainable ---------------------------------------------------------------------------------------------------

    def loss(
        self,
        x: Tensor,
        y: Tensor | None = None,
        *,
        player: str = "model",
        noise: Noise,
        teacher: Hyperprior | None = None,
    ) -> Tensor:
        """Mean over rows of (1); `teacher` gives the rounding errors, by default the model itself."""
        index = noise.integers(len(self.lams))
        lams = torch.tensor(self.lams, device=x.device, dtype=self.log_gain.dtype)[index]
        held = None if teacher is None else teacher.rounding_errors(x, index + 1)
        bits, found = self._walked(x, index + 1, noise, held)
        return (bits / math.prod(x.shape[2:]) + lams * self._error(x, found)).mean()

    @torch.no_grad()
    def rounding_errors(self, x: Tensor, rate: Tensor) -> list[Tensor]:
        """What rounding adds to each group of latents."""
        errors: list[Tensor] = []
        self._walked(x, rate, None, errors)
        return errors

    @torch.no_grad()
    def prepare(self, x: Tensor, y: Tensor | None = None, *, noise: Noise) -> None:
        """Scale every coefficient to variance 1 on the data."""
        found = self.enter(PACE * self._filled(self.space.centred(x, self.log_gain.dtype)))
        deviation = found.transpose(0, 1).flatten(1).std(1, correction=0).clamp(min=1e-3)
        self.enter.weight.div_(deviation[:, None, None, None])
        self.leave.weight.mul_(deviation[:, None, None, None])
        self.log_gain.add_(deviation.log())
        self.log_inverse.sub_(deviation.log())

    # Parts of it -------------------------------------------------------------------------------------------------

    def _walked(
        self, x: Tensor, rate: Tensor, noise: Noise | None, errors: list[Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Bits (B,) and the reconstruction. With noise, bits are those of latents moved by it.

        `errors`, where it is not empty, has the rounding errors to use; where it is empty, it is filled with them.
        """
        size, bits, held = x.shape[2:], torch.zeros((), dtype=self.log_gain.dtype, device=x.device), list(errors or ())
        program = self.groups(*size, rate)
        given = next(program)
        for value in self.latents(x, rate):
            error = held.pop(0) if held else (given.rounded(value) - value).detach()
            if errors is not None and noise is None:
                errors.append(error)
            if noise is None:
                each = given.bits(value + error)
            elif self.config.relax == "round":
                each = -given.log_mass(value + error) / math.log(2)
            else:
                moved = value + noise.uniform(value.shape[1:], dtype=value.dtype) - 0.5
                each = -given.log_mass(moved) / math.log(2)
            bits = bits + each.sum((1, 2))
            try:
                given = program.send(value + error)
            except StopIteration as end:
                return bits, self.reconstruct(end.value, *size, rate)
        raise RuntimeError("the program did not end")

    def _given(self, side: Tensor, around: Tensor, rate: Tensor) -> Rounded:
        """The latents of some blocks (B, M, S), on the scale on which they are rounded."""
        mean, log_scale = self.predict(torch.cat([side, around], 1)).chunk(2, 1)
        log_gain = self._at(self.log_gain, rate)[:, :, None]
        finest = FINEST[self.config.latents]
        log_scale = finest + F.softplus(log_scale + log_gain - finest)
        zero = torch.zeros_like(mean)[..., None]
        return Rounded(self.config.latents, mean * log_gain.exp(), zero, zero, log_scale[..., None], self.config.thrift)

    def _at(self, rows: Tensor, rate: Tensor) -> Tensor:
        """A row for each picture: those of the two rates beside `rate` (1, 2, ...), mixed."""
        last = len(rows) - 1
        low = (rate.long() - 1).clamp(0, last)
        share = (rate - 1 - low).to(rows.dtype).reshape(-1, *[1] * (rows.ndim - 1))
        return torch.lerp(rows[low], rows[(low + 1).clamp(max=last)], share)

    def _filled(self, x: Tensor) -> Tensor:
        """x with its last row and column repeated up to multiples of four blocks."""
        height, width = x.shape[2:]
        return F.pad(x, (0, -width % self.multiple, 0, -height % self.multiple), mode="replicate")

    def _error(self, x: Tensor, found: Tensor) -> Tensor:
        wanted = x.to(found.dtype) * (255 / (self.space.levels - 1))
        return (found - wanted).square().flatten(1).mean(1)


def checkerboard(height: int, width: int, device: torch.device | None = None) -> Tensor:
    """Where the anchors are, (H, W): no two of them are neighbours."""
    rows, columns = torch.arange(height, device=device)[:, None], torch.arange(width, device=device)
    return (rows + columns) % 2 == 0


def cosines(channels: int, side: int, count: int) -> tuple[Tensor, Tensor]:
    """The orthonormal cosine transform of (C, P, P): (count, C, P, P), and the deviation of each coefficient.

    Those that vary most where the correlation of neighbours is 0.95 along each axis, and numbers have variance 1/4.
    """

    def along(n: int) -> tuple[Tensor, Tensor]:
        k, i = torch.arange(n, dtype=torch.float64)[:, None], torch.arange(n, dtype=torch.float64)
        rows = (math.pi * (i + 0.5) * k / n).cos() * (2 / n) ** 0.5
        rows[0] /= 2**0.5
        return rows, ((rows @ 0.95 ** (i[:, None] - i).abs()) * rows).sum(1)

    (of_c, vary_c), (of_p, vary_p) = along(channels), along(side)
    basis = torch.einsum("ac,ui,vj->auvcij", of_c, of_p, of_p).reshape(-1, channels, side, side)
    variance = torch.einsum("a,u,v->auv", vary_c, vary_p, vary_p).flatten() / 4
    kept = variance.argsort(descending=True, stable=True)[:count]
    return basis[kept].float(), variance[kept].sqrt().float()


def model(config: Config, space: Space, condition: Space | None, build: Callable[..., nn.Module]) -> Hyperprior:
    """A codec of pictures. Raises `ValueError` or `TypeError` for what does not fit."""
    if not isinstance(space, Integers) or len(space.shape) != 3:
        raise TypeError(f"space is {space}; a hyperprior accepts pictures, Integers of (C, H, W)")
    if condition is not None:
        raise ValueError(f"condition is {condition}; a hyperprior accepts None")
    # a block of grey pixels has fewer numbers than one in colour
    config = config.model_copy(update={"latent": min(config.latent, space.shape[0] * config.patch**2)})
    return Hyperprior(config, space)


def _tiny(shape: tuple[int, int, int], levels: int, **fields: Any) -> Tiny:
    small = {"patch": 2, "latent": 4, "width": 4, "blocks": 1, "hyper": 3, "smooth": 3, "components": 2}
    return Tiny(Config.model_validate(small | {"lams": (0.01, 0.1)} | fields), Integers(shape, levels))


TINY: dict[str, Tiny] = {
    "grey": _tiny((1, 8, 8), 17, thrift=0.0),
    "rgb": _tiny((3, 5, 9), 256, latent=6, relax="round"),
    "logistic": _tiny((1, 8, 8), 2, latents="logistic", lams=(0.02,)),
}

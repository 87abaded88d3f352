"""Autoregressive models: p(x) = prod_i p(x_i given x_1 .. x_(i-1)), exactly and site after site.

One masked network gives the parameters of all conditionals in one pass over x, so that log p(x) costs one pass.
Drawing x needs one site after the other; the networks keep what they have already worked out, so that a new site
costs its own column of work and not another pass.

    sites   made, causal: every number of x is a site; images (C, H, W) are read pixel by pixel, a pixel's channels
            one after the other. pixelcnn: every pixel is a site, its channels together.
    order   raster order, the same in scoring, sampling and `step`.

Networks: "MADE: Masked Autoencoder for Distribution Estimation" (Germain, Gregor, Murray, Larochelle, 2015); causal
convolutions as in "Deep Generative Modeling" (Tomczak, 2022), chapter 2; "Conditional Image Generation with PixelCNN
Decoders" (van den Oord, Kalchbrenner, Vinyals, Espeholt, Graves, Kavukcuoglu, 2016). The logistic mixture is that of
"PixelCNN++" (Salimans, Karpathy, Chen, Kingma, 2017).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from likely.config.autoregressive import Autoregressive
from likely.families import Tiny
from likely.nets.causal import CausalConv
from likely.nets.masked import MaskedMLP
from likely.nets.pixelcnn import PixelCNN
from likely.noise import Noise
from likely.observation import Conditional, DiscretisedLogisticMixture, Observation, observation
from likely.space import Integers, Space


class AutoregressiveModel(nn.Module):
    """p(x), or p(x given y) with a label y, over `Integers` of any shape. Made by `model`."""

    players = ("model",)

    def __init__(
        self, config: Autoregressive, space: Integers, condition: Integers | None, network: nn.Module, each: Observation
    ) -> None:
        super().__init__()
        self.config, self.space, self.condition = config, space, condition
        self.network = network
        self.observation = each
        """p(site given the sites before it)."""
        self.sites = math.prod(each.sites)

    def loss(self, x: Tensor, y: Tensor | None = None, *, player: str = "model", noise: Noise) -> Tensor:
        """Mean negative log-likelihood of the rows, in nats; drops features as configured while training."""
        dropout = self.config.dropout if self.training else 0.0
        devices = [x.device] if x.device.type == "cuda" else []
        with torch.random.fork_rng(devices) if dropout else nullcontext():
            if dropout:
                torch.manual_seed(noise.torch_seed())
            return -self._log_prob(x, y, dropout).sum(1).mean()

    def log_prob(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """log p(x), (B,) in nats."""
        return self._log_prob(x, y).sum(1)

    def log_prob_sites(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """log p(x_i given x_1 .. x_(i-1)) of every site, (B, sites) in nats."""
        return self._log_prob(x, y)

    def to_sites(self, x: Tensor) -> Tensor:
        """(B, *shape) to (B, C, sites), the order in which `step` takes them."""
        if len(self.observation.sites) == 1 and len(self.space.shape) == 3:
            x = x.movedim(1, 3)  # the channels of a pixel one after the other
        return x.reshape(x.shape[0], self.observation.channels, self.sites)

    def from_sites(self, x: Tensor) -> Tensor:
        """(B, C, sites) to (B, *shape)."""
        shape = self.space.shape
        if len(self.observation.sites) == 1 and len(shape) == 3:
            return x.reshape(x.shape[0], *shape[1:], shape[0]).movedim(3, 1)
        return x.reshape(x.shape[0], *shape)

    @torch.no_grad()
    def start(self, n: int, y: Tensor | None = None) -> tuple[Any, Conditional]:
        """The state before the first site, and the first site's distribution, for n rows."""
        state, parameters = self.network.start(n, y)
        return state, Conditional(self.observation, parameters)

    @torch.no_grad()
    def step(self, state: Any, x_i: Tensor) -> tuple[Any, Conditional | None]:
        """Put in a site's values (B, C); the next site's distribution, None after the last.

        The state is changed in place: the one that went in is used up.
        """
        parameters = self.network.step(state, self.features(x_i))
        return state, None if parameters is None else Conditional(self.observation, parameters)

    def sample(self, n: int, y: Tensor | None = None, *, noise: Noise) -> Tensor:
        """n draws, (n, *shape) int64, one site after the other."""
        uniforms = noise.uniform((self.sites, self.observation.uniforms), dtype=self.dtype)
        state, each = self.start(n, y)
        values = []
        for u in uniforms.unbind(1):
            values.append(each.sample(u))
            state, each = self.step(state, values[-1])
        return self.from_sites(torch.stack(values, 2))

    def features(self, x: Tensor) -> Tensor:
        """What the network sees of values (B, C, *sites): (B, C, *sites) scaled, or (B, C * levels, *sites)."""
        if self.config.inputs == "real":
            return self.space.centred(x, self.dtype)
        levels = torch.arange(self.space.levels, device=x.device)
        return (x[..., None] == levels).movedim(-1, 2).flatten(1, 2).to(self.dtype)

    @property
    def dtype(self) -> torch.dtype:
        """That of the parameters."""
        return next(self.network.parameters()).dtype

    def _log_prob(self, x: Tensor, y: Tensor | None, dropout: float = 0.0) -> Tensor:
        x = self.to_sites(x).unflatten(2, self.observation.sites)
        # the network may run in half precision (autocast); the log-likelihood never does
        parameters = self.network(self.features(x), y, dropout).to(self.dtype)
        return self.observation.log_prob(parameters, x).flatten(1)


def model(config: Autoregressive, space: Space, condition: Space | None, build: Callable[..., nn.Module]) -> nn.Module:
    """The model of a config; raises `ValueError` naming what does not fit."""
    if not isinstance(space, Integers):
        raise ValueError(f"space is {space}; autoregressive accepts Integers")
    if condition is not None and not (isinstance(condition, Integers) and condition.shape == ()):
        raise ValueError(f"condition is {condition}; autoregressive accepts labels, Integers((), K)")
    image = len(space.shape) == 3
    if config.network == "pixelcnn":
        if len(space.shape) not in (2, 3):
            raise ValueError(f"network is 'pixelcnn' over {space}; it accepts images (C, H, W) and grids (H, W)")
        for name in ("kernel", "inner_kernel"):
            if getattr(config, name) % 2 == 0:
                raise ValueError(f"{name} is {getattr(config, name)}; network 'pixelcnn' accepts odd sizes")
        each = observation(config.observation, space, config.components)
    else:
        flat = Integers((space.dims,), space.levels)
        each = observation(config.observation, flat, config.components)
    channels = space.shape[0] if image and config.network == "pixelcnn" else 1
    common = {
        "features": channels * (1 if config.inputs == "real" else space.levels),
        "outputs": each.parameters,
        "width": config.width,
        "layers": config.layers,
        "classes": 0 if condition is None else condition.levels,
        "residual": config.residual,
    }
    kernels = {"kernel": config.kernel, "inner_kernel": config.inner_kernel, "dilations": config.dilations}
    if config.network == "made":
        network: nn.Module = MaskedMLP(space.dims, **common)
    elif config.network == "causal":
        network = CausalConv(space.dims, **common, **kernels)
    else:
        network = PixelCNN(space.shape[-2:], **common, **kernels)
    if isinstance(each, DiscretisedLogisticMixture):
        _spread(network.head.bias, each)
    return AutoregressiveModel(config, space, condition, network, each)


def _spread(bias: Tensor, each: DiscretisedLogisticMixture) -> None:
    """Start the mixture with its means spread over [-1, 1] and scales that cover the gaps between them.

    The biases of one site are (components, 1 + 2 C + chained): weight, means, log-scales, chain.
    """
    sites = bias.numel() // each.parameters
    with torch.no_grad():
        table = bias.reshape(sites, each.components, -1)
        centre = (torch.arange(each.components) * 2 + 1) / each.components - 1
        table.zero_()
        table[:, :, 1 : 1 + each.channels] = centre[:, None]
        table[:, :, 1 + each.channels : 1 + 2 * each.channels] = -math.log(each.components)


def _tiny() -> dict[str, Tiny]:
    vector, grey, colour = Integers((3,), 5), Integers((1, 2, 3), 2), Integers((3, 2, 2), 2)
    labels = Integers((), 2)
    small = {"width": 8, "layers": 2, "kernel": 3, "inner_kernel": 3, "components": 2}

    def of(space: Integers, condition: Integers | None = None, **fields: Any) -> Tiny:
        return Tiny(Autoregressive(**{**small, **fields}), space, condition)

    return {
        "made": of(vector, network="made"),
        "made, one-hot inputs, labels": of(Integers((3, 1, 2), 3), labels, network="made", inputs="one-hot"),
        "made, logistic, labels": of(vector, labels, network="made", observation="logistic"),
        "made, bernoulli, not residual": of(grey, network="made", observation="bernoulli", residual=False),
        "causal": of(Integers((2, 3), 3), network="causal", dilations=(1, 2)),
        "causal, colour, one-hot inputs, labels": of(
            Integers((3, 1, 2), 3), labels, network="causal", inputs="one-hot", residual=False
        ),
        "causal, logistic": of(vector, network="causal", observation="logistic"),
        "causal, bernoulli, labels": of(grey, labels, network="causal", observation="bernoulli"),
        "pixelcnn, grid": of(Integers((2, 3), 3), network="pixelcnn", kernel=5),
        "pixelcnn, colour, one-hot inputs": of(colour, network="pixelcnn", inputs="one-hot", residual=False),
        "pixelcnn, bernoulli, labels": of(grey, labels, network="pixelcnn", observation="bernoulli", dilations=(1, 2)),
        "pixelcnn, logistic, labels": of(Integers((1, 2, 2), 5), labels, network="pixelcnn", observation="logistic"),
        "pixelcnn, colour, logistic": of(colour, network="pixelcnn", observation="logistic"),
        "pixelcnn, colour, logistic, labels": of(colour, labels, network="pixelcnn", observation="logistic"),
    }


TINY = _tiny()

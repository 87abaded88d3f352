"""What can be chosen of a variational autoencoder. No torch here."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from likely.config.base import FamilyConfig
from likely.config.flow import Flow

Count = Annotated[int, Field(ge=1)]


class VAE(FamilyConfig):
    """A variational autoencoder: p(x) = E over z ~ p(z) of p(x | z), with an amortised posterior q(z | x)."""

    family: Literal["vae"] = "vae"

    latent: Count = 16
    """Dimensions of z."""

    network: Literal["mlp", "conv"] = "mlp"
    """Encoder and decoder: fully connected (every space) or convolutional (images (C, H, W) of any size)."""

    hidden: tuple[Count, ...] = (256, 256)
    """Units of the hidden layers of an mlp encoder; the decoder has the same in reverse. Empty: linear networks."""

    channels: tuple[Count, ...] = (32, 64)
    """Channels of a conv encoder after each halving of the image; the decoder has the same in reverse."""

    blocks: Annotated[int, Field(ge=0)] = 1
    """Residual blocks of a conv network at each of these resolutions."""

    observation: Literal["auto", "bernoulli", "categorical", "logistic", "normal"] = "auto"
    """p(x | z), at each site: bernoulli (2 levels), categorical, logistic (a mixture of discretised logistics), normal
    (reals only). auto: normal on reals; on integers bernoulli for 2 levels, categorical up to 32, logistic above."""

    logistics: Count = 5
    """Logistics in the mixture at each site, for the logistic observation."""

    prior: Literal["normal", "mixture", "vamp", "flow"] = "normal"
    """p(z): N(0, I); a mixture of Gaussians learnt by gradient; a VampPrior (the average posterior of learnt
    pseudo-inputs, which start as training rows); or a coupling flow."""

    components: Count = 16
    """Components of the mixture prior, or pseudo-inputs of the VampPrior."""

    flow: Flow = Flow()
    """The flow of prior "flow"."""

    beta: Annotated[float, Field(gt=0)] = 1.0
    """Weight of KL(q || p) in the training loss; answers always have weight 1."""

    warmup: Annotated[int, Field(ge=0)] = 0
    """Training steps over which that weight rises linearly from near 0 to beta."""

    free_bits: Annotated[float, Field(ge=0)] = 0.0
    """Nats of KL a row that training does not push below; answers count every one."""


PRESETS: dict[str, Any] = {
    "default": VAE(),
    "mlp": VAE(hidden=(512, 512), latent=32),
    "conv": VAE(network="conv", channels=(32, 64, 128), latent=64),
    "small": VAE(network="conv", channels=(32, 64), blocks=0, latent=32, logistics=3, warmup=200),
    "digits": VAE(hidden=(256, 256), latent=16, observation="logistic", logistics=3),
    "bernoulli": VAE(hidden=(512,), latent=16, observation="bernoulli"),
}

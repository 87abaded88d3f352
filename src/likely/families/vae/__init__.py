"""Variational autoencoders: amortised and reparameterised.

    p(x) = integral of p(z) p(x | z) dz,   z in R^L

with p(x | z) an observation whose parameters a network computes from z, and q(z | x) = N(mu(x), diag sigma(x)^2) from
another network. For z ~ q(z | x),

    elbo       = log p(x | z) - KL(q(z | x) || p(z))                   E[elbo] <= log p(x)                      (1)
    log_weight = log p(x | z) + log p(z) - log q(z | x)                E[exp log_weight] = p(x)                 (2)

so that the log-mean-exp of k weights is a bound again, and a tighter one. The KL in (1) is in closed form under a
normal prior and otherwise log q(z | x) - log p(z) at the same z: then (1) is (2). Training maximises (1) with beta
before the KL; the answers never have a beta.

Priors: N(0, I); a mixture of Gaussians; the VampPrior, p(z) = mean over pseudo-inputs u of q(z | u); a coupling flow.
Given y, y enters both networks as a one-hot vector; p(z) does not depend on it.

References: "Auto-encoding variational Bayes" (Kingma, Welling, 2014); "Stochastic backpropagation and approximate
inference in deep generative models" (Rezende, Mohamed, Wierstra, 2014); "Importance weighted autoencoders" (Burda,
Grosse, Salakhutdinov, 2016); "beta-VAE" (Higgins et al., 2017); "VAE with a VampPrior" (Tomczak, Welling, 2018).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from likely.config.flow import Flow
from likely.config.vae import VAE as Config
from likely.families import Tiny
from likely.families.vae.amortised import VAE
from likely.families.vae.latent import Gaussian, GaussianMixture, Likelihood, StandardNormal
from likely.observation import observation
from likely.space import Integers, Reals, Space
from likely.verbs import Exact, Samples, require

__all__ = ["TINY", "VAE", "Gaussian", "GaussianMixture", "Likelihood", "StandardNormal", "model"]


def model(config: Config, space: Space, condition: Space | None, build: Callable[..., nn.Module]) -> VAE:
    """A VAE over integers or reals, given a label or not. Raises `ValueError` or `TypeError` for what does not fit."""
    if not isinstance(space, Integers | Reals):
        raise TypeError(f"space is {space}; a vae accepts Integers or Reals")
    if condition is not None and not (isinstance(condition, Integers) and condition.shape == ()):
        raise ValueError(f"condition is {condition}; a vae accepts labels, Integers((), K), or None")
    if config.network == "conv" and len(space.shape) != 3:
        raise ValueError(f"network is 'conv' over {space}; it accepts images (C, H, W), 'mlp' accepts every shape")
    kind = config.observation
    if kind == "auto":
        levels = space.levels if isinstance(space, Integers) else 0
        kind = "normal" if not levels else "bernoulli" if levels == 2 else "categorical" if levels <= 32 else "logistic"
    flow = None
    if config.prior == "flow":
        flow = build(config.flow, Reals((config.latent,)), None)
        require(flow, Exact, "a vae's prior")
        require(flow, Samples, "a vae's prior")
    return VAE(config, space, condition, observation(kind, space, config.logistics), flow)


def _tiny(shape: tuple[int, ...], levels: int = 0, classes: int = 0, **fields: Any) -> Tiny:
    """A tiny instance over integers, or over reals where there are no levels."""
    config = Config.model_validate({"latent": 2, "hidden": (6,), "components": 3, "logistics": 2} | fields)
    return Tiny(config, Integers(shape, levels) if levels else Reals(shape), Integers((), classes) if classes else None)


_FLOW = Flow(depth=2, width=4, hidden=1)

TINY: dict[str, Tiny] = {
    "bernoulli": _tiny((1, 2, 3), 2),
    "categorical": _tiny((1, 2, 2), 5),
    "logistic": _tiny((1, 2, 2), 6, observation="logistic"),
    "logistic-rgb-conv": _tiny((3, 1, 2), 3, observation="logistic", network="conv", channels=(3,)),
    "normal": _tiny((2,), latent=1),
    "linear": _tiny((3,), hidden=()),
    "mixture": _tiny((6,), 2, prior="mixture"),
    "vamp": _tiny((6,), 2, prior="vamp"),
    "flow": _tiny((6,), 2, prior="flow", flow=_FLOW),
    "given-y": _tiny((1, 2, 2), 3, classes=3),
    "conv-given-y": _tiny((1, 3, 2), 2, classes=2, network="conv", channels=(3, 4)),
    "mixture-given-y": _tiny((4,), 3, classes=2, prior="mixture"),
    "vamp-given-y": _tiny((4,), 3, classes=2, prior="vamp"),
    "vamp-conv-given-y": _tiny((1, 2, 2), 2, classes=2, prior="vamp", network="conv", channels=(3,)),
    "flow-given-y": _tiny((4,), 3, classes=2, prior="flow", flow=_FLOW),
    "normal-vamp": _tiny((2,), prior="vamp", latent=1),
}

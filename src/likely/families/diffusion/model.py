"""The model of `likely.families.diffusion`, and its bound on log p.

In nats, for data x with z_0 the least noisy and z_1 the noisiest variable of the process,

    -log p(x) <= KL(q(z_1 | x) || N(0, I))  +  1/2 int E |eps - eps_hat|^2 dlambda  +  E[-log p(x | z_0)],

"Variational Diffusion Models" (Kingma, Salimans, Poole, Ho, 2021), eq. 11 and 15; with T discrete steps the integral is
the sum over i of E expm1(lambda_{i-1} - lambda_i) |eps - eps_hat|^2 / 2. One time is drawn for each draw.
"""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from likely.config.diffusion import Diffusion as Config
from likely.config.diffusion import Drawing, Sampler
from likely.families.diffusion import guidance
from likely.families.diffusion.conditioning import hidden_rows
from likely.families.diffusion.core import Core, along
from likely.families.diffusion.decoder import Cells, Decoder, Discretised, Gaussian, Softmax, Standardised
from likely.families.diffusion.inside import Inside
from likely.families.diffusion.samplers import SAMPLERS, grid
from likely.families.diffusion.schedule import SCHEDULES, checked_times, signal_noise
from likely.families.diffusion.trajectory import Trajectory
from likely.families.diffusion.views import ProbabilityFlow, Truncated
from likely.nets.embedding import Condition
from likely.noise import Noise
from likely.space import Integers, Reals, Space

Denoise = Callable[[Tensor, Tensor, Condition | None], Tensor]
"""z (B, *shape), log-SNR (B,) and condition to x_hat."""

WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    # "Efficient Diffusion Training via Min-SNR Weighting Strategy" (Hang et al., 2023): min(SNR, 5) on x_hat at times
    # even on a cosine schedule, whose log-SNRs have the density sech(lambda / 2) / 2 pi
    "min-snr": lambda log_snr: (5 * (-log_snr).exp()).clamp(max=1.0) / (log_snr / 2).cosh(),
    # "Understanding Diffusion Objectives as the ELBO with Simple Data Augmentation" (Kingma and Gao, 2023)
    "sigmoid": lambda log_snr: (2 - log_snr).sigmoid(),
}
"""Weights of the bound's terms, |eps - eps_hat|^2 at a log-SNR."""


class Terms(NamedTuple):
    """The three parts of minus the bound, each (B * k,) in nats."""

    prior: Tensor
    """KL(q(z_1 | x) || N(0, I)): what the noise has not covered. Exact."""
    diffusion: Tensor
    """The cost of all steps of the reverse process; unbiased, from one time a draw."""
    reconstruction: Tensor
    """-log p(x | z_0)."""

    @property
    def total(self) -> Tensor:
        """Minus the bound."""
        return self.prior + self.diffusion + self.reconstruction


class Process(Inside, ABC):
    """The network, the schedule and the decoder of a diffusion model, without a likelihood. Abstract.

    Verbs here: Trainable, Samples, Denoiser.
    """

    players = ("model",)
    config: Config

    def __init__(
        self,
        config: Config,
        space: Integers | Reals,
        condition: Space | None,
        net: nn.Module,
        reader: nn.Module | None = None,
    ) -> None:
        super().__init__(config, space, condition)
        self.core = Core(net, config.prediction, config.sigma_data)
        self.own_reader = None if reader is None else Core(reader, config.prediction, config.sigma_data)
        self.schedule = SCHEDULES[config.schedule](first_log_snr(config, space), config.low, config.shift)
        self.surrogate = config.weighting != "bound"
        if config.decoder != "direct":  # at first as wide as the noise of z_0
            self.log_width = nn.Parameter(-0.5 * self.schedule.high.detach().float())
        self.decoder: Decoder = _decoder(config, self.scaling)
        SAMPLERS[config.sampler.name].steps(config.sampler.evaluations)  # too few are an error now

    @property
    def reader(self) -> Core:
        """The denoiser whose x_hat(z_0) the decoder stands around."""
        return self.core if self.own_reader is None else self.own_reader

    # Denoiser ------------------------------------------------------------------------------------------------------

    @property
    def log_snr_range(self) -> tuple[float, float]:
        """The log-SNRs that the network learned, from the noisiest to the least noisy."""
        return float(self.schedule.low), float(self.schedule.high)

    def denoise(self, x_t: Tensor, log_snr: Tensor, y: Tensor | None = None) -> Tensor:
        """E[x given x_t], scaled, for x_t = alpha x + sigma eps (B, *shape) and log-SNRs (B,).

        Without y the condition counts as unknown.
        """
        return self._denoise(x_t, log_snr, self._condition(y, x_t.shape[0]))

    # Trainable -----------------------------------------------------------------------------------------------------

    def loss(self, x: Tensor, y: Tensor | None = None, *, player: str = "model", noise: Noise) -> Tensor:
        """The mean over rows of the weighted squared error; minus the bound in nats where the weighting is "bound"."""
        hide = None if self.embedding is None else hidden_rows(self.config.drop, noise)
        condition = self._condition(None if y is None else noise.expand(y), noise.count, hide)
        x0 = noise.expand(self.scaled(x))
        if self.config.weighting == "bound":
            prior, reconstruction = self._ends(noise.expand(x), x0, condition, noise, self.reader.denoise)
            return (prior + reconstruction + self._steps(x0, condition, noise, self.core.denoise)).mean()
        if self.config.times == "lognormal":
            s = self.config.log_sigma_mean + self.config.log_sigma_std * noise.normal(dtype=torch.float64)
            log_snr, slope = -2 * s, None
        else:
            log_snr, slope = self.schedule.unchecked(noise.stratified())
        eps = noise.normal(self.space.shape, dtype=self._dtype)
        alpha, sigma = signal_noise(log_snr)
        z = along(alpha, x0) * x0 + along(sigma, x0) * eps
        F = self.core.predict(z, log_snr, condition)
        if slope is None or self.config.weighting == "mse":
            loss = (F - self.core.target(x0, eps, log_snr)).square().mean()
            if self.config.decoder != "direct":
                ends = self._ends(noise.expand(x), x0, condition, noise, self.reader.denoise)
                loss = loss + ends[1].mean() / self.space.dims
            return loss
        error = (self.core.read(F, z, log_snr) - x0).square().flatten(1).sum(1)
        weight = WEIGHTS[self.config.weighting](log_snr)
        return (-0.5 * weight * slope * log_snr.exp() * error).mean().to(self._dtype)

    # The bound's terms ---------------------------------------------------------------------------------------------

    def elbo_terms(self, x: Tensor, y: Tensor | None = None, *, noise: Noise) -> Terms:
        """Minus the bound on log p(x), or log p(x given y), in its three parts, each (B * k,) in nats."""
        condition = self._condition(None if y is None else noise.expand(y), noise.count)
        raw, x0 = noise.expand(x), noise.expand(self.scaled(x))
        prior, reconstruction = self._ends(raw, x0, condition, noise, self._reads)
        return Terms(prior, self._steps(x0, condition, noise, self._denoise), reconstruction)

    def cost_at(self, x: Tensor, t: Tensor, y: Tensor | None = None, *, noise: Noise) -> Tensor:
        """The diffusion term's density over time at times t (B * k,) in [0, 1], (B * k,) in nats: its mean over t is
        the term. With T discrete steps t is one of 1/T, 2/T .. 1, and the value T times what that step costs."""
        condition = self._condition(None if y is None else noise.expand(y), noise.count)
        return self._cost(noise.expand(self.scaled(x)), checked_times(t), condition, noise, self._denoise)

    def _ends(
        self, x: Tensor, x0: Tensor, condition: Condition | None, noise: Noise, denoise: Denoise
    ) -> tuple[Tensor, Tensor]:
        """The prior's and the decoder's part, (n,) each."""
        alpha, sigma = signal_noise(self.schedule.low)
        square = sigma.square().to(x0.dtype)
        kl = 0.5 * (square - 1 - square.log() + (alpha.to(x0.dtype) * x0).square())
        z0 = self._noised(x0, self.schedule.high, noise)
        return kl.flatten(1).sum(1), -self.decoder.log_prob(x, *self._read(z0, condition, denoise))

    def _steps(self, x0: Tensor, condition: Condition | None, noise: Noise, denoise: Denoise) -> Tensor:
        """The integral or sum over the process at one time a draw, (n,)."""
        u, T = noise.stratified(), self.config.steps
        # times are drawn evenly in log-SNR: the integral is the same, and varies far less than over even times
        low, high = self.schedule.low, self.schedule.high
        t = self.schedule.time(high + u * (low - high)).clamp(0, 1)
        if T is None:
            density = -self.schedule.unchecked(t)[1] / (high - low)
        else:  # the step in which that log-SNR lies
            t = (t * T).ceil().clamp(1, T) / T
            before, after = (self.schedule.unchecked(at)[0] for at in ((t - 1 / T).clamp(min=0), t))
            density = T * (before - after) / (high - low)
        return (self._cost(x0, t, condition, noise, denoise) / density).to(x0.dtype)

    def _cost(self, x0: Tensor, t: Tensor, condition: Condition | None, noise: Noise, denoise: Denoise) -> Tensor:
        """What times t (n,) add to minus the bound, per unit of time, (n,); with T steps T times what step t T adds."""
        T = self.config.steps
        if T is None:
            log_snr, slope = self.schedule.unchecked(t)
            weight = -slope * log_snr.exp()
        else:
            i = (t * T).round()
            log_snr, before = (self.schedule.unchecked(at)[0] for at in (i / T, (i - 1) / T))
            weight = T * (before.exp() - log_snr.exp())  # = T expm1(lambda_{i-1} - lambda_i) exp(lambda_i)
        z = self._noised(x0, log_snr, noise)
        error = (denoise(z, log_snr, condition) - x0).square().flatten(1).sum(1)
        return 0.5 * weight * error

    def _noised(self, x0: Tensor, log_snr: Tensor, noise: Noise) -> Tensor:
        """z = alpha x + sigma eps."""
        alpha, sigma = signal_noise(log_snr)
        return along(alpha, x0) * x0 + along(sigma, x0) * noise.normal(self.space.shape, dtype=x0.dtype)

    def _read(
        self, z: Tensor, condition: Condition | None, denoise: Denoise, at: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mean and width of p(x | z) for z = z_0, or z at another log-SNR: a learned width grows with the noise."""
        high = self.schedule.high
        log_snr = high if at is None else at
        if self.config.decoder == "direct":
            alpha, sigma = signal_noise(log_snr)
            return z / alpha.to(z.dtype), (sigma / alpha).to(z.dtype)
        width = self.log_width if at is None else self.log_width + (0.5 * (high - at)).to(z.dtype)
        everywhere = torch.zeros(z.shape[0], dtype=torch.float64, device=z.device) + log_snr
        return denoise(z, everywhere, condition), width.exp()

    # Samples -------------------------------------------------------------------------------------------------------

    def sample(self, n: int, y: Tensor | None = None, *, noise: Noise) -> Tensor:
        """n values of the space by the config's sampler, then by p(x | z_0)."""
        *_, z0 = self.path(noise.normal(self.space.shape, dtype=self._dtype), y, noise=noise)
        return self.decode(z0, y, noise=noise)

    def decode(self, z0: Tensor, y: Tensor | None = None, *, noise: Noise) -> Tensor:
        """Raw rows x from p(x | z_0)."""
        return self.decoder.sample(*self._read(z0, self._condition(y, z0.shape[0]), self._reads), noise)

    def path(self, z: Tensor, y: Tensor | None = None, *, noise: Noise) -> Iterator[Tensor]:
        """The states of the sampler on its way from z (B, *shape) at the last log-SNR to the first one."""
        condition = self._condition(y, z.shape[0])
        yield from follow(lambda z, log_snr: self._denoise(z, log_snr, condition), z, self, self.config.sampler, noise)

    # Parts ---------------------------------------------------------------------------------------------------------

    @property
    def views(self) -> dict[str, Callable[[], nn.Module]]:
        """Other likelihoods of this model: see `likely.families.diffusion.views` and `trajectory`."""
        found: dict[str, Callable[[], nn.Module]] = {
            "flow": lambda: ProbabilityFlow(self),
            "truncated": lambda: Truncated(self),
        }
        return found | ({"paths": lambda: Trajectory(self)} if self.config.steps else {})

    def _denoise(self, z: Tensor, log_snr: Tensor, condition: Condition | None) -> Tensor:
        return self.within(self.core.denoise(z, log_snr, condition))

    def _reads(self, z: Tensor, log_snr: Tensor, condition: Condition | None) -> Tensor:
        """The same of the decoder's network."""
        return self.within(self.reader.denoise(z, log_snr, condition))

    def drawn(self, guide: Process | None = None, **settings: Any) -> Drawn:
        """This model with other settings for drawing: fields of `likely.config.diffusion.Drawing`.

        Raises `ValueError` for fields or values that it does not take.
        """
        for name in settings:
            if name not in Drawing.model_fields:
                raise ValueError(f"{name} is no setting for drawing; accepts {', '.join(Drawing.model_fields)}")
        return Drawn(self, Drawing.model_validate(self.config.sampler.model_dump() | settings), guide)


class Diffusion(Process):
    """A density over `Integers` or `Reals`. Verbs: Trainable, Samples, Bounded, Denoiser."""

    def elbo(self, x: Tensor, y: Tensor | None = None, *, noise: Noise) -> Tensor:
        """A bound on log p(x), or log p(x given y), (B * k,) in nats; its mean over draws is a bound again."""
        return -self.elbo_terms(x, y, noise=noise).total


class Drawn(nn.Module):
    """Draws from a diffusion model by another sampler, guided or not. Verb: Samples.

    What comes of it follows a law of its own, whose density nobody knows: ask the model itself about likelihoods.
    `guide` is a weaker model of the same space, for autoguidance.
    """

    def __init__(self, model: Process, settings: Drawing, guide: Process | None = None) -> None:
        super().__init__()
        guided = settings.guidance != 1
        if guided and guide is None and (model.embedding is None or not model.config.drop):
            why = "has no condition" if model.embedding is None else "was trained with drop=0"
            raise ValueError(
                f"guidance is {settings.guidance:g}, but this model {why}; accepts 1, or a model trained with a "
                "condition and drop above 0, or a weaker model as guide"
            )
        if guide is not None and guide.space != model.space:
            raise ValueError(f"guide is a model of {guide.space}; accepts one of {model.space}")
        self.model, self.guide, self.settings = model, guide, settings
        self.space, self.condition = model.space, model.condition
        SAMPLERS[settings.name].steps(settings.evaluations)  # too few are an error now

    def sample(self, n: int, y: Tensor | None = None, *, noise: Noise) -> Tensor:
        """n values of the space."""
        z = noise.normal(self.space.shape, dtype=self.model._dtype)
        *_, z0 = self.path(z, y, noise=noise)
        return self.model.decode(z0, y, noise=noise)

    def path(self, z: Tensor, y: Tensor | None = None, *, noise: Noise) -> Iterator[Tensor]:
        """The states of the sampler on its way from z (B, *shape) at the last log-SNR to the first one."""
        yield from follow(self._denoiser(y, z.shape[0]), z, self.model, self.settings, noise)

    def _denoiser(self, y: Tensor | None, n: int) -> Callable[[Tensor, Tensor], Tensor]:
        model, s = self.model, self.settings
        condition = model._condition(y, n)
        plain = guidance.once(lambda z, log_snr: model._denoise(z, log_snr, condition))
        answer = plain
        if s.guidance != 1:
            if self.guide is not None:
                theirs = self.guide._condition(y, n)
                worse = self.guide._denoise
                answer = guidance.autoguidance(plain, lambda z, log_snr: worse(z, log_snr, theirs), s.guidance)
            elif s.rescale:  # which asks the conditional denoiser again: its last answer is remembered
                nothing = model._condition(None, n)
                free = lambda z, log_snr: model._denoise(z, log_snr, nothing)  # noqa: E731
                answer = guidance.classifier_free(plain, free, s.guidance)
            else:
                answer = guidance.doubled(model._denoise, condition, model._condition(None, n), s.guidance)
            if s.rescale:
                answer = guidance.rescaled(answer, plain, s.rescale)
            if s.guidance_from > -math.inf or s.guidance_to < math.inf:
                answer = guidance.interval(answer, plain, s.guidance_from, s.guidance_to)
        return answer if s.threshold is None else guidance.dynamic_threshold(answer, s.threshold)


def follow(
    denoise: Callable[[Tensor, Tensor], Tensor], z: Tensor, model: Process, sampler: Sampler, noise: Noise
) -> Iterator[Tensor]:
    """The states of a sampler from z at the model's last log-SNR to its first."""
    chosen = SAMPLERS[sampler.name]
    name = chosen.grid if sampler.grid == "auto" else sampler.grid
    low, high = float(model.schedule.low), float(model.schedule.high)
    points = grid(name, low, high, chosen.steps(sampler.evaluations), model.schedule)
    own = {"ddim": {"eta": sampler.eta}, "heun": {"churn": sampler.churn}}.get(sampler.name, {})
    yield from chosen.run(denoise, z, points, noise=noise, **own)


def first_log_snr(config: Config, space: Space) -> float:
    """Where the process begins, unless the config says: the noise's deviation is a sixth of a level's cell."""
    if config.high is not None:
        return config.high
    return 2 * math.log(3 * space.levels) if isinstance(space, Integers) else 12.0


def _decoder(config: Config, scaling: Cells | Standardised) -> Decoder:
    if isinstance(scaling, Standardised):
        return Gaussian(scaling)
    return Softmax(scaling) if config.decoder == "direct" else Discretised(scaling)

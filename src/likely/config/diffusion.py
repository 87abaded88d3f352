"""What can be chosen of a diffusion model. No torch here."""

from __future__ import annotations

from math import inf, log
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from likely.config.base import Config, FamilyConfig

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]


class Sampler(Config):
    """How draws are made. It changes no likelihood."""

    name: Literal["dpmpp_2m", "ddim", "heun", "ipndm"] = "dpmpp_2m"
    """dpmpp_2m: DPM-Solver++(2M); ddim: with eta = 1 ancestral; heun: EDM's second-order method; ipndm: multistep."""

    evaluations: Count = 20
    """How often the network is asked; heun takes two for each step, less one."""

    grid: Literal["auto", "uniform", "edm", "time"] = "auto"
    """Where the steps stand: evenly in log-SNR, as in EDM, or evenly in the schedule's time; auto: what suits the
    sampler."""

    eta: Annotated[float, Field(ge=0, le=1)] = 0.0
    """ddim only: 0 follows the probability flow, 1 draws all the noise of the reverse process."""

    churn: Annotated[float, Field(ge=0)] = 0.0
    """heun only: EDM's S_churn."""

    @model_validator(mode="after")
    def _of_this_sampler(self) -> Self:
        for field, only in (("eta", "ddim"), ("churn", "heun")):
            if getattr(self, field) and self.name != only:
                raise ValueError(
                    f"{field} is {getattr(self, field):g}, which {self.name} has no use for; accepts 0, or name={only}"
                )
        return self


class Drawing(Sampler):
    """How draws are made, where they need not be those of the model itself: guided, thresholded."""

    guidance: Annotated[float, Field(ge=0)] = 1.0
    """Weight of guidance away from the model without its condition, or away from a weaker model; 1 is none. Needs a
    model trained with `drop` above 0, or that weaker model."""

    guidance_from: float = -inf
    """Guide only at log-SNRs of at least this ..."""

    guidance_to: float = inf
    """... and at most this."""

    rescale: Annotated[float, Field(ge=0, le=1)] = 0.0
    """How far guided answers are brought back to the spread of unguided ones (Lin et al., 2024, there .7)."""

    threshold: Annotated[float, Field(gt=0, le=1)] | None = None
    """Imagen's dynamic thresholding at this quantile of each answer, there .995."""

    @model_validator(mode="after")
    def _of_guidance(self) -> Self:
        for field, none in (("guidance_from", -inf), ("guidance_to", inf), ("rescale", 0.0)):
            if self.guidance == 1 and getattr(self, field) != none:
                raise ValueError(
                    f"{field} is {getattr(self, field):g} without guidance; accepts it with a guidance other than 1"
                )
        if not self.guidance_from < self.guidance_to:
            raise ValueError(
                f"guidance_from is {self.guidance_from:g} and guidance_to {self.guidance_to:g}; accepts the lower first"
            )
        return self


class Network(FamilyConfig):
    """The network of a family that learns from noised data, and what it is shown. Abstract."""

    net: Literal["unet", "dit", "mlp"] = "unet"
    """The network: a U-Net or a transformer on patches, for pictures (C, H, W) and sequences (C, L), or an mlp."""

    width: Count = 32
    """Channels of a U-Net's finest level; features of a transformer or an mlp."""

    multipliers: tuple[Count, ...] = (1, 2, 2)
    """U-Net: channels at each level, in multiples of width; each level but the first halves the picture."""

    blocks: Annotated[tuple[Count, ...], Field(min_length=1)] = (1,)
    """Residual blocks: of a U-Net at each level (one number: as many at all levels), of a transformer or an mlp in
    all."""

    attention: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """U-Net: the levels, from 0, that have self-attention."""

    head: Count = 32
    """Channels of a head of attention."""

    order: Literal["ddpm", "efficient"] = "ddpm"
    """U-Net: DDPM's order, or Imagen's efficient one, which halves the picture before a level's blocks."""

    patch: Count = 2
    """Transformer: side of a patch."""

    dropout: Share = 0.0
    """Dropout inside the network."""

    sigma_data: Annotated[float, Field(gt=0)] = 0.5
    """Standard deviation of scaled data; scales what the network sees (and what prediction "edm" asks of it).
    Reals are brought to it."""

    drop: Share = 0.1
    """Share of training rows whose condition is hidden, for guidance."""


class Diffusion(Network):
    """A diffusion model: noise is added along a schedule, and a network learns what was there before."""

    free: ClassVar[frozenset[str]] = frozenset(
        {"dropout", "drop", "schedule", "shift", "high", "low", "steps", "whole_paths", "sampler"}
        | {"weighting", "times", "log_sigma_mean", "log_sigma_std"}
    )

    family: Literal["diffusion"] = "diffusion"

    schedule: Literal["linear", "learned", "cosine", "flow", "edm", "ddpm"] = "cosine"
    """log-SNR over time: linear (VDM), learned (VDM: linear between learned ends), cosine, flow (rectified flow), edm,
    ddpm (1,000 betas)."""

    shift: float = 0.0
    """Added to the log-SNR of a cosine, flow or ddpm schedule, before it is cut at `high` and `low`."""

    high: float | None = None
    """The first log-SNR. None: so high that the noise's deviation is a sixth of a level's cell; 12 on reals."""

    low: float = -9.0
    """The last log-SNR, where nothing of x should be left."""

    prediction: Literal["x", "noise", "v", "velocity", "edm"] = "v"
    """What the network answers with; velocity is that of rectified flows, eps - x."""

    weighting: Literal["mse", "bound", "min-snr", "sigmoid"] = "mse"
    """The training loss: mse of what the network predicts; bound, minus the bound on log p in nats; min-snr and sigmoid
    weigh the bound's terms."""

    times: Literal["uniform", "lognormal"] = "uniform"
    """The times that training sees: uniform along the schedule, or log sigma/alpha normal."""

    log_sigma_mean: float = -1.2
    """Mean of that normal."""

    log_sigma_std: Annotated[float, Field(gt=0)] = 1.2
    """Its standard deviation."""

    steps: Count | None = None
    """Discrete steps of the process, on which the bound is then taken; None: continuous time."""

    whole_paths: bool = False
    """With `steps`: score all of them on one path of noise, which makes importance weights of the bound."""

    decoder: Literal["direct", "denoiser", "separate"] = "direct"
    """p(x | z_0): direct, by what the noise at the first log-SNR leaves open; denoiser, a Gaussian of learned width
    around the network's x_hat(z_0); separate, the same from a second network of its own (DAED)."""

    sampler: Sampler = Sampler()
    """How draws are made unless told otherwise."""

    @model_validator(mode="after")
    def _without_choices_that_do_nothing(self) -> Self:
        if self.schedule == "learned" and self.weighting != "bound":
            raise ValueError(  # any other loss is least where the schedule makes the task easy
                f"schedule is 'learned' with weighting {self.weighting!r}; accepts it with weighting 'bound', which is "
                "what it learns from, or another schedule"
            )
        if self.times == "lognormal" and self.weighting != "mse":
            raise ValueError(
                f"times is 'lognormal' with weighting {self.weighting!r}; accepts it with weighting 'mse': these times "
                "are a weighting themselves"
            )
        if self.shift and self.schedule in ("linear", "learned", "edm"):
            raise ValueError(
                f"shift is {self.shift:g} on schedule {self.schedule!r}, which between two log-SNRs is the same "
                "wherever it stands; accepts it on cosine, flow and ddpm: move high and low instead"
            )
        return self


_VECTOR: dict[str, Any] = {"net": "mlp", "width": 128, "blocks": (3,)}
_DIGITS: dict[str, Any] = {"width": 32, "multipliers": (1, 2)}
_SMALL: dict[str, Any] = {"width": 32, "multipliers": (1, 2, 2)}
_EFFICIENT: dict[str, Any] = {"width": 24, "multipliers": (1, 2, 4), "attention": (2,), "order": "efficient"}
_KINDS: dict[str, dict[str, Any]] = {
    # the ends are beyond those of its betas, so that all of them count
    "ddpm": {
        "schedule": "ddpm",
        "high": 10.0,
        "low": -11.0,
        "prediction": "noise",
        "steps": 999,
        "decoder": "denoiser",
    },
    "vdm": {"schedule": "learned", "low": -5.0, "prediction": "noise", "weighting": "bound"},
    "edm": {"schedule": "edm", "prediction": "edm", "times": "lognormal"},
    "v": {"schedule": "cosine", "prediction": "v"},
    "flow-matching": {"schedule": "flow", "prediction": "velocity"},
    # DAED: a generator of what is left after a first step with variance .001 or .1, and a denoiser of its own
    "daed-0.001": {"high": log(999.0), "decoder": "separate"},
    "daed-0.1": {"high": log(9.0), "decoder": "separate"},
}

PRESETS: dict[str, Any] = {
    "default": Diffusion(),
    **{name: Diffusion(**kind) for name, kind in _KINDS.items()},
    **{f"digits-{name}": Diffusion(**_DIGITS, **kind) for name, kind in _KINDS.items()},
    "digits": Diffusion(**_DIGITS),
    "small": Diffusion(**_SMALL),
    # faster than "small" at as many parameters, for most of them see the picture small (bench/diffusion_nets.py)
    "efficient": Diffusion(**_EFFICIENT),
    **{f"efficient-{name}": Diffusion(**_EFFICIENT, **kind) for name, kind in _KINDS.items()},
    "vector": Diffusion(**_VECTOR),
}

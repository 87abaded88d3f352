"""The closed list of families, and the one function that builds a model.

Names resolve here and nowhere else: a file can name a family, never a module or a class.
"""

from __future__ import annotations

import difflib
import importlib
from typing import Any, NamedTuple

import torch
from torch import nn

from likely.config.base import FamilyConfig
from likely.space import Integers, Reals, Space, Table


class Entry(NamedTuple):
    """Where a family lives: its config class in `likely.config`, its model in `likely.families`."""

    config: str
    module: str


FAMILIES: dict[str, Entry] = {
    "mixture": Entry("likely.config.mixture:Mixture", "likely.families.mixture"),
    "autoregressive": Entry("likely.config.autoregressive:Autoregressive", "likely.families.autoregressive"),
    "vae": Entry("likely.config.vae:VAE", "likely.families.vae"),
    "flow": Entry("likely.config.flow:Flow", "likely.families.flow"),
    "residual": Entry("likely.config.residual:Residual", "likely.families.flow.residual"),
    "integer-flow": Entry("likely.config.integer_flow:IntegerFlow", "likely.families.flow.integer"),
    "pyramid": Entry("likely.config.pyramid:Pyramid", "likely.families.pyramid"),
    "continuous-flow": Entry("likely.config.continuous_flow:ContinuousFlow", "likely.families.flow.continuous"),
    "diffusion": Entry("likely.config.diffusion:Diffusion", "likely.families.diffusion"),
    "meanflow": Entry("likely.config.meanflow:MeanFlow", "likely.families.diffusion.meanflow"),
    "consistency": Entry("likely.config.consistency:Consistency", "likely.families.diffusion.consistency"),
    "joint": Entry("likely.config.joint:Joint", "likely.families.joint"),
    "hybrid": Entry("likely.config.hybrid:Hybrid", "likely.families.joint.hybrid"),
    "hyperprior": Entry("likely.config.hyperprior:Hyperprior", "likely.families.hyperprior"),
}


def entry(family: str) -> Entry:
    """The entry of a family; raises `ValueError` proposing the nearest name."""
    if family not in FAMILIES:
        near = difflib.get_close_matches(str(family), FAMILIES, 1, 0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"family is {family!r}; accepts {', '.join(FAMILIES)}{hint}")
    return FAMILIES[family]


def config_class(family: str) -> type[FamilyConfig]:
    """The config class of a family."""
    module, name = entry(family).config.split(":")
    return getattr(importlib.import_module(module), name)


def presets(family: str) -> dict[str, Any]:
    """The named configs of a family; "default" is always among them."""
    return importlib.import_module(entry(family).config.split(":")[0]).PRESETS


def tiny(family: str) -> dict[str, Any]:
    """The tiny instances of a family, which `likely.conformance` enumerates."""
    return importlib.import_module(entry(family).module).TINY


def configure(family: str, preset: str = "default", **fields: Any) -> FamilyConfig:
    """The config of a family: a preset with some fields changed; unknown presets and fields are `ValueError`s."""
    known = presets(family)
    if preset not in known:
        near = difflib.get_close_matches(preset, known, 1, 0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"preset is {preset!r}; {family} accepts {', '.join(known)}{hint}")
    names = config_class(family).model_fields
    for field in fields:
        if field not in names:
            near = difflib.get_close_matches(field, names, 1, 0.5)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{field} is no field of {family}; accepts {', '.join(names)}{hint}")
    return config_class(family).model_validate(known[preset].model_dump() | fields)


def build(
    family: str | FamilyConfig,
    space: Space,
    condition: Space | None = None,
    *,
    preset: str = "default",
    seed: int = 0,
    dtype: torch.dtype | None = None,
    **fields: Any,
) -> nn.Module:
    """A model of a family over a space, with parameters drawn from `seed`; the global random state is left alone.

    `family` is a name (with a preset and changed fields) or a finished config. `condition` is the space of y, for
    instance `Integers((), 10)`. Raises `ValueError` naming whatever does not fit.
    """
    config = configure(family, preset, **fields) if isinstance(family, str) else family
    if isinstance(family, FamilyConfig) and (fields or preset != "default"):
        raise ValueError("preset and fields go with a family's name; a finished config is taken as it is")
    for argument, value in (("space", space), ("condition", condition)):
        if not isinstance(value, Integers | Reals | Table) and not (value is None and argument == "condition"):
            raise TypeError(f"{argument} is {type(value).__name__}; accepts Integers, Reals or Table")
    # forking only the CPU's state: parameters are made there and moved later, so a seed means the same everywhere
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # manual_seed also keeps a stack trace for absent GPUs, at each call
        model = _part(config, space, condition)
    return model if dtype is None else model.to(dtype)


def _part(config: FamilyConfig, space: Space, condition: Space | None) -> nn.Module:
    """The model of a config; families get this function to build what is nested in them."""
    module = importlib.import_module(entry(config.family).module)
    return module.model(config, space, condition, _part)

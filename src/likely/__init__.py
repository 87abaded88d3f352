"""likely: generative models that you can ask things.

The public names, and nothing else. They are imported when first used, so that the command line can parse its
arguments before it pays for torch.

One thing happens at import: where the environment says nothing else, Intel's maths library is asked for its
reproducible products (MKL_CBWR=AUTO). On some processors the sums of a row otherwise depend on the row's place in the
matrix, and a score would depend on the batch. It costs no measurable time, and has to be said before the first product.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

os.environ.setdefault("MKL_CBWR", "AUTO")

__version__ = "0.1.0"

_HOME = {
    "Integers": "space",
    "Reals": "space",
    "Table": "space",
    "Column": "space",
    "Rows": "space",
    "Noise": "noise",
    "LogProb": "logprob",
    "log_prob": "logprob",
    "log_posterior": "logprob",
    "log_joint": "logprob",
    "sample": "logprob",
    "require": "verbs",
    "build": "registry",
    "Data": "data",
    "load": "data",
    "fit": "train",
    "save": "train",
    "load_model": "train",
    "evaluate": "tasks.evaluate",
    "decide": "tasks.decide",
    "detect": "tasks.detect",
    "Codec": "coding",
    "denoise": "tasks.denoise",
    "impute": "tasks.impute",
    "ClassConditional": "families.joint",
    "Hybrid": "families.joint",
    "Dequantised": "families.flow",
    "ProbabilityFlow": "families.diffusion",
    "check": "conformance",
}

__all__ = [*_HOME, "__version__"]

if TYPE_CHECKING:
    from likely.coding import Codec
    from likely.conformance import check
    from likely.data import Data, load
    from likely.families.diffusion import ProbabilityFlow
    from likely.families.flow import Dequantised
    from likely.families.joint import ClassConditional, Hybrid
    from likely.logprob import LogProb, log_joint, log_posterior, log_prob, sample
    from likely.noise import Noise
    from likely.registry import build
    from likely.space import Column, Integers, Reals, Rows, Table
    from likely.tasks.decide import decide
    from likely.tasks.denoise import denoise
    from likely.tasks.detect import detect
    from likely.tasks.evaluate import evaluate
    from likely.tasks.impute import impute
    from likely.train import fit, load_model, save
    from likely.verbs import require


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"likely has no {name!r}; its public names are {', '.join(__all__)}")
    value = getattr(importlib.import_module(f"likely.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__

"""Optional packages: imported here, lazily, so that a missing one says which extra brings it."""

from __future__ import annotations

import importlib
from types import ModuleType


def need(module: str, extra: str) -> ModuleType:
    """The optional module `module`; an `ImportError` that names the extra when it is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise
        package = module.partition(".")[0]
        raise ImportError(f"this needs the package {package!r}: pip install 'likely[{extra}]'", name=package) from error

"""Make one picture much smaller without any model: a neural field is fitted to it, and is the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from likely.coding.field.file import Progress, compress, decompress
from likely.coding.files import replace
from likely.tasks.compress import describe, png
from likely.tasks.originals import pixels_of


def write(
    source: Path,
    target: Path,
    *,
    lam: float = 1e-3,
    steps: int = 2000,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Compress the picture `source` to `target`, which is whole or not there; what it came to, as JSON values."""
    blob = compress(pixels_of(source).transpose(2, 0, 1), lam=lam, steps=steps, seed=seed, progress=progress)
    target.parent.mkdir(parents=True, exist_ok=True)
    replace(target, blob)
    return describe(blob) | {"out": str(target), "inputs": str(source), "lam": lam, "steps": steps, "seed": seed}


def restore(blob: bytes, target: Path) -> Path:
    """Write the picture in a file to the PNG `target`."""
    picture = decompress(blob)
    target.parent.mkdir(parents=True, exist_ok=True)
    return replace(target, png(picture))

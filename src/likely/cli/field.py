"""`likely compress --field`: one picture, no model."""

from __future__ import annotations

from pathlib import Path

from likely.cli.common import archive_of, fresh


def compress_field(picture: Path, out: Path | None, lam: float, steps: int, seed: int, json: bool) -> int:
    """Fit a field to a picture and write it; the exit status, 130 where Ctrl-C ended the fitting early."""
    from likely.tasks.compressed import sentence
    from likely.tasks.neural_field import write
    from likely.terminal import Stage, give

    if not picture.is_file():
        raise ValueError(f"field is {picture}, which is no file; accepts one picture")
    path, reached = out or fresh(archive_of(picture)), 0
    with Stage("fitting", steps) as stage:

        def tell(step: int, decibel: float, bits: float) -> None:
            nonlocal reached
            reached = step
            stage.says(step, f"fitting, {decibel:.2f} dB at {bits:.3f} bits/pixel")

        record = write(picture, path, lam=lam, steps=steps, seed=seed, progress=tell)
    record |= {"steps_taken": reached}
    early = "" if reached == steps else f"\nended early, after {reached} of {steps} steps"
    give(record, f"{path}: {sentence(record)}{early}", None, json)
    return 0 if reached == steps else 130


def decompress_field(blob: bytes, archive: Path, folder: Path, json: bool) -> None:
    """Write the picture in a file into a folder, named after the file."""
    from likely.tasks.neural_field import restore
    from likely.terminal import give

    path = restore(blob, folder / f"{archive.stem}.png")
    text = f"one picture, lossy, exactly as it was when its quality was measured: {path}"
    give({"rows": 1, "out": str(folder), "files": 1, "lossy": True}, text, None, json)

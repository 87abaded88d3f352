"""`likely compress` and `decompress` with a model that is lossy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from likely.cli.common import OF_FILES, archive_of, archived, data_of, fresh, noted


def compress_lossy(
    run: Path,
    model: Any,
    inputs: str | None,
    out: Path | None,
    split: str,
    limit: int | None,
    rate: float | None,
    json: bool,
) -> int:
    """Compress pictures, of any sizes, or the run's own data; the exit status."""
    from likely.coding import LossyCodec
    from likely.coding.lossy import sentence
    from likely.tasks.lossy import compress, gather
    from likely.terminal import Stage

    codec = LossyCodec(model)
    rate = codec.check_rate(rate)
    album = gather(inputs or data_of(run, None), codec, split=split, limit=limit)
    path = out or fresh(archive_of(Path(inputs) if inputs else run))
    with Stage("compressing, with loss", len(album.pictures)) as stage:
        record = compress(codec, album, path, rate, stage.advance)
    noted(run, {key: record[key] for key in record if key not in ("names", *OF_FILES)})
    return archived(record, path, sentence(record), json)


def decompress_lossy(blob: bytes, rows: int, folder: Path, found: Any, model: Any, json: bool) -> None:
    """Write the pictures in a file into a folder."""
    from likely.coding import LossyCodec
    from likely.tasks.lossy import decompress
    from likely.terminal import Stage, give

    with Stage("decompressing", rows) as stage:
        decoded, paths = decompress(LossyCodec(model), blob, folder, stage.advance)
    told = {"rows": len(decoded.pictures), "out": str(folder), "files": len(paths), "run": str(found), "lossy": True}
    text = f"{len(paths)} pictures, lossy: `likely info` says how near the originals; in {folder} (model of {found})"
    give(told | {"sha256": decoded.contents.digest}, text, None, json)

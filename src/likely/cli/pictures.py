"""`likely compress` and `decompress` of pictures of any sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from likely.cli.common import archive_of, archived, fresh


def compress_pictures(model: Any, source: Path, out: Path | None, limit: int | None, json: bool) -> int:
    """Code a picture or a folder of them; the exit status, 1 where some were left out."""
    from likely.coding import Pictures
    from likely.tasks.album import compress, tiles_in
    from likely.tasks.compressed import sentence
    from likely.terminal import Stage

    codec, path = Pictures(model), out or fresh(archive_of(source))
    with Stage("compressing", tiles_in(source, codec.tiling.side, limit)) as stage:
        record = compress(codec, source, path, limit=limit, progress=stage.advance)
    return archived(record, path, sentence(record), json)


def decompress_pictures(
    archive: Path, folder: Path, found: tuple[str, Any], only: str | None, crop: str | None, json: bool
) -> None:
    """Write what is in a file of pictures, or a part of it, into a folder."""
    from likely.coding import Pictures
    from likely.tasks.album import decompress, extract
    from likely.terminal import Stage, give

    part = None if crop is None else _numbers(crop)
    place, model = found
    with archive.open("rb") as file:
        opened = Pictures(model).open(file)
        if only is not None or part is not None:
            path = extract(opened, folder, only, part)
            return give({"files": 1, "out": str(path), "run": place}, f"{path}, exactly as it was", None, json)
        with Stage("decompressing", opened.tiles) as stage:
            paths = decompress(opened, folder, stage.advance)
    told = {"files": len(paths), "out": str(folder), "run": place, "sha256": opened.sha256}
    return give(told, f"{len(paths)} pictures, exactly as they were, in {folder} (model of {place})", None, json)


def _numbers(crop: str) -> list[int]:
    words = crop.split(",")
    if len(words) != 4 or not all(word.strip().isdecimal() for word in words):
        raise ValueError(f"crop is {crop!r}; accepts TOP,LEFT,HEIGHT,WIDTH in pixels, such as 0,0,64,64")
    return [int(word) for word in words]

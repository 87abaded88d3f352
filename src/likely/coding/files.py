"""Files that are whole or not there, and folders of them."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def replace(target: str | Path, content: bytes | Callable[[Any], None]) -> Path:
    """Write a file under a temporary name beside `target`, and rename it when all of it is on the disk.

    Raises `OSError` naming `target`.
    """
    target = Path(target)
    new = target.parent / _name()
    try:
        with new.open("xb") as out:
            if callable(content):
                content(out)
            else:
                out.write(content)
            out.flush()
            os.fsync(out.fileno())
        new.replace(target)
    except OSError as error:
        new.unlink(missing_ok=True)
        if error.errno is None or error.filename not in (None, str(new)):
            raise
        raise OSError(error.errno, error.strerror, str(target)) from error
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    return target


@contextmanager
def together(out: Path, paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Where to write files that will be `paths`, below the folder `out`, once all of them are written.

    Until then they are in a hidden folder, of which nothing is left if the block ends with an error. A new `out` is
    there with all of its files at once; into one that is there already they move one by one. Raises `OSError` before
    the block where one of the paths is a folder.
    """
    for path in paths:
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder, and a file of this name is to be written")
    there = out.is_dir()
    where = out if there else out.parent
    where.mkdir(parents=True, exist_ok=True)
    folder = where / _name()
    new = [folder / path.relative_to(out) for path in paths]
    try:
        folder.mkdir()
        for each in new:
            each.parent.mkdir(parents=True, exist_ok=True)
        yield new
        if not there:
            folder.rename(out)
        for each, path in zip(new if there else (), paths, strict=there):
            path.parent.mkdir(parents=True, exist_ok=True)
            each.replace(path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _name() -> str:
    """A hidden name that is free: not made of the final one, which may be as long as a name can be."""
    return f".{secrets.token_hex(8)}.tmp"

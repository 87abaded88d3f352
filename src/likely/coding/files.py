"""Files that are whole or not there, and folders of them."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


def replace(target: str | Path, content: bytes | Callable[[Any], None]) -> Path:
    """Write a file under a temporary name beside `target`, and rename it when all of it is on the disk.

    Raises `OSError` naming `target`.
    """
    target = Path(target)
    with _hidden(target, target.parent) as new:
        with new.open("xb") as out:
            if callable(content):
                content(out)
            else:
                out.write(content)
            out.flush()
            os.fsync(out.fileno())
        with suppress(FileNotFoundError):  # who may read a file that is replaced may read the new one, and nobody else
            shutil.copymode(target, new)
        new.replace(target)
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
    with _hidden(out, where) as folder:
        folder.mkdir()
        new = [folder / path.relative_to(out) for path in paths]
        for each in new:
            each.parent.mkdir(parents=True, exist_ok=True)
        yield new
        if not there:
            folder.rename(out)
        for each, path in zip(new if there else (), paths, strict=there):
            path.parent.mkdir(parents=True, exist_ok=True)
            each.replace(path)


@contextmanager
def _hidden(target: Path, where: Path) -> Iterator[Path]:
    """A free name in the folder `where`, of which nothing is left afterwards; what went wrong with it is said of
    `target`. It is not made of the target's name, which may be as long as names can be."""
    new = where / f".{secrets.token_hex(8)}.tmp"
    try:
        yield new
    except OSError as error:
        if error.errno is None or not str(error.filename or new).startswith(str(new)):
            raise
        raise OSError(error.errno, error.strerror, str(target)) from error
    finally:
        with suppress(OSError):  # as on a disk that is read alone
            if new.is_dir():
                shutil.rmtree(new)
            else:
                new.unlink(missing_ok=True)

"""Names of pictures in a file: such that any machine can write them, and no two of them meet."""

from __future__ import annotations

import unicodedata
from pathlib import Path, PurePosixPath
from typing import Any

from likely.coding import CodecError

MOST_BYTES = 200
"""Of a name that is given; file systems have room for 255."""
_AWKWARD = '\\:*?"<>|'


class Names:
    """Names for a file's pictures, given one after the other: their own, unless there is something against it.

    Signs that some system has no use for become `_`, long names are cut, and a picture that would be written where
    another one is (`a.jpg` and `a.jpg.png`, or `A.png` and `a.png` where those are one) gets a number. `changed` says
    of which pictures the name is not their own.
    """

    def __init__(self) -> None:
        self.changed: dict[str, str] = {}
        self._files, self._folders = set[str](), set[str]()

    def __call__(self, name: str) -> str:
        """The name of a picture whose file is `name`, parts with slashes between."""
        *folders, last = (_plain(part) for part in PurePosixPath(name).parts)
        found = ""
        for folder in folders:
            found += _free(folder, lambda each, found=found: _key(found + each) in self._files) + "/"
            self._folders.add(_key(found[:-1]))
        found += _free(last, lambda each: _key(_png(found + each)) in self._files | self._folders)
        self._files.add(_key(_png(found)))
        if found != name:
            self.changed[name] = found
        return found


def targets(names: Any, count: int, out: Path) -> list[Path]:
    """Where the pictures go: below `out`, whatever the names say. Raises `CodecError`."""
    if not isinstance(names, list) or len(names) != count or not all(isinstance(name, str) for name in names):
        raise CodecError(f"it does not name its {count} pictures")
    found = []
    for name in names:
        parts = PurePosixPath(name).parts
        bad = not parts or name.startswith("/") or any(part in ("..", ".") for part in parts)
        if bad or any(sign in name for sign in _AWKWARD) or not name.isprintable():
            raise CodecError(f"it names a picture {name!r}; accepts names within a folder")
        found.append(out.joinpath(*parts[:-1], _png(parts[-1])))
    every = set(found)
    if len(every) < count or any(parent in every for path in every for parent in path.parents):
        raise CodecError("it gives two pictures one name")
    return found


def _png(name: str) -> str:
    return name if name.lower().endswith(".png") else f"{name}.png"


def _plain(part: str) -> str:
    """Part of a name without awkward signs, of at most 200 bytes."""
    part = "".join("_" if sign in _AWKWARD or not sign.isprintable() else sign for sign in part)
    stem, suffix = PurePosixPath(part).stem, PurePosixPath(part).suffix
    if len(part.encode()) <= MOST_BYTES or len(suffix.encode()) > MOST_BYTES // 2:
        return part.encode()[:MOST_BYTES].decode(errors="ignore")
    return stem.encode()[: MOST_BYTES - len(suffix.encode())].decode(errors="ignore") + suffix


def _free(part: str, taken: Any) -> str:
    """The name, or with a number: the first that is not taken."""
    number, found = 1, part
    while taken(found):
        number += 1
        path = PurePosixPath(part)
        found = f"{path.stem}-{number}{path.suffix}"
    return found


def _key(path: str) -> str:
    """What is the same for names that some file system takes for one."""
    return unicodedata.normalize("NFC", path).casefold()

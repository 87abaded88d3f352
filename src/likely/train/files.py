"""Files that survive a kill, a power cut and a flipped bit.

A folder is written under a temporary name in the same place, every file fsynced, the manifest with the SHA-256 of all
others last; then it is renamed, and the rename fsynced. Whoever reads checks every hash.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

try:
    import fcntl
except ModuleNotFoundError:  # not a POSIX system: no lock there, every other promise holds
    fcntl = None

MANIFEST = "MANIFEST.json"
_SEAL = ', "sha256": "'


def sha256(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sealed(record: Mapping[str, Any], extra: bytes = b"") -> str:
    """A record as one line of JSON whose last field is the SHA-256 of all before it (and of `extra`)."""
    body = json.dumps(record, ensure_ascii=True, allow_nan=False)
    return f'{body[:-1]}{_SEAL}{sha256(body.encode() + extra)}"}}'


def unsealed(line: str, extra: bytes = b"") -> dict[str, Any]:
    """The record that `sealed` wrote, "sha256" included; raises `ValueError` when a single bit differs."""
    body, mark, seal = line.rpartition(_SEAL)
    body += "}"
    if not mark or seal != sha256(body.encode() + extra) + '"}':
        raise ValueError("its SHA-256 does not fit its content")
    return {**json.loads(body), "sha256": seal[:-2]}


def write_file(path: Path, data: bytes) -> None:
    """Write all of a new file and bring it to the disk."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(file, left) :]
        os.fsync(file)
    finally:
        os.close(file)


def sync_folder(path: Path) -> None:
    """Bring a folder's names to the disk (where the system can)."""
    with contextlib.suppress(PermissionError):
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def temporary(path: Path) -> Path:
    """The name under which `path` is written before it is renamed."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def need_space(folder: Path, size: int) -> None:
    """Raise `OSError` (ENOSPC) unless twice `size` bytes are free."""
    free = shutil.disk_usage(folder).free
    if free < 2 * size:
        raise OSError(errno.ENOSPC, f"{free:,} bytes free, {2 * size:,} wanted", str(folder))


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder and its manifest so that it is either there, whole, or not there at all.

    Raises `OSError` (with nothing left behind where the system allows) and `FileExistsError` when `path` exists.
    """
    if path.exists():
        raise FileExistsError(errno.EEXIST, "exists already", str(path))
    need_space(path.parent, sum(map(len, files.values())))
    new = temporary(path)
    shutil.rmtree(new, ignore_errors=True)
    try:
        new.mkdir()
        for name, data in files.items():
            write_file(new / name, data)
        listed = {name: {"bytes": len(data), "sha256": sha256(data)} for name, data in files.items()}
        write_file(new / MANIFEST, sealed({"format": 1, "files": listed}).encode())
        sync_folder(new)
        new.rename(path)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    sync_folder(path.parent)


def read_folder(path: Path) -> dict[str, bytes]:
    """The files that a folder's manifest lists, every hash checked; a `ValueError` names the file that is not whole."""
    try:
        listed = unsealed(_read(path / MANIFEST).decode("ascii"))["files"]
    except (UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"{path / MANIFEST} is damaged: {error}") from error
    files = {}
    for name, want in listed.items():
        files[name] = data = _read(path / name)
        if len(data) != want["bytes"]:
            raise ValueError(f"{path / name} is damaged: it has {len(data):,} bytes instead of {want['bytes']:,}")
        if sha256(data) != want["sha256"]:
            raise ValueError(f"{path / name} is damaged: its SHA-256 is not the one in {MANIFEST}")
    return files


def remove_folder(path: Path) -> None:
    """Delete a folder such that a kill half-way leaves a temporary name, never half a folder."""
    old = temporary(path)
    path.rename(old)
    shutil.rmtree(old, ignore_errors=True)


def clean(folder: Path) -> None:
    """Delete what killed writers left under temporary names. Call it with the lock held."""
    for left in folder.glob(".*.tmp"):
        shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def lock(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path` (created where missing); a `ValueError` says which process holds it already.

    The system frees the lock of a process that dies, whatever killed it.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(file, 200).decode(errors="replace") or "another process"
                raise ValueError(f"{what} is being trained already, by {holder}") from None
        os.ftruncate(file, 0)
        os.pwrite(file, f"process {os.getpid()} on {platform.node()}".encode(), 0)
        yield
    finally:
        os.close(file)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{path} is missing") from None

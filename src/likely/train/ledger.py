"""The ledger of a run: what was asked, what was seen, how long, on what.

An append-only log of JSON lines. Every line carries the SHA-256 of the line before it ("prev") and of itself
("sha256"), so that no line can be changed, taken out or put in between without breaking the chain; the first line
holds a nonce from the operating system. What differs between two runs of the same thing (times, memory, machine)
stands under "timing" or "machine", apart from everything else.

A resumed run goes on from a checkpoint: a "restart" line says from which step, and `read` leaves out the lines of
later steps that were written before it, since training writes them again. Nothing is deleted.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from likely.train.files import fcntl, sealed, sha256, sync_folder, unsealed

START = "0" * 64
"""What stands for the line before the first."""
TRAINING = ("step", "valid", "checkpoint", "save failed", "not finite", "stop")
"""Kinds of lines that a restart can make void."""


class Ledger:
    """The ledger at `path` (a run folder, or a file); the file appears with the first line.

    Raises `ValueError` naming file and line when what is there is not a whole chain.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        self.path = path / "ledger.jsonl" if path.is_dir() else path

    def append(self, kind: str, *, timing: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
        """Add a line and bring it to the disk; the line as it stands there.

        `fields` must be JSON values without NaN (a `ValueError` otherwise). Processes may append side by side. What
        a kill left of an unfinished line is cut off first, and the cut is recorded.
        """
        new = not self.path.exists()
        file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX)
            last, end, torn = _last_line(file)
            if torn:
                os.ftruncate(file, end)
            lines = [_line(last, "torn", {"bytes": len(torn), "was": sha256(torn)}, None)] if torn and last else []
            if not last:
                fields = {"nonce": secrets.token_hex(32), **fields}
            lines.append(_line(unsealed(lines[-1])["sha256"] if lines else last, kind, fields, timing))
            data = "".join(f"{line}\n" for line in lines).encode()
            if os.pwrite(file, data, end) != len(data):
                raise OSError(f"{self.path}: a line was written in part only")
            os.fsync(file)
        finally:
            os.close(file)
        if new:
            sync_folder(self.path.parent)
        return json.loads(lines[-1])

    def lines(self) -> list[dict[str, Any]]:
        """Every line there is, the chain checked."""
        if not self.path.exists():
            raise ValueError(f"{self.path} is missing")
        data = self.path.read_bytes()
        whole, _, _torn = data.rpartition(b"\n")
        last, found = START, []
        for number, raw in enumerate(whole.split(b"\n") if whole else [], 1):
            try:
                entry = unsealed(raw.decode("ascii"))
            except ValueError as error:
                raise ValueError(f"{self.path}, line {number} was changed: {error}") from error
            if entry["prev"] != last:
                raise ValueError(f"{self.path}, line {number} does not follow the line before it")
            last = entry["sha256"]
            found.append(entry)
        if not found:
            raise ValueError(f"{self.path} is empty")
        return found

    def position(self) -> dict[str, Any]:
        """Where the ledger ends now: {"bytes", "last"}, for `went_through`."""
        with self.path.open("rb") as file:
            last, end, _torn = _last_line(file.fileno())
        return {"bytes": end, "last": last}

    def went_through(self, position: dict[str, Any]) -> bool:
        """Whether the line that was the last at an earlier `position` still stands there."""
        before = self.path.read_bytes()[: position["bytes"]]
        try:
            return (
                unsealed(before.removesuffix(b"\n").rpartition(b"\n")[2].decode("ascii"))["sha256"] == position["last"]
            )
        except ValueError:
            return False

    def verify(self) -> int:
        """Check the whole chain; the number of its lines. Raises `ValueError` naming the first bad line."""
        return len(self.lines())

    def read(self, *kinds: str) -> list[dict[str, Any]]:
        """The lines that hold: those of the given kinds (default all), without what a restart made void."""
        return [entry for entry in held(self.lines()) if not kinds or entry["kind"] in kinds]

    def last(self, kind: str) -> dict[str, Any] | None:
        """The last line of a kind that holds, or None."""
        found = self.read(kind)
        return found[-1] if found else None


def held(entries: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines without those that a restart made void."""
    kept: list[dict[str, Any]] = []
    for entry in entries:
        if entry["kind"] == "restart":
            kept = [e for e in kept if not _void(e, entry["step"])]
        kept.append(entry)
    return kept


def same(entries: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines without what differs between two runs of the same thing: times, machine, nonce and hashes."""
    apart = ("timing", "machine", "nonce", "prev", "sha256")
    return [{key: value for key, value in entry.items() if key not in apart} for entry in entries]


def _void(entry: dict[str, Any], step: int) -> bool:
    return entry["kind"] == "stop" or (entry["kind"] in TRAINING and entry["step"] > step)


def _line(last: str, kind: str, fields: dict[str, Any], timing: dict[str, Any] | None) -> str:
    at = datetime.now(UTC).isoformat(timespec="milliseconds")
    return sealed({"prev": last or START, "kind": kind, **fields, "timing": {"at": at, **(timing or {})}})


def _last_line(file: int) -> tuple[str, int, bytes]:
    """Hash of the last whole line ("" when there is none), where it ends, and what stands after it."""
    size = os.fstat(file).st_size
    want = 1 << 16
    while True:
        start = max(0, size - want)
        tail = os.pread(file, size - start, start)
        end = tail.rfind(b"\n")
        first = tail.rfind(b"\n", 0, max(end, 0))
        if start == 0 or (end >= 0 and first >= 0):
            break
        want *= 4
    if end < 0:
        return "", 0, tail
    return unsealed(tail[first + 1 : end].decode("ascii"))["sha256"], start + end + 1, tail[end + 1 :]

"""Which code ran: the version, a hash of the source itself, and where it stands in git if it does."""

from __future__ import annotations

import hashlib
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from likely import __version__

PACKAGE = Path(__file__).resolve().parents[1]


@cache
def code_version() -> dict[str, Any]:
    """{version, source, commit, dirty, lock}, JSON values.

    `source` is the SHA-256 of the package's files, so it tells what ran wherever it was installed from. `commit` and
    `dirty` are git's where the package stands in its own repository, `lock` is the SHA-256 of the pinned versions
    there (constraints.txt); None where there is no such thing.
    """
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    record: dict[str, Any] = {"version": __version__, "source": digest.hexdigest(), "commit": None, "dirty": None}
    home = PACKAGE.parent.parent
    if (home / ".git").exists() and (home / "pyproject.toml").exists():
        record["commit"] = _git(home, "rev-parse", "HEAD") or None
        changes = _git(home, "status", "--porcelain", "--", "src")
        record["dirty"] = None if changes is None else bool(changes)
    pins = home / "constraints.txt"
    record["lock"] = hashlib.sha256(pins.read_bytes()).hexdigest() if pins.exists() else None
    return record


def _git(home: Path, *words: str) -> str | None:
    """What git answers, or None where it does not."""
    try:
        done = subprocess.run(["git", "-C", str(home), *words], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()

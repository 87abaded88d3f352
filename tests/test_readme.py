"""The README keeps its word: its table is the registry's, its Python runs, its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from likely.cli import COMMANDS
from likely.tasks.describe import families, markdown

README = (Path(__file__).parent.parent / "README.md").read_text()


def block(language: str, containing: str) -> str:
    """The first fenced block of a language that contains a text."""
    blocks = re.findall(rf"```{language}\n(.*?)```", README, re.S)
    return next(text for text in blocks if containing in text)


def test_table_is_the_registrys() -> None:
    inside = README.split("<!-- families -->\n")[1].split("\n<!-- /families -->")[0]
    assert inside == markdown(families())


def test_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(tmp_path)
    code = block("python", "import likely as lk")
    assert "steps=500" in code
    names: dict[str, object] = {}
    exec(code.replace("steps=500", "steps=3"), names)
    assert capsys.readouterr().out.startswith("bpd <= ")
    assert names["images"].shape == (16, 1, 8, 8)


def test_commands_exist() -> None:
    used = re.findall(r"^likely (\w+)", block("sh", "likely train"), re.M)
    assert set(used) <= set(COMMANDS)
    assert {"train", "evaluate", "sample", "decide", "resume", "families"} <= set(used)

"""`likely ...` run in this process, for tests of the command line."""

from __future__ import annotations

import json
from typing import Any

import pytest

from likely.cli import main


class Shell:
    """Runs `likely ...` in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main([str(word) for word in words])
        said = self.capsys.readouterr()
        return int(caught.value.code or 0), said.out, said.err

    def json(self, *words: object) -> Any:
        status, out, err = self(*words, "--json")
        assert status == 0, err
        return json.loads(out)

    def mistake(self, *words: object) -> str:
        """The sentence that a mistake gets."""
        status, out, err = self(*words)
        assert status == 2
        assert "Traceback" not in err + out
        return err + out

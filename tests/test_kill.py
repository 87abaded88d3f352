"""Real `kill -9` of real training processes; `bench/kills.py` does more of it."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

BENCH = Path(__file__).parent.parent / "bench" / "kills.py"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_runs_end_byte_equal(tmp_path):
    spec = importlib.util.spec_from_file_location("kills", BENCH)
    kills = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kills)
    found = kills.measure(tmp_path, kills=6, seed=1)
    assert found["kills"] == 6
    assert found["lost"] == 0
    assert found["byte_equal"] == found["runs"] >= 2
    assert found["places"]["in a write"] >= 2

"""One thread, and no test may leave torch's global state other than it found it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributions import Distribution

sys.path.append(str(Path(__file__).parent))
from shell import Shell

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def global_state() -> Iterator[None]:
    """Fixed global seeds for the test's own draws; afterwards the default dtype and the like must be as before."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002  (what a library under test might draw from)
    yield
    found = [
        ("default dtype", torch.get_default_dtype(), torch.float32, torch.set_default_dtype),
        ("threads", torch.get_num_threads(), 1, torch.set_num_threads),
        ("gradients", torch.is_grad_enabled(), True, torch.set_grad_enabled),
        ("determinism", torch.are_deterministic_algorithms_enabled(), False, torch.use_deterministic_algorithms),
        ("argument checks", Distribution._validate_args, True, Distribution.set_default_validate_args),
    ]
    for _, value, wanted, put_back in found:
        if value != wanted:
            put_back(wanted)
    changed = [name for name, value, wanted, _ in found if value != wanted]
    assert not changed, f"the test left torch's global state changed: {', '.join(changed)}"


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """The command line, in a new and empty folder."""
    monkeypatch.chdir(tmp_path)
    return Shell(capsys)

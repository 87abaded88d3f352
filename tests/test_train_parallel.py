"""Two processes train like one: every registered family, two players, accumulation, resuming, a lost process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

sys.path.append(str(Path(__file__).parent))
from train_pair import FIELDS, curves
from train_toys import Net, bits

from likely.train import fit

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="this torch has no torch.distributed")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """What two gloo processes found; they run while this process does the same alone."""
    folder = tmp_path_factory.mktemp("pair")
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "SECOND_PORT": free_port(), "WORLD_SIZE": "2"}
    script = str(Path(__file__).with_name("train_pair.py"))
    started = [
        subprocess.Popen(
            [sys.executable, script, str(folder)],
            env={**os.environ, **shared, "RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        alone = curves()
        errors = [process.communicate(timeout=250)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    assert (folder / "0.json").exists(), errors[0] + errors[1]
    return alone, *(json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)), started


def test_the_loss_curve_is_that_of_one_process(pair):
    alone, first, _second, _ = pair
    assert first["curves"].keys() == alone.keys()
    for name, curve in alone.items():
        assert len(curve) >= 4, name
        assert first["curves"][name] == pytest.approx(curve, rel=1e-6, abs=1e-9), name


def test_all_processes_hold_the_same_weights(pair):
    _, first, second, _ = pair
    assert first["weights"] == second["weights"]
    assert first["curves"] == second["curves"]


def test_resuming_two_processes_is_bitwise(pair):
    _, first, second, _ = pair
    assert first["resumed equal"]
    assert second["resumed equal"]


def test_a_lost_process_is_noticed(pair):
    _, first, second, started = pair
    assert "noticed" in first
    assert "noticed" not in second
    assert [process.returncode for process in started] == [0, -9]


def test_a_batch_that_processes_cannot_share():
    from likely.config.train import TrainConfig
    from likely.train.learners import Batches, Gradient
    from likely.train.parallel import Team

    model = Net()
    batches = Batches(model, bits().train, torch.device("cpu"))
    with pytest.raises(ValueError, match="batch is 16; accepts multiples of 3 processes x accumulate=1"):
        Gradient(model, batches, TrainConfig(batch=16), Team(0, 3))
    assert fit(Net(), bits(), **FIELDS).step == 4

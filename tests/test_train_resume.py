"""A run that is stopped anywhere and resumed equals the unbroken run, bit for bit."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent))
from train_toys import MIX, NET, Mix, Net, bits

from likely.train import Ledger, fit
from likely.train.checkpoint import Checkpoints
from likely.train.ledger import same

STEPS = 13


class Cut(Exception):
    """Stands for a crash."""


def cut_at(model, step, stop):
    """Let a model meet `stop` in the middle of a step (counted from 1): at its second piece, or batch of the pass."""
    name, calls = ("loss", 2) if hasattr(model, "loss") else ("statistics", 4)
    whole, made = getattr(model, name), [0]

    def counted(*arguments, **options):
        made[0] += 1
        if made[0] == calls * (step - 1) + 2:
            stop()
        return whole(*arguments, **options)

    setattr(model, name, counted)
    return model


def crash():
    raise Cut


def interrupt():
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Model and run of each kind, never interrupted."""
    made = {}
    for kind, model, fields in (("net", Net(), NET), ("mix", Mix(), MIX)):
        run = tmp_path_factory.mktemp("unbroken") / kind
        made[kind] = fit(model, bits(), steps=STEPS, run=run, **fields)
    return made


def assert_same(result, whole):
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, result.model.state_dict()[name]), name
    assert same(result.history) == same(whole.history)
    step, files = Checkpoints(result.run).newest()
    other, wanted = Checkpoints(whole.run).newest()
    assert step == other
    for name in ("model.safetensors", "resume.safetensors", "state.json"):
        assert files[name] == wanted[name], name
    kinds = ("step", "valid", "stop", "start")
    assert same(Ledger(result.run).read(*kinds)) == same(Ledger(whole.run).read(*kinds))


# With batches of 24 of 190 rows, an epoch ends inside step 8: the cuts are before the first checkpoint, at one, after
# one, inside an epoch, at its end, and at the last step.
@pytest.mark.parametrize("stop", [crash, interrupt])
@pytest.mark.parametrize("at", [1, 2, 5, 8, STEPS])
def test_a_gradient_learner_resumes_bitwise(tmp_path, unbroken, at, stop):
    run, first = tmp_path / "run", cut_at(Net(), at, stop)
    if stop is crash:
        with pytest.raises(Cut):
            fit(first, bits(), steps=STEPS, run=run, **NET)
        assert Checkpoints(run).steps()[0] == (at - 1) // 2 * 2
    else:
        assert fit(first, bits(), steps=STEPS, run=run, **NET).reason == ("steps" if at == STEPS else "SIGTERM")
        assert Checkpoints(run).steps()[0] == at
    again = fit(Net(seed=99), bits(), steps=STEPS, run=run, resume=True, **NET)
    assert_same(again, unbroken["net"])


@pytest.mark.parametrize("at", [1, 4, 7])
def test_a_learner_in_closed_form_resumes_bitwise(tmp_path, unbroken, at):
    run = tmp_path / "run"
    with pytest.raises(Cut):
        fit(cut_at(Mix(), at, crash), bits(), steps=STEPS, run=run, **MIX)
    assert_same(fit(Mix(), bits(), steps=STEPS, run=run, resume=True, **MIX), unbroken["mix"])


def test_three_crashes_and_a_damaged_checkpoint_in_a_row(tmp_path, unbroken):
    run = tmp_path / "run"
    for at in (3, 2, 4):
        with pytest.raises(Cut):
            fit(cut_at(Net(), at, crash), bits(), steps=STEPS, run=run, resume=True, **NET)
    newest = Checkpoints(run).path(Checkpoints(run).steps()[0]) / "resume.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1] + b"!")
    with pytest.warns(RuntimeWarning, match="resume.safetensors is damaged"):
        result = fit(Net(), bits(), run=run, resume=True)
    assert_same(result, unbroken["net"])
    assert [e["restarts"] for e in Ledger(run).lines() if e["kind"] == "restart"] == [1, 2, 3]
    assert list(run.glob("checkpoints/damaged-*"))


def test_a_finished_run_is_loaded_and_can_go_on(tmp_path):
    run = tmp_path / "run"
    first = fit(Net(), bits(), steps=4, run=run, **NET)
    again = fit(Net(seed=5), bits(), run=run, resume=True)
    assert torch.equal(again.model.first, first.model.first)
    assert same(again.history) == same(first.history)
    further = fit(Net(seed=5), bits(), run=run, resume=True, steps=6)
    assert (further.step, further.reason) == (6, "steps")


def test_a_kill_between_the_last_checkpoint_and_the_last_line(tmp_path, unbroken):
    run = tmp_path / "run"
    shutil.copytree(unbroken["net"].run, run)
    ledger = run / "ledger.jsonl"
    ledger.write_bytes(b"".join(ledger.read_bytes().splitlines(True)[:-2]))  # "stop", and "checkpoint" before it
    for _ in range(2):
        assert_same(fit(Net(), bits(), run=run, resume=True), unbroken["net"])


def test_resume_says_what_does_not_fit(tmp_path):
    run, data = tmp_path / "run", bits()
    fit(Net(), data, steps=4, run=run, **NET)
    with pytest.raises(ValueError, match=r"lr is 0.5, .* began with 0.01; only steps"):
        fit(Net(), data, run=run, resume=True, lr=0.5)
    with pytest.raises(ValueError, match="data is not what"):
        fit(Net(), bits(seed=1), run=run, resume=True)
    with pytest.raises(ValueError, match=r"run is .*, which exists; resume=True"):
        fit(Net(), data, steps=4, run=run)
    mix = Mix()
    with pytest.raises(ValueError, match=r"the file has a tensor|the model has a tensor"):
        fit(mix, data, run=run, resume=True)
    assert Ledger(run).verify() == len(Ledger(run).lines())
    with pytest.raises(ValueError, match="holds no checkpoint"):
        fit(Net(), data, run=tmp_path, resume=True)
    (run / "ledger.jsonl").write_bytes(b"".join((run / "ledger.jsonl").read_bytes().splitlines(True)[:2]))
    with pytest.raises(ValueError, match="is not the ledger of this run"):
        fit(Net(), data, run=run, resume=True, steps=8)

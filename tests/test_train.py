"""`fit`: what it promises beyond files and resuming."""

from __future__ import annotations

import itertools
import math
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

sys.path.append(str(Path(__file__).parent))
from train_toys import MIX, NET, Mix, Net, Pair, bits, synthetic

from likely.config.train import TrainConfig, train_config
from likely.data import batch_indices
from likely.noise import Noise
from likely.space import Integers, Reals
from likely.train import Ledger, NotFinite, fit
from likely.train.checkpoint import Checkpoints
from likely.train.learners import derived, learning_rate

PLAIN = {"threads": 1, "valid_every": 0, "batch": 16}


def test_a_plain_fit_is_adam_on_the_documented_batches_and_noise():
    """The loop against ten lines of PyTorch: rows, noise ids, clipping, schedule, average."""
    data, model, other = bits(), Net().eval(), Net().eval()
    model.train = lambda mode=True: model  # no dropout: then nothing but the documented noise is random
    fields = {"lr": 0.02, "clip": 0.5, "warmup": 0.4, "ema": 0.9, "weight_decay": 0.1, "seed": 3}
    fit(model, data, steps=5, **PLAIN, **fields)

    x, config = data.train.x, TrainConfig(steps=5, batch=16, **fields)
    rows = batch_indices(len(x), len(x), 0, 3)
    other.prepare(x[rows], None, noise=Noise(derived(3, "prepare"), len(x)))
    two_axes = [p for p in other.parameters() if p.ndim > 1]
    groups = [{"params": two_axes}, {"params": [p for p in other.parameters() if p.ndim < 2], "weight_decay": 0.0}]
    adam, average = torch.optim.AdamW(groups, weight_decay=0.1), None
    for step in range(5):
        ids = torch.arange(step * 16, step * 16 + 16)
        loss = other.loss(x[batch_indices(len(x), 16, step, 3)], noise=Noise(derived(3, "noise of model"), ids))
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(other.parameters(), 0.5)
        for group in adam.param_groups:
            group["lr"] = learning_rate(config, step)
        adam.step()
        weights = [p.detach().clone() for p in other.parameters()]
        decay = min(0.9, (1 + step) / (10 + step))
        average = (
            weights if average is None else [decay * a + (1 - decay) * w for a, w in zip(average, weights, strict=1)]
        )
    for a, b in zip(average, model.parameters(), strict=True):
        torch.testing.assert_close(a, b.detach(), atol=1e-6, rtol=1e-5)


def test_the_schedule_rises_and_falls():
    config = TrainConfig(steps=100, lr=1.0, warmup=0.1)
    assert [learning_rate(config, s) for s in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert learning_rate(config, 55) == pytest.approx(0.5)
    assert learning_rate(config, 99) < 0.001
    assert learning_rate(config.model_copy(update={"schedule": "constant"}), 99) == 1.0


def test_accumulation_and_bfloat16_take_the_same_batch():
    def curve(**fields):
        model = Net().eval()
        model.train = lambda mode=True: model  # no dropout, and no replay buffer below: they follow the pieces
        model.loss = lambda x, y=None, *, player, noise: (0.1 * noise.normal((6,)).sum(1) - model.log_prob(x)).mean()
        lines = fit(model, bits(), steps=6, log_every=1, **PLAIN, **fields).history[:-1]
        return [line[number] for line in lines for number in ("loss", "grad_norm")]

    whole = curve()
    assert curve(accumulate=4) == pytest.approx(whole, rel=1e-5)
    assert curve(seed=1) != pytest.approx(whole, rel=1e-3)
    low = curve(precision="bfloat16")
    assert low != whole
    assert low == pytest.approx(whole, rel=0.05)


def test_training_learns_and_leaves_the_world_as_it_was():
    torch.manual_seed(5)
    state, threads, model = torch.get_rng_state(), torch.get_num_threads(), Net().eval()
    result = fit(model, bits(), steps=150, lr=0.03, threads=3, batch=32)
    assert result.model is model
    assert torch.equal(state, torch.get_rng_state())
    assert torch.get_num_threads() == threads
    assert not model.training
    assert not any(module.training for module in model.modules())
    valid = [line for line in result.history if line["kind"] == "valid"]
    assert len(valid) == 10
    assert valid[-1]["score"] > valid[0]["score"] + 0.1
    assert valid[-1]["bits_per_dim"] == pytest.approx(-valid[-1]["score"] / 6 / math.log(2))
    assert {line["measure"] for line in valid} == {"="}


def test_two_players_take_turns():
    model = Pair()
    result = fit(model, synthetic(Reals((2,)), None), steps=4, log_every=1, **PLAIN)
    assert set(result.history[0]["losses"]) == {"maker", "judge"}
    assert result.history[0]["bits_per_dim"] is None
    still = Pair()
    still.player_parameters = lambda player: (still.maker if player == "maker" else still.judge).parameters()
    changed = [not torch.equal(a, b) for a, b in zip(model.parameters(), still.parameters(), strict=True)]
    assert all(changed)


def test_closed_form_climbs_until_it_gains_too_little():
    result = fit(Mix(), bits(), steps=500, pass_rows=50, tol=1e-3, threads=1, valid_every=0)
    losses = [line["loss"] for line in result.history if line["kind"] == "step"]
    assert result.reason == "converged"
    gains = [a - b for a, b in itertools.pairwise(losses)]
    assert min(gains) > -1e-9
    assert gains[-1] < 1e-3 <= gains[-2]
    whole = fit(Mix(), bits(), steps=500, tol=1e-3, threads=1, valid_every=0)
    assert torch.allclose(whole.model.means, result.model.means, atol=1e-12)


def test_early_stopping_keeps_the_best_weights():
    """Training pulls `first` towards the training rows while the validation rows are their opposite."""
    x = torch.ones(64, 6, dtype=torch.uint8)
    data = SimpleNamespace(train=SimpleNamespace(x=x, y=None), valid=SimpleNamespace(x=1 - x, y=None))
    model = Net()
    result = fit(model, data, steps=100, lr=0.1, batch=16, valid_every=2, patience=3, warmup=0, threads=1)
    scores = [line["score"] for line in result.history if line["kind"] == "valid"]
    assert result.reason == "patience"
    assert scores[0] == max(scores)
    assert len(scores) == 4
    assert int(model.step) == 2
    with pytest.raises(ValueError, match="no validation split"):
        fit(Net(), SimpleNamespace(train=data.train), patience=2)


class Poisoned(Net):
    """Turns not finite at update 3, in the way asked for."""

    def __init__(self, how):
        super().__init__()
        self.how = how

    def loss(self, x, y=None, *, player="model", noise):
        loss = super().loss(x, noise=noise)
        if int(self.step) == 3 and self.how == "loss":
            loss = loss * math.inf
        if int(self.step) == 3 and self.how == "gradient":
            loss = loss + (self.first - self.first).abs().sqrt().sum()
        return loss

    def after_step(self):
        super().after_step()
        if int(self.step) == 3 and self.how == "buffer":
            self.centre += math.nan


@pytest.mark.parametrize("how", ["loss", "gradient", "buffer"])
def test_what_is_not_finite_stops_before_the_weights(tmp_path, how):
    run, model = tmp_path / "run", Poisoned(how)
    before = {}

    def events(event):
        if event["kind"] == "checkpoint":
            before.update({name: t.clone() for name, t in model.state_dict().items()}, at=event["step"])

    with pytest.raises(NotFinite, match=r"at step [34]") as caught:
        fit(model, bits(), steps=8, run=run, progress=events, **{**PLAIN, "save_every": 1})
    if how != "buffer":
        assert caught.value.step == 4
        assert caught.value.rows == batch_indices(190, 16, 3, 0).tolist()
        assert before["at"] == 3
        assert torch.equal(before["first"], model.first)
        assert Ledger(run).last("not finite")["rows"] == caught.value.rows
    assert all(p.isfinite().all() for p in model.parameters())
    step, _ = Checkpoints(run).newest()
    assert step == (2 if how == "buffer" else 3)
    assert isinstance(caught.value, FloatingPointError)


def test_statistics_that_are_not_finite_stop_before_absorb(tmp_path):
    model = Mix()
    model.weights.zero_()
    with pytest.raises(NotFinite, match=r"statistics .*log_prob.* are not finite at step 1"):
        fit(model, bits(), steps=3, run=tmp_path / "run", **MIX)
    assert Checkpoints(tmp_path / "run").newest()[0] == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_stops_within_a_step(tmp_path, number):
    before = signal.getsignal(number)
    model, sent = Net(), []

    def events(event):
        if event["kind"] == "step" and event["step"] == 6:
            os.kill(os.getpid(), number)
            sent.append(event["step"])

    result = fit(model, bits(), steps=500, run=tmp_path / "run", progress=events, **NET)
    assert (result.reason, result.signal, sent) == (number.name, int(number), [6])
    assert result.step == Checkpoints(tmp_path / "run").steps()[0] == 6
    assert signal.getsignal(number) is before
    assert Ledger(tmp_path / "run").last("stop")["reason"] == number.name


def test_a_second_signal_goes_to_whoever_had_it_before():
    def twice(event):
        if event["kind"] == "step":
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)

    # set it here: a process that a script started in the background has SIGINT ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            fit(Net(), bits(), steps=50, progress=twice, log_every=1, **PLAIN)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_the_main_thread_no_handler_is_touched():
    seen = []

    def work():
        fit(Net(), bits(), steps=2, progress=lambda e: seen.append(signal.getsignal(signal.SIGTERM)), **PLAIN)

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen
    assert set(seen) == {before}


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"learning_rate": 1}, "learning_rate is no field of training; accepts .*"),
        ({"patient": 1}, "did you mean 'patience'"),
        ({"lr": -1}, "lr is -1: Input should be greater than 0"),
        ({"batch": 10, "accumulate": 4}, "batch is 10, which accumulate=4"),
        ({"device": "gpu7"}, "device is 'gpu7'"),
        ({"keep": 1}, "keep is 1"),
        ({"steps": 0}, "steps is 0"),
    ],
)
def test_fields_that_do_not_fit(fields, match):
    with pytest.raises(ValueError, match=match):
        fit(Net(), bits(), **fields)


def test_models_and_data_that_do_not_fit():
    data = bits()
    with pytest.raises(TypeError, match="fit needs a model that is Trainable or ClosedForm"):
        fit(nn.Linear(1, 1), data)
    with pytest.raises(ValueError, match=r"data is Reals\(\(6,\)\), the model is about Integers"):
        fit(Net(), SimpleNamespace(train=data.train, space=Reals((6,))))
    with pytest.raises(ValueError, match=r"data.train.x holds values 0 .. 2"):
        fit(Net(), SimpleNamespace(train=SimpleNamespace(x=data.train.x * 2, y=None)))
    with pytest.raises(ValueError, match=r"data.train has no rows"):
        fit(Net(), SimpleNamespace(train=SimpleNamespace(x=data.train.x[:0], y=None)))
    model = Net()
    model.condition = Integers((), 3)
    with pytest.raises(ValueError, match="y is None"):
        fit(model, data)
    assert train_config().steps == 1000


def test_events_and_the_bar(capsys):
    events = []
    fit(Net(), bits(), steps=20, log_every=5, progress=events.append, **PLAIN)
    last = [event for event in events if event["kind"] == "progress"][-1]
    assert (last["step"], last["steps"], last["left"]) == (20, 20, 0)
    assert last["memory"] > 2**20
    assert [event["step"] for event in events if event["kind"] == "step"] == [5, 10, 15, 20]
    fit(Net(), bits(), steps=2, progress=True, **PLAIN)
    assert "bits/dim" in capsys.readouterr().err
    fit(Net(), bits(), steps=2, **PLAIN)
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


def test_many_saves_leak_no_descriptors(tmp_path):
    folder = Path("/proc/self/fd")
    if not folder.exists():
        pytest.skip("needs /proc")
    before = len(list(folder.iterdir()))
    fit(Net(), bits(), steps=30, run=tmp_path / "run", **{**NET, "save_every": 1})
    assert len(list(folder.iterdir())) == before
    assert len(Checkpoints(tmp_path / "run").steps()) == 2
    assert not list((tmp_path / "run").rglob(".*"))

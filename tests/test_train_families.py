"""Every registered family: a cut run resumes bit for bit, and a saved model answers bit for bit the same."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent))
from train_pair import FIELDS, built, instances

from likely.logprob import log_prob, sample
from likely.train import fit, load_model, resume, save
from likely.train.learners import Closed, Gradient
from likely.verbs import Exact, Samples, Weighted, has, takes_y

ALL = instances(every=5)


@pytest.mark.parametrize("name", ALL)
def test_a_family_resumes_and_reloads_bitwise(tmp_path, name, monkeypatch):
    model, data = built(ALL[name])
    fields = {key: value for key, value in FIELDS.items() if key != "steps"} | {"ema": 0.9, "tol": 0.0}
    whole = fit(model, data, steps=4, run=tmp_path / "whole", **fields)

    for kind in (Gradient, Closed):  # a crash in the third step, after the checkpoint of the second

        def failing(self, step, real=kind.step):
            if step == 2:
                raise InterruptedError
            return real(self, step)

        monkeypatch.setattr(kind, "step", failing)
    with pytest.raises(InterruptedError):
        fit(built(ALL[name])[0], data, steps=4, run=tmp_path / "cut", **fields)
    monkeypatch.undo()
    again = resume(tmp_path / "cut", data)
    wanted, found = whole.model.state_dict(), again.model.state_dict()
    assert wanted.keys() == found.keys()
    assert all(torch.equal(wanted[key], found[key]) for key in wanted)

    save(model, tmp_path / "model.safetensors")
    x, y = data.valid.x, data.valid.y if takes_y(model) else None
    for loaded in (load_model(tmp_path / "model.safetensors"), load_model(tmp_path / "whole")):
        assert loaded.config == model.config
        if has(model, Exact) or has(model, Weighted):
            assert torch.equal(log_prob(loaded, x, y, k=2).nats, log_prob(model, x, y, k=2).nats)
        if has(model, Samples):
            label = None if y is None else model.condition.take(y, slice(3))
            drawn = [sample(m, 3, label, seed=1) for m in (loaded, model)]
            equal = map(torch.equal, *((d,) if isinstance(d, torch.Tensor) else d for d in drawn))
            assert all(equal)
    with pytest.raises(ValueError, match="nothing is written over"):
        save(model, tmp_path / "model.safetensors")

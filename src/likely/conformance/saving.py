"""G4, G7: one seed gives one result, in this process and in a new one, before and after saving."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from likely.conformance.report import Failed, Skip, promise
from likely.conformance.samples import same
from likely.conformance.subject import Subject, train
from likely.logprob import log_posterior, log_prob, sample
from likely.registry import FAMILIES, config_class
from likely.verbs import (
    Bounded,
    ClosedForm,
    Estimated,
    Exact,
    Joint,
    JointBound,
    Samples,
    Trainable,
    Unnormalised,
    Weighted,
    has,
)

SCORES = (Exact, Weighted, Bounded, Estimated, Unnormalised)
"""The verbs that the door for scores takes."""


def digest(model: Any, subject: Subject) -> str:
    """SHA-256 of scores, class posteriors and draws under fixed seeds."""
    found = hashlib.sha256()
    x, y = subject.some(10)
    if any(has(model, verb) for verb in SCORES):
        found.update(log_prob(model, x, y, 2, seed=subject.seed).nats.numpy().tobytes())
    if has(model, Joint) or has(model, JointBound):
        found.update(log_posterior(model, x, 2, seed=subject.seed).nats.numpy().tobytes())
    if has(model, Samples):
        drawn = sample(model, 10, y, seed=subject.seed)
        for part in drawn if isinstance(drawn, tuple) else (drawn,):
            found.update(part.contiguous().numpy().tobytes())
    return found.hexdigest()


@promise
def seeds(subject: Subject) -> str:
    """G4 One seed gives the same bytes twice, another seed other draws.

    Scores with noise and draws; no tolerance.
    """
    subject.need(*SCORES, Samples)
    model = subject.copied()
    if digest(model, subject) != digest(model, subject):
        raise Failed("scores or draws with one seed differ between two calls")
    if has(model, Samples):
        _, y = subject.some(64)
        if same(sample(model, 64, y, seed=1), sample(model, 64, y, seed=2)):
            raise Failed("64 draws are the same for two seeds")
    return "same bytes twice"


def digest_of_file(path: str) -> str:
    """`digest` of the model described by a folder that `fresh_process` wrote; runs in the new process."""
    from safetensors.torch import load_file

    from likely.registry import build
    from likely.space import from_json

    record = json.loads(Path(path, "model.json").read_text())
    config = config_class(record["config"]["family"]).model_validate(record["config"])
    condition = None if record["condition"] is None else from_json(record["condition"])
    model = build(config, from_json(record["space"]), condition, seed=5)
    model.load_state_dict(load_file(Path(path, "model.safetensors")))
    return digest(model, Subject(model, record["seed"]))


def digests_in_new_process(subjects: list[Subject]) -> list[str]:
    """`digest` of registry models, all built and loaded by one new Python process."""
    from safetensors.torch import save_file

    from likely.space import to_json

    # whoever registered a family of their own did so in this process only
    code = (
        f"import sys; from likely.registry import FAMILIES, Entry; FAMILIES.update({FAMILIES!r}); "
        "from likely.conformance.saving import digest_of_file as d; print(*map(d, sys.argv[1:]))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for i, subject in enumerate(subjects):
            here = Path(folder, str(i))
            here.mkdir()
            model, config = subject.copied(), subject.registered
            weights = {name: value.contiguous().clone() for name, value in model.state_dict().items()}
            save_file(weights, here / "model.safetensors")
            record = {
                "config": config.model_dump(mode="json"),  # ty: ignore[unresolved-attribute]
                "space": to_json(subject.space),
                "condition": None if subject.condition is None else to_json(subject.condition),
                "seed": subject.seed,
            }
            (here / "model.json").write_text(json.dumps(record))
            paths.append(str(here))
        command = [sys.executable, "-c", code, *paths]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise Failed(f"the new process failed: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout.split()


@promise
def new_process(subject: Subject) -> str:
    """G4p One seed gives the same bytes in a new process.

    The model is built anew from its config in another Python process, its weights loaded, and 10 rows scored and
    drawn; no tolerance. Registry models only.
    """
    subject.need(*SCORES, Samples)
    if subject.registered is None:
        raise Skip("not built by the registry")
    (there,) = digests_in_new_process([subject])
    if there != digest(subject.copied(), subject):
        raise Failed("scores or draws differ in a new process with the same weights and seeds")
    return "same bytes in a new process"


@promise
def round_trip(subject: Subject) -> str:
    """G7 Saving and loading give the same bytes; an unknown config key is an error.

    The weights of the trained copy are loaded into a model built anew from its config (after a round trip through
    JSON); scores and draws are bit-equal. `likely.train` save and load_model likewise.
    """
    config = subject.registered
    if config is None:
        raise Skip("not built by the registry")
    again = type(config).model_validate_json(config.model_dump_json())
    if again != config:
        raise Failed("the config does not survive a round trip through JSON")
    try:
        type(config).model_validate({**config.model_dump(), "no_such_field": 1})
    except ValueError:
        pass
    else:
        raise Failed("the config takes a field that does not exist; accepts its own fields only")
    model = subject.rebuilt(3)
    if has(model, Trainable) or has(model, ClosedForm):
        x, y = subject.data(64)
        train(model, x, y, 5, subject.seed)
    model.eval()
    want, fresh = digest(model, subject), subject.rebuilt(4)
    fresh.load_state_dict(model.state_dict())
    if digest(fresh, subject) != want:
        raise Failed("a model built anew with these weights scores or draws differently: some state is not saved")
    try:
        from likely.train import load_model, save
    except ImportError:
        return "weights and config; likely.train is not there to save a file"
    with tempfile.TemporaryDirectory() as folder:
        save(model, Path(folder, "model"))
        if digest(load_model(Path(folder, "model")), subject) != want:
            raise Failed("a saved and loaded model scores or draws differently")
    return "weights, config and files bit-equal"

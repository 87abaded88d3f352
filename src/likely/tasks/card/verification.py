"""Is a card what its run says? From the chain of the ledger to samples that are drawn again.

What is checked, in this order: the ledger's chain; that it is the ledger the checkpoint saw; the weights; every figure
of card.json, worked out again from the ledger; card.html and card.md, byte for byte; the pictures against their hashes;
the seed; the sizes, counted again; some scores; and the samples, drawn again. Nothing is written.

Samples are drawn again in the canonical batch, all at once, since one of them would cost as much: bit for bit on a
machine of the same kind. Where they are not the same and the machine is another, as the ledger knows it, they may be
one grey level off, and the report says how many are. What lies further off is counted too: a picture that agrees cannot
do so by accident, so as many as disagree, and no more, could be others.
"""

from __future__ import annotations

import json
import math
import secrets
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from likely.data import Data
from likely.logprob import log_prob, scoring
from likely.noise import Noise
from likely.space import Integers, Space
from likely.tasks.card import measures, shown
from likely.tasks.card.figure import chosen, weights_in
from likely.tasks.card.figures import figures_of
from likely.tasks.card.files import CARD, PAGE, TEXT, read_card
from likely.tasks.card.html import html
from likely.tasks.card.markdown import markdown
from likely.tasks.card.opened import Weights, checked, data_of, weights_of
from likely.tasks.card.report import Check, Report, Status, difference
from likely.tasks.samples import proof_seed
from likely.train import Ledger
from likely.train.checkpoint import Checkpoints
from likely.train.code import code_version
from likely.train.record import surroundings
from likely.verbs import takes_y

PATIENCE = 30.0
"""Seconds that drawing all samples may have taken when the card was made; beyond that a few are drawn again."""
FEW = 4
"""Samples that are drawn again where all take too long."""
RESCORED = 64
"""Test rows that are scored again: one canonical batch."""


class Wrong(Exception):
    """A check that failed; the message says where."""


class Left(Exception):
    """A check that could not be made; the message says why."""


def verify(
    run: str | Path,
    *,
    samples: int | None = None,
    data: Data | None = None,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Check a run's card against the run. `samples` is how many to draw again: all where that is cheap, else a few.

    `data` are those of a run made from Python, whose scores are else not checked. Raises `ValueError` where there is no
    run, or no card to check.
    """
    run = Path(run)
    if samples is not None and (isinstance(samples, bool) or not isinstance(samples, int) or samples < 1):
        raise ValueError(f"samples is {samples!r}; accepts 1 or more")
    if not run.is_dir():
        raise ValueError(f"run is {run}, where no folder is; accepts a folder made by `likely train` or `likely tour`")
    if not (run / CARD).exists():
        raise ValueError(f"run {run} has no card to check; `likely card {run}` makes one")
    return _Verification(run, samples, data, progress).go()


class _Verification:
    """One call of `verify`: what its checks find out for each other."""

    def __init__(
        self, run: Path, samples: int | None, data: Data | None, progress: Callable[[str], None] | None
    ) -> None:
        self.run, self.samples, self.data, self.progress = run, samples, data, progress
        self.card: dict[str, Any] = {}
        self.lines: list[dict[str, Any]] = []
        self.weights: Weights
        self.model: Any = None
        self.line: dict[str, Any] | None = None

    def go(self) -> Report:
        report = Report(str(self.run))
        for name, test, needs in (
            ("card", self._read, False),
            ("ledger", self._chain, True),
            ("weights", self._weights, True),
            ("figures", self._figures, True),
            ("card.html", lambda: self._text(PAGE, html), True),
            ("card.md", lambda: self._text(TEXT, markdown), True),
            ("sizes", self._sizes, True),
            ("pictures", self._pictures, True),
            ("seed", self._seed, True),
            ("samples", self._redraw, True),
            ("scores", self._scores, True),
        ):
            if needs and any(c.name in ("card", "ledger", "weights") and c.status == "failed" for c in report.checks):
                break
            if self.progress is not None:
                self.progress(name)
            began = time.perf_counter()
            status: Status = "passed"
            try:
                sentence = test()
            except Wrong as error:
                status, sentence = "failed", str(error)
            except Left as error:
                status, sentence = "skipped", str(error)
            except (
                KeyError,
                TypeError,
                ValueError,
                AttributeError,
                IndexError,
            ) as error:  # a card of any shape may come
                status, sentence = "failed", f"{CARD} is no card of this version: {type(error).__name__} {error}"
            report.checks.append(Check(name, status, sentence, round(time.perf_counter() - began, 3)))
        return report

    def _read(self) -> str:
        try:
            self.card = read_card(self.run)
        except ValueError as error:
            raise Wrong(str(error)) from None
        return f"{CARD} can be read"

    def _chain(self) -> str:
        ledger = Ledger(self.run)
        try:
            every = ledger.lines()
        except ValueError as error:
            raise Wrong(str(error)) from None
        count, last = self.card["ledger"]["lines"], self.card["ledger"]["last"]
        if not isinstance(count, int) or not 0 < count <= len(every):
            raise Wrong(f"{CARD} was made from {count} lines of the ledger, which has {len(every)}: lines are missing")
        if every[count - 1]["sha256"] != last:
            raise Wrong(f"{ledger.path}, line {count} is not the line that {CARD} was made from: the ledger is another")
        self.lines = every[:count]
        return f"{len(every)} lines, each bound to the one before"

    def _weights(self) -> str:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                self.weights = weights_of(self.run)
            except ValueError as error:
                raise Wrong(str(error)) from None
        if caught:
            raise Wrong(str(caught[0].message))
        about = weights_in(self.lines)
        if self.weights.sha256 != about:
            more = Ledger(self.run).last("checkpoint")
            if more is not None and more.get("weights") == self.weights.sha256 and more not in self.lines:
                raise Wrong(
                    f"the run was trained on to step {self.weights.step} after its card was made; "
                    f"`likely card {self.run} --force` makes a new one"
                )
            raise Wrong(f"{self.weights.path} holds other weights than those of the card: its SHA-256 is another")
        said = [line for line in self.lines if line["kind"] == "checkpoint" and line["step"] == self.weights.step]
        if said and said[-1].get("weights") not in (None, self.weights.sha256):
            raise Wrong(f"{self.weights.path} holds other weights than training wrote there, as the ledger knows them")
        where = Checkpoints(self.run).newest()[1].get("ledger.json")
        if where is not None and not Ledger(self.run).went_through(json.loads(where)):
            raise Wrong(
                f"{Ledger(self.run).path} is not the ledger that the checkpoint of step {self.weights.step} saw"
            )
        try:
            self.model = self.weights.model()
        except ValueError as error:
            raise Wrong(str(error)) from None
        return f"SHA-256 {about[:16]}..., step {self.weights.step}"

    def _figures(self) -> str:
        truth = figures_of(self.lines)
        gap = difference({key: value for key, value in self.card.items() if key != "shown"}, truth)
        if gap is not None:
            raise Wrong(f"{CARD}: {gap}{self._other_code()}")
        return f"all of {CARD} follows from the ledger, {len(self.card['lines'])} of whose lines are cited"

    def _text(self, name: str, write: Callable[[dict[str, Any]], str]) -> str:
        path = self.run / name
        try:
            there = path.read_bytes()
        except OSError:
            raise Wrong(f"{path} is missing") from None
        truth = write(self.card).encode()
        if there != truth:
            pairs = zip(there.split(b"\n"), truth.split(b"\n"), strict=False)
            number = next((i for i, (a, b) in enumerate(pairs, 1) if a != b), None)
            where = f"line {number} was changed" if number else "it was cut off, or added to"
            raise Wrong(f"{path} does not follow from {CARD}: {where}{self._other_code()}")
        return f"{len(there):,} bytes, all of which follow from {CARD}"

    def _sizes(self) -> str:
        line = chosen(self.lines, "size", self.weights.sha256)
        if line is None or "figures" not in line:
            raise Left("the card has no sizes")
        asked = measures.Asked(self.model, None, 1, 0, len(self.weights.data), None, lambda done, of: None)
        gap = difference(line["figures"], json.loads(json.dumps(measures.size(asked))))
        if gap is not None:
            raise Wrong(f"counted again, the sizes are others: {gap}{self._other_code()}")
        return f"{line['figures']['parameters']:,} parameters, counted again"

    def _pictures(self) -> str:
        self.line = chosen(self.lines, "samples", self.weights.sha256)
        if self.line is None or "figures" not in self.line:
            if self.card.get("shown") is not None:
                raise Wrong(f"{CARD} shows samples that the ledger knows nothing of")
            raise Left(str((self.line or {}).get("refused") or (self.line or {}).get("left_out") or "no samples"))
        told, kept = self.card["shown"], self.line["figures"]["sha256"]
        if told is None:
            raise Wrong(f"{CARD} shows no samples, the ledger has the hashes of {len(kept)}")
        try:
            found = shown.hashes(shown.decode(told, self.model.space), self.model.space)
        except ValueError as error:
            raise Wrong(f"{CARD}: {error}") from None
        if len(found) != len(kept):
            raise Wrong(
                f"{CARD} shows {len(found)} samples, the ledger has the hashes of {len(kept)}: some are left out"
            )
        for i, (here, there) in enumerate(zip(found, kept, strict=True)):
            if here != there:
                moved = f"; it is sample {kept.index(here)}" if here in kept else ""
                raise Wrong(f"{CARD}: sample {i} is not the one whose hash the ledger has{moved}")
        if shown.together(kept) != self.line["figures"]["sha256_all"]:
            raise Wrong("the one hash of all samples in the ledger is not that of their hashes")
        return f"{len(found)} samples have the hashes that the ledger has, in order"

    def _seed(self) -> str:
        if self.line is None or "figures" not in self.line:
            raise Left("no samples were drawn")
        settings = self.line["figures"]["settings"]
        if settings != json.loads(json.dumps(shown.settings_of(self.model))):
            raise Wrong(f"the samples were drawn otherwise than this model draws: {settings}")
        if self.line["seed"] != proof_seed(self.weights.sha256, settings, self.lines[0]["nonce"]):
            raise Wrong("the seed of the samples does not follow from weights, settings and the ledger's first line")
        return f"{self.line['seed']} follows from weights, settings and the ledger's first line"

    def _redraw(self) -> str:
        if self.line is None or "figures" not in self.line:
            raise Left("no samples were drawn")
        settings, kept = self.line["figures"]["settings"], self.line["figures"]["sha256"]
        n, slow = settings["n"], self.line["timing"].get("seconds", 0.0) > PATIENCE
        few = self.samples if self.samples is not None else FEW if slow else n
        with _threads(self.line["machine"]["threads"]):
            if few >= n or not slow:
                picked, x = list(range(n)), shown.draw(self.model, settings, self.line["seed"])
            else:
                picked = sorted(secrets.SystemRandom().sample(range(n), few))
                x = _some(self.model, settings, self.line["seed"], picked)
        found = shown.hashes(x, self.model.space)
        equal = sum(a == kept[i] for a, i in zip(found, picked, strict=True))
        if equal == len(picked):
            return f"{equal} of {n} drawn again, all the same bit for bit"
        mine = self.model.space.take(shown.decode(self.card["shown"], self.model.space), torch.tensor(picked))
        off = shown.distance(x, mine)
        near = sum(each <= _near(self.model.space, mine) for each in off)
        why = other_machine(self.line) or ("" if few >= n or not slow else "they were drawn in a batch of another size")
        told = f"{equal} of {len(picked)} are the same bit for bit, {near} within {_unit(self.model.space)}"
        if not why:
            bad = next(i for i, a in zip(picked, found, strict=True) if a != kept[i])
            raise Wrong(f"drawn again on a machine of the same kind, sample {bad} is another; {told}")
        if 2 * near < len(picked):
            raise Wrong(f"drawn again, {told}; {why}, which does not explain that")
        return f"bits do not compare here ({why}): of those drawn again {told}; at most {len(picked) - near} are others"

    def _scores(self) -> str:
        line = chosen(self.lines, "likelihood", self.weights.sha256)
        if line is None or "figures" not in line or not line["splits"]:
            raise Left("the card has no scores")
        kept = line["figures"]["row_nats"][:RESCORED]
        batches = max(1, math.ceil(line["figures"]["rows"] / RESCORED))
        if line["timing"].get("seconds", 0.0) / batches > PATIENCE:
            raise Left("a batch of scores takes too long here")
        data, why = data_of(self.run) if self.data is None else checked(self.run, self.data)
        if data is None:
            raise Left(why)
        space, given = self.model.space, line["figures"]["about"] != "x"
        x = space.take(data.test.x, slice(0, len(kept)))
        y = data.test.y[: len(kept)] if given and data.test.y is not None else None
        with _threads(line["machine"]["threads"]):
            found = log_prob(self.model, x, y, line["figures"]["k"], seed=line["seed"]).nats.tolist()
        pairs = [(i, a, b) for i, (a, b) in enumerate(zip(found, kept, strict=True)) if b is not None]
        slack = 1e-4 if other_machine(line) else 1e-9
        bad = [(i, a, b) for i, a, b in pairs if abs(a - b) > slack * max(1.0, abs(b))]
        if bad:
            i, a, b = bad[0]
            raise Wrong(
                f"scored again, test row {i} has {a:.6f} nats, the ledger says {b:.6f} ({len(bad)} rows differ)"
            )
        return f"{len(pairs)} test rows, scored again"

    def _other_code(self) -> str:
        size = chosen(self.lines, "size", self.weights.sha256)
        if size is None or size.get("code", {}).get("source") == code_version()["source"]:
            return ""
        return " (the card was made by another version of likely; if that explains it, make it again with --force)"


def other_machine(line: dict[str, Any]) -> str:
    """What of this machine is not as a line of the ledger says; "" where nothing that moves bits is."""
    here = surroundings(torch.device("cpu"), 1)
    gaps = []
    for name, key in (("processor", "processor"), ("instruction set", "capability"), ("device", "device")):
        if line["machine"].get(key) != here["machine"].get(key):
            gaps.append(f"{name} {here['machine'].get(key)}, not {line['machine'].get(key)}")
    if line["versions"]["torch"] != here["versions"]["torch"]:
        gaps.append(f"torch {here['versions']['torch']}, not {line['versions']['torch']}")
    return ", ".join(gaps)


def _some(model: Any, settings: dict[str, Any], seed: int, picked: list[int]) -> Any:
    """Single samples in a batch of their own."""
    labels = None
    if settings["y"] is not None and takes_y(model):
        labels = torch.tensor(settings["y"])[picked]
    with scoring(model):
        return model.sample(len(picked), labels, noise=Noise(seed, torch.tensor(picked)))


def _near(space: Space, x: Any) -> float:
    """How far apart rounding may bring two samples: a level, or a thousandth of the samples' spread."""
    if isinstance(space, Integers):
        return 1.0
    cells = x.cells if hasattr(x, "cells") else x
    return 1e-3 * float(cells.double().std())


def _unit(space: Space) -> str:
    return "one grey level" if isinstance(space, Integers) else "a thousandth of their spread"


class _threads:
    """As many threads as there were when something was computed, for as long as it is computed again."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __enter__(self) -> None:
        self.before = torch.get_num_threads()
        torch.set_num_threads(max(1, min(int(self.count), 1024)))

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self.before)

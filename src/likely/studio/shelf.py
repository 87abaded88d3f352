"""Run folders, and the models that were taken from them: a few at a time, with what was measured of them.

A run is named by its place below the folders that the studio was given; nothing else can be named, whatever a browser
sends. Models are asked one at a time: everything that computes holds `Shelf.busy`.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from likely.coding import Codec
from likely.data import Data, load
from likely.logprob import ELIMINATE, LogProb, log_prob
from likely.space import Integers, Reals
from likely.tasks.learn import classes_of, recipe_of
from likely.tasks.neighbours import Neighbours
from likely.tasks.pictures import is_picture
from likely.tasks.standing import Calibration, Histogram, calibrate, histogram
from likely.train import load_model
from likely.verbs import Bounded, Estimated, Exact, Joint, JointBound, Unnormalised, Weighted, has, takes_y

KEPT = 3
"""Models in memory at once; the one not asked for longest goes first."""
HELD_OUT = 256
"""Held-out rows that calibrate, and training rows in the histogram."""
DRAWS = 4
"""Draws a row of noisy readings."""

Told = Callable[[float, str], None]
"""Progress: the share done, and of what."""


def untold(share: float, what: str) -> None:
    """Progress that nobody looks at."""


class Loaded:
    """A model with its data, and what is worked out once, when it is first asked for."""

    def __init__(self, run: Path, name: str) -> None:
        recipe = recipe_of(run)
        self.run, self.name = run, name
        self.model: Any = load_model(run)
        self.family: str = self.model.config.family
        self.data: Data = load(recipe.data)
        self.classes = classes_of(run)
        self._known: Calibration | None = None
        self._histogram: Histogram | None = None
        self._readings: dict[str, LogProb] = {}
        self._neighbours: Neighbours | None = None
        self._codec: Codec | None = None
        self.axes: Any = None
        """Directions among its codes, where somebody asked for them."""

    @property
    def space(self) -> Any:
        """What x is."""
        return self.model.space

    @property
    def pictures(self) -> bool:
        """Whether x can be shown and painted: at most 256 levels, grey or RGB."""
        return is_picture(self.space) and self.space.levels <= 256

    @property
    def joint(self) -> bool:
        """Whether it tells classes apart."""
        return has(self.model, Joint) or has(self.model, JointBound)

    @property
    def scores(self) -> bool:
        """Whether it has any reading of log p."""
        return any(has(self.model, verb) for verb in (Exact, Weighted, Bounded, Estimated, Unnormalised))

    @property
    def needs_y(self) -> bool:
        """Whether it is about p(x given y) alone."""
        return self.model.condition is not None and not self.joint

    @property
    def given_y(self) -> bool:
        """Whether its draws can be of a class."""
        return takes_y(self.model)

    @property
    def k(self) -> int | None:
        """Draws a row: some for noisy readings, what the model prefers where it tells classes apart by them."""
        return None if self.joint or has(self.model, Exact) else DRAWS

    def known(self, told: Told = untold) -> Calibration:
        """What the held-out rows got."""
        if self._known is None:
            x, y = self._rows("valid")
            n = self.space.len(x)
            if n < 40:
                raise ValueError(f"{self.name} has {n} held-out rows; a p-value of .05 takes 40 or more")
            tell = lambda done: told(done / n / 2, "getting to know the held-out rows")  # noqa: E731
            self._known = calibrate(
                self.model, x, y if self.needs_y else None, k=self.k, eliminate=ELIMINATE, progress=tell
            )
        return self._known

    def histogram(self, told: Told = untold) -> Histogram:
        """Where training and held-out rows lie."""
        if self._histogram is None:
            held, (x, y) = self.known(told).log_prob, self._rows("train")
            n = self.space.len(x)
            tell = lambda done: told(0.5 + done / n / 2, "getting to know the training rows")  # noqa: E731
            trained = log_prob(self.model, x, y if self.needs_y else None, held.k, progress=tell)
            self._readings = {"training": trained, "held out": held}
            self._histogram = histogram(self._readings)
        return self._histogram

    def share_below(self, bits: float) -> float:
        """The share of training rows that are likelier than one of so many bits per dimension."""
        return self.histogram().below(bits, self._readings["training"])

    def neighbours(self) -> Neighbours | None:
        """The training rows by nearness; None for tables."""
        if self._neighbours is None and isinstance(self.space, Integers | Reals):
            self._neighbours = Neighbours(self.data.train.x, self.space)
        return self._neighbours

    def codec(self) -> Codec:
        """The model as a codec; `TypeError` where it is none."""
        if self._codec is None:
            self._codec = Codec(self.model, limit=1 << 22)
        return self._codec

    def _rows(self, part: str) -> tuple[Any, Any]:
        split, few = getattr(self.data, part), slice(0, HELD_OUT)
        return self.space.take(split.x, few), None if split.y is None else split.y[few]


class Shelf:
    """The run folders below `roots`, found anew at each look, and the models taken from them."""

    def __init__(self, roots: list[Path]) -> None:
        self.roots = [root.expanduser().resolve() for root in roots]
        self._kept: OrderedDict[str, tuple[int, Loaded]] = OrderedDict()
        self._turn = threading.RLock()

    def names(self) -> list[str]:
        """The runs that there are, newest first."""
        return sorted(self._found(), key=lambda name: _ledger(self._found()[name]).stat().st_mtime, reverse=True)

    def path(self, name: str | None) -> Path:
        """The folder of a run; `ValueError` for anything that is not in the list."""
        found = self._found()
        if not name:
            raise ValueError("no run is chosen; choose one, or train one in the tab Train")
        if name not in found:
            raise ValueError(f"run {name!r} is not in the folders that the studio was given")
        return found[name]

    @contextmanager
    def busy(self) -> Iterator[None]:
        """One question at a time."""
        with self._turn:
            yield

    def take(self, name: str | None) -> Loaded:
        """The model of a run; loaded anew when the run has a newer checkpoint. To be called while `busy`."""
        run = self.path(name)
        assert name is not None
        stamp = max((path.stat().st_mtime_ns for path in (run / "checkpoints").glob("step-*")), default=0)
        if name in self._kept and self._kept[name][0] == stamp:
            self._kept.move_to_end(name)
            return self._kept[name][1]
        self._kept.pop(name, None)
        while len(self._kept) >= KEPT:
            self._kept.popitem(last=False)
        loaded = Loaded(run, name)
        self._kept[name] = (stamp, loaded)
        return loaded

    def _found(self) -> dict[str, Path]:
        """Runs by name: a root that is a run by its own name, else what lies one folder below the roots."""
        found: dict[str, Path] = {}
        for root in self.roots:
            if _ledger(root).is_file():
                found.setdefault(root.name, root)
            elif root.is_dir():
                for path in sorted(root.iterdir()):
                    inside = path.resolve().is_relative_to(root)
                    if inside and not path.name.startswith(".") and _ledger(path).is_file():
                        found.setdefault(path.name, path)
        return found


def _ledger(run: Path) -> Path:
    return run / "ledger.jsonl"

"""What a card measures: one function a question, each bounded by the rows that it is given.

A function returns figures as JSON values. What a model cannot do is refused by `likely.verbs.require`, whose sentence
goes into the card.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from likely.coding import Codec
from likely.data import Data
from likely.data.dataset import Split
from likely.logprob import scoring
from likely.noise import Noise
from likely.space import Integers, Space, Table
from likely.tasks import codecs, compress
from likely.tasks.decide import decide
from likely.tasks.denoise import denoise, rms
from likely.tasks.describe import READINGS, blank
from likely.tasks.detect import compare
from likely.tasks.evaluate import evaluate
from likely.tasks.examination import examine
from likely.tasks.gauge import Gauge
from likely.tasks.impute import impute
from likely.tasks.masks import hide
from likely.tasks.pictures import is_picture
from likely.verbs import (
    ClosedForm,
    Denoiser,
    Exact,
    Invertible,
    Joint,
    JointBound,
    Latent,
    Marginal,
    Ordered,
    Samples,
    Trainable,
    Unnormalised,
    has,
    require,
    takes_y,
    verbs,
)

ROWS = 200
"""Rows of the test split that a card looks at, unless told."""
COUNTED = 2
"""Rows on which multiply-adds are counted."""
LARGE = 4_000_000
"""Parameters from which on the conformance suite, which also trains, is left to those who ask for it."""
FEW = 16
"""Rows to complete and to denoise: each of them asks a denoiser hundreds of times."""
STRANGERS = ("nll", "typicality", "complexity", "sure", "energy")
"""Scores that find strangers at the cost of one pass over them."""


class NotHere(Exception):
    """Raised where a measure has nothing to measure on, which says nothing about the model; the message is why."""


@dataclass(frozen=True)
class Asked:
    """What a measure is given: a model, its data, and how much of them to look at."""

    model: Any
    data: Data | None
    rows: int
    seed: int
    disk_bytes: int
    check: Callable[..., Any] | None
    progress: Callable[[int, int], None]
    why: str = ""
    """Why there are no data, where there are none."""

    def split(self, name: str) -> Split:
        """The first rows of a split."""
        if self.data is None:
            raise NotHere(self.why)
        split, space = getattr(self.data, name), self.model.space
        if not len(split):
            raise NotHere(f"{self.data.name} has no rows in its split {name!r}")
        part = slice(0, self.rows)
        return Split(space.take(split.x, part), None if split.y is None else split.y[part])


class Measure(NamedTuple):
    """A question of the card. `splits` are those it looks at; `needs` are the verbs it asks for."""

    title: str
    ask: Callable[[Asked], dict[str, Any]]
    splits: tuple[str, ...] = ()


def size(asked: Asked) -> dict[str, Any]:
    """Parameters, bytes, latent dimensions, and multiply-adds of one score and one sample."""
    model = asked.model
    counts = lambda module: sum(p.numel() for p in module.parameters())  # noqa: E731
    tensors = (*model.parameters(), *model.buffers())
    kinds = sorted({str(t.dtype).removeprefix("torch.") for t in tensors if t.is_floating_point()})
    x, y = blank(model.space, COUNTED), None if model.condition is None else blank(model.condition, COUNTED)
    record: dict[str, Any] = {
        "family": model.config.family,
        "space": str(model.space),
        "about": words(model.space),
        "columns": [column.name for column in model.space.columns] if isinstance(model.space, Table) else None,
        "condition": None if model.condition is None else str(model.condition),
        "dims": model.space.dims,
        "verbs": list(verbs(model)),
        "learns": "by gradient" if has(model, Trainable) else "by EM" if has(model, ClosedForm) else "not at all",
        "parameters": counts(model),
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "parts": _parts(model),
        "buffers": sum(b.numel() for b in model.buffers()),
        "disk_bytes": asked.disk_bytes,
        "memory_bytes": sum(t.numel() * t.element_size() for t in tensors),
        "dtype": ", ".join(kinds) or "none",
        "counted_on": COUNTED,
    }
    with scoring(model):
        record["latent"], record["latent_what"] = _latent(model, x, y)
        verb = next((verb for verb in READINGS if has(model, verb)), None)
        if verb is None:
            record["score_why"] = _refusal(model, tuple(READINGS), "log_prob")
        else:
            noise = {} if verb in (Exact, Unnormalised) else {"noise": Noise(0, COUNTED)}
            given = (x, y) if takes_y(model) else (x,)
            record |= _counted("score", lambda: getattr(model, READINGS[verb])(*given, **noise))
            record["score_by"] = READINGS[verb]
        if has(model, Samples):
            given = y if takes_y(model) else None
            record |= _counted("sample", lambda: model.sample(COUNTED, given, noise=Noise(0, 2)))
        else:
            record["sample_why"] = _refusal(model, Samples, "sample")
    return record


def words(space: Space) -> str:
    """What values of a space are, in words."""
    if isinstance(space, Table):
        return f"rows of a table of {len(space.columns)} columns"
    count = f"{space.dims:,}" + (" number" if space.dims == 1 else " numbers")
    if not isinstance(space, Integers):
        return f"{count}, real" if space.dims > 1 else "one real number"
    if is_picture(space):
        height, width = space.shape[-2:]
        colour = "colour" if len(space.shape) == 3 and space.shape[0] == 3 else "grey"
        return f"{colour} pictures of {height} x {width} pixels, {space.levels} levels"
    return f"{count} of {space.levels} levels each"


def _parts(module: nn.Module) -> dict[str, int]:
    """Parameters of each part; a part that stands alone is looked into."""
    name, found = "", {"": module}
    while len(found) == 1:
        name, only = next(iter(found.items()))
        inside = {f"{name}.{key}".lstrip("."): part for key, part in only.named_children()}
        inside = {key: part for key, part in inside.items() if any(True for _ in part.parameters())}
        if not inside:
            break
        found = inside
    return {key or "all": sum(p.numel() for p in part.parameters()) for key, part in list(found.items())[:12]}


def _counted(name: str, call: Callable[[], Any]) -> dict[str, Any]:
    """Multiply-adds a row of matrix products and convolutions, as PyTorch counts them (two flops each).

    Where a model has neither, nothing was counted, which is not the same as no work.
    """
    with FlopCounterMode(display=False) as counter:
        call()
    if found := counter.get_total_flops() // 2 // COUNTED:
        return {name: found}
    return {f"{name}_why": "it has no matrix products or convolutions, and only these are counted"}


def _refusal(model: Any, needed: Any, task: str) -> str:
    try:
        require(model, needed, task)
    except TypeError as error:
        return str(error)
    return ""


def _latent(model: Any, x: Any, y: Any) -> tuple[int | None, str]:
    """Numbers in z, and what z is."""
    if has(model, Latent):
        z = model.posterior(x, y if takes_y(model) else None).sample(Noise(0, COUNTED))
        return math.prod(z.shape[1:]), "of a z below x, with a prior, a posterior and a likelihood"
    if has(model, Invertible):
        return model.space.dims, "as many as x has, which z is a bijection of"
    return None, "the model has no latent variables that it could be asked for"


def likelihood(asked: Asked) -> dict[str, Any]:
    """The best reading of log p on the first test rows, with its kind and standard error, and every row's value."""
    rows = asked.split("test")
    found = evaluate(asked.model, rows, seed=asked.seed, progress=lambda done: asked.progress(done, len(rows)))
    return found.to_json() | {"row_nats": found.log_prob.nats.tolist()}


def conformance(asked: Asked) -> dict[str, Any]:
    """The suite of promises on the very weights."""
    if asked.check is None:
        raise NotHere("the suite was not run; `likely card` runs it, and `likely.conformance.check` is what does")
    count = sum(p.numel() for p in asked.model.parameters())
    if count >= LARGE:
        raise NotHere(f"of {count:,} parameters the suite takes long here; `likely check RUN` runs it")
    done = 0

    def tell(outcome: Any) -> None:
        nonlocal done
        done += 1
        asked.progress(done, max(done, 40))

    report = asked.check(asked.model, progress=tell)
    outcomes = [{"id": o.id, "title": o.title, "status": o.status, "detail": o.detail} for o in report.outcomes]
    by = lambda status: [o["id"] for o in outcomes if o["status"] == status]  # noqa: E731
    return (
        {"seed": report.seed}
        | {status: by(status) for status in ("passed", "failed", "skipped")}
        | {"outcomes": outcomes}
    )


def decisions(asked: Asked) -> dict[str, Any]:
    """Classes of test rows, or none where p(x) says so, against the truth."""
    model = asked.model
    require(model, (Joint, JointBound), "decide")
    rows, held = asked.split("test"), asked.split("valid")
    if rows.y is None or len(rows) < 2:
        raise NotHere("its data have no labels to compare decisions with")
    novelty = max(0.05, 2 / (len(held) + 1))
    tell = lambda done: asked.progress(done, len(held))  # noqa: E731
    found = decide(model, rows.x, held.x, novelty=novelty, seed=asked.seed, progress=tell)
    known = examine(found, rows.y, seed=asked.seed).to_json()
    known.pop("sure_but_wrong")
    return {"novelty": novelty, "held_out": len(held), "posterior_kind": found.posterior.kind.value} | known


def strangers(asked: Asked) -> dict[str, Any]:
    """How well scores tell test rows from sets made of them: noise, constants, blurred, negatives, turned."""
    model = asked.model
    require(model, tuple(READINGS), "detect")
    inside, held = asked.split("test"), asked.split("valid")
    if min(len(inside), len(held)) < 4:
        raise NotHere("too few held-out rows")
    found = compare(model, inside.x, held.x, {}, STRANGERS, seed=asked.seed, progress=asked.progress)
    record = found.to_json()
    return {key: record[key] for key in ("inside", "outside", "uses", "refused", "doctor", "convention")}


def bytes_of(asked: Asked) -> dict[str, Any]:
    """Real bytes of the first test rows, decoded again, beside everyday codecs."""
    codec = Codec(asked.model)
    rows = asked.split("test")
    y = rows.y if takes_y(asked.model) else None
    blob = codec.compress(rows.x, y, progress=lambda done: asked.progress(done, len(rows)))
    told = compress.describe(blob)
    keys = ("bytes", "raw_bytes", "rows", "bits_per_dim", "model_bits_per_dim")
    record = {key: told[key] for key in keys if key in told}
    record |= {"scheme": told["header"]["coding"]["scheme"], "stored_raw": told["chunks"].get("raw", 0)}
    everyday = codecs.codec_bits(rows.x, asked.model.space) if codecs.supports(asked.model.space) else None
    return record | {"codecs": everyday}


def completion(asked: Asked) -> dict[str, Any]:
    """Hidden halves filled in: the root-mean-square error of the mean completion, and of the training mean."""
    model = asked.model
    require(model, (Marginal, Denoiser, Ordered), "impute")
    if isinstance(model.space, Table):
        raise NotHere("the columns of a table have no common unit in which to tell an error; see `likely impute`")
    rows = asked.split("test")
    x = model.space.take(rows.x, slice(0, FEW))
    n = model.space.len(x)
    grid = len(model.space.shape) in (2, 3)
    free = has(model, Marginal) or has(model, Denoiser)
    if not free and not grid:
        raise NotHere("the model fills in the end of a row only; see `likely impute`")
    what = ("right" if free else "bottom") if grid else "random:0.5"
    y = rows.y[:n] if rows.y is not None and model.condition is not None and not has(model, Joint) else None
    y = y if takes_y(model) else None
    seen = hide(model.space, what, n, asked.seed)
    tell = lambda done: asked.progress(done, 4 * n)  # noqa: E731
    found = impute(model, x, seen, 4, y=y, seed=asked.seed, progress=tell)
    train = asked.data.train.x if asked.data is not None else x
    flat = train.double().mean(0).expand(n, *model.space.shape)
    error = lambda guess: _rms((guess - x.double())[~seen])  # noqa: E731
    return {
        "hidden": what,
        "rows": n,
        "draws": 4,
        "kind": found.kind.value,
        "how": found.how,
        "error": error(found.mean),
        "error_of_training_mean": error(flat),
        "spread": _rms(found.spread[~seen]),
    }


def clearing(asked: Asked) -> dict[str, Any]:
    """Noise of a tenth of the range (half of the data's spread on reals) put on and taken off again."""
    model = asked.model
    gauge = Gauge(model, "denoise")
    rows = asked.split("test")
    clean = model.space.take(rows.x, slice(0, FEW)).double()
    wide = model.space.levels - 1 if isinstance(model.space, Integers) else 5 * float(clean.std())
    sd = min(max(0.1 * wide, 1.001 * gauge.smallest), 0.999 * gauge.largest)
    y = rows.y[: len(clean)] if model.condition is not None and rows.y is not None and takes_y(model) else None
    noisy = clean + sd * Noise(asked.seed, len(clean)).normal(clean.shape[1:], dtype=torch.float64)
    tell = lambda done: asked.progress(done, len(clean))  # noqa: E731
    found = denoise(model, noisy, sd, y, clean=clean, seed=asked.seed, progress=tell)
    record = {"sd": sd, "rows": len(clean), "error_before": _mean(rms(noisy - clean)), "error": _mean(found.error)}
    record |= {"expected_error": _mean(found.expected_error)}
    if found.psnr is not None:
        record |= {"psnr_before": _mean(found.psnr[0]), "psnr": _mean(found.psnr[1])}
    return record


def _rms(values: Tensor) -> float:
    return float(values.double().square().mean().sqrt())


def _mean(values: Tensor | None) -> float:
    return float("nan") if values is None else float(values.double().mean())


MEASURES: dict[str, Measure] = {
    "size": Measure("how big it is", size),
    "likelihood": Measure("how likely test data are", likelihood, ("test",)),
    "conformance": Measure("promises kept", conformance),
    "decide": Measure("which class, or none", decisions, ("test", "valid")),
    "detect": Measure("strangers found", strangers, ("test", "valid")),
    "compress": Measure("made smaller", bytes_of, ("test",)),
    "impute": Measure("filled in", completion, ("test", "train")),
    "denoise": Measure("noise taken away", clearing, ("test",)),
}
"""What a card asks, by name; the 64 samples are `likely.tasks.card.shown`."""

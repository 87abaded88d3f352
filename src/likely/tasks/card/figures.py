"""From the lines of a ledger to the figures of a card: a pure function, so that whoever has the ledger can check them.

A figure is {"value", "from", "at"}: the SHA-256 of the line that it stands in, and where in it. One that is worked out
is {"value", "from": [lines], "by"}, with the rule in words. What there is no figure for is {"not_applicable": why}, or
{"cannot": why, "from"} where the model itself has refused.
"""

from __future__ import annotations

import shlex
from typing import Any

from likely.train.ledger import held

WATTS = 10.0
"""Assumed power of one busy core, in watts, where no counter could be read: processors of servers are rated at 4 to 9
watts a core (280 W for 64 cores of an AMD EPYC 7763, 270 W for 32 of an Intel Xeon Platinum 8358), and memory and power
supply come on top. An assumption, and called one on every card."""
Line = dict[str, Any]
Fig = dict[str, Any]


def na(why: str) -> Fig:
    """No figure, and the reason."""
    return {"not_applicable": why}


def of(line: Line | None, at: str, why: str) -> Fig:
    """The figure that stands in a line at a path "a/b"; `why` is the reason where there is none."""
    value: Any = line
    for key in at.split("/"):
        value = value.get(key) if isinstance(value, dict) else None
    if value is None or line is None:
        return na(why)
    return {"value": value, "from": line["sha256"], "at": at}


def worked(value: Any, lines: list[Line], by: str) -> Fig:
    """A figure that was worked out from lines, and how."""
    return {"value": value, "from": [line["sha256"] for line in lines], "by": by}


def chosen(lines: list[Line], what: str, weights: str) -> Line | None:
    """The line that counts for a measure of some weights: the last one that measured or refused, else the last."""
    mine = [line for line in lines if line["kind"] == "evaluation" and line["what"] == what]
    mine = [line for line in mine if line["weights"] == weights]
    said = [line for line in mine if "left_out" not in line]
    return (said or mine or [None])[-1]


def weights_in(lines: list[Line]) -> str:
    """The weights that the last card was about; a `ValueError` where there was none."""
    for line in reversed(lines):
        if line["kind"] == "evaluation":
            return line["weights"]
    raise ValueError("the ledger holds no evaluations yet; `likely card RUN` makes them")


def figures_of(lines: list[Line]) -> dict[str, Any]:
    """The card of the last weights that were measured, without its pictures, as JSON values."""
    weights = weights_in(lines)
    alive = held(lines)
    found = {
        name: chosen(lines, name, weights)
        for name in (
            "size",
            "samples",
            "likelihood",
            "conformance",
            "decide",
            "detect",
            "compress",
            "impute",
            "denoise",
        )
    }
    title = next((line for line in reversed(lines) if line["kind"] == "card"), None)
    size = found["size"]
    card: dict[str, Any] = {
        "format": 1,
        "name": of(title, "name", "the run was given none"),
        "licence": of(title, "licence", "none was said"),
        "family": of(size, "figures/family", "not measured"),
        "weights": of(size, "weights", "not measured"),
        "step": of(size, "step", "not measured"),
        "size": _size(size),
        "samples": _samples(found["samples"]),
        "time": _time(lines, alive, size),
        "uses": {name: _use(found[name]) for name in found if name not in ("size", "samples")},
        "curves": curves_of(alive),
        "provenance": _provenance(lines, size, found),
    }
    card["failures"] = _failures(card)
    card["limits"] = _limits(card)
    return card | {
        "lines": _cited(card, lines),
        "ledger": {"lines": len(lines), "last": lines[-1]["sha256"]},
    }


def _size(line: Line | None) -> dict[str, Any]:
    f = lambda name, why="not measured": of(line, f"figures/{name}", why)  # noqa: E731
    figures = (line or {}).get("figures", {})
    return {
        "parameters": f("parameters"),
        "trainable": f("trainable"),
        "parts": f("parts"),
        "buffers": f("buffers"),
        "disk_bytes": f("disk_bytes"),
        "memory_bytes": f("memory_bytes"),
        "dtype": f("dtype"),
        "dims": f("dims"),
        "latent": f("latent", figures.get("latent_what", "not measured")),
        "score": f("score", figures.get("score_why", "not measured")),
        "sample": f("sample", figures.get("sample_why", "not measured")),
        "counted_on": f("counted_on"),
        "space": f("space"),
        "about": f("about"),
        "condition": f("condition", "the model has no condition"),
        "verbs": f("verbs"),
    }


def _use(line: Line | None) -> dict[str, Any]:
    """A measure: all of its figures, or why there are none."""
    if line is None:
        return na("not measured")
    if "refused" in line:
        return {"cannot": line["refused"], "from": line["sha256"]}
    if "left_out" in line:
        return na(line["left_out"])
    figures = {key: value for key, value in line["figures"].items() if key != "row_nats"}
    answer = {key: of(line, f"figures/{key}", "there is none for these data") for key in figures}
    return answer | {"seed": of(line, "seed", "no seed"), "splits": of(line, "splits", "no data were looked at")}


def _samples(line: Line | None) -> dict[str, Any]:
    if line is None or "figures" not in line:
        return _use(line)
    f = lambda at: of(line, at, "there is none")  # noqa: E731
    names = ("settings", "sha256", "sha256_all", "curated")
    return {name: f(f"figures/{name}") for name in names} | {
        "seed": f("seed"),
        "seconds": of(line, "timing/seconds", "not timed"),
        "machine": f("machine"),
        "torch": f("versions/torch"),
    }


def _time(lines: list[Line], alive: list[Line], size: Line | None) -> dict[str, Any]:
    start = lines[0]
    if "made_of" in start or "train" not in start:
        why = (
            "the model was put together from other runs, not trained" if "made_of" in start else "nothing was recorded"
        )
        names = ("steps", "examples", "reason", "wall", "busy", "restarts", "lost", "skipped", "unsaved", "hardware")
        return {name: na(why) for name in (*names, "memory", "energy")}
    ends = [line for line in alive if line["kind"] in ("stop", "checkpoint")]
    end = ends[-1] if ends else None
    old = "the run is from before this was recorded"
    again = [line for line in lines if line["kind"] == "restart"]
    bad = [line for line in lines if line["kind"] == "not finite"]
    lost = [line for line in lines if line["kind"] == "save failed"]
    seen = [line for line in lines if "memory" in line["timing"] and line["kind"] in ("step", "stop")]
    top = max(seen, key=lambda line: line["timing"]["memory"], default=None)
    none = "nothing was trained yet"
    busy = of(end, "timing/busy", none if end is None else old)
    stop = end if end is not None and end["kind"] == "stop" else None
    return {
        "steps": of(end, "step", none),
        "examples": _examples(start, end, size),
        "reason": of(stop, "reason", "training has not ended yet"),
        "wall": of(end, "timing/seconds", none),
        "busy": busy,
        "restarts": worked(len(again), [start, *again], "lines of kind restart, counted"),
        "lost": worked(
            round(sum(line["timing"].get("lost_seconds", 0.0) for line in again), 3),
            [start, *again],
            "lost_seconds of the restarts, summed",
        ),
        "skipped": worked(
            len(bad), [start, *bad], "batches that were not finite: each ended training, none reached the weights"
        ),
        "unsaved": worked(len(lost), [start, *lost], "checkpoints that could not be written, counted"),
        "hardware": of(start, "machine", old),
        "memory": of(top, "timing/memory", old),
        "energy": _energy(start, end, busy),
    }


def _examples(start: Line, end: Line | None, size: Line | None) -> Fig:
    if end is None or size is None or "figures" not in size:
        return na("nothing was trained yet" if end is None else "the size was not measured")
    by_em = size["figures"]["learns"] == "by EM"
    rows = (start["data"].get("rows") or {}).get("train") if by_em else start["train"]["batch"]
    if rows is None:
        return na("the ledger does not know how many rows the training split has")
    rule = "passes x rows of the training split" if by_em else "steps x rows of a batch"
    return worked(end["step"] * rows, [start, end, size], rule)


def _energy(start: Line, end: Line | None, busy: Fig) -> dict[str, Any]:
    """Joules and how they were found: counted, or estimated from busy seconds."""
    counted = of(end, "timing/joules", "no counter could be read")
    if "value" in counted:
        return {"joules": counted, "method": "measured: RAPL counters of the whole processor, whoever used it"}
    if start.get("machine", {}).get("device", "cpu") != "cpu":
        return {"joules": na("no counter was read, and busy seconds of a GPU are not recorded"), "method": "none"}
    if "value" not in busy:
        return {"joules": na(busy["not_applicable"]), "method": "none"}
    rule = f"busy seconds x {WATTS:g} W, the assumed power of one busy core"
    return {
        "joules": worked(round(busy["value"] * WATTS, 1), [end] if end else [], rule),
        "method": f"estimated: {rule}",
        "watts_assumed": WATTS,
    }


def curves_of(alive: list[Line]) -> dict[str, Any]:
    """The lines of metrics as columns; the last line vouches for all before it, which the chain binds to it."""
    steps = [line for line in alive if line["kind"] == "step" and line.get("loss") is not None]
    valid = [line for line in alive if line["kind"] == "valid" and line.get("score") is not None]
    column = lambda lines, key: [line.get(key) for line in lines]  # noqa: E731
    record: dict[str, Any] = {}
    for name, lines, keys in (
        ("train", steps, ("step", "loss", "bits_per_dim", "lr", "grad_norm")),
        ("valid", valid, ("step", "score", "stderr", "bits_per_dim")),
    ):
        record[name] = (
            na(f"the ledger holds no {name} lines")
            if not lines
            else {
                **{key: column(lines, key) for key in keys},
                **({"measure": lines[-1].get("measure", "loss")} if name == "valid" else {}),
                "from": [line["sha256"] for line in (lines[0], lines[-1])],
            }
        )
    return record


def _provenance(lines: list[Line], size: Line | None, found: dict[str, Line | None]) -> dict[str, Any]:
    start = lines[0]
    data = start.get("data") or {}
    old, own = "the run is from before this was recorded", "unknown: own data, whose owner has to say"
    no_data = "the ledger does not say: the run was made from Python with bare arrays"
    code = "no repository or lock file stood beside the code"
    made = data.get("kind") == "generated"
    test = found["likelihood"] or found["detect"]
    splits = of(start, "data/sha256", no_data)
    if "not_applicable" in splits:
        splits = of(test, "splits", no_data)
    return {
        "data": of(start, "data/name", no_data) if "name" in data else of(start, "asked/recipe/data/source", no_data),
        "data_kind": of(start, "data/kind", no_data),
        "data_licence": of(start, "data/licence", "generated here: no licence is needed" if made else own),
        "data_note": of(start, "data/note", "nothing to note"),
        "rows": of(start, "data/rows", no_data),
        "splits": splits,
        "split_rule": of(start, "data/split", no_data),
        "classes": of(start, "asked/classes", "the data have no classes"),
        "trained_by": of(start, "code", old),
        "measured_by": of(size, "code", old),
        "lock": of(start, "code/lock", old if "code" not in start else code),
        "versions": of(start, "versions", old),
        "recipe": of(start, "asked/recipe", "the run was made from Python without a recipe"),
        "started_from": of(start, "start", "training began from weights drawn by its seed"),
        "command": _command(start),
    }


def _command(start: Line) -> Fig:
    """The command that repeats a run, from the recipe that its ledger begins with."""
    if "made_of" in start:
        parts = start["made_of"]
        words = ["likely", "split", str(parts.get("high")), str(parts.get("low")), "--at", str(parts.get("at"))]
        return worked(shlex.join(words), [start], "from `made_of`")
    recipe = (start.get("asked") or {}).get("recipe")
    if recipe is None:
        return na("the run was made from Python without a recipe")
    return worked(command_of(recipe), [start], "from the recipe")


def command_of(recipe: dict[str, Any]) -> str:
    """`likely train ...` with every field of a recipe that is not its default."""
    from likely.config.data import DataConfig
    from likely.config.train import TrainConfig

    words = ["likely", "train", recipe["family"], "--data", recipe["data"]["source"]]
    if recipe.get("preset", "default") != "default":
        words += ["--preset", recipe["preset"]]
    words += ["--conditional"] if recipe.get("conditional") else []
    words += ["--start", recipe["start"]] if recipe.get("start") else []
    words += _assigned("model", recipe.get("model") or {})
    for table, config in (("data", DataConfig), ("train", TrainConfig)):
        plain = {name: field.default for name, field in config.model_fields.items()}
        asked = {key: value for key, value in (recipe.get(table) or {}).items() if key != "source"}
        words += _assigned(table, {key: value for key, value in asked.items() if value != _jsonable(plain.get(key))})
    return shlex.join(words)


def _jsonable(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _assigned(table: str, fields: dict[str, Any]) -> list[str]:
    """Assignments `table.a.b=value`, values in TOML."""
    words = []
    for key, value in fields.items():
        if isinstance(value, dict):
            words += [f"{table}.{key}.{rest.partition('.')[2]}" for rest in _assigned("x", value)]
        elif value is not None:
            words.append(f"{table}.{key}={_toml(value)}")
    return words


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml(each) if not isinstance(each, str) else _quoted(each) for each in value)}]"
    return str(value) if not isinstance(value, str) else value


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _failures(card: dict[str, Any]) -> list[dict[str, Any]]:
    """What is known to go wrong, each with the figure that says so."""
    uses, found = card["uses"], []

    def say(text: str, figure: Fig) -> None:
        found.append({"text": text, "from": figure["from"]})

    outside = uses["detect"].get("outside", {})
    for name, each in (outside.get("value") or {}).items():
        for method, figures in each["methods"].items():
            if figures["auroc"]["high"] < 0.5:
                score = {"nll": "log p", "sure": "its sureness of a class"}.get(method, f"its {method}")
                text = f"{name} ({each['rule']}): {score} is higher there than on the model's own test rows"
                say(f"{text}, AUROC {figures['auroc']['value']:.3f}", outside)
    doctor = uses["detect"].get("doctor", {})
    if (doctor.get("value") or {}).get("mostly_complexity"):
        say(doctor["value"]["sentence"], doctor)
    failed = uses["conformance"].get("failed", {})
    for name in failed.get("value") or []:
        say(f"the conformance suite's promise {name} is broken", failed)
    calibration = uses["decide"].get("calibration", {})
    if (calibration.get("value") or {}).get("rms_debiased", 0) > 0.05:
        say(
            f"it is surer than right, or less: calibration error {calibration['value']['rms_debiased']:.3f}",
            calibration,
        )
    stored = uses["compress"].get("stored_raw", {})
    if stored.get("value"):
        say(f"{stored['value']} chunks of rows did not become smaller by its code and were stored as they are", stored)
    return found


def _limits(card: dict[str, Any]) -> list[str]:
    """Sentences that follow from the rest of the card."""
    data, rows = (
        card["provenance"]["data"].get("value", "data that the ledger does not name"),
        card["provenance"]["rows"],
    )
    trained = rows.get("value", {}).get("train")
    said = [f"It knows {data} only" + (f", {trained:,} rows of it" if trained else "") + ": nothing else was learned."]
    splits = card["uses"]["likelihood"].get("splits", {}).get("value", {}).get("test")
    if splits:
        said.append(
            f"Figures are from the first {splits['used']} of {splits['rows']:,} test rows, and one training run."
        )
    if card["provenance"]["data_licence"].get("not_applicable", "").startswith("unknown"):
        said.append("Nobody has said under which licence its data are.")
    said.append("Attacks on it were not tried: no figure here says what it does against someone who wants to fool it.")
    return said


def _cited(card: dict[str, Any], lines: list[Line]) -> list[dict[str, Any]]:
    """The lines that figures come from: number (from 1), kind, when, hash."""
    cited: set[str] = set()

    def walk(value: Any) -> None:
        if isinstance(value, dict):
            source = value.get("from")
            cited.update([source] if isinstance(source, str) else source if isinstance(source, list) else [])
            for each in value.values():
                walk(each)
        elif isinstance(value, list):
            for each in value:
                walk(each)

    walk(card)
    return [
        {
            "line": i,
            "kind": line["kind"],
            "what": line.get("what"),
            "at": line["timing"]["at"],
            "sha256": line["sha256"],
        }
        for i, line in enumerate(lines, 1)
        if line["sha256"] in cited
    ]

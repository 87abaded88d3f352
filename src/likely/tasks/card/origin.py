"""How a run came to be, from its ledger: what training took, its curves, its data, and the command that repeats it."""

from __future__ import annotations

import shlex
from typing import Any

from likely.tasks.card.figure import Fig, Line, na, of, worked

WATTS = 10.0
"""Assumed power of one busy core, in watts, where no counter could be read: processors of servers are rated at 4 to 9
watts a core (280 W for 64 cores of an AMD EPYC 7763, 270 W for 32 of an Intel Xeon Platinum 8358), and memory and power
supply come on top. An assumption, and called one on every card."""


def spent(lines: list[Line], alive: list[Line], size: Line | None) -> dict[str, Any]:
    """What training took; `alive` are the lines that no restart made void, `size` says how the model learns."""
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


def curves(alive: list[Line]) -> dict[str, Any]:
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


def provenance(lines: list[Line], size: Line | None, found: dict[str, Line | None]) -> dict[str, Any]:
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

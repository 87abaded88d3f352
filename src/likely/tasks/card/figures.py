"""From the lines of a ledger to the figures of a card: a pure function, so whoever has the ledger can check them."""

from __future__ import annotations

from typing import Any

from likely.tasks.card.figure import FORMAT, Fig, Line, chosen, na, of, weights_in
from likely.tasks.card.origin import curves, provenance, spent
from likely.train.ledger import held


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
        "format": FORMAT,
        "name": of(title, "name", "the run was given none"),
        "licence": of(title, "licence", "none was said"),
        "family": of(size, "figures/family", "not measured"),
        "weights": of(size, "weights", "not measured"),
        "step": of(size, "step", "not measured"),
        "size": _size(size),
        "samples": _samples(found["samples"]),
        "time": spent(lines, alive, size),
        "uses": {name: _use(found[name]) for name in found if name not in ("size", "samples")},
        "curves": curves(alive),
        "provenance": provenance(lines, size, found),
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
        "columns": f("columns", "x is no table"),
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

"""What a card says, in words and in the order in which it is told: sections of tiles, tables and notes.

Pages and Markdown are both made from this, so that neither says what the other does not. All text here is plain: who
writes it into a language escapes it.
"""

from __future__ import annotations

from typing import Any

from likely.tasks.card.answers import answers, bits, details
from likely.tasks.card.cells import Cell, Section, Teller, amount, plain, seconds


def story(card: dict[str, Any]) -> list[Section]:
    """The sections of a card."""
    teller = Teller(card)
    return [
        _size(card["size"], teller),
        _samples(card["samples"], teller),
        _time(card["time"], teller),
        answers(card["uses"], teller),
        *details(card["uses"], teller),
        _failures(card, teller),
        _provenance(card["provenance"], teller),
        Section("limits", "Limits", notes=card["limits"]),
    ]


def title(card: dict[str, Any]) -> str:
    """What the card is called."""
    return plain(card["name"].get("value", "a run"))


def lead(card: dict[str, Any]) -> str:
    """One sentence on what the model is."""
    size = card["size"]
    data = card["provenance"]["data"].get("value", "data that the ledger does not name")
    family = card["family"].get("value", "model of an unknown family")
    about = size["about"].get("value", "a space that was not recorded")
    count = len(card["provenance"]["classes"].get("value") or ())
    classes = f", and {count} classes" if count and "value" in size["condition"] else ""
    article = "An" if family[0] in "aeiou" else "A"
    return f"{article} {family} model of {data}: {about}{classes}."


def headline(card: dict[str, Any]) -> list[tuple[Cell, str]]:
    """The four answers in four tiles."""
    teller, uses = Teller(card), card["uses"]["likelihood"]
    tiles = [(teller.cell(card["size"]["parameters"]), "parameters")]
    if "bits_per_dim" in uses:
        tiles.append((bits(uses, teller), "bits per dimension of test data, 95 % interval"))
    elif "nats" in uses:
        tiles.append(
            (teller.cell(uses["nats"], lambda v: f"{uses['kind'].get('value', '')} {v:.2f}"), "nats a test row")
        )
    tiles.append((teller.cell(card["time"]["wall"], seconds), "to train"))
    if "value" in card["samples"].get("sha256", {}):
        tiles.append(
            (teller.cell(card["samples"]["sha256"], lambda v: f"{len(v)} of {len(v)}"), "samples shown, none chosen")
        )
    return tiles


def _size(size: dict[str, Any], t: Teller) -> Section:
    tiles = [
        (t.cell(size["parameters"]), "parameters"),
        (t.cell(size["disk_bytes"], amount), "on disk"),
        (t.cell(size["memory_bytes"], amount), "of weights in memory"),
    ]
    rows = [
        ("trainable parameters", t.cell(size["trainable"])),
        ("parts", t.cell(size["parts"], lambda v: ", ".join(f"{k} {n:,}" for k, n in v.items()) or "none")),
        ("numbers that are kept and not trained", t.cell(size["buffers"])),
        ("type of number", t.cell(size["dtype"])),
        ("x", t.cell(size["space"])),
        ("given", t.cell(size["condition"])),
        ("dimensions of x", t.cell(size["dims"])),
        ("latent dimensions", t.cell(size["latent"])),
        ("multiply-adds of one score", t.cell(size["score"])),
        ("multiply-adds of one sample", t.cell(size["sample"])),
        ("verbs", t.cell(size["verbs"], ", ".join)),
    ]
    rows_counted = size["counted_on"].get("value", "a few")
    note = (
        f"Multiply-adds are those of matrix products and convolutions, as PyTorch's flop counter sees them (two flops "
        f"each) on {rows_counted} rows; sums, exponentials and the like are not counted."
    )
    return Section("size", "How big is it?", "", tiles, ["", ""], [[Cell(a), b] for a, b in rows], [note])


def _samples(samples: dict[str, Any], t: Teller) -> Section:
    question = "Are the samples cherry-picked?"
    if "settings" not in samples:
        return Section("samples", question, t.cell(samples).text)
    n = samples["settings"]["value"]["n"]
    lead = (
        f"No. These are the first {n} samples in order, of a seed that is the SHA-256 of the weights, the sampler's "
        "settings and a number that the operating system drew when the run began. Another seed would need another run."
    )
    settings = samples["settings"]
    rows = [
        ("seed", t.cell(samples["seed"], str)),
        ("drawn", t.cell(settings, _how)),
        ("asked for", t.cell(settings, _conditions)),
        ("SHA-256 of all hashes", t.cell(samples["sha256_all"])),
        ("seconds for all", t.cell(samples["seconds"], seconds)),
    ]
    return Section("samples", question, lead, [], ["", ""], [[Cell(a), b] for a, b in rows], [], "samples")


def _time(time: dict[str, Any], t: Teller) -> Section:
    energy = time["energy"]
    tiles = [
        (t.cell(time["wall"], seconds), "by the clock"),
        (t.cell(time["busy"], seconds), "of busy processors"),
        (t.cell(time["steps"]), "steps"),
    ]
    if "joules" in energy:
        joules = t.cell(energy["joules"], lambda v: f"{v / 3600:,.3g} Wh")
        rows = [("energy", joules), ("how the energy was found", Cell(energy["method"]))]
    else:
        rows = [("energy", t.cell(energy))]
    hardware = lambda v: ", ".join(  # noqa: E731
        f"{key} {v[key]}" for key in ("processor", "cores", "threads", "processes", "device") if v.get(key) is not None
    )
    rows = [
        ("examples seen", t.cell(time["examples"])),
        ("ended because of", t.cell(time["reason"], lambda v: {"steps": "all steps made"}.get(v, v))),
        ("hardware", t.cell(time["hardware"], hardware)),
        ("most memory", t.cell(time["memory"], amount)),
        *rows,
        ("restarts", t.cell(time["restarts"])),
        ("work lost by them", t.cell(time["lost"], seconds)),
        ("batches skipped as not finite", t.cell(time["skipped"])),
        ("checkpoints that could not be written", t.cell(time["unsaved"])),
    ]
    table = [[Cell(a), b] for a, b in rows]
    return Section("time", "How long did it take to train?", "", tiles, ["", ""], table, [], "curves")


def _failures(card: dict[str, Any], t: Teller) -> Section:
    rows = [[Cell(each["text"], t.lines(each), "bad")] for each in card["failures"]]
    lead = "" if rows else "None was found by what was measured here, which does not mean that there is none."
    return Section("failures", "Known failures", lead, [], ["what goes wrong"] if rows else [], rows)


def _provenance(p: dict[str, Any], t: Teller) -> Section:
    rows = [
        ("data", t.cell(p["data"])),
        ("kind of source", t.cell(p["data_kind"])),
        ("licence of the data", t.cell(p["data_licence"])),
        ("note", t.cell(p["data_note"])),
        ("rows", t.cell(p["rows"], _pairs)),
        ("how they were split", t.cell(p["split_rule"], lambda v: v.get("meaning") or _pairs(v))),
        ("SHA-256 of the splits", t.cell(p["splits"], _hashes)),
        ("classes", t.cell(p["classes"], ", ".join)),
        ("started from", t.cell(p["started_from"], _pairs)),
        ("trained by", t.cell(p["trained_by"], _code)),
        ("measured by", t.cell(p["measured_by"], _code)),
        ("SHA-256 of pinned versions", t.cell(p["lock"])),
        ("versions", t.cell(p["versions"], _pairs)),
        ("weights, SHA-256", t.cell(t.card["weights"])),
        ("licence of the weights", t.cell(t.card["licence"])),
        ("to do it again", t.cell(p["command"])),
    ]
    return Section("provenance", "Where it comes from", "", [], ["", ""], [[Cell(a), b] for a, b in rows])


def _how(settings: dict[str, Any]) -> str:
    return "as the model does" if settings["sampler"] is None else _pairs(settings["sampler"])


def _conditions(settings: dict[str, Any]) -> str:
    if settings["y"] is None:
        return "nothing"
    return "every class in turn" if isinstance(settings["y"][0], int) else "rows of its condition, always the same"


def _code(code: dict[str, Any]) -> str:
    told = f"likely {code['version']}, source {code['source'][:16]}"
    told += f", commit {code['commit'][:12]}" if code.get("commit") else ""
    return told + (", with changes of its own" if code.get("dirty") else "")


def _hashes(splits: dict[str, Any]) -> str:
    return ", ".join(f"{name} {each['sha256'] if isinstance(each, dict) else each}" for name, each in splits.items())


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {each}" for key, each in values.items())

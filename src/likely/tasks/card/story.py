"""What a card says, in words and in the order in which it is told: sections of tiles, tables and notes.

Pages and Markdown are both made from this, so that neither says what the other does not. All text here is plain: who
writes it into a language escapes it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Fig = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """A piece of text, the numbers of the ledger's lines that it comes from, and its tone: good, bad, soft or none."""

    text: str
    lines: tuple[int, ...] = ()
    tone: str = ""


@dataclass(frozen=True)
class Section:
    """A question with its answer. `special` asks the writer for what is no text: samples or curves."""

    name: str
    title: str
    lead: str = ""
    tiles: list[tuple[Cell, str]] = field(default_factory=list)
    head: list[str] = field(default_factory=list)
    rows: list[list[Cell]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    special: str = ""


class Teller:
    """Turns the figures of one card into cells."""

    def __init__(self, card: dict[str, Any]) -> None:
        self.card = card
        self.numbers = {line["sha256"]: line["line"] for line in card["lines"]}

    def cell(self, figure: Fig, show: Any = None, tone: str = "") -> Cell:
        """A figure's value as `show` writes it, with its lines; or why there is none."""
        if "cannot" in figure:
            return Cell(f"cannot, because {figure['cannot']}", self.lines(figure), "soft")
        if "value" not in figure:
            return Cell(f"not applicable: {figure['not_applicable']}", (), "soft")
        return Cell((show or plain)(figure["value"]), self.lines(figure), tone)

    def lines(self, figure: Fig) -> tuple[int, ...]:
        """Numbers of the lines that a figure comes from."""
        source = figure["from"]
        return tuple(self.numbers[each] for each in ([source] if isinstance(source, str) else source))


def story(card: dict[str, Any]) -> list[Section]:
    """The sections of a card."""
    teller = Teller(card)
    return [
        _size(card["size"], teller),
        _samples(card["samples"], teller),
        _time(card["time"], teller),
        _uses(card["uses"], teller),
        *_details(card["uses"], teller),
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
        tiles.append((_bits(uses, teller), "bits per dimension of test data, 95 % interval"))
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


def _bits(found: dict[str, Any], t: Teller) -> Cell:
    """Bits per dimension with kind and 95 % interval."""
    kind, error = found["bits_kind"].get("value", "~"), found["bits_per_dim_stderr"].get("value")
    told = "" if error is None else f" ± {1.96 * error:.3f}"
    return t.cell(found["bits_per_dim"], lambda v: f"{kind} {v:.3f}{told}")


def _uses(uses: dict[str, Any], t: Teller) -> Section:
    asked = {
        "likelihood": ("How likely are data?", _likelihood),
        "decide": ("Which class, or none?", _decide),
        "detect": ("Have I seen its kind?", _detect),
        "compress": ("Make it smaller", _compress),
        "impute": ("Fill in what is missing", _impute),
        "denoise": ("Take noise away", _denoise),
        "conformance": ("Promises kept", _conformance),
    }
    rows = []
    for name, (question, tell) in asked.items():
        use = uses[name]
        there = "cannot" not in use and "not_applicable" not in use
        rows.append([Cell(question), tell(use, t) if there else t.cell(use)])
    told = (
        "=: exact. <= before bits: a bound, the truth is at most that. ~: an estimate, with no side. Intervals are "
        "95 %, of the mean over rows; they say nothing about other training seeds."
    )
    return Section("uses", "Can it be used beyond synthesis?", "", [], ["asked", "answered"], rows, [told])


def _likelihood(use: dict[str, Any], t: Teller) -> Cell:
    about = f"of {use['about']['value']}, {use['rows']['value']} test rows"
    draws = f", k={use['k']['value']}" if use["k"]["value"] > 1 else ""
    if "value" in use.get("bits_per_dim", {}):
        figure = use["bits_per_dim"]
        said = f"{_bits(use, t).text} bits per dimension {about}{draws}"
    else:
        figure = use["nats"]
        error = use["nats_stderr"].get("value")
        interval = "" if error is None else f" ± {1.96 * error:.2f}"
        said = (
            f"log p {use['kind']['value']} {plain(figure.get('value', 'minus infinity'))}{interval} nats {about}{draws}"
        )
    if "value" in use.get("accuracy", {}):
        said += f"; {use['accuracy']['value']:.1%} of the classes right ({use['posterior_kind']['value']})"
    return Cell(said, t.lines(figure) if "from" in figure else ())


def _decide(use: dict[str, Any], t: Teller) -> Cell:
    right = use["accuracy_answered"].get("value")
    kept = "none of them" if right is None else f"{right:.1%} of them rightly"
    figure, wrong = use["answered"], use["calibration"]["value"]["rms_debiased"]
    kind = use["posterior_kind"]["value"]
    return t.cell(
        figure,
        lambda v: (
            f"{v:.1%} of {use['rows']['value']} test rows answered, {kept} "
            f"({use['accuracy']['value']:.1%} if all are); calibration error {wrong:.3f}; p(y given x) {kind}"
        ),
    )


def _detect(use: dict[str, Any], t: Teller) -> Cell:
    def told(sets: dict[str, Any]) -> str:
        best = []
        for name, each in sets.items():
            found = {method: f["auroc"]["value"] for method, f in each["methods"].items()}
            top = max(found, key=lambda method: found[method])
            best.append(f"{name} {found[top]:.3f} by {top}")
        return f"AUROC against sets made of its own test rows: {', '.join(best)}"

    return t.cell(use["outside"], told)


def _compress(use: dict[str, Any], t: Teller) -> Cell:
    codecs = use["codecs"].get("value") or {}
    beside = "".join(f", {name} {bits:.3f}" for name, bits in codecs.items())
    rows = f"{use['rows']['value']} test rows, decoded again ({use['scheme']['value']})"
    return t.cell(use["bits_per_dim"], lambda v: f"{v:.3f} bits per dimension in real bytes{beside}; {rows}")


def _impute(use: dict[str, Any], t: Teller) -> Cell:
    what = {"right": "the right half hidden", "bottom": "the lower half hidden"}.get(
        use["hidden"]["value"], "half hidden"
    )
    base = use["error_of_training_mean"]["value"]
    kind = f"{use['draws']['value']} draws each {use['kind']['value']}, {use['how']['value']}"
    rows = f"{use['rows']['value']} test rows with {what}"
    return t.cell(
        use["error"], lambda v: f"an error of {v:.3g} where the training mean makes {base:.3g}: {rows}, {kind}"
    )


def _denoise(use: dict[str, Any], t: Teller) -> Cell:
    psnr = ""
    if "value" in use.get("psnr", {}):
        psnr = f" (PSNR {use['psnr_before']['value']:.1f} to {use['psnr']['value']:.1f} dB)"
    before, own = use["error_before"]["value"], use["expected_error"]["value"]
    rows = f"{use['rows']['value']} test rows with noise of {use['sd']['value']:.3g}"
    return t.cell(
        use["error"], lambda v: f"an error of {before:.3g} down to {v:.3g}{psnr}, itself expecting {own:.3g}: {rows}"
    )


def _conformance(use: dict[str, Any], t: Teller) -> Cell:
    count = {status: len(use[status].get("value") or ()) for status in ("passed", "failed", "unsure", "skipped")}
    tone = "bad" if count["failed"] else "good"
    return t.cell(use["outcomes"], lambda _: ", ".join(f"{n} {status}" for status, n in count.items() if n), tone)


def _details(uses: dict[str, Any], t: Teller) -> list[Section]:
    """Tables behind the answers."""
    found = []
    sets = uses["detect"].get("outside", {})
    if "value" in sets:
        methods = list(next(iter(sets["value"].values()))["methods"])
        rows = [
            [Cell(name, t.lines(sets)), *(_auroc(each["methods"][method]["auroc"]) for method in methods)]
            for name, each in sets["value"].items()
        ]
        lead = "AUROC of each score, with 95 % intervals: 1 is perfect, 0.5 guessing; below that strangers look better."
        found.append(Section("strangers", "Strangers, score by score", lead, [], ["set", *methods], rows))
    outcomes = uses["conformance"].get("outcomes", {})
    if "value" in outcomes:
        tones = {"passed": "good", "failed": "bad", "unsure": "soft", "skipped": "soft"}
        rows = [
            [Cell(o["id"]), Cell(o["status"], (), tones[o["status"]]), Cell(f"{o['title']}: {o['detail']}")]
            for o in outcomes["value"]
        ]
        found.append(Section("promises", "Promises, one by one", "", [], ["promise", "", "what was found"], rows))
    return found


def _auroc(figure: dict[str, float]) -> Cell:
    text = f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"
    return Cell(text, (), "bad" if figure["high"] < 0.6 else "")


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


def plain(value: Any) -> str:
    """A value as text: integers with thousands, floats with four digits."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def amount(count: int) -> str:
    """Bytes."""
    for unit, size in (("GB", 2**30), ("MB", 2**20), ("kB", 2**10)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count} bytes"


def seconds(time: float) -> str:
    """Seconds as people say them."""
    if time < 60:
        return f"{time:.3g} s"
    minutes, hours = time / 60, time / 3600
    return f"{minutes:.1f} min" if minutes < 90 else f"{hours:.1f} h"

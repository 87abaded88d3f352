"""What a model is good for beyond synthesis, in words: a sentence for each verb, and the tables behind them."""

from __future__ import annotations

from typing import Any

from likely.tasks.card.cells import Cell, Section, Teller, plain


def bits(found: dict[str, Any], t: Teller) -> Cell:
    """Bits per dimension with kind and 95 % interval."""
    kind, error = found["bits_kind"].get("value", "~"), found["bits_per_dim_stderr"].get("value")
    told = "" if error is None else f" ± {1.96 * error:.3f}"
    return t.cell(found["bits_per_dim"], lambda v: f"{kind} {v:.3f}{told}")


def answers(uses: dict[str, Any], t: Teller) -> Section:
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
        said = f"{bits(use, t).text} bits per dimension {about}{draws}"
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
    count = {status: len(use[status].get("value") or ()) for status in ("passed", "failed", "skipped")}
    tone = "bad" if count["failed"] else "good"
    return t.cell(use["outcomes"], lambda _: ", ".join(f"{n} {status}" for status, n in count.items() if n), tone)


def details(uses: dict[str, Any], t: Teller) -> list[Section]:
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
        tones = {"passed": "good", "failed": "bad", "skipped": "soft"}
        rows = [
            [Cell(o["id"]), Cell(o["status"], (), tones[o["status"]]), Cell(f"{o['title']}: {o['detail']}")]
            for o in outcomes["value"]
        ]
        found.append(Section("promises", "Promises, one by one", "", [], ["promise", "", "what was found"], rows))
    return found


def _auroc(figure: dict[str, float]) -> Cell:
    text = f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"
    return Cell(text, (), "bad" if figure["high"] < 0.6 else "")

"""What the command line shows: progress on standard error, answers on standard output."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


class Stage:
    """A bar for long work, on standard error: `advance(done)` moves it. Silent where nobody is looking."""

    def __init__(self, name: str, total: int) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=err, transient=True, disable=not err.is_terminal)
        self._task = self._bar.add_task(name, total=total)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self, done: int) -> None:
        """Show that `done` rows are done."""
        self._bar.update(self._task, completed=done)

    def says(self, done: int, name: str) -> None:
        """Show that `done` rows are done, under another name: what is reached so far."""
        self._bar.update(self._task, completed=done, description=name)

    def of(self, done: int, total: int) -> None:
        """Show that `done` of `total` are done, for work whose size turns out on the way."""
        self._bar.update(self._task, completed=done, total=total)

    def part(self, name: str, done: int, total: int) -> None:
        """Show what is being done now, and how much of it is."""
        self._bar.update(self._task, description=name, completed=done, total=max(1, total))


def say(line: str) -> None:
    """A line of progress."""
    err.print(f"[dim]·[/] {line}", soft_wrap=True)


def give(record: Any, text: str, path: Path | None, as_json: bool) -> None:
    """An answer: to a JSON file where one was asked for, and as JSON or text on standard output."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    if as_json:
        sys.stdout.write(json.dumps(record, allow_nan=False) + "\n")
    else:
        out.print(text, markup=False, soft_wrap=True)


def families_table(record: dict[str, dict[str, str]]) -> None:
    """Every family with its verbs: a row each, for a table of both would be wider than a terminal."""
    table = Table(title="Families and what they can do", title_justify="left", show_lines=True)
    table.add_column("family", no_wrap=True)
    table.add_column("verbs")
    for family, row in record.items():
        verbs = [verb if has == "yes" else f"[dim]({verb})[/]" for verb, has in row.items() if has != "no"]
        table.add_row(family, " ".join(verbs))
    out.print(table)
    out.print("[dim](In brackets): depends on the choices. `likely describe FAMILY` says what one would be.[/]")


def tour_story(r: dict[str, Any], page: Path) -> None:
    """The tour in the terminal."""
    sure, half = r["sure"], r["test_rows"]
    shades = " .:-=+*#%@"
    out.print("\n[bold]1. What it imagines[/] (the first samples of a seed that follows from the weights)")
    top = max(max(row) for picture in r["samples"]["pixels"] for row in picture[0])
    shown = [r["samples"]["pixels"][i][0] for i in range(8)]
    for line in zip(*shown, strict=True):
        out.print("   " + "   ".join("".join(shades[p * 9 // top] for p in row) for row in line), markup=False)
    out.print("   " + "          ".join(str(r["samples"]["labels"][i]) for i in range(8)), markup=False)

    file = r["file"]
    out.print("\n[bold]2. How likely the test digits are, and how small that makes them[/]")
    table = Table(box=None, padding=(0, 3), show_header=False)
    bits = f"{r['kind']} {r['bits_per_dim']:.3f} ± {r['bits_per_dim_stderr']:.3f}"
    table.add_row("this model says", f"{bits}", "bits per dimension")
    table.add_row("its file, with labels", f"  [bold]{file['bits_per_dim']:.3f}[/]", bar(file["bits_per_dim"], "blue"))
    for name, value in r["codecs"].items():
        told = "not installed" if value is None else f"{value:.2f}"
        table.add_row(f"{name}, one file", f"  {told}", bar(value or 0, "dim"))
    out.print(table)
    out.print(
        f"   all {half} test digits and their labels in {file['bytes']:,} bytes, decoded again and compared",
    )

    out.print(f"\n[bold]3. The same {half} digits, turned by 90 degrees[/]")
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for column in ("trusted by", "sure, upright", "sure, turned", "AUROC", "right in the kept half"):
        table.add_column(column, justify="left" if column == "trusted by" else "right")
    rows = (
        ("p(x) of the joint", None, "px"),
        ("p(y | x) of the joint", "joint", "py"),
        ("softmax", "softmax", "softmax"),
    )
    for name, who, key in rows:
        upright, turned = (
            ("", "") if who is None else (f"{sure[f'{who}_{side}']:.1%}" for side in ("upright", "turned"))
        )
        style = "green" if key == "px" else "red"
        kept = f"[{style}]{r[f'kept_half_{key}']:.1%}[/]"
        table.add_row(name, upright, turned, f"{r[f'auroc_rot90_{key}']:.3f}", kept)
    out.print(table)
    out.print(f"   accuracy on upright digits: joint {r['accuracy']:.1%}, softmax {r['softmax_accuracy']:.1%}")

    out.print("\n[bold]4. Single verdicts[/]")
    for shown_one in r["gallery"]:
        what = f"a {shown_one['truth']}{', turned' if shown_one['turned'] else ''}"
        style = "red" if shown_one["verdict"] == "novel" else "green"
        out.print(f"   {what:<12} [{style}]{shown_one['sentence']}[/]", soft_wrap=True)
    out.print(f"\nThe page with pictures: [bold]{page}[/]   ({r['seconds']:.0f} s in all)", soft_wrap=True)
    out.print(
        f"Go on: likely sample {r['run']} | likely evaluate {r['run']} | likely decide {r['run']} | "
        f"likely decompress {file['path']} --run {r['run']}",
        soft_wrap=True,
    )


def bar(value: float, style: str) -> str:
    """A bar of four signs a bit."""
    return f"[{style}]{'█' * round(4 * value)}[/]"


def comparison_table(r: dict[str, Any]) -> None:
    """How well each score finds each set: AUROC, in red where it is no better than guessing."""
    table = Table(title=f"AUROC of {r['data']} against", title_justify="left", box=None, padding=(0, 1))
    table.add_column("", no_wrap=True)
    for column in ("bits/dim", *r["uses"]):
        table.add_column(column, justify="right", header_style="dim", no_wrap=True)
    table.add_row("[dim]inside[/]", _bits(r["inside"]["bits_per_dim"]), *("" for _ in r["uses"]))
    for name, each in r["outside"].items():
        cells = []
        for method in r["uses"]:
            found = each["methods"][method]
            value, style = found["auroc"]["value"], "red" if found["auroc"]["high"] < 0.6 else ""
            cells.append(Text(f"{value:.3f}", style=style))
        table.add_row(name, _bits(each["bits_per_dim"]), *cells)
    out.print(table)
    for name, each in r["outside"].items():
        out.print(f"[dim]{name}: {each['rows']} rows, {each['rule']}[/]", soft_wrap=True)
    for why in r["refused"].values():
        out.print(f"[dim]{why}[/]", soft_wrap=True)


def _bits(figure: dict[str, float] | None) -> str:
    return "" if figure is None else f"{figure['mean']:.2f}"


def comparison_of_runs(found: dict[str, Any]) -> None:
    """Runs side by side, and which of their readings may be ranked."""
    from likely.tasks.card.comparison import FACTS, reading

    table = Table(box=None, padding=(0, 2))
    table.add_column("", style="dim")
    for row in found["runs"]:
        table.add_column(Text(row["name"]), overflow="fold")
    for key, (name, show) in FACTS.items():
        table.add_row(name, *(Text("" if row[key] is None else show(row[key])) for row in found["runs"]))
    marked = {"best": "bold green", "best, not told apart": "green", "not told apart from the best": "green", "": ""}
    table.add_row("how likely", *(Text(reading(row), style=marked[row["mark"]]) for row in found["runs"]))
    out.print(table)
    for group in found["groups"]:
        out.print(group["sentence"], markup=False, soft_wrap=True)


def description(r: dict[str, Any]) -> None:
    """What a model would be."""
    table = Table(box=None, padding=(0, 3), show_header=False)
    table.add_row("family", r["family"])
    table.add_row("space", r["space"] + (f", given {r['condition']}" if r["condition"] else ""))
    table.add_row("verbs", ", ".join(r["verbs"]))
    table.add_row("learns", r["learns"])
    parts = ", ".join(f"{name} {count:,}" for name, count in r["parameters_by_part"].items())
    table.add_row("parameters", f"{r['parameters']:,}" + (f" ({parts})" if parts else ""))
    table.add_row("weights", _bytes(r["weights_bytes"]))
    if "train_step" in r:
        step = r["train_step"]
        table.add_row(
            "a training step",
            f"{step['multiply_adds_per_row']:,} multiply-adds a row, "
            f"{_bytes(step['memory_bytes'])} at batch {step['batch']}",
        )
    if "score" in r:
        table.add_row("a score", f"{r['score']['multiply_adds_per_row']:,} multiply-adds a row")
    out.print(table)
    _fields(r)


def _fields(r: dict[str, Any]) -> None:
    """What can be told a family, with what it is here."""
    out.print(f"\npresets: {', '.join(r['presets'])}\nfields (NAME=VALUE):", markup=False)
    table = Table(box=None, padding=(0, 2), show_header=False)
    for name, meaning in r["fields"].items():
        if name != "family":
            table.add_row(name, Text(str(r["config"][name])), Text(meaning, style="dim"))
    out.print(table)


def report(results: dict[str, Any]) -> None:
    """Conformance reports, failures in full."""
    for name, result in results.items():
        out.print(f"{'[green]passed[/]' if result.passed else '[red]failed[/]'}  {name}")
        if not result.passed or len(results) == 1:
            out.print(str(result), markup=False)


def datasets(sets: list[dict[str, Any]]) -> None:
    """The known data sets."""
    table = Table(box=None, padding=(0, 3), header_style="dim")
    for column in ("name", "where", "what"):
        table.add_column(column, overflow="fold")
    for entry in sets:
        table.add_row(entry["name"], entry["here"] or f"[dim]{entry['get'] or 'not here'}[/]", entry["text"])
    out.print(table)


def _bytes(count: int) -> str:
    return f"{count / 2**20:,.1f} MB" if count >= 2**20 else f"{count / 2**10:,.1f} kB"

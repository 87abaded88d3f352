"""Train: a form made from a family's config, and the command line that it starts, followed and stoppable."""

from __future__ import annotations

import atexit
import os
import re
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from likely import registry
from likely.config.train import TrainConfig
from likely.data import list_sets
from likely.studio import look, pieces
from likely.studio.desk import Desk
from likely.studio.errors import sentence
from likely.studio.runs import portrait

STEPS = 100_000
"""The most steps that the form asks for; the command line takes any number."""
SECONDS = 2.0
NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,63}")
TRAINING = ("batch", "lr", "warmup", "ema", "valid_every")
"""Fields of the training that the form shows."""


@dataclass
class Job:
    """A training that this studio started."""

    run: Path
    process: subprocess.Popen[bytes]
    said: Any
    """What it writes to standard error, a file."""

    @property
    def running(self) -> bool:
        """Whether it is still at work."""
        return self.process.poll() is None

    def stop(self) -> None:
        """Ask it to save and stop: what Ctrl-C does."""
        if self.running:
            self.process.send_signal(signal.SIGINT)

    def last_words(self) -> str:
        """The last line that it wrote to standard error."""
        self.said.seek(0)
        lines = [line for line in self.said.read(1 << 16).decode("utf-8", "replace").splitlines() if line.strip()]
        return lines[-1].removeprefix("likely: ") if lines else ""


def fields_of(family: str, preset: str) -> list[dict[str, Any]]:
    """What the form shows of a family's config and of the training: from their JSON schemas, single values only.

    Each has name, table ("model" or "train"), text, kind ("number", "flag", "choice" or "text"), value, and its
    accepted choices or bounds.
    """
    config = registry.presets(family)[preset]
    found = [
        _field("model", name, schema, getattr(config, name)) for name, schema in _schema(registry.config_class(family))
    ]
    training = dict(_schema(TrainConfig))
    found += [
        _field("train", name, training[name], getattr(TrainConfig(), name)) for name in TRAINING if name in training
    ]
    return [field for field in found if field is not None]


def _schema(config: Any) -> list[tuple[str, dict[str, Any]]]:
    return [(name, each) for name, each in config.model_json_schema()["properties"].items() if name != "family"]


def _field(table: str, name: str, schema: dict[str, Any], value: Any) -> dict[str, Any] | None:
    options = [option for option in schema.get("anyOf", [schema]) if option.get("type") != "null"]
    if len(options) != 1:
        return None
    one, text = options[0], " ".join(str(schema.get("description", "")).split())
    field = {"name": name, "table": table, "text": text, "value": value}
    if "enum" in one:
        return field | {"kind": "choice", "choices": one["enum"]}
    if one.get("type") == "boolean":
        return field | {"kind": "flag"}
    if one.get("type") in ("integer", "number"):
        return field | {"kind": "number", "whole": one["type"] == "integer"}
    return None


def overrides(fields: list[dict[str, Any]], values: list[Any]) -> list[str]:
    """`table.key=value` for each field whose value is no longer what it was."""
    said = []
    for field, value in zip(fields, values, strict=True):
        if value in (None, "") or value == field["value"]:
            continue
        if field["kind"] == "number":
            try:
                text = str(int(value)) if field["whole"] else repr(float(value))
            except ValueError:
                raise ValueError(f"{field['name']} is {str(value)[:30]!r}; accepts a number") from None
        elif field["kind"] == "flag":
            text = "true" if value else "false"
        else:
            if value not in field["choices"]:
                raise ValueError(f"{field['name']} is {value!r}; accepts {', '.join(map(str, field['choices']))}")
            text = str(value)
        said.append(f"{field['table']}.{field['name']}={text}")
    return said


def here() -> list[str]:
    """The named data sets that are on this machine: nothing is fetched."""
    return [row["name"] for row in list_sets() if row["here"]]


def command(
    root: Path,
    name: str,
    family: str,
    preset: str,
    data: str,
    steps: int,
    seed: int,
    conditional: bool,
    more: list[str],
) -> tuple[list[str], Path]:
    """The command line for what was asked, and its run folder; `ValueError` for what the studio does not start."""
    if family not in registry.FAMILIES:
        raise ValueError(f"family is {family!r}; accepts {', '.join(registry.FAMILIES)}")
    if preset not in registry.presets(family):
        raise ValueError(f"preset is {preset!r}; accepts {', '.join(registry.presets(family))}")
    if data not in here():
        raise ValueError(f"data is {data!r}; accepts {', '.join(here())}")
    for what, value, most in (("steps", steps, STEPS), ("seed", seed, 2**31)):
        least = 0 if what == "seed" else 1
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError(f"{what} is {value!r}; accepts whole numbers from {least} to {most:,}")
    if not NAME.fullmatch(name):
        raise ValueError(f"name is {name[:70]!r}; accepts letters, digits, dots, dashes and underscores, at most 64")
    run = root / name
    if run.exists():
        raise ValueError(f"a run {name} is there already; nothing is written over: choose another name")
    words = [sys.executable, "-m", "likely", "train", family, *more, "--preset", preset, "--data", data]
    words += ["--steps", str(steps), "--seed", str(seed), "--out", str(run), "--json"]
    return words + (["--conditional"] if conditional else []), run


class Trainer:
    """The one training that a studio runs at a time."""

    def __init__(self) -> None:
        self.job: Job | None = None
        atexit.register(self.stop)

    def start(self, words: list[str], run: Path) -> Job:
        """Start a command line; `ValueError` while another is at work."""
        if self.job is not None and self.job.running:
            raise ValueError(f"{self.job.run.name} is still in training; stop it first, or wait")
        run.parent.mkdir(parents=True, exist_ok=True)
        said = tempfile.TemporaryFile()  # noqa: SIM115  (it lives as long as the process)
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NO_COLOR": "1"}
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said, env=environment
        )
        self.job = Job(run, process, said)
        return self.job

    def stop(self) -> None:
        """Stop it, if there is one."""
        if self.job is not None:
            self.job.stop()

    def report(self) -> str:
        """How it goes, as HTML."""
        job = self.job
        if job is None:
            return pieces.hint("Choose what to train, and start. It goes on when you leave this tab.")
        head = f"<h3>{pieces.escape(job.run.name)}</h3>"
        try:
            body = portrait(job.run)
        except (ValueError, OSError, KeyError):
            waits = "Reading the data and building the model …"
            body = pieces.hint(waits if job.running else "It was stopped before it began; nothing was written.")
        if not job.running and job.process.returncode not in (0, 130, 143):
            body = pieces.problem(job.last_words() or f"training ended with status {job.process.returncode}") + body
        return head + body


# The tab ------------------------------------------------------------------------------------------------------------


def tab(desk: Desk) -> None:
    """Build the tab and say what its events do."""
    trainer, root = Trainer(), desk.shelf.roots[0]
    families, sets = list(registry.FAMILIES), here()
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=300):
            family = gr.Dropdown(families, value="vae", label="Family", elem_id="train-family")
            preset = gr.Dropdown(list(registry.presets("vae")), value="digits", label="Preset", elem_id="train-preset")
            data = gr.Dropdown(sets, value="digits", label="Data on this machine", elem_id="train-data")
            with gr.Row():
                steps = gr.Number(500, label="Steps", precision=0, minimum=1, maximum=STEPS, min_width=100)
                seed = gr.Number(0, label="Seed", precision=0, minimum=0, min_width=80)
            name = gr.Textbox("", label="Name (empty: family-data-number)", max_lines=1)
            conditional = gr.Checkbox(label="Learn p(x given y)")
            with gr.Row():
                go = gr.Button("Start training", variant="primary", elem_id="train-go")
                stop = gr.Button("Stop and save", elem_id="train-stop")
            with gr.Accordion("All settings of this family", open=False):
                settings = gr.State([])

                @gr.render(inputs=[family, preset], triggers=[family.change, preset.change, desk.load])
                def form(family: str, preset: str) -> None:
                    if family not in registry.FAMILIES or preset not in registry.presets(family):
                        return
                    fields = fields_of(family, preset)
                    boxes = [_box(field) for field in fields]

                    def changed(*values: Any) -> list[str]:
                        return overrides(fields, list(values))

                    for box in boxes:
                        box.change(changed, boxes, settings, show_progress="hidden", api_visibility="private")

        with gr.Column(scale=7, min_width=300):
            out = look.html(trainer.report(), elem_id="train-out")
    clock = gr.Timer(SECONDS)

    def presets(family: str) -> Any:
        names = list(registry.presets(family)) if family in registry.FAMILIES else []
        own = "digits" if "digits" in names else "default"
        return gr.Dropdown(choices=names, value=own if own in names else None), []

    def begin(
        family: str, preset: str, data: str, steps: float, seed: float, name: str, given: bool, more: list[str]
    ) -> str:
        try:
            wanted = name.strip() or _free(root, f"{family}-{data}")
            words, run = command(root, wanted, family, preset, data, int(steps or 0), int(seed or 0), given, more)
            trainer.start(words, run)
        except (ValueError, OSError) as error:
            return pieces.problem(sentence(error))
        return trainer.report()

    def tick(before: str) -> Any:
        report = trainer.report()
        return (report, report) if report != before else (gr.skip(), gr.skip())

    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    family.change(presets, [family], [preset, settings], **quiet)
    go.click(begin, [family, preset, data, steps, seed, name, conditional, settings], [out], **quiet)
    stop.click(trainer.stop, **quiet)
    last = gr.State("")
    clock.tick(tick, [last], [out, last], trigger_mode="once", **quiet)


def _box(field: dict[str, Any]) -> Any:
    """The component for a field of the form."""
    where = " (training)" if field["table"] == "train" else ""
    told = {"label": field["name"] + where, "info": field["text"], "value": field["value"]}
    match field["kind"]:
        case "flag":
            return gr.Checkbox(**told)
        case "choice":
            return gr.Dropdown(field["choices"], **told)
        case "number" if field["value"] is None:  # a number field would show 0 for nothing
            return gr.Textbox(placeholder="none", max_lines=1, **told)
        case _:
            return gr.Number(precision=0 if field["whole"] else None, **told)


def _free(root: Path, stem: str) -> str:
    number = 1
    while (root / f"{stem}-{number}").exists():
        number += 1
    return f"{stem}-{number}"

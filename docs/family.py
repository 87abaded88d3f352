"""What a family's page shows of it, computed: verbs, presets, definition, and what was measured."""

from __future__ import annotations

import importlib
import inspect
import json
from collections.abc import Callable
from functools import cache
from typing import Any

from tables import figure, lines_of, table


def definition(family: str) -> str:
    """The definition and the references, which are the docstring of the family's module."""
    from likely.registry import entry

    text = inspect.cleandoc(importlib.import_module(entry(family).module).__doc__ or "")
    return text if "\n\n" in text else f"{text}\n"


@cache
def _families() -> dict[str, dict[str, str]]:
    from likely.tasks.describe import families

    return families()


def verbs(family: str) -> str:
    """The verbs of a family, with their promises."""
    from likely import verbs

    rows = []
    for verb, able in _families()[family].items():
        if able != "no":
            promise = " ".join((getattr(verbs, verb).__doc__ or "").split("\n\n")[0].split())
            rows.append([f"[`{verb}`][likely.verbs.{verb}]", "always" if able == "yes" else "some choices", promise])
    return table(["verb", "has it", "promise"], rows)


def presets(family: str) -> str:
    """The presets of a family, and what each changes."""
    from likely import registry

    rows = []
    default = registry.presets(family)["default"].model_dump()
    for name, config in registry.presets(family).items():
        changed = {key: value for key, value in config.model_dump().items() if value != default.get(key)}
        told = ", ".join(f"`{key}={json.dumps(value)}`" for key, value in changed.items())
        rows.append([f"`{name}`", told or "the config's own defaults"])
    return table(["preset", "what it changes"], rows)


SOURCES: dict[str, list[tuple[str, str, set[str]]]] = {
    "mixture": [("fashion_mnist", "case", {"mixture"}), ("mixture", "", set()), ("tables", "model", {"mixture"})],
    "autoregressive": [("fashion_mnist", "case", {"autoregressive"}), ("autoregressive", "", set())],
    "vae": [("fashion_mnist", "case", {"vae"}), ("vae", "", set())],
    "flow": [
        ("fashion_mnist", "case", {"flow"}),
        ("toys", "model", {"coupling", "spline"}),
        ("tables", "model", {"maf", "spline coupling", "spline-ar"}),
        ("flow", "", set()),
        ("splines", "", set()),
    ],
    "residual": [("toys", "model", {"i-DenseNet", "residual flow"}), ("residual", "", set())],
    "continuous-flow": [("ode", "", set())],
    "diffusion": [("fewstep", "family", {"diffusion"}), ("diffusion_vs_rivals", "", set())],
    "meanflow": [("fewstep", "family", {"meanflow"})],
    "consistency": [("fewstep", "family", {"consistency"})],
    "joint": [("fashion_mnist", "case", {"joint"})],
    "hybrid": [("talk_table", "", set())],
    "pyramid": [("picture_rates", "case", {"kodak, mean of 12", "cifar10 test, 1000, one file"})],
    "hyperprior": [("lossy", "codec", {"hyperprior"})],
}
"""Where the numbers of a family stand: the lines of bench/results/NAME.jsonl whose field is one of these."""


def measured(family: str) -> str:
    """What was measured of a family: how well it does, and how long it takes beside a rival."""
    parts = []
    for name, field, wanted in SOURCES.get(family, []):
        rows = [row for row in lines_of(name) if not field or row[field] in wanted]
        parts += [show(rows) for show, fits in SHOWN if rows and fits(rows[0])]
    return "\n\n".join(parts) or "Nothing yet."


def densities(rows: list[dict[str, Any]]) -> str:
    cells = []
    for row in rows:
        bits = f"{row['bits_kind']} {row['bits_per_dim']:.3f} ± {row['bits_per_dim_stderr']:.3f}"
        right = f"{row['accuracy']:.3f}" if row.get("accuracy") is not None else ""
        made = row.get("preset") or f"{row.get('row')}, lambda {row.get('lam')}"
        cells.append(
            [
                made,
                f"{row['parameters']:,}",
                f"{row['steps']:,}",
                f"{row['train_cpu_s']:.0f}",
                bits,
                str(row["rows"]),
                right,
            ]
        )
    data = rows[0].get("data", "fashion-mnist")
    head = ["model", "parameters", "steps", "CPU s of training", "test bits/dim", "rows", "accuracy"]
    blank = all(not line[-1] for line in cells)
    told = f"On {data}, k={rows[0].get('k', 1)}, one thread of a CPU:"
    return f"{told}\n\n{table(head[:-1] if blank else head, [line[:-1] if blank else line for line in cells])}"


def toys(rows: list[dict[str, Any]]) -> str:
    cells = [
        [
            row["model"],
            row["toy"],
            f"{row['parameters']:,}",
            f"{row['train_cpu_s']:.0f}",
            f"{row['nats']:.3f} ± {row['nats_stderr']:.3f}",
            f"{row['entropy']:.3f}",
        ]
        for row in rows
    ]
    head = ["model", "toy", "parameters", "CPU s", "-log p, nats", "entropy, the least possible"]
    return f"In the plane (exact, 10,000 test rows):\n\n{table(head, cells)}"


def uci(rows: list[dict[str, Any]]) -> str:
    sets = list(dict.fromkeys(row["set"] for row in rows if row["comparable"]))
    found = {(row["model"], row["set"]): row for row in rows}
    cells = [
        [model, *(f"{found[model, name]['test_nats']:.2f} ± {found[model, name]['stderr']:.2f}" for name in sets)]
        for model in dict.fromkeys(row["model"] for row in rows)
    ]
    told = "UCI tables, test log p in nats a row, five splits ([beside the others](../measured/joint.md)):"
    return f"{told}\n\n{table(['model', *sets], cells)}"


def timings(rows: list[dict[str, Any]]) -> str:
    rows = [row for row in rows if isinstance(row.get("ratio"), int | float) and row.get("rival")]
    cells = [[str(row["case"]), str(row.get("ours", "")), str(row["rival"]), f"{row['ratio']:.2f}"] for row in rows]
    blank = all(not line[1] for line in cells)
    head = ["what", "model", "beside", "our time over theirs"]
    cells = [[line[0], *line[2:]] for line in cells] if blank else cells
    return f"Time, below 1 is faster:\n\n{table([head[0], *head[2:]] if blank else head, cells)}"


def cached(rows: list[dict[str, Any]]) -> str:
    cells = [
        [row["case"], figure(row["cached_s"]), figure(row["naive_s"]), f"{row['times_faster']:.0f}"] for row in rows
    ]
    head = ["network", "with the cache, s", "a pass for every site, s", "times faster"]
    return f"Drawing with and without what was already worked out:\n\n{table(head, cells)}"


def few(rows: list[dict[str, Any]]) -> str:
    cells = [
        [
            str(row["evaluations"]),
            f"{row['kernel_distance']['value']:.3f} ± {row['kernel_distance']['stderr']:.3f}",
            f"{row['steps']:,}",
            f"{row['train_cpu_s']:.0f}",
        ]
        for row in rows
    ]
    first = rows[0]
    told = f"Kernel distance of {first['draws']} draws of {first['data']} on {first['features']}, lower is nearer:"
    return f"{told}\n\n{table(['evaluations', 'distance', 'steps', 'CPU s of training'], cells)}"


def files(rows: list[dict[str, Any]]) -> str:
    cells = [[row["case"], row["codec"], f"{row['bits_per_dim']:.3f}"] for row in rows]
    told = "Files of the model that comes with the package ([more](../measured/compression.md)):"
    return f"{told}\n\n{table(['pictures', 'codec', 'bits/dim'], cells)}"


def rates(rows: list[dict[str, Any]]) -> str:
    cells = [
        [
            f"{row['setting']['rate']:g}",
            *(
                f"{row[name]:.{places}f} ± {error:.{places}f}"
                for name, places, error in zip(("bpp", "psnr", "ms_ssim"), (3, 2, 4), row["stderr"], strict=True)
            ),
        ]
        for row in rows
    ]
    told = (
        f"Means of {rows[0]['n']} photographs after {sum(part['steps'] for part in rows[0]['trained']):,} steps "
        f"([beside JPEG, WebP and JPEG XL](../measured/compression.md#with-loss)):"
    )
    return f"{told}\n\n{table(['rate', 'bits/pixel', 'PSNR, dB', 'MS-SSIM'], cells)}"


SHOWN: list[tuple[Callable[[list[dict[str, Any]]], str], Callable[[dict[str, Any]], bool]]] = [
    (densities, lambda row: "bits_per_dim" in row and "bits_per_dim_stderr" in row),
    (toys, lambda row: "toy" in row),
    (uci, lambda row: "test_nats" in row),
    (timings, lambda row: "rival" in row),
    (cached, lambda row: "times_faster" in row),
    (few, lambda row: "kernel_distance" in row and "evaluations" in row),
    (files, lambda row: row.get("bench") == "pictures"),
    (rates, lambda row: row.get("bench") == "lossy"),
]
"""How lines are shown, by what they hold."""

FAMILY_TABLES: dict[str, Callable[[str], str]] = {
    "definition": definition,
    "verbs": verbs,
    "presets": presets,
    "measured": measured,
}

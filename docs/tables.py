"""The tables of the documentation, computed: from the registry, the conformance suite and the lines under bench/."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def families_table() -> str:
    """Families against verbs, computed from the registry: the README's table."""
    from likely.tasks.describe import families, markdown

    return markdown(families())


def presets_table() -> str:
    """The presets of every family, and what each says of the fields that differ from the default preset."""
    from likely.registry import FAMILIES, presets

    rows = []
    for family in FAMILIES:
        default = presets(family)["default"].model_dump()
        for name, config in presets(family).items():
            fields = config.model_dump()
            changed = {key: value for key, value in fields.items() if name == "default" or value != default.get(key)}
            changed.pop("family", None)
            rows.append([family, name, ", ".join(f"`{key}={json.dumps(value)}`" for key, value in changed.items())])
    return table(["family", "preset", "fields"], rows)


OWN_TABLES = dict.fromkeys(("toys", "talk_table", "ood", "tables"), "joint") | dict.fromkeys(
    ("compression", "coder", "joint_codec", "picture_rates", "lossy", "field"), "compression"
)
"""What has a page under docs/measured that shows it, instead of a row a line."""


def bench_tables() -> str:
    """One table for every bench/**/*.jsonl, a row a line; what is the same in all rows is said once, above it."""
    parts = []
    for path in sorted((ROOT / "bench").rglob("*.jsonl")):
        if path.stem in OWN_TABLES:
            page = f"[{path.stem}](measured/{OWN_TABLES[path.stem]}.md)"
            parts.append(f"## {path.stem}\n\n`{path.relative_to(ROOT)}` has tables of its own: {page}.")
            continue
        rows = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
        columns = list(dict.fromkeys(key for row in rows for key in row))
        values = {column: [figure(row.get(column)) for row in rows] for column in columns}
        same = {column: values[column][0] for column in columns if len(rows) > 1 and len(set(values[column])) == 1}
        columns = [column for column in columns if column not in same]
        common = "; ".join(f"{column}: {value}" for column, value in same.items() if value)
        cells = [[values[column][row] for column in columns] for row in range(len(rows))]
        head = f"## {path.stem}\n\nFrom `{path.relative_to(ROOT)}`. {common}"
        parts.append(f"{head.rstrip()}\n\n{table(columns, cells)}")
    return "\n\n".join(parts) or "No measurements yet."


def figure(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {figure(part)}" for key, part in value.items())
    return "" if value is None else str(value) if isinstance(value, str | int) else json.dumps(value)


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def checks_table() -> str:
    """The checks of the conformance suite, from their docstrings."""
    from likely.conformance import CHECKS
    from likely.conformance.report import chosen

    rows = []
    for check in chosen(None):
        promise = " ".join((CHECKS[check.id].test.__doc__ or "").partition("\n")[2].split())
        rows.append([check.id, check.title, promise])
    return table(["id", "promise", "how it is tested"], rows)


def lines_of(name: str) -> list[dict[str, Any]]:
    """The rows of bench/results/NAME.jsonl."""
    path = ROOT / "bench" / "results" / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def toys_table() -> str:
    """Nats of every model on every toy, and the entropies."""
    rows = {(row["model"], row["toy"]): row for row in lines_of("toys")}
    models, toys = (list(dict.fromkeys(key[i] for key in rows)) for i in (0, 1))
    if not rows:
        return "No measurements yet."
    cells = []
    for model in models:
        own = [rows.get((model, toy)) for toy in toys]
        seconds = {f"{row['train_cpu_s']:.0f} s, {row['steps']:,} steps" for row in own if row}
        nats = [f"{row['nats']:.3f} ± {row['nats_stderr']:.3f}" if row else "" for row in own]
        cells.append([model, f"{max(row['parameters'] for row in own if row):,}", *nats, "; ".join(sorted(seconds))])
    floor = [f"{next(row['entropy'] for (_, t), row in rows.items() if t == toy):.3f}" for toy in toys]
    return table(["model", "parameters", *toys, "training"], [*cells, ["entropy", "", *floor, ""]])


def talk_tables() -> str:
    """What bench/talk_table.py makes of its lines."""
    command = [sys.executable, str(ROOT / "bench" / "talk_table.py"), "--table"]
    told = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True).stdout
    return told.strip() or "No measurements yet."


def ood_tables() -> str:
    """AUROC of every score against every set of strangers, a table for each model and inside set."""
    parts = []
    for row in lines_of("ood"):
        methods = list(row["uses"])
        cells = []
        for name, outside in row["outside"].items():
            found = [outside["methods"].get(method, {}).get("auroc") for method in methods]
            bits = f"{outside['bits_per_dim']['mean']:.2f}"
            cells.append([name, bits, *(auroc(each) if each else "" for each in found)])
        inside = row["inside"]["bits_per_dim"]
        accuracy = "" if row["accuracy"] is None else f"accuracy {row['accuracy']:.3f}; "
        told = (
            f"{row['parameters']:,} parameters, {row['steps']:,} steps in {row['train_cpu_s']:.0f} CPU seconds (the "
            f"background of `ratio` {row['background_cpu_s']:.0f}); inside {inside['mean']:.2f} bits/dim; {accuracy}"
            f"{row['rows']} rows of each; {row['inside_rule']}. Not to be had from this model: "
            f"{', '.join(row['refused'])}. The doctor: {row['doctor']['sentence']}."
        )
        parts.append(f"### {row['case']}\n\n{told}\n\n{table(['outside', 'bits/dim', *methods], cells)}")
    return "\n\n".join(parts) or "No measurements yet."


def auroc(figure: dict[str, float]) -> str:
    return f"{figure['value']:.3f} ({figure['low']:.2f} to {figure['high']:.2f})"


def diffusion_tables() -> str:
    """Every diffusion preset at one budget, a table for each data set: bits both ways, and distances of draws."""
    parts = []
    for data in dict.fromkeys(row["data"] for row in lines_of("diffusion")):
        rows = [row for row in lines_of("diffusion") if row["data"] == data]
        counts = list(rows[0]["kernel_distance"])
        head = ["preset", "steps", "bits/dim, bound", "of them decoder", "bits/dim, flow"]
        cells = [
            [
                row["kind"],
                f"{row['steps']:,}",
                f"{row['bits_kind']} {row['bits_per_dim']:.3f} ± {row['stderr']:.3f}",
                f"{row['terms_bits_per_dim']['reconstruction']:.3f}",
                flow_bits(row),
                *(distance(row["kernel_distance"][count]) for count in counts),
            ]
            for row in rows
        ]
        first = rows[0]
        told = (
            f"{first['parameters']:,} parameters, about {first['train_cpu_s']:.0f} CPU seconds each; bounds over "
            f"{first['rows']} test rows with k={first['k']}, the flow's ODE over {first['flow_rows']} of them; kernel "
            f"distance of {first['draws']} draws on {first['features']} (training images: "
            f"{distance(first['kernel_distance_of_training_rows'])})."
        )
        columns = [*head, *(f"distance, {count} evaluations" for count in counts)]
        parts.append(f"### {data}\n\n{told}\n\n{table(columns, cells)}")
    return "\n\n".join(parts) or "No measurements yet."


def flow_bits(row: dict[str, Any]) -> str:
    if row["flow_bits_per_dim"] is None:
        return "not solved"
    return f"{row['flow_kind']} {row['flow_bits_per_dim']:.3f} ± {row['flow_stderr']:.3f}"


def distance(found: dict[str, float]) -> str:
    return f"{found['value']:.3f} ± {found['stderr']:.3f}"


def daed_tables() -> str:
    """The split models beside the unsplit one, and denoisers on the other data set."""
    rows = lines_of("daed")
    models = [row for row in rows if "kernel_distance" in row]
    cells = [
        [
            row["case"],
            f"{row['steps']:,}",
            f"{row['train_cpu_s']:.0f}",
            f"{row['bits_kind']} {row['bits_per_dim']:.3f} ± {row['stderr']:.3f}",
            *(f"{row[f'{part}_bits']:.3f}" for part in ("denoiser", "generator", "entropy")),
            f"{row['kernel_distance']:.3f} ± {row['kernel_distance_stderr']:.3f}",
        ]
        for row in models
    ]
    head = [
        "model",
        "steps",
        "CPU s",
        "bits/dim",
        "denoiser",
        "generator",
        "entropy",
        "kernel distance, 20 evaluations",
    ]
    moved = [row for row in rows if row["case"] == "transfer"]
    levels = [-6, -2, 0, 2, 4, 6, 8]
    away = [
        [
            f"{row['trained_on']} on {row['used_on']}",
            *(f"{row['error_grey_levels'][nearest(row['log_snr'], level)]:.2f}" for level in levels),
        ]
        for row in moved
    ]
    exchanged = [
        [row["what"], f"<= {row['bits_per_dim']:.3f}", f"<= {row['own_denoiser_bits_per_dim']:.3f}"]
        for row in rows
        if row["case"] == "exchange"
    ]
    if not models:
        return "No measurements yet."
    return "\n\n".join(
        [
            "Bits of -log p in the three terms of the bound, Fashion-MNIST, every model with as many steps as "
            "420 CPU seconds buy at the pace of the first ones:",
            table(head, cells),
            "Mean absolute error of x_hat in grey levels (of 255) at several log-SNRs, at home and away:",
            table(["denoiser", *(f"{level:+d}" for level in levels)], away),
            "Bits per dimension with the other data set's denoiser from log-SNR 2.2 on, and with its own:",
            table(["", "exchanged", "own"], exchanged),
        ]
    )


def fewstep_table() -> str:
    """Kernel distances of draws in few evaluations."""
    rows = lines_of("fewstep")
    if not rows:
        return "No measurements yet."
    counts = sorted({row["evaluations"] for row in rows})
    cells = []
    for family in dict.fromkeys(row["family"] for row in rows):
        own = {row["evaluations"]: row for row in rows if row["family"] == family}
        first = next(iter(own.values()))
        figures = [distance(own[count]["kernel_distance"]) if count in own else "" for count in counts]
        cells.append([family, f"{first['steps']:,}", f"{first['train_cpu_s']:.0f}", *figures])
    first = rows[0]
    told = (
        f"Kernel distance of {first['draws']} draws of {first['data']} on {first['features']}; training rows: "
        f"{distance(first['kernel_distance_of_training_rows'])}. The consistency model's seconds are its tuning's; the "
        "diffusion that it starts from had as many."
    )
    return f"{told}\n\n{table(['model', 'steps', 'CPU s', *(f'{count} evaluations' for count in counts)], cells)}"


def classifier_table() -> str:
    """Accuracy of the diffusion classifier against draws, with and without shared noise and elimination."""
    rows = [row for row in lines_of("diffusion_classifier") if "noise" in row]
    if not rows:
        return "No measurements yet."
    cells = [
        [
            "the same for every class" if row["noise"] == "paired" else "of its own for each class",
            str(row["k"]),
            "off" if not row["eliminate"] else f"beyond {row['eliminate']:g} errors",
            f"{row['accuracy']:.3f} ± {row['accuracy_stderr']:.3f}",
            f"{row['class_nats']:.3f}",
            f"{row['evaluations']:.0f}",
        ]
        for row in rows
    ]
    told = f"{rows[0]['rows']} test rows of {rows[0]['data']}, {rows[0]['model']['steps']:,} steps of training."
    head = ["noise", "draws", "classes dropped", "right", "-log p(y given x), nats", "evaluations a row"]
    return f"{told}\n\n{table(head, cells)}"


def impute_table() -> str:
    """Imputation against a conditional that is known."""
    rows = [row for row in lines_of("impute") if "divergence_per_dim" in row]
    cells = [
        [
            row["data"],
            row["hidden"],
            row["method"],
            f"{row['divergence_per_dim']:.4f}",
            f"{row['least_variance']:.2f} to {row['most_variance']:.2f}",
        ]
        for row in rows
    ]
    head = ["data", "hidden", "method", "divergence, nats a hidden dimension", "variance along the true one's axes"]
    return table(head, cells) if rows else "No measurements yet."


def nearest(values: list[float], wanted: float) -> int:
    return min(range(len(values)), key=lambda i: abs(values[i] - wanted))


def uci_table() -> str:
    """Test nats of every model on every table; sets whose densities have no floor stand apart."""
    rows = {(row["set"], row["model"]): row for row in lines_of("tables")}
    sets, models = (list(dict.fromkeys(key[i] for key in rows)) for i in (0, 1))
    cells = []
    for name in sorted(sets, key=lambda name: not next(r["comparable"] for (s, _), r in rows.items() if s == name)):
        own = [rows.get((name, model)) for model in models]
        ranked = all(row["comparable"] for row in own if row)
        values = [f"{row['test_nats']:.2f} ± {row['stderr']:.2f}" if row else "" for row in own]
        cells.append([name if ranked else f"{name} *", *values])
    return table(["set", *models], cells) if rows else "No measurements yet."


TABLES: dict[str, Callable[[], str]] = {
    "families": families_table,
    "presets": presets_table,
    "bench": bench_tables,
    "checks": checks_table,
    "toys": toys_table,
    "talk": talk_tables,
    "ood": ood_tables,
    "uci": uci_table,
    "diffusion": diffusion_tables,
    "daed": daed_tables,
    "fewstep": fewstep_table,
    "classifier": classifier_table,
    "impute": impute_table,
}

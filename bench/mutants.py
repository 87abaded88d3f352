"""Plant known bugs into the package, one at a time, and see which the conformance suite finds.

    python bench/mutants.py                   all of them: bench/results/mutants.jsonl and docs/mutants.md
    python bench/mutants.py --only detach     those whose kind contains a word, on the screen only
    python bench/mutants.py --new             those of a kind that has no result yet, added to the results

The mutants stand in bench/mutants.toml: a replacement in one source file (the text must stand there exactly once) and
the tiny instances that the changed line takes part in. Each runs in a process of its own over a copy of the package,
so nothing here touches the checkout. A check that fails without the mutant as well does not count. Survivors are
published like the others.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "likely"
RESULTS = ROOT / "bench" / "results" / "mutants.jsonl"
TABLE = ROOT / "docs" / "mutants.md"


class Mutant(NamedTuple):
    """One planted bug: what kind, where, the text and what it becomes, and "family: tiny instance" to try."""

    kind: str
    file: str
    old: str
    new: str
    instances: tuple[str, ...]
    fields: Mapping[str, object] = MappingProxyType({})
    """Config fields to change in the instances."""


MUTANTS = [
    Mutant(**{**row, "instances": tuple(row["instances"])})
    for row in tomllib.loads((ROOT / "bench" / "mutants.toml").read_text())["mutant"]
]


def run(mutant: Mutant | None, instances: tuple[str, ...], known: dict[str, list[str]]) -> dict[str, list[str]]:
    """The checks that fail, by instance, over a copy of the package with a mutant in it (or none: all checks)."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "likely")
        shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        if mutant is not None:
            path = copy / mutant.file
            text = path.read_text()
            if text.count(mutant.old) != 1:
                raise ValueError(f"{mutant.kind}: {mutant.file} has the text {text.count(mutant.old)} times, not once")
            path.write_text(text.replace(mutant.old, mutant.new))
        job = {
            "instances": instances,
            "fields": dict(mutant.fields) if mutant else {},
            "known": known,
            "all": mutant is None,
        }
        code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import mutants; mutants.inside()"
        environment = {**os.environ, "PYTHONPATH": folder, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [sys.executable, "-c", code], input=json.dumps(job), env=environment, capture_output=True, text=True
        )
    if done.returncode:
        return {instance: [f"crash: {done.stderr.strip().splitlines()[-1]}"] for instance in instances}
    return json.loads(done.stdout.splitlines()[-1])


def inside() -> None:
    """In the process of a mutant: failing checks of each instance as JSON; stops at the first that counts."""
    import torch

    from likely.conformance.report import attempt, chosen
    from likely.conformance.subject import Subject
    from likely.registry import build, tiny

    torch.set_num_threads(1)
    job = json.load(sys.stdin)
    found: dict[str, list[str]] = {}
    for instance in job["instances"]:
        family, _, name = instance.partition(": ")
        config, space, condition = tiny(family)[name]
        config = type(config).model_validate({**config.model_dump(), **job["fields"]})
        subject = Subject(build(config, space, condition), 0)
        for check in chosen(None):
            if check.id == "G4p" or check.id in job["known"].get(instance, []):
                continue
            outcome = attempt(check, subject)
            if outcome.status == "failed":
                found.setdefault(instance, []).append(f"{check.id}: {outcome.detail}")
                if not job["all"]:
                    break
    print(json.dumps(found))


def main() -> int:
    """Run the mutants; returns 1 when one survived."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", help="kinds that contain this; prints, and writes nothing")
    parser.add_argument("--new", action="store_true", help="kinds without a result, added to the results")
    arguments = parser.parse_args()
    only, rows = arguments.only, []
    if arguments.new:
        rows = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    done = {row["kind"] for row in rows}
    mutants = [m for m in MUTANTS if (only is None or only in m.kind) and m.kind not in done]
    instances = tuple(dict.fromkeys(i for m in mutants for i in m.instances))
    known = {i: [each.split(":")[0] for each in failed] for i, failed in run(None, instances, {}).items()}
    for instance, checks in known.items():
        print(f"without any mutant {instance} fails {', '.join(checks)}: not counted", flush=True)
    for mutant in mutants:
        began = time.perf_counter()
        found = run(mutant, mutant.instances, known)
        killed = next((checks[0] for checks in found.values() if checks), None)
        by, _, detail = (killed or "survived: ").partition(": ")
        site = f"{mutant.file}:{(PACKAGE / mutant.file).read_text().partition(mutant.old)[0].count(chr(10)) + 1}"
        rows.append(
            {
                "kind": mutant.kind,
                "site": site,
                "instance": ", ".join(mutant.instances),
                "killed_by": None if killed is None else by,
                "detail": detail,
                "seconds": round(time.perf_counter() - began, 1),
            }
        )
        print(f"{by:9} {mutant.kind:40} {site:42} {detail[:90]}", flush=True)
    alive = [row for row in rows if row["killed_by"] is None]
    print(f"{len(rows) - len(alive)} of {len(rows)} killed")
    if only is None:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text("".join(json.dumps(row) + "\n" for row in rows))
        TABLE.write_text(table(rows))
    return 1 if alive else 0


def table(rows: list[dict[str, object]]) -> str:
    """The page for the docs."""
    dead = sum(row["killed_by"] is not None for row in rows)
    kinds = len({row["kind"] for row in rows})
    head = f"""# Planted bugs

How good is the [conformance suite](conformance.md)? `python bench/mutants.py` plants {len(rows)} bugs of {kinds} kinds
into the package, one at a time, and runs the suite over the tiny instances that each takes part in. It finds
**{dead} of {len(rows)}**. "Found by" is the first check that failed; survivors, if any, are listed like the others.

| bug | where | instance | found by |
|---|---|---|---|
"""
    lines = [f"| {r['kind']} | `{r['site']}` | {r['instance']} | {r['killed_by'] or '**survived**'} |" for r in rows]
    return head + "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())

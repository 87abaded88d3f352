"""What a card costs to make and to verify, as the command line does it: one process each, from its start to its end.

`python3 do.py bench cards [CASE ...]`: the tour's model and other families at their presets of the digits' size. Few
steps of training are enough, as they change no time measured here. The conformance suite is left out unless asked for
with `--conformance`: it also trains, and takes longer than all the rest.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from timing import RESULTS, record

from likely.config.recipe import Recipe
from likely.tasks.learn import learn
from likely.tasks.tour import RECIPE

DIGITS: dict[str, Any] = {"data": {"source": "digits"}, "train": {"steps": 60, "threads": 1}}
CASES: dict[str, dict[str, Any]] = {
    "tour": RECIPE | {"train": RECIPE["train"] | {"steps": 60, "valid_every": 30}},
    "vae": DIGITS | {"family": "vae", "preset": "digits"},
    "flow": DIGITS | {"family": "flow", "preset": "digits"},
    "diffusion": DIGITS | {"family": "diffusion", "preset": "digits"},
    "autoregressive": DIGITS | {"family": "autoregressive", "preset": "digits"},
    "mixture": {"family": "mixture", "data": {"source": "iris"}, "train": {"steps": 20, "threads": 1}},
    "meanflow": DIGITS | {"family": "meanflow", "preset": "digits"},
}


def main() -> None:
    """One row a case."""
    words = sys.argv[1:]
    suite = "--conformance" in words
    for name in [word for word in words if not word.startswith("--")] or CASES:
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / name
            learn(Recipe.model_validate(CASES[name]), run)
            skip = [] if suite else ["--skip", "conformance"]
            card = command("card", run, *skip, "--json")
            again = command("card", run, *skip, "--force", "--json")
            proof = command("verify", run, "--json")
            report = json.loads(proof["said"])
            made = json.loads(card["said"])
            checks = {check["name"]: [check["status"], check["seconds"]] for check in report["checks"]}
            row = {
                "bench": "cards",
                "case": name,
                "parameters": made["size"]["parameters"]["value"],
                "test_rows": 200,
                "conformance": suite,
                **{f"card_{key}": card[key] for key in ("wall_s", "cpu_s")},
                **{f"card_again_{key}": again[key] for key in ("wall_s", "cpu_s")},
                **{f"verify_{key}": proof[key] for key in ("wall_s", "cpu_s")},
                "passed": report["passed"],
                "checks": checks,
                "samples": next(check["sentence"] for check in report["checks"] if check["name"] == "samples"),
                "bytes": {path.name: path.stat().st_size for path in sorted(run.glob("card.*"))},
                "load": round(os.getloadavg()[0], 1),
                "clock": "one process from start to end, imports included; wall seconds grow with the load",
            }
        record(RESULTS / "cards.jsonl", row)


def command(*words: object) -> dict[str, Any]:
    """`likely ...` in a process of its own: what it said, and what it took."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    line = [sys.executable, "-m", "likely", *map(str, words)]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"said": done.stdout, "wall_s": round(time.perf_counter() - began, 2), "cpu_s": round(cpu, 2)}


if __name__ == "__main__":
    main()

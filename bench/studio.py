"""The studio under 1,000 mixed requests: does its memory stay flat, and how long does one question take?

    python bench/studio.py [REQUESTS]

Trains a mixture, a joint mixture and a VAE on digits for a moment, serves them in a process of its own, and plays a
browser: `queue/join` and `queue/data` as the page does. Memory is the server's resident set, read every 25 requests;
its slope is fitted by least squares from the 200th request on. CPU seconds are those of the server's process.
"""

import timing

import json
import os
import re
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import numpy as np
import torch

from likely.config.recipe import parse
from likely.studio.pieces import packed
from likely.tasks.learn import learn

MIX = ("ask", "ask", "draw", "fill", "walk", "compress", "choose", "model", "bad")


class Visitor:
    """What a browser says to the server."""

    def __init__(self, address: str) -> None:
        self.http = httpx.Client(base_url=address, timeout=300)
        self.session = secrets.token_hex(6)
        config = self.http.get("/config").json()
        self.names = {c["id"]: c["props"].get("elem_id") for c in config["components"]}
        self.events = {}
        for dependency in config["dependencies"]:
            for target, event in dependency["targets"]:
                if target is not None:
                    self.events[self.names.get(target), event] = dependency["id"]

    def ask(self, element: str, event: str, data: list) -> str:
        """Raise an event; what it answered, as JSON text."""
        body = {"data": data, "fn_index": self.events[element, event], "session_hash": self.session, "event_data": None}
        self.http.post("/gradio_api/queue/join", json=body).raise_for_status()
        with self.http.stream("GET", "/gradio_api/queue/data", params={"session_hash": self.session}) as stream:
            for line in stream.iter_lines():
                if line.startswith("data:") and '"process_completed"' in line:
                    return line
        raise RuntimeError("the server closed the stream")


def resident(pid: int) -> float:
    """Resident set in MB."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def cpu(pid: int) -> float:
    """CPU seconds so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main(requests: int) -> None:
    root = Path(tempfile.mkdtemp())
    few = {"steps": 20, "threads": 1}
    for name, recipe in (
        ("mixture", {"family": "mixture"}),
        ("joint", {"family": "joint", "preset": "mixture"}),
        ("vae", {"family": "vae", "preset": "digits"}),
    ):
        learn(parse(recipe | {"data": {"source": "digits"}, "train": few}), root / name, progress=False)
    words = [sys.executable, "-m", "likely", "studio", str(root), "--port", "0"]
    began = time.monotonic()
    said = root / "log"
    with said.open("w") as log:  # a file, since nobody reads on
        server = subprocess.Popen(words, stderr=log)
    while not (found := re.search(r"studio is at (http://\S+)", said.read_text())):
        if server.poll() is not None:
            raise RuntimeError(said.read_text())
        time.sleep(0.1)
    address = found[1]
    up = time.monotonic() - began
    try:
        record = play(address, server.pid, requests)
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(60)
    row = {"bench": "studio", "requests": requests, "seconds_to_up": round(up, 2)} | record
    row["load"] = round(os.getloadavg()[0], 1)
    timing.record(timing.RESULTS / "studio.jsonl", row, ("gradio", "torch"))


def play(address: str, pid: int, requests: int) -> dict:
    """Ask so many things, in a fixed random order."""
    began = time.monotonic()
    httpx.get(address).raise_for_status()
    first_page = time.monotonic() - began
    visitor, rng = Visitor(address), np.random.default_rng(0)
    times: dict[str, list[tuple[float, float]]] = {}
    memory: list[tuple[int, float]] = []
    wrong, model = 0, "joint"
    for i in range(requests):
        what = MIX[int(rng.integers(len(MIX)))]
        pixels = packed(torch.from_numpy(rng.integers(0, 17, (1, 8, 8))))
        clock, spent = time.monotonic(), cpu(pid)
        match what:
            case "ask":
                said = visitor.ask(
                    "ask-go", "click", [model, pixels, float(rng.integers(-36, 37) * 5), 0.5, False, None]
                )
            case "draw":
                said = visitor.ask("make-draw", "click", [model, int(rng.integers(1, 33)), "", "any", None, 20])
            case "fill":
                mask = packed(torch.from_numpy(rng.integers(0, 2, (8, 8))))
                said = visitor.ask("fill-go", "click", ["mixture", pixels, mask, 80])
            case "walk":
                said = visitor.ask("make-walk", "click", ["vae", int(rng.integers(100)), int(rng.integers(100))])
            case "compress":
                said = visitor.ask("fill-compress", "click", ["mixture", pixels])
            case "choose":
                said = visitor.ask("ask-index", "input", [model, f"{rng.integers(300)}.x"])
            case "model":
                model = str(rng.choice(["mixture", "joint", "vae"]))
                said = visitor.ask("ask-index", "input", [model, "0.x"])
            case _:
                said = visitor.ask("ask-go", "click", [model, "rubbish", 0, 0, False, None])
        times.setdefault(what, []).append((time.monotonic() - clock, cpu(pid) - spent))
        if ("lk-problem" in said) != (what == "bad") or '"success":false' in said.replace(" ", ""):
            wrong += 1
            print(what, said[:300], flush=True)
        if i % 25 == 24:
            memory.append((i + 1, resident(pid)))
            print(json.dumps({"request": i + 1, "MB": round(memory[-1][1], 1)}), flush=True)
    later = [(n, mb) for n, mb in memory if n >= min(200, requests // 2)]
    slope = float(np.polyfit(*zip(*later, strict=True), 1)[0]) * 1000 if len(later) > 1 else None
    middle = lambda each: [round(statistics.median(column), 4) for column in zip(*each, strict=True)]  # noqa: E731
    return {
        "first_page_s": round(first_page, 3),
        "median_s_and_cpu_s": {name: [*middle(each), len(each)] for name, each in sorted(times.items())},
        "wrong_answers": wrong,
        "MB": {
            "at_first": round(later[0][1], 1),
            "at_last": round(later[-1][1], 1),
            "most": round(max(m for _, m in memory), 1),
        },
        "slope_MB_per_1000_requests": slope and round(slope, 2),
    }


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)

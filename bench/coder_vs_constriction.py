"""The coder alone against constriction: parameters to bytes and back, every symbol with a distribution of its own.

Ours makes integer tables, which two machines agree on, from parameters on a grid; constriction takes floats as they
are. Both are timed with the tables' making, which is most of the work, and ours without it as well ("ready"): pushing
intervals. What our bytes hold beyond what our tables charge is told by the lane. Run it where constriction is
installed beside `likely`:

    python3 -m venv .venv-rivals && .venv-rivals/bin/pip install -e . "constriction>=0.5,<0.6"
    .venv-rivals/bin/python bench/coder_vs_constriction.py
"""

from __future__ import annotations

from timing import RESULTS, against, race, record  # first: it sets the number of threads
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, NamedTuple

import constriction
import numpy as np
from numpy.typing import NDArray

from likely.coding.ans import Stack
from likely.coding.tables import GRID, PRECISION, Ints, Located, Table, Weighed

LANES = (1024, 64, 4)
REPEATS = 5
Floats = NDArray[np.float64]


class Case(NamedTuple):
    """Symbols, our parameters, constriction's, and how each makes a distribution of them."""

    symbols: Ints
    bits: float
    """What the real-valued distributions charge."""
    table: Callable[[slice], Table]
    family: Any
    parameters: tuple[Floats, ...]


def normal(n: int) -> Case:
    """A quantised normal on 0 .. 255 for every symbol."""
    rng = np.random.default_rng(0)
    centre = np.rint(rng.uniform(20, 235, n) * GRID).astype(np.int64)
    log_scale = np.rint(rng.uniform(0, 3, n) * GRID).astype(np.int64)
    mean, scale = centre / GRID, np.exp(log_scale / GRID)
    symbols = np.clip(np.rint(rng.normal(mean, scale)), 0, 255).astype(np.int64)

    def table(part: slice) -> Table:
        place, width = centre[part, None], log_scale[part, None]
        return Located(256, np.zeros_like(place), place, width, "normal")

    family = constriction.stream.model.QuantizedGaussian(0, 255)
    return Case(symbols, charged(table, symbols), table, family, (mean, scale))


def categorical(n: int, size: int) -> Case:
    """Probabilities of every symbol, from logits."""
    rng = np.random.default_rng(size)
    logits = np.rint(rng.normal(0, 1.5, (n, size)) * GRID).astype(np.int64)
    gumbel = rng.gumbel(size=(n, size))
    symbols = (logits / GRID + gumbel).argmax(1)
    p = np.exp(logits / GRID)
    p /= p.sum(1, keepdims=True)

    def table(part: slice) -> Table:
        return Weighed.from_logits(logits[part])

    family = constriction.stream.model.Categorical(perfect=False)
    return Case(symbols, charged(table, symbols), table, family, (p,))


def charged(table: Callable[[slice], Table], symbols: Ints) -> float:
    """Bits of the symbols in our tables."""
    return float((PRECISION - np.log2(table(slice(None)).interval(symbols)[1])).sum())


def pushed(case: Case, lanes: int) -> Stack:
    """Our encoder: as many symbols at once as there are lanes."""
    stack = Stack(lanes)
    for low in range((len(case.symbols) - 1) // lanes * lanes, -1, -lanes):
        part = slice(low, low + lanes)
        stack.push(*case.table(part).interval(case.symbols[part]))
    return stack


def popped(case: Case, data: bytes, lanes: int) -> Ints:
    """Our decoder, which cannot know more than the lanes' next symbols."""
    stack = Stack.from_bytes(data)
    return np.concatenate(
        [stack.pop(case.table(slice(low, low + lanes))) for low in range(0, len(case.symbols), lanes)]
    )


def theirs_pushed(case: Case) -> NDArray[np.uint32]:
    coder = constriction.stream.stack.AnsCoder()
    coder.encode_reverse(case.symbols.astype(np.int32), case.family, *case.parameters)
    return coder.get_compressed()


def theirs_popped(case: Case, words: NDArray[np.uint32]) -> NDArray[np.int32]:
    return constriction.stream.stack.AnsCoder(words).decode(case.family, *case.parameters)


CASES: dict[str, tuple[Callable[[int], Case], int]] = {
    "normal, 256 levels": (normal, 1 << 17),
    "categorical, K=256": (lambda n: categorical(n, 256), 1 << 14),
    "categorical, K=16": (lambda n: categorical(n, 16), 1 << 17),
    "categorical, K=2": (lambda n: categorical(n, 2), 1 << 17),
}


def main() -> None:
    """Two rows for each case and number of lanes."""
    rival = f"constriction {version('constriction')} AnsCoder"
    for name, (make, most) in CASES.items():
        for lanes in LANES:
            measure(name, make(most if lanes >= 64 else min(most, 1 << 13)), lanes, rival)


def measure(name: str, case: Case, lanes: int, rival: str) -> None:
    data, words = pushed(case, lanes).to_bytes(), theirs_pushed(case)
    for found in (popped(case, data, lanes), theirs_popped(case, words)):
        if not np.array_equal(found, case.symbols):
            raise ValueError(f"what was pushed of {name} did not come back")
    intervals = case.table(slice(None)).interval(case.symbols)

    def ready() -> None:
        Stack(lanes).push(*intervals)

    races = {
        "encode": {"ours": lambda: pushed(case, lanes), "rival": lambda: theirs_pushed(case), "ready": ready},
        "decode": {"ours": lambda: popped(case, data, lanes), "rival": lambda: theirs_popped(case, words)},
    }
    n = len(case.symbols)
    for direction, each in races.items():
        times = race(each, REPEATS)
        row = against("coder", name, rival, times)
        more = {
            "direction": direction,
            "lanes": lanes,
            "symbols": n,
            "ours_msym_s": round(n / times["ours"].cpu / 1e6, 3),
            "rival_msym_s": round(n / times["rival"].cpu / 1e6, 3),
            "bits_a_symbol_ours": 8 * len(data) / n,
            "bits_a_symbol_rival": 32 * len(words) / n,
            "bits_a_lane": (8 * len(data) - case.bits) / lanes,
        }
        if "ready" in times:
            more["ready_msym_s"] = round(n / times["ready"].cpu / 1e6, 3)
        record(RESULTS / "coder.jsonl", row | more, packages=("constriction",))


if __name__ == "__main__":
    main()

"""The tour's figures for several seeds, and the picture of its third point that the README shows.

`python3 do.py bench tour [SEED ...]` (0, 1 and 2 unless told); each takes about two minutes on two cores.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "2")

from timing import RESULTS, record

from likely.tasks.pictures import turned_figure
from likely.tasks.tour import tour

PICTURE = Path(__file__).parent.parent / "docs" / "images" / "turned.png"
HIDDEN = ("samples", "gallery", "curves", "shares", "run", "bits_upright", "bits_turned")


def main() -> None:
    """One row a seed; the picture is of the first."""
    for turn, seed in enumerate(int(word) for word in sys.argv[1:] or ["0", "1", "2"]):
        with tempfile.TemporaryDirectory() as folder:
            figures: dict[str, Any] = tour(
                Path(folder) / "run", seed=seed, say=lambda line: print(line, file=sys.stderr)
            )
        row = {key: value for key, value in figures.items() if key not in HIDDEN}
        row["file"] = {key: value for key, value in row["file"].items() if key != "path"}
        record(RESULTS / "tour.jsonl", {"bench": "tour", "seed": seed, **row})
        if turn == 0:
            PICTURE.parent.mkdir(parents=True, exist_ok=True)
            turned_figure(figures).savefig(PICTURE, dpi=150)


if __name__ == "__main__":
    main()

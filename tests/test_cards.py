"""Cards, verify, compare: every figure from the ledger, and every lie found."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent))
from train_pair import FIELDS, built, instances

from likely.data import Data
from likely.data.dataset import Split
from likely.tasks.card import card, compare, html, markdown, verify, write_card
from likely.tasks.card.measures import MEASURES
from likely.train import fit

ALL = instances(every=5)


def unfilled(value: Any, path: str = "") -> list[str]:
    """Places where a card says neither a value nor why there is none."""
    if isinstance(value, dict):
        if {"value", "from"} <= value.keys():
            return [] if value["value"] is not None and value["from"] else [path]
        if "not_applicable" in value or "cannot" in value:
            return [] if value.get("not_applicable") or value.get("cannot") else [path]
        return [place for key, each in value.items() for place in unfilled(each, f"{path}/{key}")]
    return []


@pytest.mark.parametrize("name", ALL)
def test_every_family_has_a_card_that_proves_itself(tmp_path: Path, name: str) -> None:
    model, rows = built(ALL[name])
    split = Split(rows.train.x, rows.train.y)
    data = Data("made", model.space, split, split, split, model.condition)
    fit(model, data, steps=2, run=tmp_path / "run", **{k: v for k, v in FIELDS.items() if k != "steps"})
    found = card(tmp_path / "run", rows=12, data=data)
    write_card(tmp_path / "run", found)
    assert unfilled({key: found[key] for key in ("name", "size", "samples", "time", "uses", "provenance")}) == []
    assert set(found["uses"]) == set(MEASURES) - {"size"}
    report = verify(tmp_path / "run", data=data)
    assert report.passed, str(report)
    assert "bit for bit" in str(report)
    # again: nothing is measured twice, nothing changes
    lines = (tmp_path / "run" / "ledger.jsonl").read_bytes()
    assert card(tmp_path / "run", rows=12, data=data) == found
    assert (tmp_path / "run" / "ledger.jsonl").read_bytes() == lines
    assert html(found)
    assert markdown(found)
    assert compare([tmp_path / "run"] * 2)["runs"][0]["parameters"] == found["size"]["parameters"]["value"]

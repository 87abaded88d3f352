"""The tour with next to no training: what it writes, and that its file is what it says."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import likely as lk
from likely.space import Integers
from likely.tasks import tour as tours
from likely.tasks.codecs import Everyday, codec_bits, kept, mosaic
from likely.tasks.compress import decompress, model_for
from likely.tasks.tour_page import tour_page
from likely.terminal import tour_story
from likely.train import Ledger, load_model

DIGITS = Integers((1, 8, 8), 17)


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    run = tmp_path_factory.mktemp("tour") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tours.RECIPE, "train", tours.RECIPE["train"] | {"steps": 30, "valid_every": 30})
        return tours.tour(run, progress=False)


def test_the_digits_come_back_from_the_tours_file(record: dict[str, Any], tmp_path: Path) -> None:
    run, file, test = Path(record["run"]), record["file"], lk.load("digits").test
    blob = (run / tours.FILE).read_bytes()
    assert (file["bytes"], file["rows"]) == (len(blob), len(test.x))
    assert file["bits_per_dim"] == pytest.approx(8 * len(blob) / test.x.numel())
    where, model = model_for(run / tours.FILE, None, run.parent)
    assert where == str(run)
    rows, paths = decompress(lk.Codec(model), blob, tmp_path / "out")
    assert torch.equal(rows.x.long(), test.x.long())
    assert np.array_equal(np.load(paths[0])["y"], test.y.numpy())
    # the payload is what the model says of x given y, and of y
    payload = 8 * (len(blob) - file["container_bytes"]) / test.x.numel()
    joint = load_model(run).double()
    labels = -float(joint.log_prior().detach()[test.y].mean()) / np.log(2) / 64
    exact = float(lk.log_prob(joint.parts[0], test.x, test.y).bits_per_dim.mean()) + labels
    assert file["model_bits_per_dim"] == pytest.approx(exact, abs=1e-4)
    assert exact < payload < 1.005 * exact


def test_page_and_terminal_show_the_ledgers_figures(
    record: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Ledger(Path(record["run"])).read()[-1]["figures"] == record
    lacking = record | {"codecs": record["codecs"] | {"JPEG XL": None}}
    page = tour_page(lacking, DIGITS)
    monkeypatch.setattr("likely.terminal.out.width", 200, raising=False)
    tour_story(lacking, Path("tour.html"))
    told = capsys.readouterr().out
    for text in (page, told):
        assert f"{record['file']['bits_per_dim']:.3f}" in text
        assert f"{record['file']['bytes']:,} bytes" in text
        assert f"{record['codecs']['PNG']:.2f}" in text
        assert "not installed" in text
    assert "script" not in page
    assert page.count("<svg") == 2


def test_everyday_codecs_are_decoded_and_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.arange(5 * 3 * 4 * 6).reshape(5, 3, 4, 6) % 251
    tiled = mosaic(x.numpy().astype(np.uint8))  # 3 columns, 2 rows, the last tile empty
    assert tiled.shape == (8, 18, 3)
    assert np.array_equal(tiled[4:, 6:12].transpose(2, 0, 1), x[4])
    assert not tiled[4:, 12:].any()
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)
    lacking = codec_bits(x, Integers((3, 4, 6), 256))
    assert [name for name, bits in lacking.items() if bits is None] == ["JPEG XL"]
    lossy = Everyday(lambda picture: b"", lambda file: tiled // 2)
    with pytest.raises(ValueError, match="smudge did not give back"):
        kept(lossy, tiled, "smudge")

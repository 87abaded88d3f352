"""`likely compress`, `decompress` and `info` as a user meets them."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import likely as lk
from likely.cli import main
from likely.coding import CodecError, container
from likely.coding.container import Chunk
from likely.tasks.compress import decompress as restore
from likely.train import load_model

sys.path.append(str(Path(__file__).parent))
from shell import Shell


def trained(*words: object) -> None:
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    assert not caught.value.code


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grey pictures in two folders, bright on the left and bright on the right."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for name, part in (("left", slice(0, 2)), ("right", slice(2, 4))):
        (root / name).mkdir()
        for i in range(30):
            pixels = rng.integers(0, 60, (4, 4)).astype(np.uint8)
            pixels[:, part] += 180
            Image.fromarray(pixels).save(root / name / f"{i:02}.png")
    return root


@pytest.fixture(scope="module")
def run(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "mixture"
    trained("train", "mixture", "components=4", "--data", pictures, "--steps", 3, "--out", out)
    return out


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_pictures_there_and_back(shell: Shell, run: Path, pictures: Path) -> None:
    record = shell.json("compress", run, pictures, "-o", "a.lkz")
    assert record["rows"] == 60
    assert record["refused"] == {}
    assert record["bytes"] == Path("a.lkz").stat().st_size
    assert record["bits_per_dim"] == pytest.approx(8 * record["bytes"] / (60 * 16))
    told = shell.json("decompress", "a.lkz", "-o", "out", "--run", run)
    assert told["files"] == 60
    for file in pictures.rglob("*.png"):
        assert np.array_equal(pixels(Path("out") / file.relative_to(pictures)), pixels(file))
    assert not list(Path("out").rglob(".*"))
    status, said, _ = shell("info", "a.lkz")
    assert status == 0
    assert "60 rows" in said
    assert "checksums all right" in said
    about = shell.json("info", "a.lkz")
    assert about["header"]["model"]["family"] == "mixture"
    assert about["notes"]["names"][0] == "left/00.png"
    assert about["container_bytes"] <= 256 + 12 * 2


def test_rows_of_a_data_set_and_a_model_that_is_found(shell: Shell, run: Path, pictures: Path) -> None:
    Path("runs").mkdir()
    (Path("runs") / "nothing").mkdir()
    shutil.copytree(run, "runs/mine")
    record = shell.json("compress", "runs/mine", "--split", "valid", "--limit", 5)
    path = Path(record["out"])
    assert path.suffix == ".lkz"
    told = shell.json("decompress", path)
    assert told["run"] == "runs/mine"
    assert np.load(Path(told["out"]) / "x.npz")["x"].shape == (5, 1, 4, 4)
    shutil.rmtree("runs/mine")
    assert "none of" in shell.mistake("decompress", path) or "no models in runs/" in shell.mistake("decompress", path)


def test_one_broken_picture_does_not_stop_the_others(shell: Shell, run: Path, pictures: Path) -> None:
    shutil.copytree(pictures / "left", "mixed")
    Path("mixed/broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnot really")
    Image.new("RGB", (4, 4)).save("mixed/colour.png")
    Image.new("L", (5, 4)).save("mixed/wide.png")
    Image.new("LA", (4, 4), (3, 100)).save("mixed/alpha.png")
    status, _, said = shell("compress", run, "mixed", "-o", "mixed.lkz")
    assert status == 1
    for name, why in (
        ("broken.png", "cannot be read"),
        ("colour.png", "3 x 4 x 4"),
        ("wide.png", "1 x 4 x 5"),
        ("alpha.png", "would not come back exactly"),
    ):
        assert any(name in line and why in line for line in said.splitlines()), (name, said)
    assert shell.json("decompress", "mixed.lkz", "-o", "out", "--run", run)["files"] == 30
    assert "none of 1 pictures" in shell.mistake("compress", run, "mixed/wide.png", "-o", "no.lkz")
    assert not Path("no.lkz").exists()


def test_refusals(shell: Shell, run: Path, pictures: Path) -> None:
    shell.json("compress", run, pictures / "left" / "00.png", "-o", "one.lkz")
    before = Path("one.lkz").read_bytes()
    assert "exists" in shell.mistake("compress", run, pictures, "-o", "one.lkz")
    assert Path("one.lkz").read_bytes() == before
    shell.json("compress", run, pictures / "left" / "01.png", "-o", "one.lkz", "--force")
    assert Path("one.lkz").read_bytes() != before
    shell.json("decompress", "one.lkz", "-o", "out", "--run", run)
    assert "not empty" in shell.mistake("decompress", "one.lkz", "-o", "out", "--run", run)
    shell.json("decompress", "one.lkz", "-o", "out", "--run", run, "--force")
    assert "a file" in shell.mistake("decompress", "one.lkz", "-o", "one.lkz", "--run", run)
    bad = bytearray(before)
    bad[-40] ^= 1
    Path("bad.lkz").write_bytes(bad)
    for words in (("info", "bad.lkz"), ("decompress", "bad.lkz", "-o", "new", "--run", run)):
        assert "checksum" in shell.mistake(*words) or "damaged" in shell.mistake(*words)
    assert not Path("new").exists()
    assert "magic" in shell.mistake("info", pictures / "left" / "00.png")
    for word in ("info", "decompress"):
        assert "no file is there" in shell.mistake(word, "nowhere.lkz")
        assert "a folder" in shell.mistake(word, pictures)
    assert "limit is 0" in shell.mistake("compress", run, "--limit", 0)


def test_another_model(shell: Shell, run: Path, pictures: Path) -> None:
    shell.json("train", "mixture", "components=2", "--data", pictures, "--steps", 1, "--out", "other")
    shell.json("compress", run, pictures, "-o", "a.lkz")
    said = shell.mistake("decompress", "a.lkz", "-o", "out", "--run", "other")
    assert "needs the model" in said
    assert not Path("out").exists()


def test_a_model_that_cannot_code(shell: Shell, pictures: Path) -> None:
    shell.json("train", "flow", "--data", "moons", "--steps", 1, "--out", "flow")
    assert "only Integers have code lengths" in shell.mistake("compress", "flow", pictures, "-o", "a.lkz")


def test_labels_come_from_folders(shell: Shell, pictures: Path) -> None:
    shell.json("train", "mixture", "components=2", "--conditional", "--data", pictures, "--steps", 2, "--out", "given")
    shell.json("compress", "given", pictures, "-o", "a.lkz")
    rows = lk.Codec(load_model("given")).read(Path("a.lkz").read_bytes())
    assert rows.y.tolist() == [0] * 30 + [1] * 30
    shutil.copytree(pictures / "left", "elsewhere")
    assert "no class of the model: left, right" in shell.mistake("compress", "given", "elsewhere", "-o", "b.lkz")


def test_a_joint_needs_no_labels(shell: Shell, pictures: Path) -> None:
    """Those of folders are kept; without them pictures cost less, not more, and come back all the same."""
    words = ("part=mixture", "separate=true", "--data", pictures, "--steps", 3, "--out", "joint")
    shell.json("train", "joint", *words)
    kept = shell.json("compress", "joint", pictures, "-o", "kept.lkz")
    Path("flat").mkdir()
    for folder in ("left", "right"):
        for path in (pictures / folder).iterdir():
            shutil.copy(path, Path("flat") / f"{folder}-{path.name}")
    free = shell.json("compress", "joint", "flat", "-o", "free.lkz")
    assert kept["header"]["coding"]["labels"] is True
    assert free["header"]["coding"]["labels"] is False
    assert free["model_bits_per_dim"] <= kept["model_bits_per_dim"]
    assert "without labels" in shell("info", "free.lkz")[1]
    assert shell.json("decompress", "free.lkz", "-o", "out", "--run", "joint")["files"] == 60
    for path in Path("flat").iterdir():
        assert np.array_equal(pixels(path), pixels(Path("out") / path.name))
    shutil.copy(pictures / "left" / "00.png", "flat/x.png")
    Path("flat/left").mkdir()
    shutil.copy(pictures / "left" / "00.png", "flat/left/00.png")
    status, out, _ = shell("compress", "joint", "flat", "-o", "mixed.lkz", "--json")
    told = json.loads(out)
    assert (status, told["rows"], len(told["refused"])) == (1, 1, 61)


@pytest.mark.parametrize("name", ["../a.png", "/a.png", "a/../../b.png", "", "c:\\a.png", "a\n.png", "."])
def test_names_in_a_file_do_not_lead_out_of_the_folder(name: str, run: Path, tmp_path: Path) -> None:
    codec: Any = lk.Codec(load_model(run))
    x = np.zeros((1, 1, 4, 4), np.uint8)
    blob = codec.compress(x, notes={"names": [name]})
    with pytest.raises(CodecError, match="names a picture"):
        restore(codec, blob, tmp_path / "out")
    assert not list(tmp_path.rglob("*"))
    for names in ([], ["a", "b"], [3], "a", ["x.png", "x.png"]):
        archive = container.read(blob)
        chunks = [Chunk(e.kind, e.rows, archive.chunk(i)) for i, e in enumerate(archive.entries)]
        other = container.write(archive.header, [chunks[0], container.notes({"names": names})])
        with pytest.raises(CodecError):
            restore(codec, other, tmp_path / "out")

"""`likely compress --default` and what comes back: folders of pictures of any sizes, as a user meets them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from likely import registry
from likely.coding import CodecError, Picture, Pictures
from likely.space import Integers
from likely.tasks import album, compress
from likely.tasks.png import Png
from likely.train import checkpoint, load_model, save

sys.path.append(str(Path(__file__).parent))
from shell import Shell
from test_coding_pictures import smooth


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of pictures of any sizes that has learned nothing: an interpolation is all that it knows."""
    model = registry.build("pyramid", Integers((3, 16, 16), 256), width=4, hidden=1, components=2)
    return save(model, tmp_path_factory.mktemp("shipped") / "pictures.safetensors")


@pytest.fixture
def shipped(weights: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same as the package's own."""
    for module in (checkpoint, compress):
        monkeypatch.setattr(module, "DEFAULT", weights)
    return weights


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name, picture in (("a.png", smooth(20, 31, 3)), ("more/b.png", smooth(9, 14)), ("more/c.bmp", smooth(8, 8, 3))):
        Image.fromarray(picture).save(folder / name)
    return folder


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_a_folder_there_and_back(shell: Shell, shipped: Path, photos: Path) -> None:
    record = shell.json("compress", "--default", photos, "-o", "a.lkz")
    assert record["pictures"] == 3
    assert record["grey"] == 1
    assert record["bytes"] == Path("a.lkz").stat().st_size < record["raw_bytes"] == 20 * 31 * 3 + 9 * 14 + 64 * 3
    told = shell.json("decompress", "a.lkz", "-o", "out")
    assert told["files"] == 3
    assert told["run"] == "the package"
    for name, back in (("a.png", "a.png"), ("more/b.png", "more/b.png"), ("more/c.bmp", "more/c.bmp.png")):
        assert np.array_equal(pixels(Path("out") / back), pixels(photos / name))
    assert sorted(p.name for p in Path().iterdir() if p.name != "photos") == ["a.lkz", "out"]
    status, said, _ = shell("info", "a.lkz")
    assert status == 0
    for words in ("3 pictures of 9 x 14 to 20 x 31", "1 of them grey", "pyramid", "numbers in int", "all right"):
        assert words in said.replace("\n", " ")
    assert shell.json("info", "a.lkz")["names"] == ["a.png", "more/b.png", "more/c.bmp"]


def test_one_picture_and_a_part_of_it(shell: Shell, shipped: Path, photos: Path) -> None:
    shell.json("compress", "--default", photos, "-o", "a.lkz")
    shell.json("decompress", "a.lkz", "-o", "one", "--only", "a.png", "--crop", "3,4,10,20")
    assert np.array_equal(pixels(Path("one/a.png")), smooth(20, 31, 3)[3:13, 4:24])
    told = shell.json("decompress", "a.lkz", "-o", "two", "--only", "1")
    assert np.array_equal(pixels(Path(told["out"])), smooth(9, 14))
    for words, says in (
        (("--crop", "0,0,1,1"), "only is missing; accepts 0 .. 2 or a name: a.png"),
        (("--only", "d.png"), "only is 'd.png'"),
        (("--only", "3"), "only is '3'"),
        (("--only", "0", "--crop", "0,0,99,1"), "picture 0 has 20 x 31"),
        (("--only", "0", "--crop", "0,0,0,1"), "picture 0 has 20 x 31"),
        (("--only", "0", "--crop", "1,2"), "accepts TOP,LEFT,HEIGHT,WIDTH"),
    ):
        assert says in shell.mistake("decompress", "a.lkz", "-o", "new", *words)
        assert not Path("new").exists()


def test_what_is_broken_is_named_and_the_others_coded(shell: Shell, shipped: Path, photos: Path) -> None:
    (photos / "broken.png").write_bytes((photos / "a.png").read_bytes()[:200])
    (photos / "empty.png").touch()
    Image.new("LA", (4, 4), (3, 100)).save(photos / "alpha.png")
    Image.fromarray(np.full((4, 4), 3000, np.uint16)).save(photos / "deep.png")
    Image.new("RGB", (5, 5), (1, 2, 3)).quantize().save(photos / "palette.png")
    status, _, said = shell("compress", "--default", photos, "-o", "a.lkz")
    assert status == 1
    for name, why in (
        ("broken.png", "cannot be read"),
        ("empty.png", "is empty"),
        ("alpha.png", "would not come back exactly"),
        ("deep.png", "16 bits a channel"),
    ):
        assert any(name in line and why in line for line in said.splitlines()), (name, said)
    assert shell.json("decompress", "a.lkz", "-o", "out")["files"] == 4
    assert (pixels(Path("out/palette.png")) == (1, 2, 3)).all()


def test_refusals(shell: Shell, shipped: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("none").mkdir()
    Path("bad.png").write_bytes(b"no")
    assert "hold no pictures" in shell.mistake("compress", "--default", "none", "-o", "b.lkz")
    assert "none of 1 pictures" in shell.mistake("compress", "--default", "bad.png", "-o", "b.lkz")
    assert "give a picture or a folder" in shell.mistake("compress", "--default", "-o", "b.lkz")
    assert "and no run" in shell.mistake("compress", "--default", photos, photos)
    assert not Path("b.lkz").exists()
    shell.json("compress", "--default", photos / "more", "-o", "a.lkz")
    before = Path("a.lkz").read_bytes()
    assert "exists" in shell.mistake("compress", "--default", photos, "-o", "a.lkz")
    assert Path("a.lkz").read_bytes() == before
    bad = bytearray(before)
    bad[len(bad) // 2] ^= 1
    Path("bad.lkz").write_bytes(bad)
    for words in (("info", "bad.lkz"), ("decompress", "bad.lkz", "-o", "new")):
        assert "damaged" in shell.mistake(*words) or "checksum" in shell.mistake(*words)
    for module in (checkpoint, compress):
        monkeypatch.setattr(module, "DEFAULT", Path("nowhere.safetensors"))
    assert "nowhere" in shell.mistake("compress", "--default", photos, "-o", "c.lkz")
    assert "needs the model" in shell.mistake("decompress", "a.lkz", "-o", "new")
    assert not Path("new").exists()
    assert not list(Path().glob(".*"))


def test_a_run_of_ones_own(shell: Shell, weights: Path, photos: Path) -> None:
    """A model of any size takes pictures of any size, default or not."""
    save(load_model(weights), "runs/mine")
    record = shell.json("compress", "runs/mine", photos, "-o", "a.lkz")
    assert record["pictures"] == 3
    assert shell.json("decompress", "a.lkz", "-o", "out")["run"] == "runs/mine"


def test_nothing_is_left_where_the_end_does_not_fit(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole chunks, right checksums, another content's hash: files under temporary names, and none under their own."""
    from test_coding_pictures import put, rewritten

    codec = Pictures(load_model(weights))
    blob = rewritten(codec.compress([smooth(9, 9), smooth(5, 5)]), table=put("sha256", to="0" * 32))
    with pytest.raises(CodecError, match="hash differs"):
        album.decompress(codec.open(blob), tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["../a.png", "/a.png", "a/../../b.png", "", "c:\\a.png", "a\n.png", "."])
def test_names_in_a_file_do_not_lead_out_of_the_folder(name: str, weights: Path, tmp_path: Path) -> None:
    codec: Any = Pictures(load_model(weights))
    path = tmp_path / "a.lkz"
    with path.open("wb") as file:
        codec.write([Picture.of(smooth(3, 3), name)], file)
    with path.open("rb") as file, pytest.raises(CodecError, match="names a picture"):
        album.decompress(codec.open(file), tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["a.lkz"]


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 70, 33), (1, 20, 7)])
def test_png_in_bands(shape: tuple[int, int, int], tmp_path: Path) -> None:
    channels, height, width = shape
    picture = smooth(height, width, channels)
    picture[height // 2 :] = np.random.default_rng(0).integers(0, 256, picture[height // 2 :].shape)
    with (tmp_path / "a.png").open("wb") as file:
        image = Png(file, shape)
        for low in range(0, height, 9):
            image.add(picture[low : low + 9])
        image.close()
    assert np.array_equal(pixels(tmp_path / "a.png").reshape(height, width, channels), picture)

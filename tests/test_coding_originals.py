"""What goes into archives and comes out of them, where file systems and users have ideas of their own."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

sys.path.append(str(Path(__file__).parent))
import test_coding_album
import test_coding_cli
from shell import Shell
from test_coding_pictures import Rows, smooth

from likely.coding import CodecError, Pictures
from likely.coding.files import replace, together
from likely.tasks import album, originals
from likely.tasks.names import MOST_BYTES, Names, targets
from likely.train import Ledger, load_model, save

weights, shipped = test_coding_album.weights, test_coding_album.shipped
pictures, run = test_coding_cli.pictures, test_coding_cli.run

ODD = ["a:b?.png", "a\u202fb.png", f"{'x' * 250}.jpg", "a.jpg", "a.jpg.png", "B.png", "b.png", "t\t.png", "d.bmp/c.png"]
"""Names that Linux has no objection to."""


def odd(folder: Path, size: tuple[int, int] = (4, 4)) -> dict[str, np.ndarray]:
    """Pictures of such names, of one colour each and with losses in none."""
    made = {}
    for i, name in enumerate(ODD):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        made[name] = np.full(size, 7 * i, np.uint8)
        Image.fromarray(made[name]).save(path, "PNG")
    return made


def colours(folder: Path) -> set[int]:
    return {int(np.asarray(Image.open(path)).max()) for path in folder.rglob("*.png")}


# Names --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["default", "mixture"])
def test_whatever_pictures_are_called_they_come_back(
    model: str, shell: Shell, shipped: Path, run: Path, tmp_path: Path
) -> None:
    """What `compress` takes, `decompress` gives back: an archive is worth nothing that can be written and not read."""
    made = odd(tmp_path / "odd")
    words = ("--default", "odd") if model == "default" else (run, "odd")
    record = shell.json("compress", *words, "-o", "a.lkz")
    assert record["refused"] == {}
    assert record["renamed"]["a:b?.png"] == "a_b_.png"
    assert record["renamed"]["a.jpg.png"] == "a.jpg-2.png"
    assert record["renamed"].get("b.png") == "b-2.png"
    shell.json("decompress", "a.lkz", "-o", "out", *(() if model == "default" else ("--run", run)))
    assert len(list(Path("out").rglob("*.png"))) == len(made)
    assert colours(Path("out")) == {int(x.max()) for x in made.values()}
    status, _, said = shell("compress", *words, "-o", "b.lkz")
    assert status == 0
    assert "renamed: 'a:b?.png' is 'a_b_.png' in the file" in said


def test_names_are_kept_where_they_can_be_and_never_meet() -> None:
    names = Names()
    every = ["a/b.png", "a/B.PNG", "a", "a.png", "A/c.png", "ü.png", "u\u0308.png", "x/" + "ö" * 300 + ".jpeg", ".png"]
    given = [names(name) for name in every]
    assert given[0] == every[0]
    assert given[3] != "a.png"  # `a` is written as a.png
    assert names.changed == {old: new for old, new in zip(every, given, strict=True) if old != new}
    assert all(len(part.encode()) <= MOST_BYTES + 2 for name in given for part in name.split("/"))
    paths = targets(given, len(given), Path("out"))
    assert len({str(path).casefold() for path in paths}) == len(every)
    assert given[7].endswith("ö.jpeg")
    folders_first = Names()
    assert [folders_first("a.jpg.png/b.png"), folders_first("a.jpg")] == ["a.jpg.png/b.png", "a-2.jpg"]
    again = Names()
    assert [again("a"), again("a.png/b"), again("a.png/c"), again("a.png-2")] == [
        *("a", "a-2.png/b", "a-2.png/c"),
        "a.png-2",
    ]


def test_a_file_and_a_folder_of_one_name_in_a_file() -> None:
    for names in (["a.png", "a.png/b.png"], ["a", "a.png"], ["x/y.png/z", "x/y"]):
        with pytest.raises(CodecError, match="two pictures one name"):
            targets(names, 2, Path("out"))
    assert len(targets(["a/b", "a/c", "b"], 3, Path())) == 3


# What is there ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["default", "mixture"])
def test_what_is_no_picture_and_looks_like_one_is_named(
    model: str, shell: Shell, shipped: Path, run: Path, tmp_path: Path
) -> None:
    """Who deletes the originals afterwards should know what is not in the archive."""
    folder = tmp_path / "some"
    (folder / "deep").mkdir(parents=True)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / "a.png")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / "deep" / "scan.tif")
    (folder / "gone.png").symlink_to("/nowhere.png")
    (folder / "elsewhere").symlink_to("deep")
    (folder / "notes.txt").write_text("not meant")
    os.mkfifo(folder / "pipe.png")
    words = ("--default", "some") if model == "default" else (run, "some")
    status, _, said = shell("compress", *words, "-o", "a.lkz")
    assert status == 1
    for name, why in (
        ("scan.tif", "not of an accepted format"),
        ("gone.png", "a link to nothing"),
        ("pipe.png", "is no file"),
        ("elsewhere", "a link to a folder"),
    ):
        assert any(name in line and why in line for line in said.splitlines()), (name, said)
    assert "notes.txt" not in said
    assert shell.json("compress", *words, "-o", "b.lkz", "--limit", 1)["refused"] == {}
    if model == "default":
        assert "where there is nothing" in shell.mistake("compress", *words[:1], "nowhere")
        assert "scan.tif is not of an accepted format" in shell.mistake("compress", *words[:1], folder / "deep")


def test_a_picture_that_the_model_has_no_channels_for_is_left_out(tmp_path: Path) -> None:
    """As is one that is too wide; the others are coded."""
    for name, shape in (("a.png", (5, 6)), ("b.png", (5, 6, 3)), ("c.png", (7, 3))):
        Image.fromarray(smooth(*shape)).save(tmp_path / name)
    coder = Pictures(Rows((1,)))
    record = album.compress(coder, tmp_path, tmp_path / "a.lkz")
    assert record["pictures"] == 2
    assert [Path(name).name for name in record["refused"]] == ["b.png"]
    for shape, says in (((1, 1, 1 << 24), "pixels wide"), ((2, 4, 4), "1 or 3 channels"), ((1, 0, 4), "a pixel")):
        with pytest.raises(ValueError, match=says):
            coder.check(shape)


def test_more_bytes_than_pixels_can_need_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # takes no room on the disk, and more than there is in memory
    with pytest.raises(ValueError, match="1,099,511,627,776 bytes"):
        originals.pixels_of(path)


def test_archives_are_called_after_what_is_in_them(
    shell: Shell, shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / "a.png")
    monkeypatch.chdir(folder)
    assert shell.json("compress", "--default", ".")["out"] == "photos.lkz"
    assert shell.json("compress", "--default", "a.png")["out"] == "a.lkz"


def test_what_is_no_file_is_not_replaced(shell: Shell, shipped: Path, tmp_path: Path) -> None:
    """/dev/null, say, by a file of this name."""
    Image.fromarray(np.zeros((4, 4), np.uint8)).save("a.png")
    os.mkfifo("pipe")
    said = shell.mistake("compress", "--default", "a.png", "-o", "pipe", "--force")
    assert "no file but a device or a pipe" in said
    assert Path("pipe").is_fifo()
    assert "rate is 2" in shell.mistake("compress", "--default", "a.png", "-o", "b.lkz", "--rate", 2)
    assert "rate is 2" in shell.mistake("compress", "--field", "a.png", "-o", "b.lkz", "--rate", 2)


def test_a_model_alone_codes_too_and_a_run_that_cannot_be_written_to(
    shell: Shell, run: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is compressed goes into a run's ledger, where there is one and where that is allowed."""
    save(load_model(run), "model.safetensors")
    save(load_model(run), "model")
    for model in ("model", "model.safetensors", run):
        record = shell.json("compress", model, pictures / "left", "-o", f"{Path(model).name}.lkz")
        assert Path(record["out"]).stat().st_size == record["bytes"]
    assert not Path("model/ledger.jsonl").exists()
    before = (run / "ledger.jsonl").read_bytes()

    def refuses(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "ledger.jsonl")

    monkeypatch.setattr(Ledger, "append", refuses)
    status, out, err = shell("compress", run, pictures / "left", "-o", "again.lkz")
    assert status == 0
    assert "30 rows" in out
    assert "not in the run's ledger: [Errno 30] Read-only file system" in err
    assert (run / "ledger.jsonl").read_bytes() == before


# All or nothing -----------------------------------------------------------------------------------------------------


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        replace(tmp_path / "a", b"one")
    finally:
        os.umask(old)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600
    replace(tmp_path / "a", b"one")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600

    def fails(kind: type[BaseException], *words: Any) -> Any:
        def write(file: Any) -> None:
            file.write(b"half")
            raise kind(*words)

        return write

    for kind, words in ((KeyboardInterrupt, ()), (ValueError, ("a",)), (OSError, (errno.ENOSPC, "No space left"))):
        with pytest.raises(kind):
            replace(tmp_path / "a", fails(kind, *words))
    with pytest.raises(OSError, match=r"No space left on device: '.*a'"):
        replace(tmp_path / "a", fails(OSError, errno.ENOSPC, os.strerror(errno.ENOSPC)))
    with pytest.raises(OSError, match="nowhere/b"):
        replace(tmp_path / "nowhere" / "b", b"")
    replace(tmp_path / ("n" * 255), b"long")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "n" * 255]
    assert (tmp_path / "a").read_bytes() == b"one"


@pytest.mark.parametrize("there", [False, True])
def test_a_folder_is_whole_or_not_there(there: bool, tmp_path: Path) -> None:
    out = tmp_path / "out"
    paths = [out / "a", out / "deep" / "b"]
    if there:
        out.mkdir()
        (out / "old").touch()
    before = set(tmp_path.rglob("*"))
    for kind in (KeyboardInterrupt, ValueError):
        with pytest.raises(kind), together(out, paths) as new:
            new[0].write_text("a")
            raise kind
        assert set(tmp_path.rglob("*")) == before
    with together(out, paths) as new:
        for path in new:
            path.write_text(path.name)
        assert not paths[0].exists()
    assert [path.read_text() for path in paths] == ["a", "b"]
    assert set(tmp_path.rglob("*")) == before | {out, *paths, out / "deep"}
    with pytest.raises(IsADirectoryError, match="deep is a folder"), together(out, [out / "deep"]):
        raise AssertionError


SLOW = """
import sys, time
sys.path.insert(0, sys.argv[1])
from test_coding_pictures import Rows, smooth
from likely import cli
from likely.coding import tiles
from likely.train import checkpoint
import likely.train, likely.tasks.compress
for module in (likely.train, likely.tasks.compress):
    module.load_model = lambda *_: Rows()
plain = tiles.Tiles.encode if sys.argv[2] == "compress" else tiles.Tiles.decode
def slowly(*words):
    print("working", flush=True)
    time.sleep(20)
    return plain(*words)
setattr(tiles.Tiles, "encode" if sys.argv[2] == "compress" else "decode", slowly)
cli.main(sys.argv[2:])
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_nothing_is_left_of_what_was_stopped(number: signal.Signals, status: int, tmp_path: Path) -> None:
    """Ctrl-C, or a machine that shuts down, in the middle of a file."""
    Image.fromarray(smooth(20, 30)).save(tmp_path / "a.png")
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": str(here.parent / "src"), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", SLOW, str(here), "compress", "--default", "a.png", "-o", "new.lkz"]
    process = subprocess.Popen(words, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    assert len(list(tmp_path.iterdir())) == 2
    began = time.monotonic()
    process.send_signal(number)
    assert process.wait(30) == status
    assert time.monotonic() - began < 15
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    """A limit on the size of files is as good: one sentence that names the file, and nothing left of it."""
    noise = np.random.default_rng(0).integers(0, 256, (90, 90, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": str(here.parent / "src"), "OMP_NUM_THREADS": "1"}
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000));" + SLOW.replace("20", "0")
    words = [sys.executable, "-c", limited, str(here), "compress", "--default", "a.png", "-o", "new.lkz"]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1] == "likely: [Errno 27] File too large: 'new.lkz'"
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]

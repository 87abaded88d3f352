"""Checkpoints and models as files: whole or not there, and every flipped bit is found."""

from __future__ import annotations

import errno
import json
import os
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.append(str(Path(__file__).parent))
from train_toys import NET, Net, bits

from likely.space import Integers
from likely.train import Ledger, fit, load_model, save
from likely.train.checkpoint import Checkpoints, pack, unpack
from likely.train.files import MANIFEST, lock, read_folder, write_folder

FILES = {"a.bin": b"abc", "b.json": b"{}"}


def test_a_folder_is_read_as_written_and_every_changed_byte_is_found(tmp_path):
    folder = tmp_path / "f"
    write_folder(folder, FILES)
    assert read_folder(folder) == FILES
    for path in folder.iterdir():
        data = path.read_bytes()
        for i in range(len(data)):
            for bit in (0, 5):
                path.write_bytes(data[:i] + bytes([data[i] ^ 1 << bit]) + data[i + 1 :])
                with pytest.raises(ValueError, match=path.name):
                    read_folder(folder)
        for size in range(len(data)):
            path.write_bytes(data[:size])
            with pytest.raises(ValueError, match=path.name):
                read_folder(folder)
        path.unlink()
        with pytest.raises(ValueError, match=f"{path.name} is missing"):
            read_folder(folder)
        path.write_bytes(data)
    assert read_folder(folder) == FILES


def test_every_changed_byte_of_a_single_model_file_is_found_or_harmless():
    tensors = {"a": torch.arange(3.0), "b": torch.tensor(True), "c": torch.zeros(0, dtype=torch.int64)}
    data = pack(tensors, {"format": 1, "config": {"width": 4}})
    found = 0
    for i in range(len(data)):
        for bit in range(8):
            try:
                record, again = unpack(data[:i] + bytes([data[i] ^ 1 << bit]) + data[i + 1 :], Path("m.safetensors"))
            except ValueError as error:
                found += "m.safetensors" in str(error)
            else:  # such as a changed space between two fields of the header
                assert {key: record[key] for key in ("format", "config")} == {"format": 1, "config": {"width": 4}}
                assert all(torch.equal(again[name], tensors[name]) for name in tensors)
    assert found > 0.99 * 8 * len(data)
    for size in range(len(data)):
        with pytest.raises(ValueError, match=r"m\.safetensors"):
            unpack(data[:size], Path("m.safetensors"))


def test_a_header_that_would_be_too_big_is_refused():
    with pytest.raises(ValueError, match="header would have"):
        unpack((2**40).to_bytes(8, "little") + b"{}" * 100, Path("m"))


def test_the_same_weights_are_the_same_bytes_with_tied_and_strided_ones():
    a = torch.arange(6.0).reshape(2, 3)
    tensors = {"t": a.T, "a": a, "tied": a, "slice": a[0]}
    data = pack(tensors, {"x": 1, "y": 2})
    assert data == pack(dict(reversed(tensors.items())), {"x": 1, "y": 2})
    record, again = unpack(data, Path("m"))
    assert (record["x"], record["y"]) == (1, 2)
    assert all(torch.equal(again[name], tensors[name]) for name in tensors)


def test_checkpoints_keep_the_newest_and_fall_back(tmp_path):
    store = Checkpoints(tmp_path)
    store.folder.mkdir()
    for step in (0, 5, 10, 15):
        store.write(step, FILES, keep=2)
    assert store.steps() == [15, 10]
    with pytest.raises(FileExistsError):
        store.write(15, FILES, keep=2)
    (store.path(15) / "a.bin").write_bytes(b"abd")
    with pytest.warns(RuntimeWarning, match=r"step-00000015/a.bin is damaged.*; going back"):
        assert store.newest()[0] == 10
    (store.path(10) / MANIFEST).unlink()
    with (
        pytest.warns(RuntimeWarning, match="going back"),
        pytest.raises(ValueError, match=r"step-00000015/a.bin is damaged"),
    ):
        store.newest()
    store.set_aside(10)
    assert store.steps() == [10]


CALLS = ["os.open", "os.write", "os.fsync", "os.pwrite", "rename"]


def test_a_failing_disk_never_costs_the_last_good_checkpoint(tmp_path, monkeypatch):
    """Fail the n-th call of each kind for many n, once; whatever happens, there is a good checkpoint, no half one, and
    training ends with the same weights."""
    whole = fit(Net(), bits(), steps=4, run=tmp_path / "whole", **NET)
    real = {name: getattr(os if "." in name else Path, name.removeprefix("os.")) for name in CALLS}
    outcomes = {"finished": 0, "raised": 0}
    for name in CALLS:
        for n in (0, 1, 3, 8, 14, 23, 35):
            left, run, code = [n], tmp_path / f"{name}-{n}", (errno.ENOSPC, errno.EIO)[n % 2]

            def failing(*arguments, name=name, left=left, code=code, **options):
                left[0] -= 1
                if left[0] == -1:
                    raise OSError(code, os.strerror(code))
                return real[name](*arguments, **options)

            with monkeypatch.context() as patch, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                patch.setattr(Path if name == "rename" else os, name.removeprefix("os."), failing)
                try:
                    result = fit(Net(), bits(), steps=4, run=run, **NET)
                except OSError:
                    result = None
            outcomes["finished" if result else "raised"] += 1
            if left[0] >= 0:
                break  # there are fewer such calls than n
            if result is not None:
                assert all(torch.equal(a, b) for a, b in zip(*map(_tensors, (result, whole)), strict=True))
            if run.exists():
                step, _files = Checkpoints(run).newest()
                assert step >= (4 if result else 0)
                Ledger(run).verify()
            assert not [p for p in tmp_path.rglob("step-*") if not (p / MANIFEST).exists()]
    assert outcomes["finished"] > 5
    assert outcomes["raised"] > 5


def _tensors(result):
    return list(result.model.state_dict().values())


def test_a_full_disk_is_noticed_before_writing(tmp_path, monkeypatch):
    from likely.train import files

    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 5})())
    with pytest.raises(OSError, match="5 bytes free"):
        write_folder(tmp_path / "f", FILES)
    assert not list(tmp_path.iterdir())


def test_a_second_trainer_is_refused_and_a_dead_one_is_not_in_the_way(tmp_path):
    run = tmp_path / "run"
    fit(Net(), bits(), steps=2, run=run, **NET)
    with (
        lock(run / "lock", "run"),
        pytest.raises(ValueError, match=rf"is being trained already, by process {os.getpid()} on"),
    ):
        fit(Net(), bits(), run=run, resume=True, steps=4)
    (run / "lock").write_text("process 999999 on elsewhere")
    stale = run / "checkpoints" / ".step-00000003.77.tmp"
    stale.mkdir()
    assert fit(Net(), bits(), run=run, resume=True, steps=4).step == 4
    assert not stale.exists()


def test_save_and_load_say_what_is_wrong(tmp_path):
    with pytest.raises(TypeError, match=r"save needs a model that likely.build made"):
        save(Net(), tmp_path / "m")
    (tmp_path / "there").mkdir()
    with pytest.raises(ValueError, match="where there is nothing"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="a folder without a model"):
        load_model(tmp_path / "there")
    fit(Net(), bits(), steps=2, run=tmp_path / "run", **NET)
    with pytest.raises(ValueError, match=r"model.safetensors holds no model that can be built: family is None"):
        load_model(tmp_path / "run")
    text = tmp_path / "m.safetensors"
    text.write_text("hello, this is text and no model")
    with pytest.raises(ValueError, match="is no model file"):
        load_model(text)
    from safetensors.torch import save as save_tensors

    text.write_bytes(save_tensors({"a": torch.zeros(2)}))
    with pytest.raises(ValueError, match=r"has no header of likely's"):
        load_model(text)
    record = {"family": "os.system", "config": {}, "space": {}, "condition": None}
    text.write_bytes(pack({"a": torch.zeros(2)}, record))
    with pytest.raises(ValueError, match=r"m.safetensors .* family is 'os.system'; accepts"):
        load_model(text)


def test_weights_must_fit_by_name_shape_and_dtype():
    from likely.train.checkpoint import load_weights

    model = nn.Linear(2, 1)
    state = dict(model.state_dict())
    load_weights(model, state, "f")
    for wrong, match in (
        ({"weight": state["weight"]}, "the model has a tensor 'bias', the file has none"),
        (state | {"more": state["bias"]}, "the file has a tensor 'more', the model has none"),
        (state | {"bias": torch.zeros(2)}, r"bias is \(2,\)"),
        (state | {"bias": torch.zeros(1, dtype=torch.float64)}, r"bias is \(1,\) torch.float64"),
    ):
        with pytest.raises(ValueError, match=match):
            load_weights(model, wrong, "f")


def test_state_is_json_and_safetensors_only(tmp_path):
    fit(Net(), bits(), steps=2, run=tmp_path / "run", **NET)
    for path in (tmp_path / "run").rglob("*"):
        if path.suffix in (".json", ".jsonl"):
            for line in path.read_text().splitlines():
                json.loads(line)
        elif path.is_file() and path.name != "lock":
            assert path.suffix == ".safetensors"
    assert Integers((6,), 2) == Net().space

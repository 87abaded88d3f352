"""The door to data: names, arrays, .npz, idx, packs; splits that are disjoint, deterministic and recorded."""

import gzip
import hashlib
import io
import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from likely.config.data import DataConfig
from likely.data import from_arrays, list_sets, load, named
from likely.space import Integers, Reals, from_json

PACK = os.environ.get("LIKELY_DATA")
needs_pack = pytest.mark.skipif(not PACK, reason="LIKELY_DATA is not set: the folder of real data sets is not here")


def rows_of(data):
    return torch.cat([data.train.x, data.valid.x, data.test.x])


def as_set(x):
    return {row.numpy().tobytes() for row in x}


def bytes_of(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# --- built in -----------------------------------------------------------------------------------------------------


def test_digits_in_file_order():
    data = load("digits")
    assert repr(data) == "Data(digits: Integers((1, 8, 8), 17), 10 classes; 1000/350/447 rows)"
    assert data.train.x.dtype == torch.uint8
    assert data.train.y.dtype == torch.int64
    assert data.condition == Integers((), 10)
    assert data.classes == tuple("0123456789")
    assert data.train.y[:10].tolist() == list(range(10))  # the file starts 0, 1, 2 ...
    assert data.record["duplicates"] == {"train/valid": 0, "train/test": 0, "valid/test": 0}
    assert from_json(data.record["space"]) == data.space
    assert json.loads(json.dumps(data.record)) == data.record


def test_digits_split_otherwise_on_request():
    data = load("digits", valid=0.0, test=0.25, split="content")
    assert (len(data.train), len(data.valid), len(data.test)) == (1348, 0, 449)
    assert data.record["split"]["rule"] == "content"
    assert as_set(rows_of(data)) == as_set(rows_of(load("digits")))


def test_iris_keeps_equal_rows_together():
    data = load("iris")
    assert data.space == Reals((4,))
    assert data.classes == ("setosa", "versicolor", "virginica")
    assert sum(data.record["rows"].values()) == 150
    assert len(as_set(rows_of(data))) < 150  # there are equal rows, so that the next line says something
    assert set(data.record["duplicates"].values()) == {0}


# --- splits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["content", "index", "order"])
def test_splits_are_disjoint_complete_and_repeatable(rule):
    x = torch.arange(300)[:, None].expand(300, 2).contiguous()
    y = torch.arange(300) % 3
    data = from_arrays(x, y, split=rule, valid=0.2, test=0.1)
    assert data.record["rows"] == {"train": 210, "valid": 60, "test": 30}
    assert sorted(rows_of(data)[:, 0].tolist()) == list(range(300))
    for part in (data.train, data.valid, data.test):
        assert torch.equal(part.y, part.x[:, 0] % 3)  # labels go with their rows
        assert part.x[:, 0].tolist() == sorted(part.x[:, 0].tolist())  # file order inside a split
    again = from_arrays(x, y, split=rule, valid=0.2, test=0.1)
    assert again.record == data.record
    if rule == "order":
        assert data.valid.x[:, 0].tolist() == list(range(210, 270))
    else:
        assert data.valid.x[:, 0].tolist() != list(range(210, 270))


def test_split_by_content_does_not_depend_on_the_order_of_rows():
    x = torch.from_numpy(bytes_of(200, 1, 4, 4))
    forth, back = from_arrays(x), from_arrays(x.flip(0))
    assert forth.record["split"]["rule"] == "content"
    for part in ("train", "valid", "test"):
        assert as_set(getattr(forth, part).x) == as_set(getattr(back, part).x)


def test_duplicates_across_splits_are_counted():
    x = torch.tensor([0, 1, 2, 3, 4, 5, 0, 7, 1, 1])[:, None]
    found = from_arrays(x, split="order", valid=0.2, test=0.2).record["duplicates"]
    assert found == {"train/valid": 1, "train/test": 2, "valid/test": 0}
    x = torch.arange(100).reshape(100, 1).repeat(2, 1)
    assert set(from_arrays(x, split="content").record["duplicates"].values()) == {0}


def test_record_hashes_every_split():
    x = torch.from_numpy(bytes_of(60, 3))
    y = torch.arange(60) % 2
    record = from_arrays(x, y).record["sha256"]
    assert len(set(record.values())) == 3
    train = from_arrays(x, y).train
    digest = hashlib.sha256()
    for array in (train.x.numpy(), train.y.numpy()):
        digest.update(f"{array.dtype.str}{array.shape}".encode() + array.tobytes())
    assert digest.hexdigest() == record["train"]
    relabelled = from_arrays(x, 1 - y).record["sha256"]
    assert all(relabelled[part] != record[part] for part in record)


def test_limit_keeps_the_first_rows():
    data = load("digits", limit=20)
    assert data.record["rows"] == {"train": 20, "valid": 20, "test": 20}
    assert data.record["split"]["limit"] == 20
    assert torch.equal(data.train.x, load("digits").train.x[:20])
    assert len(data.train.y) == 20


# --- arrays -------------------------------------------------------------------------------------------------------


def test_spaces_of_arrays():
    assert from_arrays(bytes_of(20, 1, 4, 4)).space == Integers((1, 4, 4), 256)
    assert from_arrays(bytes_of(20, 5) % 2).space == Integers((5,), 2)
    assert from_arrays(np.ones((20, 5), bool)).train.x.dtype == torch.uint8
    assert from_arrays(np.arange(40).reshape(20, 2)).space == Integers((2,), 40)
    assert from_arrays(bytes_of(20, 5) % 7, levels=7).space == Integers((5,), 7)
    reals = from_arrays(np.random.default_rng(0).normal(size=(20, 3)))
    assert reals.space == Reals((3,))
    assert reals.train.x.dtype == torch.get_default_dtype()


def test_names_as_labels():
    data = from_arrays(np.arange(40).reshape(20, 2), np.array(["b", "a"] * 10))
    assert data.classes == ("a", "b")
    assert sorted(data.train.y.unique().tolist()) == [0, 1]
    one = from_arrays(np.arange(40).reshape(20, 2), np.zeros(20, int))
    assert one.train.y is None
    assert one.condition is None


@pytest.mark.parametrize(
    ("x", "y", "options", "kind", "message"),
    [
        (np.zeros((0, 2)), None, {}, ValueError, "arrays: x is empty"),
        (np.zeros((5, 0)), None, {}, ValueError, "hold nothing"),
        (np.array([[1.0], [np.nan]]), None, {}, ValueError, "NaN or infinity in row 1"),
        (np.array([["a"]]), None, {}, TypeError, "accepts integers, floats or bool"),
        (bytes_of(5, 2), np.arange(4), {}, ValueError, r"y has shape \(4,\); accepts \(5,\)"),
        (bytes_of(5, 2), np.arange(5) - 1, {}, ValueError, "labels -1 .. 3"),
        (bytes_of(5, 2), np.arange(5), {"classes": ("a", "b")}, ValueError, r"labels 0 .. 4; accepts 0 .. 1"),
        (bytes_of(5, 2), np.arange(5.0), {}, TypeError, "y holds float64"),
        (bytes_of(5, 2), None, {"levels": 3}, ValueError, "accepts 0 .. 2"),
        (np.zeros((5, 2)), None, {"levels": 3}, ValueError, "levels=3 is for integers"),
        (bytes_of(5, 2), None, {"valid": 0.5, "test": 0.5}, ValueError, "leave some to train on"),
        (bytes_of(5, 2), None, {"valid": -0.5}, ValueError, "valid=-0.5"),
        (np.zeros((20, 2), np.uint8), None, {"split": "content"}, ValueError, "leaves none to train on"),
    ],
)
def test_bad_arrays(x, y, options, kind, message):
    with pytest.raises(kind, match=message):
        from_arrays(x, y, **options)


# --- .npz ---------------------------------------------------------------------------------------------------------


def test_npz_with_splits_and_layouts(tmp_path):
    x, y = bytes_of(30, 6, 5, 3), np.arange(30) % 2
    path = tmp_path / "set.npz"
    np.savez(path, x_train=x, y_train=y, x_test=x[:7], y_test=y[:7], classes=np.array(["cat", "dog"]))
    data = load(path)
    assert data.name == "set.npz"
    assert data.space == Integers((3, 6, 5), 256)
    assert data.classes == ("cat", "dog")
    assert data.record["rows"] == {"train": 27, "valid": 3, "test": 7}
    assert data.record["split"]["carved"] == ["valid"]
    assert torch.equal(data.test.x, torch.from_numpy(x[:7]).permute(0, 3, 1, 2))
    assert data.record["files"][0]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert data.record["duplicates"]["train/test"] + data.record["duplicates"]["valid/test"] == 7
    np.savez(path, x=bytes_of(30, 6, 5))
    assert load(path).space == Integers((1, 6, 5), 256)
    np.savez(path, X=bytes_of(30, 5) % 4)
    assert load(path, levels=4).space == Integers((5,), 4)


def test_bad_npz(tmp_path):
    path = tmp_path / "bad.npz"

    def refused(message, **arrays):
        if arrays:
            np.savez(path, **arrays)
        with pytest.raises(ValueError, match=message) as caught:
            load(path)
        assert "bad.npz" in str(caught.value)

    refused("holds the arrays features; accepts x and y", features=np.zeros(3))
    refused("two arrays for x of train", x=np.zeros((3, 1)), x_train=np.zeros((3, 1)))
    refused(r"cannot be read as \.npz", x=np.array([{}, None]))  # an array of objects would have to be unpickled
    refused("no labels for test", x_train=bytes_of(9, 2), y_train=np.arange(9) % 2, x_test=bytes_of(9, 2))
    refused(r"accepts \(n, 2\)", x_train=bytes_of(9, 2), x_test=bytes_of(9, 3))
    np.savez(path, x=bytes_of(2000, 5))
    whole = path.read_bytes()
    for damaged in (b"", b"not a zip", whole[: len(whole) // 2], whole[:300] + b"\0" * 300 + whole[600:]):
        path.write_bytes(damaged)
        refused(r"cannot be read as \.npz")


# --- idx ----------------------------------------------------------------------------------------------------------


def idx_bytes(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def test_idx_with_labels_and_test_files(tmp_path):
    x, y = bytes_of(40, 4, 4), np.arange(40, dtype=np.uint8) % 10
    for stem, array in (("train-images-idx3", x), ("t10k-images-idx3", x[:9]), ("t10k-labels-idx1", y[:9])):
        (tmp_path / f"{stem}-ubyte").write_bytes(idx_bytes(array))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx_bytes(y))
    data = load(tmp_path / "train-images-idx3-ubyte")
    assert data.space == Integers((1, 4, 4), 256)
    assert data.record["rows"] == {"train": 36, "valid": 4, "test": 9}
    assert torch.equal(data.test.x[:, 0], torch.from_numpy(x[:9]))
    assert data.test.y.tolist() == y[:9].tolist()
    gz = tmp_path / "other-images-idx3-ubyte.gz"
    gz.write_bytes(gzip.compress(idx_bytes(x)))
    assert load(gz).record["rows"] == {"train": 32, "valid": 4, "test": 4}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "nothing, which is no idx header"),
        (b"\x89PNG....", "no idx header"),
        (idx_bytes(bytes_of(5, 2, 2))[:-1], "it holds 19"),
        (idx_bytes(bytes_of(5, 2, 2)) + b"x", "it holds more"),
        (b"\0\0\x08\x03\xff\xff", "cannot be read as idx"),
    ],
)
def test_bad_idx(tmp_path, data, message):
    path = tmp_path / "a-images-idx3-ubyte"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        load(path)
    zipped = tmp_path / "b-images-idx3-ubyte.gz"
    zipped.write_bytes(gzip.compress(data)[:-4] if data else b"")
    with pytest.raises(ValueError, match=r"b-images-idx3-ubyte\.gz"):
        load(zipped)


# --- packs in $LIKELY_DATA ----------------------------------------------------------------------------------------


def webp(mosaic):
    out = io.BytesIO()
    Image.fromarray(mosaic).save(out, "WEBP", lossless=True, exact=True)
    return out.getvalue()


def write_tiles(path, x, labels, grid=(2, 3)):
    """x: (n, H, W, C) bytes, written as the documented format says."""
    n, h, w, _ = x.shape
    per = grid[0] * grid[1]
    pictures = []
    for start in range(0, n, per):
        mosaic = np.zeros((grid[0] * h, grid[1] * w, 3), np.uint8)
        for k, image in enumerate(x[start : start + per]):
            row, column = divmod(k, grid[1])
            mosaic[row * h : (row + 1) * h, column * w : (column + 1) * w] = image  # grey goes to all three channels
        pictures.append(webp(mosaic))
    offs = np.cumsum([0, *map(len, pictures)])
    blob = np.frombuffer(b"".join(pictures), np.uint8)
    np.savez(path, blob=blob, offs=offs, grid=np.array(grid), shape=np.array(x.shape), labels=labels)


@pytest.mark.parametrize("channels", [1, 3])
def test_tiles(tmp_path, monkeypatch, channels):
    monkeypatch.setenv("LIKELY_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    x, y = bytes_of(44, 8, 5, channels), (np.arange(44) % 10).astype(np.uint8)
    write_tiles(tmp_path / "mnist_train.npz", x[:34], y[:34])
    write_tiles(tmp_path / "mnist_test.npz", x[34:], y[34:])
    seen = []
    data = load("mnist", progress=lambda done, total: seen.append((done, total)))
    assert data.space == Integers((channels, 8, 5), 256)
    assert data.train.x.dtype == torch.uint8
    assert data.record["rows"] == {"train": 31, "valid": 3, "test": 10}
    expected = torch.from_numpy(x).permute(0, 3, 1, 2)
    assert torch.equal(data.test.x, expected[34:])
    assert data.test.y.tolist() == y[34:].tolist()
    assert as_set(torch.cat([data.train.x, data.valid.x])) == as_set(expected[:34].contiguous())
    assert seen[-1] == (10, 10)
    assert (34, 34) in seen
    assert [f["name"] for f in data.record["files"]] == ["mnist_train.npz", "mnist_test.npz"]
    assert next(row for row in list_sets() if row["name"] == "mnist")["here"] == str(tmp_path)


def test_bad_tiles(tmp_path, monkeypatch):
    monkeypatch.setenv("LIKELY_DATA", str(tmp_path))
    path = tmp_path / "emoji64.npz"
    write_tiles(path, bytes_of(12, 8, 5, 3), np.zeros(12))
    good = dict(np.load(path))

    def refused(message, **changes):
        np.savez(path, **{k: v for k, v in {**good, **changes}.items() if v is not None})
        with pytest.raises(ValueError, match=message) as caught:
            load("emoji64")
        assert "emoji64.npz" in str(caught.value)

    refused("lacks the array 'grid'", grid=None)
    refused("do not make 99 images", shape=np.array([99, 8, 5, 3]))
    refused("picture 0 cannot be read: it is", shape=np.array([12, 4, 5, 3]))
    refused("picture 1 cannot be read", blob=np.where(np.arange(good["blob"].size) < good["offs"][1], good["blob"], 0))
    refused("offs end at", blob=good["blob"][:-1])
    refused("offs must be rising", offs=good["offs"][::-1])


def test_bits(tmp_path, monkeypatch):
    monkeypatch.setenv("LIKELY_DATA", str(tmp_path))
    bits = bytes_of(60, 6, 11) % 2
    names = np.arange(60, dtype=np.int16) % 4
    np.savez(tmp_path / "omniglot_small.npz", bits=np.packbits(bits, axis=2), shape=np.array(bits.shape), label=names)
    data = load("omniglot")
    assert data.space == Integers((1, 6, 11), 2)
    assert data.condition == Integers((), 4)
    assert as_set(rows_of(data)) == as_set(torch.from_numpy(bits[:, None]))

    rows = {part: bytes_of(n, 16, seed=n) % 2 for part, n in (("train", 40), ("valid", 9), ("test", 11))}
    (tmp_path / "debd").mkdir()
    packed = {part: np.packbits(x, axis=1) for part, x in rows.items()}
    np.savez(tmp_path / "debd" / "nltcs.npz", num_vars=16, **packed)
    data = load("nltcs")
    assert data.space == Integers((16,), 2)
    assert data.record["split"] == {"found": [*rows], "carved": []}
    assert all(torch.equal(getattr(data, part).x, torch.from_numpy(x)) for part, x in rows.items())
    np.savez(tmp_path / "debd" / "nltcs.npz", num_vars=17, **packed)
    with pytest.raises(ValueError, match=r"nltcs.npz: train has shape \(40, 2\)"):
        load("nltcs")
    np.savez(tmp_path / "debd" / "nltcs.npz", num_vars=16, **packed)
    with pytest.raises(ValueError, match="brings its own valid split"):
        load("nltcs", valid=0.2)


@needs_pack
@pytest.mark.parametrize(
    ("name", "space", "rows"),
    [
        ("nltcs", Integers((16,), 2), (16181, 2157, 3236)),
        ("omniglot", Integers((1, 105, 105), 2), (4672, 584, 584)),
        ("fashion-mnist", Integers((1, 28, 28), 256), (54000, 6000, 10000)),
    ],
)
def test_real_packs(name, space, rows):
    data = load(name)
    assert data.space == space
    assert tuple(data.record["rows"].values()) == rows
    if name == "fashion-mnist":
        # The first labels of the original file: ankle boot, then T-shirts; 1,000 of each class in test.
        assert data.test.y[:5].tolist() == [9, 2, 1, 1, 6]
        assert data.test.y.bincount().tolist() == [1000] * 10
        assert data.test.x.shape == (10000, 1, 28, 28)
        assert set(data.record["duplicates"].values()) == {0}


# --- the door -----------------------------------------------------------------------------------------------------


def test_fields_and_config_agree():
    fields = {"valid": 0.2, "test": 0.2, "split": "index", "limit": 50}
    by_config, by_fields = load(DataConfig(source="iris", **fields)), load("iris", **fields)
    assert by_config.record == by_fields.record
    assert by_config.record["options"] == fields
    with pytest.raises(TypeError, match="not both; got limit"):
        load(DataConfig(), limit=3)


@pytest.mark.parametrize(
    ("source", "fields", "kind", "message"),
    [
        ("fashion-mnits", {}, ValueError, "did you mean 'fashion-mnist'"),
        ("digit", {}, ValueError, "did you mean 'digits'"),
        ("zzzzzzzz", {}, ValueError, "names are digits, iris"),
        ("no/such/file.csv", {}, ValueError, "no file or folder is there"),
        ("digits", {"limt": 3}, TypeError, "did you mean 'limit'"),
        ("digits", {"label": "income"}, ValueError, "label='income' means nothing for 'digits'"),
        ("digits", {"rows": 10}, ValueError, "rows=10 means nothing"),
        ("digits", {"limit": 0}, ValueError, "limit"),
        ("digits", {"valid": 1.5}, ValueError, "valid"),
        ("digits", {"valid": 0.6, "test": 0.6}, ValueError, "leave no rows"),
        ("digits", {"split": "random"}, ValueError, "content"),
    ],
)
def test_bad_sources_and_options(source, fields, kind, message):
    with pytest.raises(kind, match=message):
        load(source, **fields)


def test_unknown_kind_of_file(tmp_path):
    (tmp_path / "model.pkl").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"model.pkl' is of no known kind; accepts .npz"):
        load(tmp_path / "model.pkl")


def test_a_set_that_is_not_here_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("LIKELY_DATA", raising=False)
    with pytest.raises(ValueError, match=r"LIKELY_DATA is not set. Get it with: likely data get mnist"):
        load("mnist")
    with pytest.raises(ValueError, match="likely data get hf:someone/something"):
        load("hf:someone/something")
    with pytest.raises(ValueError, match=r"Put debd/nltcs.npz into a folder that LIKELY_DATA names"):
        load("nltcs")
    assert {row["name"]: row["here"] for row in list_sets()}["mnist"] is None
    assert named.cache_file("hf:a/b") == Path(tmp_path) / "likely" / "data" / "hf--a--b.npz"


def test_the_global_random_state_is_left_alone():
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    load("moons", rows=100)
    from_arrays(bytes_of(20, 1, 4, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002


def test_one_number_is_the_size_of_a_square() -> None:
    assert DataConfig.model_validate({"source": "x", "size": 32}).size == (32, 32)
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        DataConfig.model_validate({"source": "x", "size": 0})

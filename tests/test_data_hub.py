"""`likely data get` against local copies of a hub set: what it writes, and that a damaged cache is noticed."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from likely.data import get, list_sets, load
from likely.space import Integers, Reals

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("LIKELY_DATA", raising=False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    return tmp_path / "cache" / "likely" / "data"


def pictures(n, seed=0):
    x = np.random.default_rng(seed).integers(0, 256, (n, 8, 6), dtype=np.uint8)
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["no", "yes", "perhaps"])}
    )
    rows = {"image": [Image.fromarray(image) for image in x], "label": [i % 3 for i in range(n)]}
    return torch.from_numpy(x)[:, None], datasets.Dataset.from_dict(rows, features=features)


@pytest.mark.parametrize("saved", ["save_to_disk", "parquet"])
def test_get_from_a_local_copy(tmp_path, cache, saved):
    (x, train), (x_test, test) = pictures(30), pictures(9, seed=1)
    home = tmp_path / "home"
    if saved == "parquet":
        home.mkdir()
        train.to_parquet(home / "train-00000-of-00001.parquet")
        test.to_parquet(home / "test-00000-of-00001.parquet")
    else:
        datasets.DatasetDict({"train": train, "test": test}).save_to_disk(home)
    seen = []
    path = get("hf:someone/pictures", home=home, progress=lambda done, total: seen.append((done, total)))
    assert path == cache / "hf--someone--pictures.npz"
    assert (9, 9) in seen
    assert (30, 30) in seen
    assert sorted(p.name for p in cache.iterdir()) == [path.with_suffix(".json").name, path.name]

    data = load("hf:someone/pictures")
    assert data.space == Integers((1, 8, 6), 256)
    assert data.classes == ("no", "yes", "perhaps")
    assert data.record["rows"] == {"train": 27, "valid": 3, "test": 9}
    assert data.record["origin"] == str(home)
    assert torch.equal(data.test.x, x_test)
    assert data.test.y.tolist() == [i % 3 for i in range(9)]
    rows = {row.numpy().tobytes() for row in torch.cat([data.train.x, data.valid.x])}
    assert rows == {row.numpy().tobytes() for row in x}
    assert {row["name"] for row in list_sets()} >= {"hf:someone/pictures", "mnist"}


def test_a_known_name_from_a_mirror(tmp_path):
    _, train = pictures(30)
    datasets.DatasetDict({"train": train}).save_to_disk(tmp_path / "home")
    get("fashion-mnist", home=tmp_path / "home")
    data = load("fashion-mnist")
    assert data.record["rows"] == {"train": 24, "valid": 3, "test": 3}
    assert data.record["licence"] == "MIT (Zalando)"
    with pytest.raises(ValueError, match="size and mode would make another data set of 'fashion-mnist'"):
        get("fashion-mnist", home=tmp_path / "home", size=(4, 4))
    get("hf:a/small", home=tmp_path / "home", size=(4, 3), mode="rgb")
    assert load("hf:a/small").space == Integers((3, 4, 3), 256)
    assert any("resized to 4 x 3" in key for key in load("hf:a/small").record["conversions"]["train"])


def test_numbers(tmp_path):
    rows = {"a": [0.5 * i for i in range(20)], "b": list(range(20)), "target": [i % 2 for i in range(20)]}
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "home")
    get("hf:a/numbers", home=tmp_path / "home")
    data = load("hf:a/numbers", valid=0, test=0)
    assert data.space == Reals((2,))
    assert data.train.x[3].tolist() == [1.5, 3]
    assert data.train.y[3] == 1


def test_a_damaged_cache_is_noticed(tmp_path):
    _, train = pictures(30)
    train.save_to_disk(tmp_path / "home")
    path = get("hf:a/b", home=tmp_path / "home")
    good = path.read_bytes()
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(ValueError, match=r"hf--a--b.npz is damaged: its SHA-256 is"):
        load("hf:a/b")
    path.write_bytes(good)
    note = json.loads(path.with_suffix(".json").read_text())
    assert note["name"] == "hf:a/b"
    assert len(load("hf:a/b").train) == 24
    for damage in ("", "[]", "{}"):
        path.with_suffix(".json").write_text(damage)
        with pytest.raises(ValueError, match=r"hf--a--b.json is missing or damaged"):
            load("hf:a/b")
    path.with_suffix(".json").unlink()
    with pytest.raises(ValueError, match=r"hf--a--b.json is missing or damaged"):
        load("hf:a/b")


def test_a_stopped_get_leaves_what_was_there(tmp_path, cache, monkeypatch):
    _, train = pictures(30)
    train.save_to_disk(tmp_path / "home")
    path = get("hf:a/b", home=tmp_path / "home")
    before = {p.name: p.read_bytes() for p in cache.iterdir()}

    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("likely.data.hub.np.savez_compressed", stopped)
    with pytest.raises(KeyboardInterrupt):
        get("hf:a/b", home=tmp_path / "home")
    assert {p.name: p.read_bytes() for p in cache.iterdir()} == before
    assert path.exists()


def test_bad_gets(tmp_path):
    def saved(name, **parts):
        datasets.DatasetDict(parts).save_to_disk(tmp_path / name)
        return tmp_path / name

    _, train = pictures(5)
    words = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]})
    broken = datasets.Dataset.from_dict({"image": [{"bytes": b"no image", "path": None}]}).cast_column(
        "image", datasets.Image()
    )
    with pytest.raises(ValueError, match="did you mean 'mnist'"):
        get("mnits")
    with pytest.raises(ValueError, match="'digits' needs no getting"):
        get("digits")
    with pytest.raises(ValueError, match="'nltcs' has no known home"):
        get("nltcs")
    with pytest.raises(ValueError, match=r"has the splits extra; accepts train"):
        get("hf:a/b", home=saved("1", extra=train))
    with pytest.raises(ValueError, match="no images, and columns that are no numbers: text"):
        get("hf:a/b", home=saved("2", train=words))
    with pytest.raises(ValueError, match="hf:a/b, train, image 0 cannot be read"):
        get("hf:a/b", home=saved("3", train=broken))
    nulls = datasets.Dataset.from_dict({"x": [1.0, 2.0], "label": [0, None]})
    with pytest.raises(ValueError, match=r"column 'label' holds .*; labels are integers or names"):
        get("hf:a/b", home=saved("5", train=nulls))
    with pytest.raises(ValueError, match="no column 'kind'; it has image, label"):
        get("hf:a/b", home=saved("4", train=train), label="kind")

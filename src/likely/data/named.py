"""Data sets with a name: built in, generated, or found in `$LIKELY_DATA` and in the user's cache."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from likely.data import arrays, toys
from likely.data.arrays import file_facts
from likely.data.dataset import Found
from likely.data.images import Progress
from likely.data.tables import read_tables
from likely.space import Integers, Reals

PARTS = ("train", "valid", "test")


class Known(NamedTuple):
    """A named set: what it is, the files of a data folder that hold it, and its public home on the hub."""

    text: str
    files: dict[str, tuple[str, ...]]
    """split -> files in $LIKELY_DATA, one after the other."""
    read: Callable[[dict[str, list[Path]], Progress | None], Found]
    licence: str
    home: str | None = None
    """owner/name on the Hugging Face hub, where `likely data get` finds it."""
    classes: tuple[str, ...] | None = None
    note: str | None = None
    """How the files in $LIKELY_DATA differ from the whole set."""


def _read_tiles(files: dict[str, list[Path]], progress: Progress | None) -> Found:
    return _read_images(files, lambda path: arrays.tiles(path, progress), "labels")


def _read_jpegs(files: dict[str, list[Path]], progress: Progress | None) -> Found:
    found = _read_images(files, lambda path: arrays.jpegs(path, progress), "labels")
    names = arrays.open_npz(files["train"][0])["classname"]
    return Found(found.x, found.y, found.space, tuple(str(name) for name in names))


def _read_bits(files: dict[str, list[Path]], progress: Progress | None) -> Found:
    found = _read_images(files, arrays.bit_images, "label")
    return Found(found.x, found.y, Integers((1, *found.x["train"].shape[2:]), 2), found.classes)


def _read_images(files: dict[str, list[Path]], read: Callable[[Path], Any], label: str) -> Found:
    """Images and labels of all files of each split, one after the other."""
    xs, ys = {}, {}
    for part, paths in files.items():
        found = [read(path) for path in paths]
        xs[part] = np.concatenate([x.numpy() for x, _ in found]) if len(found) > 1 else found[0][0]
        if all(label in rest for _, rest in found):
            ys[part] = np.concatenate([rest[label] for _, rest in found])
    return Found(xs, ys or None, Integers(tuple(xs["train"].shape[1:]), 256))


def _read_bit_rows(files: dict[str, list[Path]], progress: Progress | None) -> Found:
    return arrays.bit_rows(files["train"][0])


def _read_adult(files: dict[str, list[Path]], progress: Progress | None) -> Found:
    return read_tables({part: paths[0] for part, paths in files.items()}, label="income", missing=("?",))


def _read_reals(files: dict[str, list[Path]], progress: Progress | None) -> Found:
    return Found({"train": arrays.open_npz(files["train"][0])["X"]})


_CLOTHES = ("T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Boot")
_CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def _binary(name: str, text: str) -> Known:
    licence = "none stated; research use (Lowd and Davis 2010, Van Haaren and Davis 2012)"
    return Known(text, {"train": (f"debd/{name}.npz",)}, _read_bit_rows, licence)


KNOWN: dict[str, Known] = {
    "mnist": Known(
        "handwritten digits, grey 28x28",
        {"train": ("mnist_train.npz",), "test": ("mnist_test.npz",)},
        _read_tiles, "CC BY-SA 3.0 (as usually stated)", "ylecun/mnist", tuple("0123456789"),
    ),
    "fashion-mnist": Known(
        "pictures of clothes, grey 28x28",
        {"train": ("fashion_mnist_train.npz",), "test": ("fashion_mnist_test.npz",)},
        _read_tiles, "MIT (Zalando)", "zalando-datasets/fashion_mnist", _CLOTHES,
    ),
    "cifar10": Known(
        "small photographs, RGB 32x32",
        {"train": tuple(f"cifar10_train_{i}.npz" for i in (1, 2, 3)), "test": ("cifar10_test.npz",)},
        _read_tiles, "none stated; research use (Krizhevsky 2009)", "uoft-cs/cifar10", _CIFAR,
        "the files of a data folder hold 30,000 of the 50,000 training images",
    ),
    "omniglot": Known(
        "handwritten characters of eight alphabets, binary 105x105",
        {"train": ("omniglot_small.npz",)}, _read_bits, "MIT (Lake et al.)",
    ),
    "emoji64": Known(
        "emoji in four styles, RGB 64x64, without labels",
        {"train": ("emoji64.npz",)}, _read_tiles, "Apache-2.0, CC BY 4.0, MIT, CC BY-SA 4.0, by style",
    ),
    "tinyimagenet": Known(
        "5,000 photographs of 200 classes, RGB 64x64",
        {"train": ("tinyimagenet_val5k.npz",)}, _read_jpegs, "ImageNet terms: non-commercial research",
    ),
    "nltcs": _binary("nltcs", "16 disabilities of elderly people"),
    "msnbc": _binary("msnbc", "17 categories of pages visited"),
    "plants": _binary("plants", "69 regions where a plant grows"),
    "baudio": _binary("baudio", "100 artists listened to"),
    "bnetflix": _binary("bnetflix", "100 films liked"),
    "jester": _binary("jester", "100 jokes liked"),
    "accidents": _binary("accidents", "111 circumstances of road accidents"),
    "dna": _binary("dna", "180 bits of splice junctions"),
    "adult": Known(
        "census rows, 14 mixed columns, label income",
        {"train": ("tabular/adult_train.csv.gz",), "test": ("tabular/adult_test.csv.gz",)},
        _read_adult, "CC BY 4.0 (UCI)",
    ),
    **{
        f"uci-{name}": Known(text, {"train": (f"tabular/uci_{name}.npz",)}, _read_reals, "CC BY 4.0 (UCI)")
        for name, text in (
            ("protein", "45,730 rows of 10 numbers"), ("kin40k", "40,000 rows of 9 numbers"),
            ("bike", "17,379 rows of 18 numbers"), ("concrete", "1,030 rows of 9 numbers"),
            ("energy", "768 rows of 9 numbers"),
        )
    },
}  # fmt: skip
BUILT_IN = {"digits": "handwritten digits, grey 8x8, 17 levels", "iris": "three kinds of flower, 4 numbers"}


def cache_folder() -> Path:
    """Where `likely data get` puts data sets: `$XDG_CACHE_HOME/likely/data`, by default under ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "likely" / "data"


def cache_file(name: str, cache: Path | None = None) -> Path:
    """The file of a set in the cache; hub names `hf:owner/name` become `hf--owner--name.npz`."""
    return (cache or cache_folder()) / f"{name.replace(':', '--').replace('/', '--')}.npz"


def is_name(source: str) -> bool:
    """Whether a source is one of the known names."""
    return source in KNOWN or source in BUILT_IN or source in toys.TOYS or source.startswith("hf:")


def nearest(source: str) -> str:
    """A sentence that proposes the known name nearest to an unknown one."""
    names = [*BUILT_IN, *toys.TOYS, *KNOWN]
    close = difflib.get_close_matches(source.lower(), names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"names are {', '.join(names)}, hf:OWNER/NAME"


def list_sets() -> list[dict[str, Any]]:
    """All named sets: name, text, licence, where it is here (None: nowhere) and how to get it."""
    rows = [{"name": n, "text": t, "licence": None, "here": "built in", "get": None} for n, t in BUILT_IN.items()]
    rows += [
        {"name": n, "text": t.text, "licence": None, "here": "generated", "get": None} for n, t in toys.TOYS.items()
    ]
    for name, known in KNOWN.items():
        get = f"likely data get {name}" if known.home else None
        rows.append({"name": name, "text": known.text, "licence": known.licence, "here": _here(name), "get": get})
    for path in sorted(cache_folder().glob("hf--*.npz")):
        name = "hf:" + path.stem.removeprefix("hf--").replace("--", "/", 1)
        rows.append({"name": name, "text": "from the hub", "licence": None, "here": str(path), "get": None})
    return rows


def read_name(source: str, *, rows: int | None, seed: int | None, progress: Progress | None) -> Found:
    """A set that `is_name` knows; `ValueError` that says how to get it when it is not here."""
    if source in toys.TOYS:
        return _toy(source, rows or 12_000, seed or 0)
    if source in BUILT_IN:
        return _digits() if source == "digits" else _iris()
    known, folder = KNOWN.get(source), os.environ.get("LIKELY_DATA")
    if known is not None and folder:
        files = _pack(known, Path(folder))
        if files:
            found = known.read(files, progress)
            facts = {"kind": "named", "files": [file_facts(path) for paths in files.values() for path in paths]}
            facts |= {"licence": known.licence, **({"note": known.note} if known.note else {})}
            return Found(found.x, found.y, found.space, found.classes or known.classes, {**found.facts, **facts})
    cached = cache_file(source)
    if cached.exists():
        return _cached(cached, known)
    raise ValueError(_how_to_get(source, known, folder))


def _pack(known: Known, folder: Path) -> dict[str, list[Path]] | None:
    files = {part: [folder / name for name in names] for part, names in known.files.items()}
    return files if all(path.exists() for paths in files.values() for path in paths) else None


def _here(name: str) -> str | None:
    folder = os.environ.get("LIKELY_DATA")
    if folder and _pack(KNOWN[name], Path(folder)):
        return folder
    return str(cache_file(name)) if cache_file(name).exists() else None


def _how_to_get(source: str, known: Known | None, folder: str | None) -> str:
    looked = f"the cache {cache_folder()}" + (f" or $LIKELY_DATA ({folder})" if folder else "; $LIKELY_DATA is not set")
    missing = f"the data set {source!r} is not in {looked}."
    if known is not None and known.home is None:
        return f"{missing} Put {', '.join(sum(known.files.values(), ()))} into a folder that LIKELY_DATA names"
    return f"{missing} Get it with: likely data get {source}"


def _cached(path: Path, known: Known | None) -> Found:
    """A set that `likely data get` wrote, whose hash must still be the one it noted."""
    note = path.with_suffix(".json")
    try:
        noted = json.loads(note.read_text(encoding="utf-8"))
        wanted = noted["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{note} is missing or damaged: get the data set again ({error})") from error
    facts = file_facts(path)
    if facts["sha256"] != wanted:
        raise ValueError(f"{path} is damaged: its SHA-256 is {facts['sha256']}, noted was {wanted}; get it again")
    found = arrays.read_npz(path)
    told = {"kind": "named", **{key: noted.get(key) for key in ("origin", "licence", "conversions", "left_out")}}
    return Found(found.x, found.y, None, found.classes or (known.classes if known else None), {**found.facts, **told})


def _toy(name: str, rows: int, seed: int) -> Found:
    x, y = toys.draw(name, rows, seed)
    toy = toys.TOYS[name]
    facts = {"kind": "generated", "generator": toy.text, "entropy_nats": toy.entropy, "rows": rows, "seed": seed}
    return Found({"train": x}, None if y is None else {"train": y}, Reals((2,)), None, facts, rule="order")


def _digits() -> Found:
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = digits.images.astype(np.uint8)[:, None]
    facts = {
        "kind": "built in",
        "origin": "scikit-learn load_digits (UCI optical digits)",
        "licence": "CC BY 4.0 (UCI)",
    }
    # 1000/350/447 in file order, as "Deep Generative Modeling" (Tomczak, 2022) has it.
    return Found(
        {"train": x}, {"train": digits.target}, Integers((1, 8, 8), 17), tuple("0123456789"), facts, "order", (350, 447)
    )


def _iris() -> Found:
    from sklearn.datasets import load_iris

    iris = load_iris()
    facts = {"kind": "built in", "origin": "scikit-learn load_iris", "licence": "CC BY 4.0 (UCI)"}
    facts["columns"] = list(iris.feature_names)
    names = tuple(str(name) for name in iris.target_names)
    return Found({"train": iris.data}, {"train": iris.target}, Reals((4,)), names, facts, "content", (30, 30))

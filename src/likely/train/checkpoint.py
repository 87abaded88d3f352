"""Models and checkpoints as files: safetensors and JSON, nothing that has to be unpickled.

A model file's header says what it is: {family, config, space, condition, version}, sealed by a SHA-256 over header and
tensors. Names in it resolve in the closed registry only. A checkpoint is a folder `checkpoints/step-N` of a run:

    model.safetensors    the weights that answer: averaged or best ones where the run has them
    resume.safetensors   what only resuming needs: raw weights, averages, the optimiser, `training_state()`
    state.json           the training config and all counters; with counter-based noise, the step is the random state
    ledger.json          how far the ledger went, and the seconds spent
    MANIFEST.json        SHA-256 and size of every other file
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from likely import __version__
from likely.config.base import FamilyConfig
from likely.registry import FAMILIES, build, config_class
from likely.space import from_json, to_json
from likely.train.files import (
    MANIFEST,
    need_space,
    read_folder,
    remove_folder,
    sealed,
    sync_folder,
    temporary,
    unsealed,
    write_file,
    write_folder,
)
from likely.verbs import name_of

WEIGHTS = "model.safetensors"
MAX_HEADER = 16 * 2**20
"""Bytes of a header; a larger one is refused before it is parsed."""
DEFAULT = Path(__file__).parent.parent / "shipped" / "pictures.safetensors"
"""The model that comes with the package: of pictures of any sizes, for `likely compress --default`."""
_ACCEPTED = "a run folder, a model folder, a model file or 'default'"


def save(model: nn.Module, path: str | Path) -> Path:
    """Write a model: a folder with its manifest, or one file where `path` ends in .safetensors.

    Whatever happens, there is a whole model at `path` afterwards or nothing. Raises `TypeError` for a model that is of
    no registered family, `ValueError` when `path` exists: nothing is written over.
    """
    if getattr(getattr(model, "config", None), "family", None) not in FAMILIES:
        raise TypeError(f"model is {name_of(model)}; save needs a model that likely.build made")
    path = Path(path)
    if path.exists():
        raise ValueError(f"path is {path}, which exists; nothing is written over")
    data = pack(model.state_dict(), header(model))
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        need_space(path.parent, len(data))
        new = temporary(path)
        new.unlink(missing_ok=True)
        write_file(new, data)
        new.rename(path)
        sync_folder(path.parent)
    else:
        write_folder(path, {WEIGHTS: data})
    return path


def load_model(path: str | Path) -> nn.Module:
    """The model in a run folder (its newest good checkpoint), a model folder or a model file, in evaluation mode.

    "default" is the model that comes with the package, which codes pictures of any sizes. Raises `ValueError` naming
    the file that is missing, damaged or not a model of a registered family.
    """
    path = Path(path)
    path = DEFAULT if path == Path("default") and not path.exists() else path
    if not path.exists():
        raise ValueError(f"path is {path}, where there is nothing; accepts {_ACCEPTED}")
    if path.is_file():
        where, data = path, path.read_bytes()
    elif (path / MANIFEST).exists() or (path / WEIGHTS).exists():
        where, data = path / WEIGHTS, read_folder(path).get(WEIGHTS)
    elif Checkpoints(path).steps():
        step, files = Checkpoints(path).newest()
        where, data = Checkpoints(path).path(step) / WEIGHTS, files.get(WEIGHTS)
    else:
        raise ValueError(f"path is {path}, a folder without a model; accepts {_ACCEPTED}")
    if data is None:
        raise ValueError(f"{where} is missing")
    record, tensors = unpack(data, where)
    return rebuild(record, tensors, where)


def header(model: nn.Module) -> dict[str, Any]:
    """What a model is: {format, version, family, config, space, condition}, JSON values."""
    config: Any = getattr(model, "config", None)
    condition: Any = model.condition
    return {
        "format": 1,
        "version": __version__,
        "family": getattr(config, "family", None),
        "config": config.model_dump(mode="json") if isinstance(config, FamilyConfig) else None,
        "space": to_json(model.space),  # ty: ignore[invalid-argument-type]
        "condition": None if condition is None else to_json(condition),
    }


def rebuild(record: Mapping[str, Any], tensors: Mapping[str, Tensor], where: Path) -> nn.Module:
    """The model that a header describes, with these weights."""
    try:
        config = config_class(record["family"]).model_validate(record["config"])
        space = from_json(record["space"])
        condition = None if record["condition"] is None else from_json(record["condition"])
        model = build(config, space, condition)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{where} holds no model that can be built: {error}") from error
    dtypes = {t.dtype for t in tensors.values() if t.is_floating_point()}
    if len(dtypes) == 1:
        model = model.to(dtypes.pop())
    load_weights(model, tensors, where)
    return model.eval()


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor], where: Path | str) -> None:
    """Put a state dict into a model; a `ValueError` names the first tensor of another name, shape or dtype."""
    own = model.state_dict()
    for name in sorted(own.keys() | tensors.keys()):
        if name not in own or name not in tensors:
            lack, have = ("the file", "the model") if name in own else ("the model", "the file")
            raise ValueError(f"{where}: {have} has a tensor {name!r}, {lack} has none")
        here, there = own[name], tensors[name]
        if here.shape != there.shape or here.dtype != there.dtype:
            found, wanted = (f"{tuple(t.shape)} {t.dtype}" for t in (there, here))
            raise ValueError(f"{where}: {name} is {found}, the model's is {wanted}")
    model.load_state_dict(dict(tensors))


def pack(tensors: Mapping[str, Tensor], record: Mapping[str, Any]) -> bytes:
    """A safetensors file of tensors with a sealed header."""
    plain = dict(_plain(tensors))
    # one metadata key: safetensors writes several in an order that changes from process to process
    return safetensors.torch.save(plain, {"likely": sealed(record, _digest(plain))})


def unpack(data: bytes, where: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of what `pack` made; raises `ValueError` naming the file when a bit differs."""
    size = int.from_bytes(data[:8], "little")
    if not 0 < size <= min(len(data) - 8, MAX_HEADER):
        raise ValueError(f"{where} is no model file: its header would have {size:,} bytes")
    try:
        line = json.loads(data[8 : 8 + size])["__metadata__"]["likely"]
        tensors = safetensors.torch.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        what = "has no header of likely's" if isinstance(error, KeyError) else f"is damaged: {error}"
        raise ValueError(f"{where} {what}") from error
    try:
        return unsealed(line, _digest(tensors)), tensors
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{where} is damaged: {error}") from error


def fingerprint(model: nn.Module) -> str:
    """SHA-256 of a model's tensors, in hexadecimal."""
    return _digest(dict(_plain(model.state_dict()))).hex()


class Checkpoints:
    """The checkpoints of a run folder."""

    def __init__(self, run: str | Path) -> None:
        self.folder = Path(run) / "checkpoints"

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step is."""
        return self.folder / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """Steps that have a checkpoint, newest first."""
        found = (re.fullmatch(r"step-(\d{8,})", path.name) for path in self.folder.glob("step-*"))
        return sorted((int(match[1]) for match in found if match), reverse=True)

    def write(self, step: int, files: Mapping[str, bytes], keep: int) -> None:
        """Add a checkpoint, then delete all but the newest `keep`. Raises `OSError` with the older ones untouched."""
        write_folder(self.path(step), files)
        for old in [s for s in self.steps() if s <= step][keep:]:
            remove_folder(self.path(old))

    def newest(self) -> tuple[int, dict[str, bytes]]:
        """The newest checkpoint whose every hash is right, and its files.

        A warning names the damaged file of each newer one; a `ValueError` when none is left.
        """
        first: ValueError | None = None
        for step, files in self._each():
            if isinstance(files, dict):
                return step, files
            first = first or files
            warnings.warn(f"{files}; going back to an older checkpoint", RuntimeWarning, stacklevel=3)
        raise first or ValueError(f"{self.folder} holds no checkpoint")

    def set_aside(self, newer_than: int) -> None:
        """Rename what is newer than a step (damaged, then): its number becomes free, nothing is lost."""
        for step in self.steps():
            if step > newer_than:
                path = self.path(step)
                other = next(p for i in range(10**6) if not (p := path.with_name(f"damaged-{path.name}-{i}")).exists())
                path.rename(other)

    def _each(self) -> Iterator[tuple[int, dict[str, bytes] | ValueError]]:
        for step in self.steps():
            try:
                yield step, read_folder(self.path(step))
            except (ValueError, OSError) as error:
                yield step, error if isinstance(error, ValueError) else ValueError(str(error))


def _plain(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Tensors as safetensors takes them: on the CPU, contiguous, none sharing memory with another (tied ones twice)."""
    seen: set[int] = set()
    for name, tensor in sorted(tensors.items()):
        tensor = tensor.detach().cpu().contiguous()
        place = tensor.untyped_storage().data_ptr()
        yield name, tensor.clone() if place in seen or tensor.untyped_storage().nbytes() > tensor.nbytes else tensor
        seen.add(place)


def _digest(tensors: Mapping[str, Tensor]) -> bytes:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))
    return digest.digest()

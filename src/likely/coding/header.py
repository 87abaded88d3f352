"""What a file says of itself: the fields of the header, and the hashes in them."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, TypeVar

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from likely.coding.container import ROWS, Archive
from likely.coding.errors import CorruptHeader, UnsupportedVersion
from likely.space import AnySpace, Integers, Reals, to_json
from likely.verbs import name_of

CODER, GROWING = "ans24", "ans24-growing"
"""The coder and its tables: 24-bit frequencies on 64-bit states with 32-bit words. The second is version 2's."""
PROFILES = ("f64", "int")
"""Numeric profiles that this version knows. f64: the model in float64, its parameters rounded to 2^-8. int: a model
whose every number on the way to a table is an integer that floats hold exactly, in whatever order they are added."""
EXPERIMENTAL = ("local-bits-back", "bits-back-local")
"""Schemes whose files another version may refuse."""
MOST_GROUP = 4096
MOST_SIDE = 1 << 12

Hash = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
Word = Annotated[str, Field(pattern=r"^\P{C}{1,200}$")]
"""A name that is shown to people: nothing in it moves a terminal's cursor."""
MOST_BITS = 1 << 62
Bits = Annotated[int, Field(ge=-MOST_BITS, le=MOST_BITS)]
"""A number of bits, which may be divided without running over."""


class Record(BaseModel):
    """Fields of a file that are read strictly. Abstract."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


Fields = TypeVar("Fields", bound=Record)


class Coding(Record):
    """How rows became bits."""

    scheme: Word
    coder: Word = CODER
    group: Annotated[int, Field(ge=1, le=MOST_GROUP)]
    """Rows that are coded together."""
    fine: Annotated[int | None, Field(ge=0, le=12)] = None
    """Latents: they are coded on a grid of 2^-fine."""
    reach: Annotated[int | None, Field(ge=1, le=2**12)] = None
    """Latents: the grid covers [-reach, reach]."""
    labels: bool | None = None
    """Joints p(x, y): whether the rows have their labels, or whatever labels bits-back chose, which are not kept."""


class Content(Record):
    """What is inside."""

    rows: Annotated[int, Field(ge=1, le=2**40)]
    sha256: Hash
    """The first half of the SHA-256 of all rows, then all labels, as `canonical` lays them out."""
    nll_bits: Bits | None = None
    """-log2 p of all rows under the model (for latent models: a draw of its bound): what the payload is measured by."""


class Tiling(Record):
    """How pictures are cut."""

    side: Annotated[int, Field(ge=1, le=MOST_SIDE)]
    """Height and width of a tile."""
    multiple: Annotated[int, Field(ge=1, le=MOST_SIDE)]
    """Tiles at a picture's right and lower border are filled up to multiples of this."""


class Written(Record):
    """With which model."""

    family: Word
    sha256: Hash


class Numerics(Record):
    """In which arithmetic, and what came out of it on the machine that wrote the file."""

    profile: Word = "f64"
    grid: int = 256
    fingerprint: Annotated[str, Field(pattern="^[0-9a-f]{16}$")]


class Head(Record):
    """What both versions say. Abstract."""

    coding: Coding
    model: Written
    numerics: Numerics
    space: AnySpace

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, without fields that are not used."""
        return self.model_dump(mode="json", exclude_none=True)


class Header(Head):
    """Version 1: rows."""

    content: Content


class PicturesHeader(Head):
    """Version 2: pictures of any sizes, which the table at the end lists."""

    tiling: Tiling


_Size = Annotated[int, Field(ge=1, le=1 << 24)]


class Table(Record):
    """What is in a file of version 2."""

    names: list[str] | None = None
    sha256: Hash
    """The first half of the SHA-256 of all pictures: three u32 (C, H, W), then the pixels row by row, (H, W, C)."""
    shapes: Annotated[list[tuple[_Size, _Size, _Size, _Size]], Field(min_length=1)]
    """(C, H, W) of pictures, and how many follow each other that have it."""


def header_of(archive: Archive) -> Header | PicturesHeader:
    """The header of a file; raises `CorruptHeader`, or `UnsupportedVersion` for a coder or profile of another time."""
    if archive.header.get("lossy"):
        raise UnsupportedVersion("it holds lossy pictures; decode it with likely.coding.LossyCodec")
    header = parsed(Header if archive.version == ROWS else PicturesHeader, archive.header)
    if not isinstance(header.space, Integers):
        raise CorruptHeader(f"its space is {header.space}; accepts Integers")
    coders = (CODER if isinstance(header, Header) else GROWING,)
    known = {"coder": (header.coding.coder, coders), "numeric profile": (header.numerics.profile, PROFILES)}
    for name, (value, accepted) in known.items():
        if value not in accepted:
            raise UnsupportedVersion(f"its {name} is {value!r}; this likely knows {', '.join(accepted)}")
    return header


def parsed(kind: type[Fields], record: dict[str, Any]) -> Fields:
    """JSON values as fields; raises `CorruptHeader` where they are no such fields."""
    try:
        return kind.model_validate_json(json.dumps(record))
    except ValidationError as error:
        first = error.errors()[0]
        raise CorruptHeader(f"its field {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def numerics_of(model: Any) -> str:
    """The numeric profile of a model, one of `PROFILES`: it says so itself where it is not f64."""
    return getattr(model, "numerics", "f64")


def canonical(x: Tensor, space: Integers | Reals) -> np.ndarray:
    """Numbers as the file's raw bytes have them: integers in one, two or four bytes, reals in four; little endian."""
    return np.ascontiguousarray(x.cpu().numpy()).astype(dtype_of(space))


def dtype_of(space: Integers | Reals) -> str:
    """The smallest unsigned type that holds the levels of a space; float32 for reals."""
    if isinstance(space, Reals):
        return "<f4"
    return "u1" if space.levels <= 1 << 8 else "<u2" if space.levels <= 1 << 16 else "<u4"


def content_hash(x: Tensor, y: Tensor | None, space: Integers, condition: Integers | Reals | None) -> str:
    """The first 16 bytes of the SHA-256 of rows and labels."""
    digest = hashlib.sha256(canonical(x, space).data)
    if y is not None and condition is not None:
        digest.update(canonical(y, condition).data)
    return digest.hexdigest()[:32]


def model_hash(model: nn.Module) -> str:
    """The first 16 bytes of a SHA-256 over config, spaces and weights, each as the float64 that it is worth."""
    config: Any = getattr(model, "config", None)
    about = {
        "family": name_of(model),
        "config": config.model_dump(mode="json") if hasattr(config, "model_dump") else None,
        "space": to_json(model.space),  # ty: ignore[invalid-argument-type]
        "condition": None if model.condition is None else to_json(model.condition),  # ty: ignore[invalid-argument-type]
    }
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        kind = torch.float64 if tensor.dtype.is_floating_point else torch.int64
        digest.update(f"{name} {kind} {tuple(tensor.shape)} ".encode())
        digest.update(
            tensor.detach().cpu().to(kind).contiguous().numpy().astype("<f8" if kind.is_floating_point else "<i8").data
        )
    return digest.hexdigest()[:32]

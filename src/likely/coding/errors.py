"""What can be wrong with a compressed file: each is a `ValueError` that says which part does not fit."""

from __future__ import annotations


class CodecError(ValueError):
    """Any of the errors below; raised before a single wrong value is given back."""


class NotACodecFile(CodecError):
    """The bytes do not begin (or do not end) as a `.lkz` file does."""


class UnsupportedVersion(CodecError):
    """Written by another version of the format, or in a way that this version does not know."""


class CorruptHeader(CodecError):
    """Header, index or footer are damaged, or say what cannot be."""


class ModelMismatch(CodecError):
    """The file was written with another model. `need` and `have` are the hashes; None where none was found."""

    def __init__(self, need: str, have: str | None, hint: str = "") -> None:
        self.need, self.have = need, have
        this = "" if have is None else f"; this one is {have}"
        super().__init__(f"the file needs the model {need}{this}{hint}")


class NumericsMismatch(CodecError):
    """The right model, but this machine works out other tables than the one that wrote the file."""


class CorruptChunk(CodecError):
    """Chunk `number` (from 0) is damaged."""

    def __init__(self, number: int, what: str) -> None:
        self.number = number
        super().__init__(f"chunk {number} is damaged: {what}")


class DecodeMismatch(CodecError):
    """All was decoded, and is not what was put in: the content's hash differs."""

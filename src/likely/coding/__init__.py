"""Compression: integer frequency tables, the stack coder, codecs as programs over it, and the file `.lkz`."""

from likely.coding.codec import Codec, Report, Rows
from likely.coding.errors import (
    CodecError,
    CorruptChunk,
    CorruptHeader,
    DecodeMismatch,
    ModelMismatch,
    NotACodecFile,
    NumericsMismatch,
    UnsupportedVersion,
)

__all__ = [
    "Codec",
    "CodecError",
    "CorruptChunk",
    "CorruptHeader",
    "DecodeMismatch",
    "ModelMismatch",
    "NotACodecFile",
    "NumericsMismatch",
    "Report",
    "Rows",
    "UnsupportedVersion",
]

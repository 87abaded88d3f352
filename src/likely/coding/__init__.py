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
from likely.coding.lossy import Decoded, LossyCodec
from likely.coding.opened import Band, Opened
from likely.coding.pictures import Picture, Pictures

__all__ = [
    "Band",
    "Codec",
    "CodecError",
    "CorruptChunk",
    "CorruptHeader",
    "DecodeMismatch",
    "Decoded",
    "LossyCodec",
    "ModelMismatch",
    "NotACodecFile",
    "NumericsMismatch",
    "Opened",
    "Picture",
    "Pictures",
    "Report",
    "Rows",
    "UnsupportedVersion",
]

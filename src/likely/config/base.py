"""The shape of every config: frozen, closed to unknown fields, JSON-able, each field documented where it stands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """A frozen record of choices; unknown fields are errors, and field docstrings become help texts."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True)


class FamilyConfig(Config):
    """The choices of one family; `family` names it."""

    learns_labels: ClassVar[bool] = False
    """Whether the family models p(x, y) and so always learns from labels; others do so where they are conditional."""

    free: ClassVar[frozenset[str]] = frozenset()
    """Fields that may differ between a model and the one whose weights it starts from: they shape learning or drawing,
    and leave what the weights mean."""

    starts: ClassVar[Mapping[str, str]] = {}
    """Other families whose weights start a part of this one: the family's name -> the field that configures the part,
    which is also the name of the part."""

    family: str

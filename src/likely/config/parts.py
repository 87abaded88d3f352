"""Fields that hold another family's config. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import or_
from typing import Annotated, Any

from pydantic import BeforeValidator, Discriminator, GetCoreSchemaHandler
from pydantic_core import CoreSchema

from likely.config.base import FamilyConfig


class Part:
    """Marks a field that takes a config of one of some families: `Annotated[FamilyConfig, Part("trunk", families)]`.

    `families` are name -> presets. The field also takes "family" or "family:preset", which stands for that preset;
    `field` names it in messages.
    """

    def __init__(self, field: str, families: Mapping[str, Mapping[str, FamilyConfig]]) -> None:
        self.field, self.families = field, families

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        configs = [type(presets["default"]) for presets in self.families.values()]
        union: Any = reduce(or_, configs)
        if len(configs) > 1:
            union = Annotated[union, Discriminator("family")]
        return handler.generate_schema(Annotated[union, BeforeValidator(self.named)])

    def named(self, part: Any) -> Any:
        """The preset that a name stands for; anything else as it is. Raises `ValueError` for an unknown name."""
        if not isinstance(part, str):
            return part
        family, _, preset = part.partition(":")
        if family not in self.families or (preset or "default") not in self.families[family]:
            known = [f"{name}:{p}" for name, presets in self.families.items() for p in presets]
            raise ValueError(f"{self.field} is {part!r}; accepts a family with its preset: {', '.join(known)}")
        return self.families[family][preset or "default"]

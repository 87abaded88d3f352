"""Mistakes as sentences: what a task refuses is shown as it says it, everything else as one plain line."""

from __future__ import annotations

import logging

log = logging.getLogger("likely.studio")


class Halted(Exception):
    """Work that somebody stopped."""


def sentence(error: BaseException, names: dict[str, str] | None = None) -> str:
    """What to say of an error; `names` are texts, such as paths of uploads, and what to call them instead."""
    from pydantic import ValidationError

    from likely.config.recipe import sentence as of_fields

    if isinstance(error, ValidationError):
        text = of_fields(error)
    elif isinstance(error, Halted):
        text = "stopped"
    elif isinstance(error, ValueError | TypeError | OSError | ImportError):
        text = str(error) or type(error).__name__
    elif isinstance(error, MemoryError):
        text = "that takes more memory than there is; ask for less"
    else:
        log.error("unforeseen", exc_info=error)
        text = "something went wrong that we did not foresee; the log of `likely studio` has the details"
    for old, new in (names or {}).items():
        text = text.replace(old, new)
    return text[:600]

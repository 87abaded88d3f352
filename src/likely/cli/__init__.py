"""The command line: one sub-command a question, each a typed function whose signature is its flags.

torch is imported inside the functions, after the arguments were parsed. A user's mistake ends with one sentence and
exit status 2, training that met a NaN with 1; Ctrl-C ends with 130 and SIGTERM with 143, after what was reached has
been saved.
"""

from __future__ import annotations

import difflib
import re
import signal
import sys
import threading
import warnings
from typing import Any

import tyro
from tyro.conf import FlagCreatePairsOff

from likely.cli.ask import decide, detect, evaluate, profile
from likely.cli.cards import card, compare, verify
from likely.cli.make import compress, decompress, denoise, impute, info, sample
from likely.cli.studio import studio
from likely.cli.train import check, data, describe, families, resume, split, tour, train

COMMANDS = {
    "tour": tour,
    "train": train,
    "resume": resume,
    "split": split,
    "evaluate": evaluate,
    "sample": sample,
    "decide": decide,
    "detect": detect,
    "profile": profile,
    "compress": compress,
    "decompress": decompress,
    "info": info,
    "denoise": denoise,
    "impute": impute,
    "card": card,
    "verify": verify,
    "compare": compare,
    "families": families,
    "describe": describe,
    "check": check,
    "data": data,
    "studio": studio,
}


def main(arguments: list[str] | None = None) -> None:
    """Parse the arguments, run the command, turn mistakes into one sentence."""
    warnings.showwarning = lambda message, *_, **__: sys.stderr.write(f"likely: {message}\n")
    arguments = sys.argv[1:] if arguments is None else arguments
    before = _on_sigterm(_stop)
    try:
        _known(arguments)
        status = tyro.extras.subcommand_cli_from_dict(  # ty: ignore[no-matching-overload]
            COMMANDS,
            prog="likely",
            description="Train a deep generative model on your own data, then ask: how likely is this? which class, "
            "how sure, have I seen its kind before? make more.",
            args=_together(arguments),
            config=(FlagCreatePairsOff,),
        )
    except (ValueError, TypeError, OSError, ImportError) as error:
        sys.stderr.write(f"likely: {_sentence(error)}\n")
        status = 2
    except FloatingPointError as error:  # training met a NaN: no mistake on the command line, no result either
        sys.stderr.write(f"likely: {error}; the last good checkpoint is kept\n")
        status = 1
    except KeyboardInterrupt:
        status = 130
    finally:
        _on_sigterm(before)
    sys.exit(status or 0)


def _on_sigterm(handler: Any) -> Any:
    """Install a handler, where one can be; the one before."""
    if handler is None or threading.current_thread() is not threading.main_thread():
        return None
    return signal.signal(signal.SIGTERM, handler)


def _stop(number: int, _: Any) -> None:
    """End as an exception does, so that no temporary file is left."""
    raise SystemExit(128 + number)


def _known(arguments: list[str]) -> None:
    """Refuses a command that there is not, with the nearest that there is."""
    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        near = difflib.get_close_matches(arguments[0], COMMANDS, 1, 0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"accepts {', '.join(COMMANDS)}"
        raise ValueError(f"command is {arguments[0]!r}; {hint}")


def _together(arguments: list[str]) -> list[str]:
    """The arguments with all `key=value` words where the first one stands: the parser takes them side by side only.

    >>> _together(["train", "vae", "lr=3e-4", "--data", "digits", "latent=8"])
    ['train', 'vae', 'lr=3e-4', 'latent=8', '--data', 'digits']
    """
    flags = ("--json", "--force", "--conditional")
    words = [
        i
        for i, word in enumerate(arguments)
        if re.match(r"[A-Za-z_][\w.]*=", word) and (arguments[i - 1] in flags or not arguments[i - 1].startswith("-"))
    ]
    if not words:
        return arguments
    others = [word for i, word in enumerate(arguments) if i not in words]
    return [*others[: words[0]], *(arguments[i] for i in words), *others[words[0] :]]


def _sentence(error: Exception) -> str:
    from pydantic import ValidationError

    from likely.config.recipe import sentence

    return sentence(error) if isinstance(error, ValidationError) else str(error)

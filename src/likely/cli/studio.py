"""The web page for people who would rather look than read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg


def studio(
    runs: Positional[Annotated[tuple[Path, ...], arg(metavar="RUNS ...")]] = (),
    host: str = "127.0.0.1",
    port: int = 7860,
    name: Annotated[tuple[str, ...], arg(metavar="NAME ...")] = (),
) -> None:
    """Look into runs on a local web page: ask, make, complete, compare, train. Needs likely[studio].

    Args:
        runs: Run folders, or folders of them; ./runs by default. The page sees nothing else.
        host: Where to listen: this machine only by default. Any other takes a token, which the printed address has.
        port: The port; 0 for any that is free.
        name: Further names by which others may call this machine, with a host that they can reach.
    """
    from likely.extras import need
    from likely.terminal import say

    if not 0 <= port < 65536:
        raise ValueError(f"port is {port}; accepts 0 .. 65535")
    roots = list(runs) or [Path("runs")]
    for root in runs:
        if not root.is_dir():
            raise ValueError(f"runs is {root}, where no folder is; accepts a run folder, or a folder of them")
    need("gradio", "studio")
    say("opening the studio")
    from likely.studio.server import serve

    serve(roots, host, port, lambda address: say(f"the studio is at {address}  (Ctrl-C closes it)"), name)

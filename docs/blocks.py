"""Runs the code of the documentation: every fenced block of a page, in order, in one folder of the page's own.

    python docs/blocks.py check PAGE ...     as tests/test_docs.py does: few steps, outputs held against the page
    python docs/blocks.py record PAGE ...    at full length; writes the output and the pictures into the page

What a page may hold:

    ```python         runs; the blocks of a page share their names
    ```sh             runs line by line; `likely ...` in this process, anything else by bash with `likely` on the PATH
    ```pycon          runs as a doctest
    ```LANG title="F" is written to the file F
    ```text           directly below a block that runs: its standard output, written by `record`; a last line of `...`
                      cuts it short. `check` compares it with numbers wiped.
    ![...](.../images/PAGE/F)   a picture that the page's code writes to the file F; `record` copies it. For a web page
                      that the code writes, F.html.png is a picture of it, taken by chromium.

A comment in the line above a block changes what is done with it:

    <!-- not run: REASON -->    left alone
    <!-- exits: N -->           must end with this exit status (its message then counts as output)
    <!-- differs: REASON -->    (above an output) other words come out after a few steps of training: not compared

`check` cuts every `steps=N`, `--steps N`, `k=N`, `-k N` and `evaluations=N` to a few; a `likely train` that does not
say its steps is an error.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
IMAGES = DOCS / "images"
RECORDED = DOCS / "recorded.json"
SHORT = 3
FENCE = re.compile(
    r"^(?:<!-- (?P<mark>not run|exits|differs): (?P<why>.+?) -->\n)?"
    r"```(?P<language>\w+)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<code>.*?)^```$",
    re.M | re.S,
)


class Block(NamedTuple):
    """A fenced block: what it is, where its code stands in the page, and whether it is output of the one before."""

    language: str
    code: str
    title: str | None
    mark: str | None
    why: str | None
    output: bool
    start: int
    end: int


def pages() -> list[Path]:
    """The pages whose code is run."""
    return [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page. Raises `ValueError` for a fence that is none of those above."""
    found: list[Block] = []
    for match in FENCE.finditer(text):
        between = text[found[-1].end : match.start()].strip("`\n ") if found else "-"
        above = found[-1] if found else None
        output = match["language"] == "text" and not between and above is not None and runs(above)
        span = match.span("code")
        found.append(
            Block(match["language"], match["code"], match["title"], match["mark"], match["why"], output, *span)
        )
    fences = len(re.findall(r"^```", text, re.M))
    if fences != 2 * len(found):
        raise ValueError(f"{fences} fences make {len(found)} blocks; every block needs its language")
    for block in found:
        known = block.language in ("python", "sh", "pycon", "text") or block.title
        if not known and block.mark != "not run":
            raise ValueError(f"a block of {block.language} neither runs nor has a title: {block.code[:60]!r}")
    return found


def runs(block: Block) -> bool:
    """Whether a block is run."""
    return block.language in ("python", "sh", "pycon") and block.title is None and block.mark != "not run"


def pictures(page: Path, text: str) -> list[str]:
    """The files under images/PAGE/ that a page shows."""
    return re.findall(rf"\]\((?:[\w./]*/)?images/{re.escape(page.stem)}/([\w.-]+)\)", text)


def written(name: str) -> Path | None:
    """The file behind a picture's name, in this folder; None where there is none."""
    found = sorted(Path.cwd().rglob(name.removesuffix(".png"))) if name.endswith(".html.png") else [Path(name)]
    return found[0] if found and found[0].exists() else None


def run(page: Path, folder: Path, short: bool) -> list[str]:
    """Run a page's blocks in a folder; returns their outputs, "" for blocks that do not run.

    Raises `AssertionError` naming the block that failed.
    """
    text, names, said = page.read_text(), {"__name__": "__main__"}, []
    with inside(folder):
        for block in blocks(text):
            if block.title is not None and block.mark != "not run":
                Path(block.title).parent.mkdir(parents=True, exist_ok=True)
                Path(block.title).write_text(shortened(block.code) if short else block.code)
            said.append(one(block, names, short, page) if runs(block) else "")
        for name in pictures(page, text):
            assert written(name), f"{page.name} shows images/{page.stem}/{name}, which its code did not write"
    return said


def one(block: Block, names: dict[str, Any], short: bool, page: Path) -> str:
    """Run one block; returns what it wrote to standard output."""
    code = shortened(block.code) if short else block.code
    where = f"{page.name}, {block.language} at {page.read_text()[: block.start].count(chr(10)) + 1}"
    if block.language == "pycon":
        flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL
        test = doctest.DocTestParser().get_doctest(block.code, names, where, str(page), 0)
        failed = doctest.DocTestRunner(optionflags=flags).run(test, clear_globs=False).failed
        assert not failed, f"{where}: {failed} examples failed"
        names.update(test.globs)
        return ""
    said = io.StringIO()
    if block.language == "python":
        with contextlib.redirect_stdout(said):
            exec(compile(code, where, "exec"), names)
        return said.getvalue()
    wanted = int(block.why or 0) if block.mark == "exits" else 0
    if short:
        for line in re.findall(r"^likely train .*", code.replace("\\\n", " "), re.M):
            assert "steps" in line or ".toml" in line, f"{where}: say how many steps: {line}"
    for line in code.replace("\\\n", " ").splitlines():
        if line.strip() and not line.startswith("#"):
            status = command(line, said)
            assert status == wanted, f"{where}: {line!r} ended with {status}: {said.getvalue()[-2000:]}"
    return said.getvalue()


def command(line: str, said: io.StringIO) -> int:
    """One line of a shell: `likely` in this process, anything else by bash."""
    words = shlex.split(line, comments=True)
    if words[0] == "likely" and not set("|<>&;*$") & set(line.partition(" #")[0]):
        from likely.cli import main

        trouble = io.StringIO()
        with warnings.catch_warnings(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(trouble):
            try:
                main(words[1:])
                status = 0
            except SystemExit as ended:
                status = int(ended.code or 0)
        said.write(trouble.getvalue() if status else "")
        return status
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", line], text=True, capture_output=True)
    said.write(done.stdout + (done.stderr if done.returncode else ""))
    return done.returncode


def shortened(code: str) -> str:
    """The same code with SHORT steps of training, draws a row and evaluations of a sampler."""
    code = re.sub(r"(\bevaluations[= ])(\d+)", lambda match: match[1] + str(min(8, int(match[2]))), code)
    long = r"((?:\b(?:steps|k)[= ]|-k ))(\d+)"
    return re.sub(long, lambda match: match[1] + str(min(SHORT, int(match[2]))), code)


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """In a folder, with its modules importable, and the `likely` of this Python on the PATH."""
    before, path = Path.cwd(), os.environ["PATH"]
    environment = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{path}", "COLUMNS": "100"}
    kept = {name: os.environ.get(name) for name in environment}
    os.chdir(folder)
    os.environ.update(environment)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        os.chdir(before)
        sys.path.remove(str(folder))
        for name, value in kept.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
        for name, module in list(sys.modules.items()):  # a page's own modules are nobody else's
            if str(getattr(module, "__file__", None) or "").startswith(str(folder)):
                del sys.modules[name]


def clip(said: str, shown: str) -> str:
    """Output as a page shows it: without trailing blanks, and cut where the page cuts it."""
    lines = [line.rstrip() for line in said.rstrip().splitlines()]
    old = shown.rstrip("\n").splitlines()
    if old and old[-1] == "..." and len(lines) > len(old):
        lines = [*lines[: len(old) - 1], "..."]
    return "\n".join(lines) + "\n"


def wiped(text: str) -> list[str]:
    """The lines of an output without their numbers, to be compared over machines and lengths of training."""
    text = re.sub(r"\b[0-9a-f]{16,}\b", "#", text)
    text = re.sub(r"(?<![\w.])[-+]?(\d[\d,]*(\.\d+)?|\.\d+)(e[-+]?\d+)?(?![a-zA-Z])", "#", text)
    return [re.sub(r"\s+", " ", re.sub(r"[\u2500-\u259f]+", "-", line)).strip() for line in text.splitlines()]


def check(page: Path, folder: Path) -> None:
    """Run a page with few steps of training and hold the outputs that it shows against what came out."""
    said = run(page, folder, short=True)
    found = blocks(page.read_text())
    for before, block, output in zip(found[:-1], found[1:], said[:-1], strict=True):
        if block.output and block.mark != "differs":
            shown, came = wiped(block.code), wiped(clip(output, block.code))
            assert shown == came, f"{page.name}: {before.code!r} says\n{output}\nthe page shows\n{block.code}"


def record(page: Path) -> None:
    """Run a page at full length; write its outputs, its pictures, and where and when that was."""
    began, wall = time.process_time(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        said = run(page, Path(folder), short=False)
        text = page.read_text()
        found = blocks(text)
        for block, output in reversed(list(zip(found[1:], said[:-1], strict=True))):
            if block.output:
                text = text[: block.start] + clip(output, block.code) + text[block.end :]
        page.write_text(text)
        for name in pictures(page, text):
            (IMAGES / page.stem).mkdir(parents=True, exist_ok=True)
            with inside(Path(folder)):
                made = Path(written(name) or name).absolute()
            keep_picture(shot(made) if made.suffix == ".html" else made, IMAGES / page.stem / name)
    import torch

    known = json.loads(RECORDED.read_text()) if RECORDED.exists() else {}
    cpu = next((line.partition(":")[2].strip() for line in cpuinfo() if line.startswith("model name")), "unknown")
    known[str(page.relative_to(ROOT))] = {
        "date": time.strftime("%Y-%m-%d"),
        "cpu_s": round(time.process_time() - began, 1),
        "wall_s": round(time.monotonic() - wall, 1),
        "machine": cpu,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    RECORDED.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


def cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def shot(page: Path) -> Path:
    """A picture of the top of a web page, as a reader sees it."""
    picture = page.with_suffix(".shot.png")
    browser = shutil.which("chromium") or shutil.which("google-chrome") or "chromium"
    command = [browser, "--headless", "--no-sandbox", "--hide-scrollbars", "--window-size=1000,1200"]
    subprocess.run([*command, f"--screenshot={picture}", page.as_uri()], check=True, capture_output=True, timeout=120)
    return picture


def keep_picture(made: Path, kept: Path) -> None:
    """Copy a picture, in at most 128 colours where that is smaller (figures are; photographs are left as they are)."""
    from PIL import Image

    shutil.copyfile(made, kept)
    if made.suffix == ".png":
        with Image.open(made) as image:
            small = io.BytesIO()
            image.convert("RGB").quantize(128).save(small, "PNG", optimize=True)
        if len(small.getvalue()) < made.stat().st_size:
            kept.write_bytes(small.getvalue())


if __name__ == "__main__":
    action, *names = sys.argv[1:] or ["help"]
    if action not in ("check", "record"):
        sys.exit(__doc__)
    import torch

    torch.set_num_threads(1)
    for page in [Path(name).resolve() for name in names] or pages():
        started = time.process_time()
        try:
            if action == "record":
                record(page)
            else:
                with tempfile.TemporaryDirectory() as place:
                    check(page, Path(place))
        except Exception:  # the other pages have their turn
            traceback.print_exc()
        print(f"{page.relative_to(ROOT)}: {time.process_time() - started:.1f} CPU seconds", flush=True)

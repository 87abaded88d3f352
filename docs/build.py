"""Build the documentation into site/: `python3 do.py docs`, without network; fails on any broken link or reference.

The hand-written pages of docs/ are put together in build/docs with what is computed: a line such as `{{ families }}`
or `{{ presets vae }}` becomes a table (`tables.py`, `family.py`, `compressed.py`), a page whose code was run
(`blocks.py`) says where and when, and every module of the package gets its place under Reference, from its docstrings.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import blocks
from compressed import CODED_TABLES
from family import FAMILY_TABLES
from tables import TABLES

ROOT = Path(__file__).resolve().parent.parent
PAGES = ROOT / "build" / "docs"
PACKAGE = ROOT / "src" / "likely"


def main() -> int:
    """Assemble the pages and run the site generator on them; returns its exit status."""
    shutil.rmtree(PAGES, ignore_errors=True)
    shutil.copytree(ROOT / "docs", PAGES, ignore=shutil.ignore_patterns("*.py", "*.json", "__pycache__"))
    recorded = json.loads(blocks.RECORDED.read_text()) if blocks.RECORDED.exists() else {}
    for page in PAGES.rglob("*.md"):
        text = styled(page.read_text())
        text = re.sub(r"^\{\{ (\w+)(?: ([\w-]+))? \}\}$", computed, text, flags=re.M)
        page.write_text(text + told(recorded.get(f"docs/{page.relative_to(PAGES)}")))
    reference()
    if missing := absent():
        print("\n".join(["Pictures that are not there:", *missing]))
        return 1
    command = [str(Path(sys.executable).with_name("zensical")), "build", "--strict", "--clean"]
    done = subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    print(re.sub(r"\x1b\[[0-9;]*m", "", done.stdout), end="")
    return done.returncode


def absent() -> list[str]:
    """Pictures that a page shows and that do not exist, which the site generator does not mind."""
    return [
        f"{page.relative_to(PAGES)}: {name}"
        for page in sorted(PAGES.rglob("*.md"))
        for name in re.findall(r"\]\(([\w./-]+\.png)\)", page.read_text())
        if not (page.parent / name).exists()
    ]


def computed(match: re.Match[str]) -> str:
    """The table that a line `{{ name }}` or `{{ name family }}` stands for."""
    name, family = match.groups()
    return (TABLES | CODED_TABLES)[name]() if family is None else FAMILY_TABLES[name](family)


def styled(text: str) -> str:
    """A page whose outputs are told from its code: fences of output get a class of their own."""
    for block in reversed(blocks.blocks(text)):
        if block.output:
            fence = text.rindex("```text", 0, block.start)
            text = f"{text[:fence]}``` {{ .text .output }}\n{text[block.start :]}"
    return text


def told(record: dict[str, str] | None) -> str:
    """Where the outputs and pictures of a page come from."""
    if record is None:
        return ""
    return (
        f"\n\n---\n\n<small>The outputs and pictures of this page come from its own code, run on {record['date']} in "
        f"{record['cpu_s']:.0f} CPU seconds on one core ({record['machine']}, Python {record['python']}, torch "
        f"{record['torch']}).</small>\n"
    )


def reference() -> None:
    """One page for the core, one for each sub-package; each lists its modules in their reading order."""
    folder = PAGES / "reference"
    folder.mkdir(exist_ok=True)
    for page, title, modules in [
        ("core", "Core", sorted(PACKAGE.glob("[!_]*.py"), key=reading_order)),
        *((path.name, path.name.capitalize(), sorted(path.rglob("*.py"))) for path in sub_packages()),
    ]:
        names = [".".join(module.relative_to(PACKAGE.parent).with_suffix("").parts) for module in modules]
        blocks = [f"::: {name.removesuffix('.__init__')}" for name in names]
        (folder / f"{page}.md").write_text("\n\n".join([f"# {title}", *blocks]) + "\n")


def reading_order(module: Path) -> tuple[bool, int, str]:
    order = ("space", "noise", "verbs", "logprob", "observation", "registry")
    return (module.stem not in order, order.index(module.stem) if module.stem in order else 0, module.stem)


def sub_packages() -> list[Path]:
    return sorted(path.parent for path in PACKAGE.glob("*/__init__.py"))


if __name__ == "__main__":
    sys.exit(main())

"""Every block of code in the README and the documentation runs, and what a page shows is what comes out.

`docs/blocks.py` says what a page may hold. Trainings are cut to a few steps; the outputs that pages show are compared
with numbers wiped.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

import pytest

from likely.registry import FAMILIES

sys.path.append(str(Path(__file__).parent.parent / "docs"))
import blocks

ROOT = blocks.ROOT
PAGES = [page for page in blocks.pages() if any(map(blocks.runs, blocks.blocks(page.read_text())))]
LEFT_ALONE = {
    "README.md": 2,
    "docs/conformance.md": 1,
    "docs/howto/processes.md": 1,
    "docs/howto/studio.md": 2,
    "docs/index.md": 1,
    "docs/measured/diffusion.md": 2,
    "docs/tutorial/cards.md": 1,
}
"""How many blocks are not run, each with its reason in the page: a new one has to be entered here."""

WITHOUT_A_PAGE: set[str] = set()
"""Families that are too young to have a page."""


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_page(page: Path, tmp_path: Path) -> None:
    blocks.check(page, tmp_path)


def test_few_blocks_are_left_alone() -> None:
    found, left = Counter(), Counter()
    for page in blocks.pages():
        for block in blocks.blocks(page.read_text()):
            found[blocks.runs(block)] += 1
            left[str(page.relative_to(ROOT))] += block.mark == "not run"
    assert {page: count for page, count in left.items() if count} == LEFT_ALONE
    assert found[True] >= 100


def page_of(tmp_path: Path, text: str) -> Path:
    page = tmp_path / "page.md"
    page.write_text(text)
    return page


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("```python\nprint(1 + 1)\n```\n\n```text\nthree\n```\n", "the page shows"),
        ("```python\nprint('a 2.5')\n```\n\n```text\nb 2.5\n```\n", "the page shows"),
        ("```sh\nfalse\n```\n", "ended with 1"),
        ("```sh\nlikely data show nowhere\n```\n", "ended with 2"),
        ("```sh\nlikely train vae\n```\n", "say how many steps"),
        ("```python\nx = 1\n```\n![it](images/page/it.png)\n", "did not write"),
        ("```pycon\n>>> 1 + 1\n3\n```\n", "1 examples failed"),
        ("<!-- exits: 3 -->\n```sh\nfalse\n```\n", "ended with 1"),
    ],
)
def test_a_page_that_is_wrong_fails(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(AssertionError, match=why):
        blocks.check(page_of(tmp_path, text), tmp_path)


@pytest.mark.parametrize("text", ["```\nno language\n```\n", "```rust\nfn main() {}\n```\n"])
def test_blocks_that_nobody_runs_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match="block"):
        blocks.check(page_of(tmp_path, text), tmp_path)


def test_a_page_that_is_right_passes(tmp_path: Path) -> None:
    text = (
        '```toml title="a/b.toml"\nc = 3\n```\n\n```python\nfrom pathlib import Path\n'
        'print("loss", 2.71, Path("a/b.toml").exists())\nPath("it.png").touch()\n```\n\n'
        "```text\nloss 3.14 True\n```\n![it](images/page/it.png)\n\n"
        "<!-- exits: 2 -->\n```sh\nlikely data show nowhere | cat\n```\n"
    )
    blocks.check(page_of(tmp_path, text), tmp_path)


def test_what_is_recorded_is_what_came_out() -> None:
    assert blocks.clip("a\nb\nc\n", "x\n...\n") == "a\n...\n"
    assert blocks.clip("a\n", "") == "a\n"
    assert blocks.shortened("fit(m, steps=500)\nlikely train vae --steps 20 --out x2") == (
        "fit(m, steps=3)\nlikely train vae --steps 3 --out x2"
    )
    assert (
        blocks.wiped("bpd <= 2.31 ± 0.02 (k=64)") == blocks.wiped("bpd <= 1.9 ± .1 (k=8)") != blocks.wiped("bpd = 1.9")
    )


def test_every_family_has_its_page_and_every_page_its_place() -> None:
    texts = {page: page.read_text() for page in (ROOT / "docs").rglob("*.md")}
    told = set(re.findall(r"^\{\{ definition ([\w-]+) \}\}$", "\n".join(texts.values()), re.M))
    assert set(FAMILIES) - told <= WITHOUT_A_PAGE
    navigation = (ROOT / "zensical.toml").read_text()
    assert [str(page) for page in texts if f'"{page.relative_to(ROOT / "docs")}"' not in navigation] == []

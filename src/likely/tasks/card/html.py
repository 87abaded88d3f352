"""A card as one page that stands alone: no script, no request to anywhere, light or dark."""

from __future__ import annotations

from html import escape
from typing import Any

from likely.tasks.card.cells import Cell, Section
from likely.tasks.card.drawing import curves_svg, scatter_svg
from likely.tasks.card.story import headline, lead, story, title
from likely.tasks.page import page

_STYLE = """
main { max-width:940px } .eyebrow { color:var(--soft); font-size:.8rem; letter-spacing:.08em; text-transform:uppercase;
  margin:0 0 .4em } h1 { overflow-wrap:anywhere } h2 { padding-top:1.1em; border-top:1px solid var(--line) }
.chips { display:flex; flex-wrap:wrap; gap:6px; margin:1em 0 } .chips span { border:1px solid var(--line);
  border-radius:99px; padding:1px 11px; font-size:.8rem; color:var(--soft); background:var(--card) }
.src { color:var(--soft); text-decoration:none; font:400 10.5px/1 ui-monospace,Menlo,monospace; margin-left:.45em;
  padding:1px 4px; border:1px solid var(--line); border-radius:5px; white-space:nowrap; vertical-align:.12em }
.src + .src { margin-left:.2em } .src:hover { color:var(--good); border-color:var(--good) }
.tile b { font-size:1.5rem; overflow-wrap:anywhere } .tile .long { font-size:1rem }
.samples { display:grid; grid-template-columns:repeat(16,1fr); gap:6px; margin:1.2em 0 }
.samples div { text-align:center; font-size:.72rem; color:var(--soft); line-height:1.5 }
.samples img { border-radius:4px }
@media (max-width:640px) { .samples { grid-template-columns:repeat(8,1fr); gap:5px } h1 { font-size:1.8rem }
  main { padding-top:28px } .facts td:first-child { width:38% } }
.facts td { vertical-align:top; text-align:left !important; overflow-wrap:anywhere }
.facts td:first-child { color:var(--soft); width:30% } .facts td:last-child { overflow-wrap:anywhere }
.facts tr:first-child th:empty { display:none } .soft { color:var(--soft) }
.grid td { white-space:nowrap } .prose td { vertical-align:top; text-align:left !important }
.facts th { text-align:left !important } th { color:var(--soft);
  font-weight:500; font-size:.85rem } figure { background:var(--card) } figure svg text { fill:var(--soft);
  font:12px system-ui,sans-serif } .axis { stroke:var(--line) } .train { stroke:var(--good); fill:none; stroke-width:2 }
.valid { stroke:var(--bad); fill:none; stroke-width:2 } .dot { fill:var(--good); opacity:.7 } .dotv { fill:var(--bad) }
figure svg .in-train { fill:var(--good) } figure svg .in-valid { fill:var(--bad) }
details { margin:1.2em 0 } summary { cursor:pointer; color:var(--soft) } .warn { border-left:3px solid var(--bad);
  padding:2px 0 2px 14px; margin:.7em 0 }
figure,.wide { max-width:100% } .samples div { min-width:0 }
.mono { white-space:pre-wrap; font:.8rem/1.5 ui-monospace,Menlo,monospace; overflow-wrap:anywhere }
:target { background:color-mix(in srgb, var(--good) 18%, transparent) }
"""


def html(card: dict[str, Any]) -> str:
    """The page of a card."""
    verbs = card["size"]["verbs"].get("value", [])
    chips = "".join(f"<span>{escape(verb)}</span>" for verb in verbs)
    body = [
        f'<p class="eyebrow">model card</p><h1>{escape(title(card))}</h1><p class="lead">{escape(lead(card))}</p>',
        f'<div class="chips">{chips}</div>',
        _tiles(headline(card)),
        *(_section(section, card) for section in story(card)),
        _lines(card),
    ]
    return page(f"{title(card)}: model card", "\n".join(body), _STYLE)


def _section(section: Section, card: dict[str, Any]) -> str:
    parts = [f'<h2 id="{section.name}">{escape(section.title)}</h2>']
    parts += [f"<p>{escape(section.lead)}</p>"] if section.lead else []
    parts += [_tiles(section.tiles)] if section.tiles else []
    if section.special == "samples":
        parts.append(_shown(card))
    if section.special == "curves":
        parts.append(curves_svg(card["curves"]))
    if section.name == "failures":
        parts += [f'<p class="warn">{_cell(row[0])}</p>' for row in section.rows]
    elif section.rows:
        shut = section.name == "promises"
        table = _table(section)
        parts.append(f"<details><summary>{len(section.rows)} checks</summary>{table}</details>" if shut else table)
    if section.name == "samples" and "value" in card["samples"].get("sha256", {}):
        each = "\n".join(f"{i:>2} {each}" for i, each in enumerate(card["samples"]["sha256"]["value"]))
        parts.append(
            f'<details><summary>SHA-256 of every sample</summary><pre class="mono">{escape(each)}</pre></details>'
        )
    parts += [f'<p class="note">{escape(note)}</p>' for note in section.notes]
    return "\n".join(parts)


def _tiles(tiles: list[tuple[Cell, str]]) -> str:
    shown = "".join(
        f'<div class="tile"><b{_class(cell, "long" if len(cell.text) > 18 else "")}>{_cell(cell, tone=False)}</b>'
        f"<span>{escape(meaning)}</span></div>"
        for cell, meaning in tiles
    )
    return f'<div class="tiles">{shown}</div>'


def _class(cell: Cell, more: str = "") -> str:
    names = " ".join(name for name in (cell.tone, more) if name)
    return f' class="{names}"' if names else ""


def _cell(cell: Cell, *, tone: bool = True) -> str:
    numbers = "".join(
        f'<a class="src" href="#line-{n}" title="line {n} of the ledger">#{n}</a>' for n in cell.lines[:3]
    )
    text = escape(cell.text)
    return f'<span class="{cell.tone}">{text}</span>{numbers}' if cell.tone and tone else f"{text}{numbers}"


def _table(section: Section) -> str:
    kind = {"strangers": "grid", "promises": "prose"}.get(section.name, "facts")
    head = "".join(f"<th>{escape(name)}</th>" for name in section.head)
    rows = "".join("<tr>" + "".join(f"<td>{_cell(cell)}</td>" for cell in row) + "</tr>" for row in section.rows)
    top = f"<tr>{head}</tr>" if any(section.head) else ""
    return f'<div class="wide"><table class="{kind}">{top}{rows}</table></div>'


def _shown(card: dict[str, Any]) -> str:
    shown = card.get("shown")
    if shown is None or "settings" not in card["samples"]:
        return ""
    settings = card["samples"]["settings"]["value"]
    names = card["provenance"]["classes"].get("value") or []
    if shown["as"] == "png":
        classes = settings["y"] and isinstance(settings["y"][0], int)
        labels = settings["y"] if classes else [None] * len(shown["values"])
        cells = []
        for i, (text, label) in enumerate(zip(shown["values"], labels, strict=False)):
            told = "" if label is None else str(names[label]) if label < len(names) else str(label)
            what = f"sample {i}" + (f", asked for {told}" if told else "")
            cells.append(
                f'<div><img loading="lazy" alt="{escape(what)}" src="data:image/png;base64,{escape(text)}">'
                f"{escape(told[:12])}</div>"
            )
        return f'<div class="samples">{"".join(cells)}</div>'
    if shown["as"] == "numbers" and shown["values"] and isinstance(shown["values"][0], list):
        first = shown["values"][0]
        if len(first) >= 2 and not isinstance(first[0], list):
            more = "" if len(first) == 2 else f"<p class=note>the first two of {len(first)} numbers; some in full:</p>"
            return scatter_svg(shown["values"]) + more + ("" if len(first) == 2 else _values(shown, []))
    return _values(shown, card["size"]["columns"].get("value") or [])


def _values(shown: dict[str, Any], names: list[str]) -> str:
    """The first samples as rows of numbers."""
    head = "".join(f"<th>{escape(str(name))}</th>" for name in ["", *names[:12]])
    rows = [f"<tr>{head}</tr>"] if names else []
    for i, value in enumerate(shown["values"][:8]):
        flat = _flat(value)
        cells = "".join(f"<td>{escape(f'{each:.4g}')}</td>" for each in flat[:12])
        rows.append(f"<tr><td>{i}</td>{cells}<td>{'...' if len(flat) > 12 else ''}</td></tr>")
    return f'<div class="wide"><table class="grid">{"".join(rows)}</table></div>'


def _flat(value: Any) -> list[float]:
    return [x for each in value for x in _flat(each)] if isinstance(value, list) else [value]


def _lines(card: dict[str, Any]) -> str:
    rows = "".join(
        f'<tr id="line-{line["line"]}"><td>{line["line"]}</td>'
        f"<td>{escape(line['kind'])} {escape(line['what'] or '')}</td>"
        f'<td>{escape(line["at"][:19].replace("T", " "))}</td><td class="mono">{escape(line["sha256"])}</td></tr>'
        for line in card["lines"]
    )
    return f"""<h2 id="lines">How to check it</h2>
<p>No number here was typed. The small tags name the line of <code>ledger.jsonl</code> that a number comes from;
every line holds the SHA-256 of the one before. <code>likely verify {escape(title(card))}</code> checks the chain, the
weights, every figure and every byte of this page, and draws the samples again.</p>
<details><summary>The {len(card["lines"])} lines</summary><div class="wide"><table class="prose">
<tr><th>line</th><th>what</th><th>when (UTC)</th><th>SHA-256</th></tr>{rows}</table></div></details>
<p class="note">card of {card["ledger"]["lines"]} lines, the last one {escape(card["ledger"]["last"])}</p>"""

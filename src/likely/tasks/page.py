"""What our pages look like: no script, no request to anywhere, light or dark as the reader's screen is."""

from __future__ import annotations

from html import escape

_STYLE = """
:root { --ink:#1d2733; --soft:#5b6672; --paper:#fbfaf7; --card:#ffffff; --line:#e3e0d8; --good:#2b6cb0; --bad:#c2410c }
@media (prefers-color-scheme: dark) { :root { --ink:#e8eaed; --soft:#a3adb8; --paper:#14181d; --card:#1d232a;
  --line:#313a44; --good:#7db3ee; --bad:#f0955c } }
* { box-sizing:border-box } body { margin:0; background:var(--paper); color:var(--ink);
  font:17px/1.6 Charter,Georgia,serif }
main { max-width:860px; margin:0 auto; padding:48px 20px 96px }
h1 { font-size:2.3rem; line-height:1.15; margin:0 0 .3em }
h2 { font-size:1.35rem; margin:2.6em 0 .4em } p { margin:.6em 0 } .lead { font-size:1.15rem; color:var(--soft) }
figure { margin:1.2em 0; background:#fff; border:1px solid var(--line); border-radius:10px; padding:12px }
figure svg { width:100%; height:auto; display:block } figcaption, .note { color:var(--soft); font-size:.88rem }
.tiles { display:grid; grid-template-columns:repeat(auto-fit,minmax(150px,1fr)); gap:12px; margin:1.2em 0 }
.tile { background:var(--card); border:1px solid var(--line); border-radius:10px; padding:14px 16px }
.tile b { display:block; font-size:1.7rem; line-height:1.2; font-variant-numeric:tabular-nums }
.tile span { color:var(--soft); font-size:.85rem }
.digits { display:grid; grid-template-columns:repeat(8,1fr); gap:8px; max-width:560px }
.digits div { text-align:center; font-size:.8rem; color:var(--soft) }
img { width:100%; image-rendering:pixelated; border-radius:6px; border:1px solid var(--line); display:block }
.gallery { display:grid; grid-template-columns:repeat(auto-fill,minmax(190px,1fr)); gap:12px }
.gallery .tile img { width:96px; margin-bottom:8px } .good { color:var(--good) } .bad { color:var(--bad) }
table { border-collapse:collapse; width:100%; font-variant-numeric:tabular-nums }
td,th { text-align:left; padding:6px 10px; border-bottom:1px solid var(--line) }
td:not(:first-child),th:not(:first-child) { text-align:right }
code { font:.9em ui-monospace,Menlo,monospace; overflow-wrap:anywhere }
.wide { overflow-x:auto } td small { color:var(--soft) } .strip { display:flex; gap:4px; max-width:420px }
.strip img { flex:1 1 0; min-width:0 }
"""


def page(title: str, body: str, style: str = "") -> str:
    """A page that stands alone; `style` is CSS of its own."""
    return f"""<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(title)}</title>
<style>{_STYLE}{style}</style></head><body><main>
{body}
</main></body></html>
"""


def tile(value: str, meaning: str, kind: str = "") -> str:
    """A figure and what it is; kind is "good", "bad" or nothing."""
    mark = f' class="{kind}"' if kind else ""
    return f'<div class="tile"><b{mark}>{escape(value)}</b><span>{escape(meaning)}</span></div>'


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table of cells that are HTML already; wide ones scroll."""
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{top}</tr>{body}</table></div>'

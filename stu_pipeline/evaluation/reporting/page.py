"""The frame of a page that stands alone: no network, no scripts, light and dark, everything escaped."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence

from stu_pipeline.evaluation.report import Table

STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--faint:#5b6470;--paper:#fff;--soft:#f4f6f8;--line:#d8dde3;
--first:#0072b2;--second:#c8590a;--third:#00805f;--fill:#cfe3f1}
@media(prefers-color-scheme:dark){:root{--ink:#e7eaee;--faint:#9aa4b0;--paper:#14171b;--soft:#1d2229;--line:#363d46;
--first:#63b3e4;--second:#f39c4a;--third:#43c59e;--fill:#23405a}}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:1160px;margin:2.2em auto 4em;
padding:0 1.2em}
h1{font-size:1.7em;line-height:1.2;margin:0 0 .2em;overflow-wrap:anywhere}
h2{font-size:1.25em;line-height:1.25;margin:2.2em 0 .5em;padding-top:.6em;border-top:1px solid var(--line)}
h3{font-size:1em;margin:1.4em 0 .3em;overflow-wrap:anywhere}p{max-width:75ch;margin:.5em 0}
.faint{color:var(--faint);font-size:.9em}.lead{font-size:1.08em}
.cards{display:flex;flex-wrap:wrap;gap:.8em;margin:1.2em 0}
.card{background:var(--soft);border-radius:.5em;padding:.7em 1em;min-width:9.5em;max-width:100%}
.card b{display:block;font-size:1.5em;line-height:1.25;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
.card span{color:var(--faint);font-size:.85em}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:right;vertical-align:top;padding:.32em .8em .32em 0;border-bottom:1px solid var(--line);
white-space:nowrap}
th{font-weight:600;font-size:.88em;color:var(--faint);vertical-align:bottom;white-space:normal}
th:first-child,td:first-child,th.text,td.text{text-align:left;white-space:normal;overflow-wrap:anywhere;
min-width:9em}
tr.total td{font-weight:600;border-top:2px solid var(--line)}
.facts td,.facts th{text-align:left;vertical-align:top;white-space:normal;overflow-wrap:anywhere}
.facts th{width:11em;font-weight:400}
.bar{display:inline-block;vertical-align:middle;height:.55em;width:4.5em;background:var(--soft);border-radius:.3em;
overflow:hidden;margin-right:.6em}.bar i{display:block;height:100%;background:var(--first)}
figure{margin:.8em 0 1.2em}figcaption{font-size:.88em;color:var(--faint);margin-top:.3em;max-width:80ch}
.pair{display:flex;flex-wrap:wrap;gap:0 1.5em}.pair figure{flex:1 1 400px;min-width:0}
svg{max-width:100%;height:auto}svg text{font-family:system-ui,sans-serif}
.overlay img{display:block;max-width:100%;background:#000;border-radius:.3em;image-rendering:auto}
.key{display:inline-block;width:1.6em;height:0;border-top:3px solid;vertical-align:middle;margin:0 .4em 0 .9em}
summary{cursor:pointer;margin:.6em 0}code{background:var(--soft);padding:.1em .35em;border-radius:.25em;
overflow-wrap:anywhere}ul{padding-left:1.3em}
"""


def make_page(title: str, sections: Sequence[str]) -> str:
    """Return a whole page; `title` is escaped, `sections` are HTML and empty ones are dropped."""
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head>\n<body>\n" + "\n".join(part for part in sections if part) + "\n</body></html>\n"
    )


def escape(text: object) -> str:
    """Escape text for HTML, quotes included; control characters become visible."""
    return html.escape("".join(char if char.isprintable() else repr(char)[1:-1] for char in str(text)))


def make_table(table: Table, *, num_totals: int = 0, bar_column: int | None = None) -> str:
    """Return a table; cells are escaped.

    Args:
        table: what to show.
        num_totals: last rows that sum up the others.
        bar_column: column of shares (0 to 1) that get a bar beside the number.
    """
    is_text = [
        any(_is_words(row[index]) for row in table.rows[: len(table.rows) - num_totals])
        for index in range(len(table.columns))
    ]
    kinds = [' class="text"' if text else "" for text in is_text]
    head = "".join(f"<th{kind}>{escape(name)}</th>" for name, kind in zip(table.columns, kinds, strict=True))
    rows = []
    for place, row in enumerate(table.rows):
        cells = "".join(
            f"<td{kind}>{_draw_bar(cell) if index == bar_column else ''}{escape(cell)}</td>"
            for index, (cell, kind) in enumerate(zip(row, kinds, strict=True))
        )
        kind = ' class="total"' if place >= len(table.rows) - num_totals else ""
        rows.append(f"<tr{kind}>{cells}</tr>")
    return f'<div class="scroll"><table><tr>{head}</tr>{"".join(rows)}</table></div>'


def make_facts(facts: Sequence[tuple[str, str]]) -> str:
    """Return a table of two columns: what, and what it is."""
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in facts)
    return f'<table class="facts">{rows}</table>'


def make_cards(cards: Sequence[tuple[str, str]]) -> str:
    """Return large numbers, each with what it says below it."""
    parts = "".join(
        f'<div class="card"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for value, name in cards
    )
    return f'<div class="cards">{parts}</div>'


def make_figure(svg: str, caption: str) -> str:
    """Return a drawing (SVG as text) with its caption; nothing for an empty drawing."""
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>" if svg else ""


def embed_png(png: bytes) -> str:
    """Return a PNG as data URI."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _draw_bar(cell: str) -> str:
    try:
        share = min(1.0, max(0.0, float(cell)))
    except ValueError:
        return '<span class="bar"></span>'
    return f'<span class="bar"><i style="width:{share:.1%}"></i></span>'


def _is_words(cell: str) -> bool:
    return cell[:1].isalpha()

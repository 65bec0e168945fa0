"""Matplotlib figures as small inline SVG that follows the page: its colours, its font, names on hovering."""

from __future__ import annotations

import html
import re
import warnings
from collections.abc import Callable, Sequence
from io import StringIO
from typing import Any

# Stand-ins that no figure uses otherwise; each becomes a variable of the page's style, so that a drawing follows
# the reader's choice of light or dark.
INK, FAINT, LINE, PAPER = "#010203", "#010204", "#010205", "#010206"
FIRST, SECOND, THIRD, FILL = "#010207", "#010208", "#010209", "#01020a"
_VARIABLES = {
    INK: "ink", FAINT: "faint", LINE: "line", PAPER: "paper", FIRST: "first", SECOND: "second", THIRD: "third",
    FILL: "fill",
}  # fmt: skip
_SETTINGS = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": FAINT,
    "axes.edgecolor": LINE,
    "axes.titlesize": 10.5,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
}


def draw_svg(
    size: tuple[float, float],
    draw: Callable[[Any], None],
    *,
    label: str,
    names: Sequence[Sequence[str]] = (),
    key: str,
) -> str:
    """Draw on one pair of axes and return the SVG for a page.

    Args:
        size: width and height in inches (96 pixels).
        draw: draws on the axes it receives; scatters whose points have names carry the gid `points-0`, `points-1`...
        label: what the drawing shows, for readers who cannot see it.
        names: the names of the points of each such scatter, in their order; shown on hovering.
        key: short name of the drawing, its own on the page: ids inside must not meet those of other drawings.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with mpl.rc_context({**_SETTINGS, "svg.hashsalt": key}), warnings.catch_warnings():
        # A label in a script that the measuring font lacks: the browser has a font for it.
        warnings.filterwarnings("ignore", message="Glyph")
        # Wide letters in a narrow drawing: it is drawn with the default margins then.
        warnings.filterwarnings("ignore", message="constrained_layout not applied")
        figure = Figure(figsize=size, dpi=72, layout="constrained")
        FigureCanvasSVG(figure)
        figure.patch.set_alpha(0.0)
        axes = figure.subplots()
        axes.patch.set_alpha(0.0)
        draw(axes)
        stream = StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _inline(stream.getvalue(), label, names, key)


def _inline(text: str, label: str, names: Sequence[Sequence[str]], key: str) -> str:
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", text)
    text = text.replace("xlink:href", "href")
    for colour, name in _VARIABLES.items():
        text = text.replace(colour, f"var(--{name})")
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    # Ids such as `axes_1` are in every drawing; a page may hold each once.
    text = re.sub(r'\bid="', f'id="{key}-', text)
    text = text.replace("url(#", f"url(#{key}-").replace('href="#', f'href="#{key}-')
    for place, own in enumerate(names):
        text = _name_points(text, f"{key}-points-{place}", own)
    text = re.sub(r"[ \t]*\n[ \t]*", "\n", text)
    return text.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1)


def _name_points(text: str, gid: str, names: Sequence[str]) -> str:
    start = text.find(f'id="{gid}"')
    if start < 0:
        return text
    end = _find_group_end(text, start)
    group = text[start:end]
    marks = re.findall(r"<use [^>]*/>", group)
    if len(marks) != len(names):  # points outside the axes are not in the file
        return text
    own = iter(names)
    named = re.sub(
        r"<use ([^>]*)/>", lambda match: f"<use {match[1]}><title>{html.escape(next(own))}</title></use>", group
    )
    return text[:start] + named + text[end:]


def _find_group_end(text: str, start: int) -> int:
    depth = 1
    for match in re.finditer(r"<g[ >]|</g>", text[start:]):
        depth += 1 if match[0] != "</g>" else -1
        if depth == 0:
            return start + match.end()
    return len(text)

"""Charts of a dataset as inline SVG: how common labels are, and the intensities of every case."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from stu_pipeline.datasets.inspection import CaseReport

_MAX_LABELS = 120
_MAX_CASES = 240
_ROW = 18
_BAR_WIDTH = 420
_NAME_WIDTH = 230
_BOX_HEIGHT = 220
_BOX_STEP = 7


def draw_label_bars(labels: Sequence[dict[str, Any]], num_cases: int) -> str:
    """Draw one bar per label on a logarithmic scale: its share of all foreground voxels, with the cases it is in."""
    import math

    shown = labels[:_MAX_LABELS]
    # Six decades fit; a label below a millionth has a bar of no length.
    lengths = [max(0.0, 1 + math.log10(row["share"]) / 6) if row["share"] > 0 else 0.0 for row in shown]
    parts = []
    for place, (row, length) in enumerate(zip(shown, lengths, strict=True)):
        y = place * _ROW
        name = html.escape(f"{row['label']} {row['name']}"[:36])
        share = f"{row['share']:.3%}, {row['num_cases']} of {num_cases} cases"
        parts.append(
            f'<text x="{_NAME_WIDTH - 8}" y="{y + 13}" text-anchor="end">{name}</text>'
            f'<rect x="{_NAME_WIDTH}" y="{y + 3}" width="{length * _BAR_WIDTH:.1f}" height="{_ROW - 6}" class="bar"/>'
            f'<text x="{_NAME_WIDTH + length * _BAR_WIDTH + 6:.1f}" y="{y + 13}">{share}</text>'
        )
    more = "" if len(labels) <= len(shown) else f"<p>and {len(labels) - len(shown)} more labels</p>"
    width, height = _NAME_WIDTH + _BAR_WIDTH + 210, max(_ROW, len(shown) * _ROW)
    return _svg(width, height, "".join(parts), "share of foreground voxels per label") + more


def draw_intensity_boxes(cases: Sequence[CaseReport], channel: int, marked: set[str]) -> str:
    """Draw one box per case: 1 to 99 % as a line, 25 to 75 % as a box, the median as a bar; marked cases in colour.

    Beyond 240 cases every marked one is shown, and as many others as fit.
    """
    sound = [case for case in cases if case.observation is not None]
    if not sound:
        return ""
    shown = _choose_cases(sound, marked)
    boxes = [(case, case.observation.channels[channel].percentiles) for case in shown]
    low = float(min(values[0] for _, values in boxes))
    high = float(max(values[-1] for _, values in boxes))
    scale = (_BOX_HEIGHT - 20) / (high - low) if high > low else 0.0

    def place(value: float) -> float:
        return _BOX_HEIGHT - 10 - (value - low) * scale

    parts = [
        f'<text x="0" y="12">{high:.5g}</text><text x="0" y="{_BOX_HEIGHT - 2}">{low:.5g}</text>',
    ]
    for number, (case, (bottom, lower, middle, upper, top)) in enumerate(boxes):
        x = 70 + number * _BOX_STEP
        kind = ' class="marked"' if case.case_id in marked else ""
        title = html.escape(f"{case.case_id}: {bottom:.5g}, {lower:.5g}, {middle:.5g}, {upper:.5g}, {top:.5g}")
        parts.append(
            f"<g{kind}><title>{title}</title>"
            f'<line x1="{x + 2.5}" x2="{x + 2.5}" y1="{place(top):.1f}" y2="{place(bottom):.1f}"/>'
            f'<rect x="{x}" y="{place(upper):.1f}" width="5" height="{max(1.0, place(lower) - place(upper)):.1f}"/>'
            f'<line x1="{x - 1}" x2="{x + 6}" y1="{place(middle):.1f}" y2="{place(middle):.1f}"/></g>'
        )
    note = "" if len(shown) == len(sound) else f"<p>{len(shown)} of {len(sound)} cases are drawn</p>"
    return _svg(80 + len(boxes) * _BOX_STEP, _BOX_HEIGHT, "".join(parts), "intensities per case") + note


def _choose_cases(cases: Sequence[CaseReport], marked: set[str]) -> list[CaseReport]:
    if len(cases) <= _MAX_CASES:
        return list(cases)
    kept = {case.case_id for case in cases if case.case_id in marked}
    others = [case.case_id for case in cases if case.case_id not in kept]
    room = max(0, _MAX_CASES - len(kept))
    kept |= {others[index * len(others) // room] for index in range(room)} if room else set()
    return [case for case in cases if case.case_id in kept]


def _svg(width: float, height: float, content: str, label: str) -> str:
    return (
        f'<div class="scroll"><svg role="img" aria-label="{html.escape(label)}" width="{width:.0f}" '
        f'height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}">{content}</svg></div>'
    )

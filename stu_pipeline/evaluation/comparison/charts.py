"""The plots of a comparison: case by case, how differences are distributed, and differences per label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stu_pipeline.evaluation.comparison.config import PairResult
from stu_pipeline.evaluation.reporting.drawing import FAINT, FILL, FIRST, INK, SECOND, draw_svg

Values = NDArray[np.float64]

MAX_LABELS = 40
_NAME_LENGTH = 28


def draw_paired(first: Values, second: Values, pair: PairResult, cases: Sequence[str], *, metric: str, key: str) -> str:
    """Draw the second run over the first, one point per case; points on the line are equal.

    Args:
        first: finite scores, one per case.
        second: the same cases.
        pair: for the names.
        cases: names.
        metric: what the axes show.
        key: unique on the page.

    Returns:
        SVG; empty without cases.
    """
    if not first.size:
        return ""

    def draw(axes: Any) -> None:
        low, high = float(min(first.min(), second.min())), float(max(first.max(), second.max()))
        margin = 0.04 * (high - low) or 0.01
        axes.plot([low, high], [low, high], color=FAINT, linewidth=1, dashes=(4, 3))
        axes.scatter(first, second, s=18, color=FIRST, linewidths=0, alpha=0.7, zorder=3, gid="points-0")
        axes.set_xlim(low - margin, high + margin)
        axes.set_ylim(low - margin, high + margin)
        axes.set_aspect("equal")
        axes.set_xlabel(f"{metric} of {_shorten(pair.first)}")
        axes.set_ylabel(f"{metric} of {_shorten(pair.second)}")
        axes.set_title("case by case", loc="left")

    texts = [f"{case}: {a:.4g}, {b:.4g}" for case, a, b in zip(cases, first, second, strict=True)]
    return draw_svg((5.1, 4.6), draw, label="scores case by case", names=[texts], key=f"{key}-pair")


def draw_histogram(differences: Values, pair: PairResult, *, metric: str, key: str) -> str:
    """Draw how many cases differ by how much, with the mean and its interval.

    Args:
        differences: second minus first, finite, one per case.
        pair: for the names and the interval.
        metric: what the axis shows.
        key: unique on the page.

    Returns:
        SVG; empty without cases.
    """
    if not differences.size:
        return ""
    overall = pair.overall

    def draw(axes: Any) -> None:
        width = float(np.abs(differences).max()) or 0.01
        # Bars are cut at zero, so that the two sides can be compared.
        num_side = int(np.clip(np.sqrt(differences.size), 3, 20))
        axes.hist(
            differences, bins=np.linspace(-width, width, 2 * num_side + 1), color=FILL, edgecolor=FIRST, linewidth=0.8
        )
        axes.axvline(0, color=FAINT, linewidth=1, dashes=(4, 3))
        if overall.ci_low is not None and overall.ci_high is not None:
            axes.axvspan(overall.ci_low, overall.ci_high, color=SECOND, alpha=0.3, linewidth=0)
        axes.axvline(float(differences.mean()), color=INK, linewidth=1.4)
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.xaxis.get_major_locator().set_params(nbins=6)
        axes.set_xlabel(f"{metric}, {_shorten(pair.second)} minus {_shorten(pair.first)}")
        axes.set_ylabel("cases")
        axes.set_title("differences", loc="left")

    return draw_svg((5.1, 4.6), draw, label="differences between the runs", key=f"{key}-histogram")


def draw_labels(pair: PairResult, *, metric: str, key: str) -> str:
    """Draw the mean difference of every label with its interval; the 40 largest where there are more.

    Returns:
        SVG; empty below two labels with a difference.
    """
    items = [item for item in pair.labels if item.difference is not None]
    if len(items) > MAX_LABELS:
        kept = sorted(items, key=lambda item: -abs(item.difference or 0.0))[:MAX_LABELS]
        items = [item for item in items if item in kept]
    if len(items) < 2:
        return ""
    places = np.arange(len(items))
    values = np.array([item.difference for item in items], dtype=np.float64)
    lows = np.array([value if item.ci_low is None else item.ci_low for value, item in zip(values, items, strict=True)])
    highs = np.array(
        [value if item.ci_high is None else item.ci_high for value, item in zip(values, items, strict=True)]
    )
    texts = [f"{item.label}: {value:+.4g}" for item, value in zip(items, values, strict=True)]

    def draw(axes: Any) -> None:
        axes.axvline(0, color=FAINT, linewidth=1, dashes=(4, 3))
        axes.hlines(places, lows, highs, color=FIRST, linewidth=1.6)
        axes.scatter(values, places, s=26, color=SECOND, linewidths=0, zorder=3, gid="points-0")
        axes.set_yticks(places, [_shorten(item.label) for item in items], color=INK)
        axes.set_ylim(len(items) - 0.4, -0.6)
        axes.set_xlabel(f"{metric}, {_shorten(pair.second)} minus {_shorten(pair.first)}")
        axes.grid(visible=False, axis="y")

    size = (10.2, 0.8 + 0.26 * len(items))
    return draw_svg(size, draw, label="differences per label", names=[texts], key=f"{key}-labels")


def _shorten(name: str) -> str:
    return name if len(name) <= _NAME_LENGTH else "..." + name[3 - _NAME_LENGTH :]

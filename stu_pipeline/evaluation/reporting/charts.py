"""The plots of an evaluation: Dice per label, and predicted against reference volumes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stu_pipeline.evaluation.reporting.drawing import FAINT, FILL, FIRST, INK, SECOND, THIRD, draw_svg

Values = NDArray[np.float64]

MAX_ROWS = 30
_MAX_POINTS = 2500
_COLOURS = (FIRST, SECOND, THIRD)
# Above this ratio of volumes a logarithmic axis shows more.
_WIDE_RANGE = 20.0
_NAME_LENGTH = 28


def choose_rows(dice: Values) -> NDArray[np.intp]:
    """Choose the labels to draw: all up to 30, else the 30 with the lowest median, in their order.

    Args:
        dice: `(cases, labels)`; labels without a finite value are never chosen.
    """
    medians = np.array(
        [np.median(column[np.isfinite(column)]) if np.isfinite(column).any() else np.nan for column in dice.T]
    )
    known = np.flatnonzero(np.isfinite(medians))
    if len(known) > MAX_ROWS:
        known = np.sort(known[np.argsort(medians[known], kind="stable")[:MAX_ROWS]])
    return known


def draw_dice(dice: Values, labels: Sequence[str], cases: Sequence[str]) -> str:
    """Draw one box with its cases per label.

    Args:
        dice: `(cases, labels)`.
        labels: names.
        cases: names.

    Returns:
        SVG; empty without a single score.
    """
    rows = choose_rows(dice).tolist()
    if not rows:
        return ""
    boxes = np.array([_measure_box(dice[np.isfinite(dice[:, row]), row]) for row in rows])
    shown = [np.flatnonzero(np.isfinite(dice[:, row])) for row in rows]
    if sum(cases_shown.size for cases_shown in shown) > _MAX_POINTS:  # only those beyond the whiskers
        shown = [
            own[(dice[own, row] < box[0]) | (dice[own, row] > box[-1])]
            for own, row, box in zip(shown, rows, boxes, strict=True)
        ]

    def draw(axes: Any) -> None:
        _draw_boxes(axes, boxes)
        for place, (row, own) in enumerate(zip(rows, shown, strict=True)):
            heights = place + 0.2 * _spread_out(own.size)
            axes.scatter(
                dice[own, row], heights, s=11, color=SECOND, linewidths=0, alpha=0.75, zorder=3, gid=f"points-{place}"
            )
        axes.set_yticks(np.arange(len(rows)), [_shorten(labels[row]) for row in rows], color=INK)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel("Dice")
        lowest, highest = float(np.nanmin(dice[:, rows])), float(np.nanmax(dice[:, rows]))
        axes.set_xlim(lowest - 0.05 if lowest > 0.3 else -0.02, min(1.01, highest + 0.05))
        axes.grid(visible=False, axis="y")

    names = [
        [f"{cases[case]}: {dice[case, row]:.4f}" for case in own.tolist()] for row, own in zip(rows, shown, strict=True)
    ]
    return draw_svg((10.2, 0.75 + 0.3 * len(rows)), draw, label="Dice per label", names=names, key="dice")


def draw_volumes(reference_ml: Values, predicted_ml: Values, labels: Sequence[str], cases: Sequence[str]) -> str:
    """Draw predicted over reference volume, one point per case and label that both have.

    Args:
        reference_ml: `(cases, labels)`.
        predicted_ml: `(cases, labels)`.
        labels: names.
        cases: names.

    Returns:
        SVG; empty without such a point.
    """
    points = _choose_points(reference_ml, predicted_ml)
    if not points.size:
        return ""
    x, y = reference_ml[*points.T], predicted_ml[*points.T]

    def draw(axes: Any) -> None:
        low, high = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
        if high / low > _WIDE_RANGE:
            _make_logarithmic(axes, "xy")
        else:
            low, high = low - 0.05 * (high - low), high + 0.05 * (high - low)
            axes.set_aspect("equal", adjustable="datalim")
        axes.plot([low, high], [low, high], color=FAINT, linewidth=1, dashes=(4, 3))
        _scatter(axes, x, y, points[:, 1], labels)
        axes.set_xlabel("reference volume in ml")
        axes.set_ylabel("predicted volume in ml")
        axes.set_title("predicted against reference volume", loc="left")

    texts = [
        f"{cases[case]}, {labels[label]}: {a:.4g} ml, predicted {b:.4g} ml"
        for (case, label), a, b in zip(points, x, y, strict=True)
    ]
    return draw_svg(
        (5.1, 4.6), draw, label="predicted against reference volume", names=_split(texts, points, labels), key="volume"
    )


def draw_bland_altman(reference_ml: Values, predicted_ml: Values, labels: Sequence[str], cases: Sequence[str]) -> str:
    """Draw volume differences over volumes, with their mean and the band that holds 95 % of them (Bland and Altman).

    Differences are in percent of the mean of both volumes where volumes range widely, else in ml.

    Args:
        reference_ml: `(cases, labels)`.
        predicted_ml: `(cases, labels)`.
        labels: names.
        cases: names.

    Returns:
        SVG; empty below two points.
    """
    points = _choose_points(reference_ml, predicted_ml)
    if len(points) < 2:
        return ""
    first, second = reference_ml[*points.T], predicted_ml[*points.T]
    means, differences, unit = (first + second) / 2, second - first, "ml"
    is_wide = float(means.max() / means.min()) > _WIDE_RANGE
    if is_wide:
        differences, unit = 100 * differences / means, "%"
    centre, width = float(differences.mean()), 1.96 * float(differences.std(ddof=1))

    def draw(axes: Any) -> None:
        if is_wide:
            _make_logarithmic(axes, "x")
        axes.axhspan(centre - width, centre + width, color=FILL, alpha=0.5, linewidth=0)
        axes.axhline(centre, color=INK, linewidth=1.2)
        axes.axhline(0, color=FAINT, linewidth=1, dashes=(4, 3))
        _scatter(axes, means, differences, points[:, 1], labels)
        axes.set_xlabel("mean of both volumes in ml")
        axes.set_ylabel(f"predicted minus reference in {unit}")
        axes.set_title(f"bias {centre:+.3g} {unit}, 95 % of differences within {width:.3g} {unit} of it", loc="left")

    texts = [
        f"{cases[case]}, {labels[label]}: {value:+.3g} {unit}"
        for (case, label), value in zip(points, differences, strict=True)
    ]
    return draw_svg((5.1, 4.6), draw, label="differences of volumes", names=_split(texts, points, labels), key="bland")


def describe_undrawn(reference_ml: Values, predicted_ml: Values) -> str:
    """Say what the volume plots leave out; empty when they show everything."""
    one_empty = int(((reference_ml > 0) != (predicted_ml > 0)).sum())
    both = int(((reference_ml > 0) & (predicted_ml > 0)).sum())
    text = f" Not drawn: {one_empty} pairs of case and label that only one of both has." if one_empty else ""
    drawn = len(_choose_points(reference_ml, predicted_ml))
    return text + (f" {drawn} of {both} points are drawn." if drawn < both else "")


def _measure_box(values: Values) -> tuple[float, float, float, float, float]:
    """Return the ends of the whiskers (the last values within 1.5 box lengths), quartiles and median, ascending."""
    low, middle, high = np.percentile(values, (25, 50, 75)).tolist()
    reach = 1.5 * (high - low)
    return float(values[values >= low - reach].min()), low, middle, high, float(values[values <= high + reach].max())


def _draw_boxes(axes: Any, boxes: Values) -> None:
    """Draw one lying box per row of `boxes`."""
    places = np.arange(len(boxes))
    start, low, middle, high, stop = boxes.T
    axes.hlines(places, start, stop, color=FIRST, linewidth=0.9)
    axes.barh(places, high - low, left=low, height=0.62, color=FILL, edgecolor=FIRST, linewidth=0.9, zorder=2)
    axes.vlines(middle, places - 0.31, places + 0.31, color=INK, linewidth=1.8, zorder=4)


def _choose_points(reference_ml: Values, predicted_ml: Values) -> NDArray[np.intp]:
    """Return (case, label) of what both have; every n-th where there are too many to draw."""
    points = np.argwhere((reference_ml > 0) & (predicted_ml > 0))
    return points[:: -(-len(points) // _MAX_POINTS)] if len(points) else points


def _make_logarithmic(axes: Any, which: str) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    for name in which:
        getattr(axes, f"set_{name}scale")("log")
        axis = getattr(axes, f"{name}axis")
        # Plain numbers: the usual formatter writes powers of ten in TeX, which names of labels must not be read as.
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def _scatter(axes: Any, x: Values, y: Values, own_labels: NDArray[np.intp], labels: Sequence[str]) -> None:
    """Draw points, in a colour and with a legend per label when there are at most three."""
    if len(labels) > len(_COLOURS):
        axes.scatter(x, y, s=14, color=FIRST, linewidths=0, alpha=0.55, zorder=3, gid="points-0")
        return
    for index, name in enumerate(labels):
        chosen = own_labels == index
        marker = "os^"[index]
        axes.scatter(
            x[chosen], y[chosen], s=18, color=_COLOURS[index], marker=marker, linewidths=0, alpha=0.75, zorder=3,
            label=_shorten(name), gid=f"points-{index}",
        )  # fmt: skip
    if len(labels) > 1:
        axes.legend(loc="best", fontsize="small", handletextpad=0.2)


def _split(texts: Sequence[str], points: NDArray[np.intp], labels: Sequence[str]) -> list[list[str]]:
    if len(labels) > len(_COLOURS):
        return [list(texts)]
    return [
        [text for text, (_, label) in zip(texts, points, strict=True) if label == index] for index in range(len(labels))
    ]


def _spread_out(count: int) -> Values:
    """Return `count` offsets between -1 and 1 that look random and are the same every time."""
    golden: Values = (np.arange(count, dtype=np.float64) * 0.6180339887498949) % 1.0
    return 2.0 * golden - 1.0


def _shorten(name: str) -> str:
    return name if len(name) <= _NAME_LENGTH else name[: _NAME_LENGTH - 3] + "..."

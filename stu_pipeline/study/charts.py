"""The plots of a study: learning curves, and gains over datasets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stu_pipeline.evaluation.reporting.drawing import FAINT, FIRST, INK, SECOND, THIRD, draw_svg
from stu_pipeline.study.gains import DatasetGain
from stu_pipeline.study.pooling import ArmKey, ArmScores, score_dataset, score_seeds

_COLOURS = (FIRST, SECOND, THIRD, INK, FAINT)
_MARKERS = "os^Dv"
MAX_ROWS = 60


def draw_learning_curve(dataset: str, pools: Mapping[ArmKey, ArmScores]) -> str:
    """Draw Dice over the number of training cases: a line per arm through its means, a point per seed.

    Returns:
        SVG; empty where there is no learning curve.
    """
    own = {key: scores for key, scores in pools.items() if key.dataset == dataset and key.num_training_cases}
    columns = list(dict.fromkeys(key.column for key in own))
    if not own:
        return ""
    numbers = sorted({key.num_training_cases for key in own})
    points = {name: _list_points(own, name) for name in columns}

    def draw(axes: Any) -> None:
        for place, name in enumerate(columns):
            colour, marker = _COLOURS[place % len(_COLOURS)], _MARKERS[place % len(_MARKERS)]
            means = [(key.num_training_cases, score_dataset(own[key])) for key in own if key.column == name]
            known = sorted((number, mean) for number, mean in means if mean is not None)
            axes.plot([x for x, _ in known], [y for _, y in known], color=colour, linewidth=1.6, label=name)
            x, y = [point[0] for point in points[name]], [point[1] for point in points[name]]
            axes.scatter(x, y, s=22, color=colour, marker=marker, linewidths=0, alpha=0.65, zorder=3,
                         gid=f"points-{place}")  # fmt: skip
        axes.set_xscale("log")
        axes.set_xticks(numbers, [str(number) for number in numbers])
        axes.minorticks_off()
        axes.set_xlabel("training cases")
        axes.set_ylabel("mean Dice of the validation cases")
        axes.set_title(dataset, loc="left")
        axes.legend(loc="best", fontsize="small")

    names = [[f"{name}, {x} cases, seed {seed}: {y:.4f}" for x, y, seed in points[name]] for name in columns]
    return draw_svg((6.4, 4.4), draw, label=f"learning curves of {dataset}", names=names, key=f"curve-{dataset}")


def draw_gains(gains: Sequence[DatasetGain], *, title: str, key: str) -> str:
    """Draw the gain on every dataset with its interval, smallest first; runs that look failed are hollow.

    Returns:
        SVG; empty below two datasets.
    """
    known = sorted((gain for gain in gains if gain.gain is not None), key=lambda gain: gain.gain or 0.0)[:MAX_ROWS]
    if len(known) < 2:
        return ""
    places = np.arange(len(known))
    values = np.array([gain.gain for gain in known], dtype=np.float64)
    lows = [gain.paired.ci_low if gain.paired.ci_low is not None else gain.gain for gain in known]
    highs = [gain.paired.ci_high if gain.paired.ci_high is not None else gain.gain for gain in known]

    def draw(axes: Any) -> None:
        axes.axvline(0, color=FAINT, linewidth=1, dashes=(4, 3))
        axes.hlines(places, lows, highs, color=FIRST, linewidth=1.6)
        filled = [SECOND if not gain.flags else "none" for gain in known]
        axes.scatter(values, places, s=28, c=filled, edgecolors=SECOND, linewidths=1, zorder=3, gid="points-0")
        axes.set_yticks(places, [_name(gain) for gain in known], color=INK)
        axes.set_ylim(len(known) - 0.4, -0.6)
        axes.set_xlabel("gain in Dice")
        axes.set_title(title, loc="left")
        axes.grid(visible=False, axis="y")

    texts = [f"{_name(gain)}: {value:+.4f}" for gain, value in zip(known, values, strict=True)]
    return draw_svg((9.0, 0.9 + 0.26 * len(known)), draw, label=title, names=[texts], key=key)


def _name(gain: DatasetGain) -> str:
    number = gain.arm.num_training_cases
    return f"{gain.arm.dataset}, {number} cases" if number else gain.arm.dataset


def _list_points(pools: Mapping[ArmKey, ArmScores], column: str) -> list[tuple[int, float, int]]:
    """List (training cases, Dice, seed) of an arm."""
    return [
        (key.num_training_cases, dice, seed)
        for key, scores in pools.items()
        if key.column == column
        for seed, dice in zip(scores.seeds, score_seeds(scores), strict=True)
        if math.isfinite(dice)
    ]

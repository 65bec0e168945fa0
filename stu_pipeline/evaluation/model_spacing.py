"""Whether images have voxels near those that the model behind a folder of predictions computes at.

Reads: `plans.json` and `predictions.json` beside the predictions, where `stu predict` leaves them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stu_pipeline.errors import DataError
from stu_pipeline.plan_architecture import resolve_configuration
from stu_pipeline.storage import read_json

Spacing = tuple[float | None, ...]
FAR_FACTOR = 2.0
"""Voxels that are larger or smaller by more than this, along any axis, are told."""

_NUM_AXES = 3
_NUM_NAME_PARTS = 3
_MAX_NAMED = 5


def find_model_spacing(prediction: Path) -> Spacing | None:
    """Return the spacing `(z, y, x)` in mm that predictions were computed at; None where the folder does not tell.

    Of an ensemble the first model counts. An axis that a 2D model has not is None.
    """
    folder = prediction if prediction.is_dir() else prediction.parent
    plan, report = _read_object(folder / "plans.json"), _read_object(folder / "predictions.json")
    try:
        names = report["recipe"]["models"][0]["folder"].split("__")
        if len(names) != _NUM_NAME_PARTS:
            return None
        spacing = resolve_configuration(plan["configurations"], names[-1])["spacing"]
        order = plan["transpose_forward"]
        # A 2D configuration has the last axes only.
        values: list[float | None] = [None] * (_NUM_AXES - len(spacing)) + [float(step) for step in spacing]
        return tuple(values[order.index(axis)] for axis in range(_NUM_AXES))
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, DataError):
        # Written by something else, or changed by hand: then nothing is known.
        return None


def warn_of_spacing(cases: Iterable[tuple[str, Sequence[float]]], spacing: Spacing | None) -> tuple[str, ...]:
    """Say which cases have voxels far from the model's; empty where none has, or the model's are not known.

    Args:
        cases: name and spacing `(z, y, x)` in mm.
        spacing: of the model.
    """
    if spacing is None:
        return ()
    known = list(cases)
    far = [(case, found) for case, found in known if _is_far(found, spacing)]
    if not far:
        return ()
    named = ", ".join(f"'{case}' ({_show(found)} mm)" for case, found in far[:_MAX_NAMED])
    more = f" and {len(far) - _MAX_NAMED} more" if len(far) > _MAX_NAMED else ""
    return (
        f"the model computes at {_show(spacing)} mm, and {len(far)} of {len(known)} cases have voxels more than "
        f"{FAR_FACTOR:g} times larger or smaller (z, y, x): {named}{more}",
    )


def _is_far(found: Sequence[float], spacing: Spacing) -> bool:
    ratios = [value / usual for value, usual in zip(found, spacing, strict=True) if usual]
    return any(not 1 / FAR_FACTOR <= ratio <= FAR_FACTOR for ratio in ratios)


def _show(spacing: Sequence[float | None]) -> str:
    return " x ".join("-" if step is None else f"{step:.3g}" for step in spacing)


def _read_object(path: Path) -> Mapping[str, Any]:
    try:
        content = read_json(path)
    except DataError:
        return {}
    return content if isinstance(content, dict) else {}

"""What the images of a training were like, as far as a model folder tells.

Reads: `dataset_fingerprint.json` of a model folder, which it may lack.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stu_pipeline.errors import DataError
from stu_pipeline.storage import read_json

FINGERPRINT_FILE = "dataset_fingerprint.json"
NUM_AXES = 3
# Beyond all that was trained on, by this factor, a voxel size or an extent is unusual.
_BEYOND_RANGE = 1.25
# Where only the median is known, the spread of the training is not, so more must be allowed.
_SPACING_BEYOND_MEDIAN = 2.0
_EXTENT_BEYOND_MEDIAN = 4.0
# The one normalisation that keeps the scale of the intensities. The others measure it in each image anew.
_ABSOLUTE_SCALE = "CTNormalization"


@dataclass(frozen=True, slots=True)
class Usual:
    """The numbers that are not unusual."""

    low: float
    high: float

    def is_unusual(self, value: float) -> bool:
        """Whether a number lies outside."""
        return not self.low <= value <= self.high


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingData:
    """What is usual for a model. A field is empty, or its item None, where nothing is known."""

    spacing_mm: tuple[Usual | None, ...] = (None,) * NUM_AXES
    """Per axis of the image, `(z, y, x)`."""
    extent_mm: tuple[Usual | None, ...] = (None,) * NUM_AXES
    """Per axis of the image, `(z, y, x)`: the length of what is not empty."""
    intensities: tuple[Usual | None, ...] = ()
    """Per channel, between which 99 % of the foreground's voxels lay; None where intensities have no scale."""


def find_fingerprint(model_folder: Path) -> dict[str, Any] | None:
    """Return the content of a model folder's fingerprint; None when it has none that can be read."""
    try:
        content = read_json(model_folder / FINGERPRINT_FILE)
    except DataError:
        return None
    return content if isinstance(content, dict) else None


def describe_training_data(
    plan: Mapping[str, Any], schemes: Sequence[str], fingerprint: Mapping[str, Any] | None = None
) -> TrainingData:
    """Describe what is usual for a model.

    With a fingerprint, what lies beyond all training cases by a quarter is unusual; with a plan alone, what is 2 times
    off the median voxel size or 4 times off the median extent. Malformed entries count as missing.

    Args:
        plan: the content of `plans.json`.
        schemes: how each channel is normalised, nnU-Net's names.
        fingerprint: the content of `dataset_fingerprint.json`.
    """
    spacings, shapes = _read_cases(fingerprint or {})
    if spacings:
        extents = [_multiply(shape, spacing) for shape, spacing in zip(shapes, spacings, strict=True)]
        spacing_mm, extent_mm = _find_range(spacings), _find_range(extents)
    else:
        spacing, shape = _read_medians(plan)
        spacing_mm = _spread(spacing, _SPACING_BEYOND_MEDIAN)
        extent_mm = _spread(_multiply(shape, spacing), _EXTENT_BEYOND_MEDIAN)
    return TrainingData(spacing_mm=spacing_mm, extent_mm=extent_mm, intensities=_read_intensities(plan, schemes))


def _read_cases(fingerprint: Mapping[str, Any]) -> tuple[list[list[float]], list[list[float]]]:
    """Return spacings and shapes of the training cases, `(z, y, x)`; nothing when they do not fit each other."""
    spacings = [_read_triple(item) for item in _as_list(fingerprint.get("spacings"))]
    shapes = [_read_triple(item) for item in _as_list(fingerprint.get("shapes_after_crop"))]
    if len(spacings) != len(shapes) or not all(spacings) or not all(shapes):
        return [], []
    return spacings, shapes


def _read_medians(plan: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """Return median spacing and shape in the image's axes; the plan has them in its own."""
    spacing = _read_triple(plan.get("original_median_spacing_after_transp"))
    shape = _read_triple(plan.get("original_median_shape_after_transp"))
    order = plan.get("transpose_backward")
    if not isinstance(order, (list, tuple)) or sorted(order) != list(range(NUM_AXES)):
        return [], []
    return [spacing[axis] for axis in order if spacing], [shape[axis] for axis in order if shape]


def _read_intensities(plan: Mapping[str, Any], schemes: Sequence[str]) -> tuple[Usual | None, ...]:
    statistics = plan.get("foreground_intensity_properties_per_channel")
    found: list[Usual | None] = []
    for channel, scheme in enumerate(schemes):
        entry = statistics.get(str(channel)) if isinstance(statistics, Mapping) else None
        numbers = [entry.get(name) for name in ("percentile_00_5", "percentile_99_5")] if entry else []
        is_known = scheme == _ABSOLUTE_SCALE and len(numbers) == 2 and all(map(_is_number, numbers))
        found.append(Usual(float(numbers[0]), float(numbers[1])) if is_known else None)
    return tuple(found)


def _find_range(rows: Sequence[Sequence[float]]) -> tuple[Usual | None, ...]:
    columns = zip(*rows, strict=True)
    return tuple(Usual(min(column) / _BEYOND_RANGE, max(column) * _BEYOND_RANGE) for column in columns)


def _spread(values: Sequence[float], factor: float) -> tuple[Usual | None, ...]:
    return tuple(Usual(value / factor, value * factor) for value in values) or (None,) * NUM_AXES


def _multiply(first: Sequence[float], second: Sequence[float]) -> list[float]:
    return [a * b for a, b in zip(first, second, strict=True)] if first and second else []


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else []


def _read_triple(value: Any) -> list[float]:
    """Return three numbers above 0; an empty list for anything else."""
    numbers = _as_list(value)
    is_good = len(numbers) == NUM_AXES and all(_is_number(number) and number > 0 for number in numbers)
    return [float(number) for number in numbers] if is_good else []


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)

"""Put slices in order and derive their grid, or say in one line why they are not one volume.

Distances come from the slices' positions, never from their thickness: slices overlap, and have gaps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from stu_pipeline.datasets.formats.dicom_slices import SliceHeader
from stu_pipeline.datasets.formats.orientation import repair_direction
from stu_pipeline.datasets.formats.stored import make_grid
from stu_pipeline.datasets.volume import (
    DIRECTION_TOLERANCE_RAD,
    ORIGIN_TOLERANCE_VOXELS,
    SPACING_TOLERANCE,
    Grid,
    require_sane_grid,
)
from stu_pipeline.errors import DataError

_CT = "CT"
_GREY = "MONOCHROME2"
# Two slices nearer than this part of the usual step lie at one place.
_SAME_PLACE = 0.01
_UNEVEN_NOTE = 1e-3
_MAX_SHOWN = 5

Vector = npt.NDArray[np.float64]


def order_slices(headers: Sequence[SliceHeader], folder: Path) -> tuple[list[SliceHeader], Grid]:
    """Sort the slices of one series along their normal and derive the grid, as SimpleITK's series reader does.

    Args:
        headers: at least one.
        folder: of the series; the path of the grid.

    Raises:
        DataError: several series, colours, several frames, no geometry, other sizes, spacings or orientations,
            missing or double slices, several images per place, or a tilted gantry.
    """
    _require_usable(headers, folder)
    _require_one_series(headers, folder)
    _require_same(headers, folder)
    first = headers[0]
    row, column = np.array(first.orientation[:3]), np.array(first.orientation[3:])
    normal = np.cross(row, column)
    normal /= np.linalg.norm(normal)
    distances = {id(header): float(np.dot(header.position, normal)) for header in headers}
    ordered = sorted(headers, key=lambda header: distances[id(header)])
    heights = np.array([distances[id(header)] for header in ordered])
    _require_one_image_per_place(ordered, heights, folder)
    step, notes = _measure_step(ordered, heights, normal, folder)
    direction, repaired = repair_direction(
        np.stack([row, column, normal], axis=1), folder, name="Image Orientation (Patient)"
    )
    grid = make_grid(
        folder,
        (len(ordered), *first.shape),
        spacing_xyz=[first.spacing_mm[1], first.spacing_mm[0], step],
        origin_xyz=list(ordered[0].position),
        direction=direction,
        notes=(*notes, *repaired),
    )
    require_sane_grid(grid)
    return ordered, grid


def _require_usable(headers: Sequence[SliceHeader], folder: Path) -> None:
    for header in headers:
        if found := _check_slice(header):
            problem, hint = found
            raise DataError(f"'{header.path.name}' {problem}", where=folder, hint=hint)
    scaled = [header for header in headers if header.slope]
    if scaled and len(scaled) < len(headers):
        odd = next(header for header in headers if not header.slope)
        raise DataError(
            f"'{odd.path.name}' has no rescale slope, unlike {len(scaled)} other slices",
            where=folder,
            hint="export the series again",
        )


def _check_slice(header: SliceHeader) -> tuple[str, str] | None:
    """Return what keeps a slice from being used, and the hint."""
    by_converter = "convert the series to .nii.gz with a DICOM converter such as dcm2niix"
    is_scaled = bool(header.slope) and bool(header.intercept) and header.slope != (0.0,)
    checks = (
        (header.num_frames > 1, f"holds {header.num_frames} frames, expected one slice per file", by_converter),
        (
            header.num_components != 1 or header.photometric != _GREY,
            f"is stored as {header.photometric or 'nothing known'} with {header.num_components} numbers per voxel, "
            f"expected {_GREY} with one",
            "export the original grey-value series",
        ),
        (
            not header.orientation or not header.position,
            "has no position or orientation in the patient: a scout, a report or a screenshot",
            "move it out of the folder of the series",
        ),
        (not header.spacing_mm, "has no pixel spacing", by_converter),
        (
            header.modality == _CT and not is_scaled,
            "has no rescale slope and intercept, so its values are no Hounsfield units",
            "export the original series from the archive",
        ),
        (header.slope == (0.0,), "has a rescale slope of 0", "export the series again"),
    )
    return next(((problem, hint) for is_wrong, problem, hint in checks if is_wrong), None)


def _require_one_series(headers: Sequence[SliceHeader], folder: Path) -> None:
    series: dict[str, list[SliceHeader]] = {}
    for header in headers:
        series.setdefault(header.series_uid, []).append(header)
    if len(series) == 1:
        return
    names = [
        f"'{members[0].series_name or uid}' ({members[0].modality}, {len(members)} slices, first '"
        f"{members[0].path.name}')"
        for uid, members in sorted(series.items(), key=lambda item: -len(item[1]))
    ]
    raise DataError(
        f"folder '{folder.name}' holds {len(series)} series, expected one",
        where=folder.parent,
        hint="put each series in a folder of its own",
        details=tuple(names[:_MAX_SHOWN]),
    )


def _require_same(headers: Sequence[SliceHeader], folder: Path) -> None:
    first = headers[0]
    for other in headers[1:]:
        if other.shape != first.shape:
            what = f"{_show(other.shape)} voxels, '{first.path.name}' has {_show(first.shape)} (y, x)"
        elif not np.allclose(other.spacing_mm, first.spacing_mm, rtol=SPACING_TOLERANCE, atol=0):
            what = f"spacing {_show(other.spacing_mm)} mm, '{first.path.name}' has {_show(first.spacing_mm)} mm (y, x)"
        elif not np.allclose(other.orientation, first.orientation, rtol=0, atol=DIRECTION_TOLERANCE_RAD):
            what = f"another orientation than '{first.path.name}': a scout, or two stacks in one series"
        else:
            continue
        raise DataError(
            f"'{other.path.name}' has {what}", where=folder, hint="put each stack of slices in a folder of its own"
        )


def _require_one_image_per_place(ordered: list[SliceHeader], heights: Vector, folder: Path) -> None:
    steps = np.diff(heights)
    usual = float(np.median(steps[steps > 1e-3])) if (steps > 1e-3).any() else 0.0
    starts = [0, *(int(index) + 1 for index in np.flatnonzero(steps > _SAME_PLACE * usual))] if usual else [0]
    if len(starts) == len(ordered):
        return
    sizes = set(np.diff([*starts, len(ordered)]).tolist())
    places = [ordered[start:stop] for start, stop in zip(starts, [*starts[1:], len(ordered)], strict=True)]
    double = next(place for place in places if len(place) > 1)
    differing = _list_differences(double)
    if len(sizes) == 1 and differing:
        raise DataError(
            f"folder '{folder.name}' holds {len(double)} images of each of {len(places)} places, "
            f"which differ in {', '.join(differing)}",
            where=folder.parent,
            hint="put each of them in a folder of its own, one per case or channel",
        )
    raise DataError(
        f"'{double[0].path.name}' and '{double[1].path.name}' lie at the same place",
        where=folder,
        hint="remove the double slice",
    )


def _list_differences(place: list[SliceHeader]) -> list[str]:
    names = dict.fromkeys(name for header in place for name, _ in header.moments)
    found = {name: [dict(header.moments).get(name, "") for header in place] for name in names}
    return [f"{name} ({', '.join(texts[:3])})" for name, texts in found.items() if len(set(texts)) > 1]


def _measure_step(
    ordered: list[SliceHeader], heights: Vector, normal: Vector, folder: Path
) -> tuple[float, tuple[str, ...]]:
    """Return the distance of the slices, refusing uneven and tilted stacks."""
    if len(ordered) == 1:
        if not ordered[0].thickness_mm:
            raise DataError(f"the only slice '{ordered[0].path.name}' has no thickness", where=folder)
        return ordered[0].thickness_mm[0], ("one slice: its thickness is taken as the spacing",)
    step = float(heights[-1] - heights[0]) / (len(ordered) - 1)
    _require_no_tilt(ordered, heights, normal, folder)
    off = float(np.abs(heights - heights[0] - step * np.arange(len(ordered))).max())
    if off > ORIGIN_TOLERANCE_VOXELS * step:
        _refuse_gap(ordered, heights, folder)
    notes = (f"slices are off an even spacing of {step:.6g} mm by up to {off:.2g} mm",)
    return step, notes if off > _UNEVEN_NOTE * step else ()


def _require_no_tilt(ordered: list[SliceHeader], heights: Vector, normal: Vector, folder: Path) -> None:
    positions = np.array([header.position for header in ordered])
    sideways = positions - positions[0] - np.outer(heights - heights[0], normal)
    drift = np.linalg.norm(sideways, axis=1)
    if float(drift.max()) <= ORIGIN_TOLERANCE_VOXELS * min(ordered[0].spacing_mm):
        return
    angle = math.degrees(math.atan2(float(drift[-1]), float(heights[-1] - heights[0])))
    worst = ordered[int(np.argmax(drift))]
    is_tilt = angle > math.degrees(DIRECTION_TOLERANCE_RAD)
    raise DataError(
        f"the gantry is tilted by {angle:.3g} degrees: the slices do not lie above each other"
        if is_tilt
        else f"'{worst.path.name}' is shifted by {float(drift.max()):.3g} mm against the other slices",
        where=folder,
        hint="resample the series to a plain grid, for example with dcm2niix",
    )


def _refuse_gap(ordered: list[SliceHeader], heights: Vector, folder: Path) -> None:
    steps = np.diff(heights)
    usual = float(np.median(steps))
    index = int(np.argmax(np.abs(steps - usual)))
    missing = round(float(steps[index]) / usual) - 1
    what = f", {missing} missing" if missing > 0 else ""
    raise DataError(
        f"slices '{ordered[index].path.name}' and '{ordered[index + 1].path.name}' are {steps[index]:.4g} mm apart, "
        f"the others {usual:.4g} mm{what}",
        where=folder,
        hint="export the whole series again, or resample it to even slices",
    )


def _show(values: Sequence[float]) -> str:
    return "x".join(f"{value:g}" for value in values)

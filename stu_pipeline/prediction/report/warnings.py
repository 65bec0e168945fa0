"""What a person should know about a predicted case: short sentences with numbers, each from a pure function.

Axes are the image's, `(z, y, x)`; faces are named after the patient where the directions are known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from stu_pipeline.prediction.report.training_data import TrainingData, Usual
from stu_pipeline.prediction.report.volumes import Mask, MaskCounts

Faces = Mapping[str, Sequence[tuple[int, int]]]
Image = npt.NDArray[np.floating[Any]]

EMPTY = "the mask is empty"
_MAX_NAMED = 5
_AXES = "zyx"
_NUM_FACES = 6
# Of the world's axes x, y, z (x to the left, y to the back, z up): its ends, low and high.
_ENDS = (("right", "left"), ("front", "back"), ("feet", "head"))
# Of the foreground trained on, 1 % lay outside the range; that a quarter does is another kind of image.
_SHARE_OUTSIDE = 0.25
# Air and bed lie outside too, so of a whole image nearly all must.
_SHARE_OF_ALL_OUTSIDE = 0.99


def warn_of_empty_mask(counts: MaskCounts) -> list[str]:
    """Warn of a mask without any foreground."""
    return [EMPTY] if counts.is_empty else []


def warn_of_cut_labels(touched: Faces, direction: Sequence[float] | None = None) -> list[str]:
    """Warn of labels that touch the border of the image, where they may be cut off.

    Args:
        touched: faces by label, as `find_touched_faces` returns them.
        direction: nine direction cosines in ITK's order, row by row, columns for x, y, z; None names the array's axes.
    """
    if not touched:
        return []
    named = [f"{label} ({_name_faces(faces, direction)})" for label, faces in touched.items()]
    more = f" and {len(named) - _MAX_NAMED} more" if len(named) > _MAX_NAMED else ""
    subject = "1 label touches" if len(named) == 1 else f"{len(named)} labels touch"
    return [f"{subject} the border of the image: {', '.join(named[:_MAX_NAMED])}{more}"]


def warn_of_spacing(spacing_mm: Sequence[float], training: TrainingData) -> list[str]:
    """Warn of a voxel size unlike the training's.

    Args:
        spacing_mm: `(z, y, x)`.
        training: what is usual.
    """
    return _compare("voxel size", spacing_mm, training.spacing_mm)


def warn_of_extent(shape: Sequence[int], spacing_mm: Sequence[float], training: TrainingData) -> list[str]:
    """Warn of an image that shows much more or less than the training's.

    Args:
        shape: voxels of what is not empty, `(z, y, x)`. An axis with a single voxel has no extent.
        spacing_mm: `(z, y, x)`.
        training: what is usual.
    """
    extents = [size * step for size, step in zip(shape, spacing_mm, strict=True)]
    usual = [known if size > 1 else None for size, known in zip(shape, training.extent_mm, strict=True)]
    return _compare("field of view", extents, usual)


def warn_of_intensities(image: Image, mask: Mask, training: TrainingData, names: Sequence[str]) -> list[str]:
    """Warn of channels that are constant, or whose foreground is brighter or darker than the training's.

    Only channels whose intensities have a scale (CT) can be compared. Where the mask is empty, all voxels are.

    Args:
        image: `(c, z, y, x)`, as read.
        mask: `(z, y, x)` on the same grid.
        training: what is usual.
        names: of the channels.
    """
    warnings = []
    for index, channel in enumerate(image):
        name = names[index] if index < len(names) else str(index)
        low, high = float(channel.min()), float(channel.max())
        if low == high:
            warnings.append(f"channel '{name}' is constant or nearly so, its voxels are {low:g}")
            continue
        usual = training.intensities[index] if index < len(training.intensities) else None
        if usual is not None:
            warnings += _compare_intensities(channel, mask, usual, name)
    return warnings


def _compare(what: str, values: Sequence[float], usual: Sequence[Usual | None]) -> list[str]:
    pairs = list(zip(values, usual, strict=True))
    parts = [
        f"{value:.3g} mm along {axis} (usual: {known.low:.3g} to {known.high:.3g})"
        for (value, known), axis in zip(pairs, _AXES, strict=True)
        if known is not None and known.is_unusual(value)
    ]
    return [f"unusual {what}: {', '.join(parts)}"] if parts else []


def _compare_intensities(channel: Image, mask: Mask, usual: Usual, name: str) -> list[str]:
    num_voxels = num_outside = 0
    has_foreground = bool(mask.any())
    for plane, labels in zip(channel, mask, strict=True):
        values = plane[labels > 0] if has_foreground else plane
        num_voxels += values.size
        num_outside += int(np.count_nonzero((values < usual.low) | (values > usual.high)))
    share = num_outside / num_voxels
    if share <= (_SHARE_OUTSIDE if has_foreground else _SHARE_OF_ALL_OUTSIDE):
        return []
    where = "of the foreground" if has_foreground else "of the image"
    return [
        f"unusual intensities: {share:.0%} {where} in channel '{name}' lies outside {usual.low:g} to {usual.high:g} "
        "(1 % in the training)"
    ]


def _name_faces(faces: Sequence[tuple[int, int]], direction: Sequence[float] | None) -> str:
    if len(faces) == _NUM_FACES:
        return "all sides"
    return ", ".join(_name_face(face, direction) for face in faces)


def _name_face(face: tuple[int, int], direction: Sequence[float] | None) -> str:
    """Name a face after the side of the patient it shows; without directions after the axis.

    >>> _name_face((0, 1), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    'head'
    >>> _name_face((0, 1), None)
    'last z'
    """
    axis, end = face
    if direction is None:
        return f"{('first', 'last')[end]} {_AXES[axis]}"
    # The image's axes run the other way round than the world's.
    column = [direction[3 * row + 2 - axis] for row in range(3)]
    main = max(range(3), key=lambda row: abs(column[row]))
    return _ENDS[main][end if column[main] > 0 else 1 - end]

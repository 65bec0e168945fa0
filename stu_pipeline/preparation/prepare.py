"""Turn the voxels of a case into what the network sees: transpose, crop, normalise, resample. Arrays only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stu_pipeline.errors import DataError
from stu_pipeline.preparation.case_settings import CaseSettings, Resampling
from stu_pipeline.preparation.cropping import Box, Mask, find_nonzero_region
from stu_pipeline.preparation.label_resampling import resample_labels
from stu_pipeline.preparation.normalisation import normalise_channel
from stu_pipeline.preparation.resampling import resample_image
from stu_pipeline.preparation.target_grid import (
    Shape,
    complete_target_spacing,
    compute_target_shape,
    find_separate_axis,
)

Image = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int16]

OUTSIDE = -1
"""What a label map holds outside the object, where nnU-Net neither trains nor measures."""

_NO_LABELS = np.empty((0, 0, 0), dtype=np.int16)
_MAX_STORED_LABEL = int(np.iinfo(np.int16).max)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PreparedImage:
    """An image on the network's grid. Shapes and box are `(z, y, x)` after `transpose_forward`."""

    array: npt.NDArray[np.float32]
    """`(c, z, y, x)`."""
    shape_before_cropping: Shape
    box: Box
    shape_after_cropping: Shape


def prepare_image(image: Image, spacing_mm: Sequence[float], settings: CaseSettings) -> PreparedImage:
    """Prepare an image without labels, as for prediction. See `prepare_case`."""
    return _prepare(image, None, spacing_mm, settings)[0]


def prepare_case(
    image: Image, labels: npt.NDArray[np.integer[Any]], spacing_mm: Sequence[float], settings: CaseSettings
) -> tuple[PreparedImage, Labels]:
    """Prepare an image and its labels exactly as nnU-Net does.

    Args:
        image: `(c, z, y, x)` as read; its memory is used for the work and holds something else afterwards.
        labels: `(z, y, x)`, consecutive ids.
        spacing_mm: as read, `(z, y, x)`.
        settings: from the plan.

    Returns:
        The image, and the labels `(z, y, x)` int16, -1 outside the object.

    Raises:
        DataError: channels or labels do not fit the plan.
    """
    if labels.shape != image.shape[1:]:
        raise DataError(f"has labels of shape {labels.shape}, expected {image.shape[1:]} (z, y, x)")
    if labels.size and int(labels.max()) > _MAX_STORED_LABEL:
        raise DataError(f"has label {int(labels.max())}, the largest that can be stored is {_MAX_STORED_LABEL}")
    return _prepare(image, labels, spacing_mm, settings)


def _prepare(
    image: Image, labels: npt.NDArray[np.integer[Any]] | None, spacing_mm: Sequence[float], settings: CaseSettings
) -> tuple[PreparedImage, Labels]:
    if len(image) != len(settings.normalisations):
        raise DataError(f"has {len(image)} channels, the plan is for {len(settings.normalisations)}")
    axes = settings.transpose
    image = image.transpose(0, *(axis + 1 for axis in axes))
    spacing_mm = [float(spacing_mm[axis]) for axis in axes]
    shape_before = _shape_of(image)
    region = find_nonzero_region(image)
    image = image[(slice(None), *region.slices)]
    shape_after, inside = _shape_of(image), region.inside
    cropped = None if labels is None else labels.transpose(axes)[region.slices].astype(np.int16)
    if cropped is not None and inside is not None:
        cropped[(cropped == 0) & ~inside] = OUTSIDE
        inside = cropped >= 0  # what is labelled counts as inside, wherever it lies
    _normalise(image, settings, inside)
    array, moved = _resample(image, cropped, spacing_mm, settings)
    prepared = PreparedImage(
        array=array, shape_before_cropping=shape_before, box=region.box, shape_after_cropping=shape_after
    )
    return prepared, moved


def _normalise(image: Image, settings: CaseSettings, inside: Mask | None) -> None:
    for index, (channel, normalisation) in enumerate(zip(image, settings.normalisations, strict=True)):
        try:
            normalise_channel(channel, normalisation, inside)
        except DataError as error:
            raise DataError(f"channel {index} {error.problem}", hint=error.hint) from error


def _resample(
    image: Image, labels: Labels | None, spacing_mm: Sequence[float], settings: CaseSettings
) -> tuple[Image, Labels]:
    target_mm = complete_target_spacing(spacing_mm, settings.spacing_mm)
    shape = compute_target_shape(_shape_of(image), spacing_mm, target_mm)
    if min(shape) < 1:
        raise DataError(f"has no voxel left at spacing {target_mm} mm, its shape is {_shape_of(image)} (z, y, x)")

    def find_axis(how: Resampling) -> int | None:
        return find_separate_axis(spacing_mm, target_mm, force=how.force_separate, threshold=how.threshold)

    how = settings.image_resampling
    resampled = resample_image(
        image, shape, order=how.order, separate_axis=find_axis(how), separate_order=how.separate_order
    )
    if labels is None:
        return resampled, _NO_LABELS
    how = settings.label_resampling
    return resampled, resample_labels(labels, shape, order=how.order, separate_axis=find_axis(how))


def _shape_of(image: Image) -> Shape:
    z, y, x = image.shape[1:]
    return z, y, x

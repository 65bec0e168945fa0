"""Draw suspicious cases: three slices through the label with its outlines, as it is and as it may be meant.

Reads: the image and label map of each drawn case.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stu_pipeline.datasets.cases import Case
from stu_pipeline.datasets.reading import read_image, read_label_map
from stu_pipeline.doctor.screening.orientation import read_orientation, view_along_patient
from stu_pipeline.doctor.screening.suspicions import Correction
from stu_pipeline.errors import DataError
from stu_pipeline.log import Listener, Progress, ignore_events
from stu_pipeline.workers import run_in_workers

Pixels = npt.NDArray[np.uint8]

_SIDE_PIXELS = 190
_GAP_PIXELS = 4
_WINDOW = (1.0, 99.0)
# Distinct on grey, also for most colour-blind readers (Okabe and Ito).
_COLOURS = np.array(
    [(230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167), (80, 130, 255)],
    dtype=np.uint8,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureRequest:
    """A case to draw, and how its label map may be meant."""

    case: Case
    correction: Correction | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """PNG files of one case. `corrected` is empty when there is no suspicion that can be drawn."""

    case_id: str
    png: bytes
    corrected: bytes = b""
    caption: str = ""


def draw_pictures(
    requests: Sequence[PictureRequest], *, num_workers: int, listen: Listener = ignore_events
) -> list[Picture]:
    """Draw cases; one that cannot be read has no picture."""
    pictures = []
    for outcome in run_in_workers(draw_case, requests, num_workers=num_workers, name_of=lambda item: item.case.id):
        if outcome.result is not None:
            pictures.append(outcome.result)
        listen(Progress(step="draw cases", done=outcome.index + 1, total=len(requests)))
    return pictures


def draw_case(request: PictureRequest) -> Picture:
    """Draw the first channel of a case with its label map.

    Raises:
        DataError: the image cannot be read; a label map that cannot be read, or lies on another grid, is left out.
    """
    volume = read_image(request.case.image_files[0])
    orientation = read_orientation(volume.direction)
    image = view_along_patient(volume.array[0], orientation)
    label = view_along_patient(_read_label(request.case, volume.shape), orientation)
    spacing = tuple(volume.spacing_mm[axis] for axis in orientation.order)
    corrected, caption = b"", ""
    if request.correction is not None and label.any():
        moved = _correct(label, request.correction)
        corrected, caption = _encode(_draw_slices(image, moved, spacing)), request.correction.describe()
    return Picture(
        case_id=request.case.id,
        png=_encode(_draw_slices(image, label, spacing)),
        corrected=corrected,
        caption=caption,
    )


def _read_label(case: Case, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    try:
        label = read_label_map(case.label_file).array if case.label_file is not None else None
    except DataError:
        label = None
    return label if label is not None and label.shape == shape else np.zeros(shape, dtype=np.uint8)


def _correct(label: npt.NDArray[Any], correction: Correction) -> npt.NDArray[Any]:
    if correction.flipped_axes:
        return np.flip(label, correction.flipped_axes)
    return np.roll(label, correction.shift_voxels, correction.shift_axis)


def _draw_slices(image: npt.NDArray[Any], label: npt.NDArray[Any], spacing: Sequence[float]) -> Pixels:
    """Draw axial, coronal and sagittal slices side by side, the patient's right on the left and the head up."""
    centre = _find_centre(label)
    step = tuple(slice(None, None, max(1, size // _SIDE_PIXELS)) for size in image.shape)
    low, high = np.percentile(image[step], _WINDOW)
    panels = []
    for axis in range(3):
        rows, columns = (other for other in range(3) if other != axis)
        extents = [image.shape[other] * spacing[other] for other in (rows, columns)]
        grey, names = np.take(image, centre[axis], axis), np.take(label, centre[axis], axis)
        if axis > 0:
            grey, names = grey[::-1], names[::-1]  # rows run from feet to head, pictures from top to bottom
        panels.append(_draw_panel(grey, names, extents, (float(low), float(high))))
    height = max(panel.shape[0] for panel in panels)
    gap = np.zeros((height, _GAP_PIXELS, 3), dtype=np.uint8)
    padded = [np.pad(panel, ((0, height - panel.shape[0]), (0, 0), (0, 0))) for panel in panels]
    return np.concatenate([padded[0], gap, padded[1], gap, padded[2]], axis=1)


def _find_centre(label: npt.NDArray[Any]) -> tuple[int, ...]:
    """Choose, per axis, the slice with the most foreground; the middle when there is none."""
    inside = label > 0
    if not inside.any():
        return tuple(size // 2 for size in label.shape)
    others = [tuple(other for other in range(3) if other != axis) for axis in range(3)]
    return tuple(int(np.argmax(inside.sum(axis=axes))) for axes in others)


def _draw_panel(
    grey: npt.NDArray[Any], names: npt.NDArray[Any], extents: Sequence[float], window: tuple[float, float]
) -> Pixels:
    scale = _SIDE_PIXELS / max(extents)
    index = []
    for size, extent in zip(grey.shape, extents, strict=True):
        pixels = max(1, round(extent * scale))
        index.append(np.minimum(np.arange(pixels) * size // pixels, size - 1))
    place = np.ix_(*index)
    low, high = window
    shades = np.clip((grey[place] - low) / max(high - low, 1e-12), 0, 1) * 255
    panel = np.repeat(shades.astype(np.uint8)[:, :, None], 3, axis=2)
    large = names[place]
    edge = np.zeros(large.shape, dtype=bool)
    edge[1:] |= large[1:] != large[:-1]
    edge[:, 1:] |= large[:, 1:] != large[:, :-1]
    # The outline of a label beside background takes the label's colour on either side.
    owner = np.maximum(large, np.maximum(np.roll(large, 1, axis=0), np.roll(large, 1, axis=1)))
    panel[edge] = _COLOURS[(owner[edge].astype(np.intp) - 1) % len(_COLOURS)]
    return panel


def _encode(pixels: Pixels) -> bytes:
    import imageio.v3

    encoded: bytes = imageio.v3.imwrite("<bytes>", pixels, extension=".png")
    return encoded

"""Pictures of single cases: three planes through the errors, reference and prediction as outlines.

Reads: label maps, and images where a folder of them is given.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stu_pipeline.datasets.endings import SUPPORTED_ENDINGS
from stu_pipeline.datasets.reading import read_image, read_label_map
from stu_pipeline.datasets.volume import Grid
from stu_pipeline.errors import DataError
from stu_pipeline.evaluation.cases import CasePair
from stu_pipeline.evaluation.common_labels import CommonLabels
from stu_pipeline.evaluation.labels import find_stored_ids

Pixels = NDArray[np.uint8]

PLANES = ("sagittal", "coronal", "axial")
# Distinct on grey and for most colour-blind readers (Okabe and Ito).
REFERENCE_COLOUR, PREDICTION_COLOUR, BOTH_COLOUR = (86, 180, 233), (230, 159, 0), (255, 255, 255)
_PANEL_PIXELS = 320
_GAP_PIXELS = 6
_WINDOW = (1.0, 99.0)
_SAMPLED_VOXELS = 1 << 20
_MARGIN, _MIN_MARGIN_MM = 0.2, 8.0
_AGREED_SHADE, _EMPTY_SHADE, _TINT = 74, 14, 0.35


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlay:
    """A drawn case: the PNG, which slice of each plane (as the file counts them), and what is behind the outlines."""

    png: bytes
    slices: tuple[tuple[str, int], ...]
    with_image: bool
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """Arrays turned so that axes run to the patient's right, front and head, and the spacing along them."""

    reference: NDArray[Any]
    prediction: NDArray[Any]
    image: NDArray[Any] | None
    spacing_mm: tuple[float, float, float]
    is_reversed: tuple[bool, bool, bool]
    """Whether the file counts an axis the other way round."""


def find_image(images: Path | None, case: str) -> Path | None:
    """Find the (first channel of the) image of a case in a folder; a file is the image itself."""
    if images is None or images.is_file():
        return images
    names = [f"{case}{middle}{ending}" for middle in ("_0000", "") for ending in SUPPORTED_ENDINGS]
    return next((images / name for name in names if (images / name).is_file()), None)


def draw_case(
    pair: CasePair, *, image: Path | None = None, ignore: int | None = None, common: CommonLabels | None = None
) -> Overlay:
    """Draw three planes of a case, each through the slice with the most wrong voxels.

    Where nothing is wrong, the slices with the most foreground; where there is none, the middle ones.

    Args:
        pair: reference and prediction on one grid.
        image: its first channel is shown in grey; one on another grid, or that cannot be read, is left out and noted.
        ignore: value in the reference whose voxels are not scored; they are drawn as background.
        common: what is scored where the two have label lists of their own; nothing else is drawn, and `ignore` is a
            code of it.

    Raises:
        DataError: a label map cannot be read.
    """
    maps = []
    for path in (pair.reference, pair.prediction):
        volume = read_label_map(path)
        ids = find_stored_ids(path.parent)
        maps.append(volume.array if ids is None else ids.to_original(volume.array))
        grid = volume.grid
    if common is not None:
        maps = [common.encode_reference(maps[0]), common.encode_prediction(maps[1])]
    if ignore is not None:
        maps = [np.where(maps[0] == ignore, 0, array) for array in maps]
    background, note = _read_background(image, grid)
    view = _turn(maps, background, grid)
    centre = _find_slices(view)
    window = _measure_window(view.image)
    panels, slices = [], []
    flat = [axis for axis, size in enumerate(view.reference.shape) if size == 1]
    for axis in flat[:1] or (2, 1, 0):
        panels.append(_draw_plane(view, axis, centre[axis], window))
        last = view.reference.shape[axis] - 1
        slices.append((PLANES[axis], last - centre[axis] if view.is_reversed[axis] else centre[axis]))
    return Overlay(png=_encode(_join(panels)), slices=tuple(slices), with_image=background is not None, note=note)


def _read_background(path: Path | None, grid: Grid) -> tuple[NDArray[Any] | None, str]:
    if path is None:
        return None, ""
    try:
        volume = read_image(path)
    except DataError as error:
        return None, str(error)
    if volume.shape != grid.shape:
        return None, f"'{path.name}' is not on the grid of the label maps"
    array: NDArray[Any] = volume.array[0]
    return array, ""


def _turn(maps: list[NDArray[Any]], image: NDArray[Any] | None, grid: Grid) -> _View:
    from nibabel.orientations import apply_orientation, io_orientation

    # SimpleITK's axes run to the left, back and head; nibabel's to the right, front and head.
    cosines = np.diag([-1.0, -1.0, 1.0]) @ np.array(grid.direction).reshape(3, 3)
    affine = np.eye(4)
    affine[:3, :3] = cosines
    orientation = io_orientation(affine)
    spacing = [0.0, 0.0, 0.0]
    is_reversed = [False, False, False]
    for file_axis, (world_axis, sign) in enumerate(orientation):
        spacing[int(world_axis)] = grid.spacing_mm[2 - file_axis]
        is_reversed[int(world_axis)] = sign < 0

    def turn(array: NDArray[Any]) -> NDArray[Any]:
        turned: NDArray[Any] = apply_orientation(array.T, orientation)
        return turned

    return _View(
        reference=turn(maps[0]),
        prediction=turn(maps[1]),
        image=None if image is None else turn(image),
        spacing_mm=(spacing[0], spacing[1], spacing[2]),
        is_reversed=(is_reversed[0], is_reversed[1], is_reversed[2]),
    )


def _find_slices(view: _View) -> tuple[int, ...]:
    wrong = view.reference != view.prediction
    marked = wrong if wrong.any() else view.reference > 0
    if not marked.any():
        return tuple(size // 2 for size in marked.shape)
    others = [tuple(other for other in range(3) if other != axis) for axis in range(3)]
    return tuple(int(np.argmax(marked.sum(axis=axes))) for axes in others)


def _measure_window(image: NDArray[Any] | None) -> tuple[float, float]:
    if image is None:
        return (0.0, 1.0)
    step = max(1, round((image.size / _SAMPLED_VOXELS) ** (1 / 3)))
    low, high = np.percentile(image[::step, ::step, ::step], _WINDOW)
    return float(low), float(high)


def _draw_plane(view: _View, axis: int, index: int, window: tuple[float, float]) -> Pixels:
    """Draw one plane, radiological: the patient's right on the left, front and head up."""
    steps = [step for other, step in enumerate(view.spacing_mm) if other != axis]

    def cut(array: NDArray[Any]) -> NDArray[Any]:
        # Columns run to the right or (sagittal) to the front, rows to the front or to the head: both turned round.
        plane: NDArray[Any] = np.take(array, index, axis)
        return plane.T[::-1, ::-1]

    def shadow(array: NDArray[Any]) -> NDArray[np.bool_]:
        inside: NDArray[np.bool_] = np.any(array > 0, axis=axis)
        return inside.T[::-1, ::-1]

    reference, prediction = cut(view.reference), cut(view.prediction)
    place = _choose_window(shadow(view.reference) | shadow(view.prediction), spacing_mm=(steps[1], steps[0]))
    grey = _shade(cut(view.image)[place], window) if view.image is not None else None
    return _paint(reference[place], prediction[place], grey)


def _choose_window(inside: NDArray[np.bool_], *, spacing_mm: tuple[float, float]) -> tuple[NDArray[np.intp], ...]:
    """Choose which rows and columns are drawn, with repeats: the masks and a margin, enlarged to the panel."""
    starts, extents = [], []
    for axis in range(2):
        found = np.flatnonzero(inside.any(axis=1 - axis))
        first, last = (int(found[0]), int(found[-1]) + 1) if found.size else (0, inside.shape[axis])
        margin = int(np.ceil(max(_MARGIN * (last - first), _MIN_MARGIN_MM / spacing_mm[axis])))
        first, last = max(0, first - margin), min(inside.shape[axis], last + margin)
        starts.append(first)
        extents.append(last - first)
    scale = _PANEL_PIXELS / max(extent * step for extent, step in zip(extents, spacing_mm, strict=True))
    index = []
    for start, extent, step in zip(starts, extents, spacing_mm, strict=True):
        pixels = max(1, round(extent * step * scale))
        index.append(start + np.minimum(np.arange(pixels) * extent // pixels, extent - 1))
    return np.ix_(*index)


def _shade(grey: NDArray[Any], window: tuple[float, float]) -> NDArray[np.float32]:
    low, high = window
    return (np.clip((grey - low) / max(high - low, 1e-12), 0, 1) * 255).astype(np.float32)


def _paint(reference: NDArray[Any], prediction: NDArray[Any], grey: NDArray[np.float32] | None) -> Pixels:
    if grey is None:
        agreed = (reference == prediction) & (reference > 0)
        grey = np.where(agreed, _AGREED_SHADE, _EMPTY_SHADE).astype(np.float32)
    panel = np.repeat(grey[:, :, None], 3, axis=2)
    for wrong, colour in (
        ((reference > 0) & (reference != prediction), REFERENCE_COLOUR),
        ((prediction > 0) & (reference != prediction), PREDICTION_COLOUR),
    ):
        panel[wrong] = (1 - _TINT) * panel[wrong] + _TINT * np.array(colour, dtype=np.float32)
    first, second = _find_edges(reference), _find_edges(prediction)
    panel[first] = REFERENCE_COLOUR
    panel[second] = PREDICTION_COLOUR
    panel[first & second] = BOTH_COLOUR
    return panel.astype(np.uint8)


def _find_edges(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Mark two pixels along every border between different labels."""
    edge = np.zeros(labels.shape, dtype=np.bool_)
    down, across = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    return edge


def _join(panels: list[Pixels]) -> Pixels:
    height = max(panel.shape[0] for panel in panels)
    parts: list[Pixels] = []
    for panel in panels:
        above = (height - panel.shape[0]) // 2
        rows = (above, height - panel.shape[0] - above)
        parts += [np.zeros((height, _GAP_PIXELS, 3), dtype=np.uint8), np.pad(panel, (rows, (0, 0), (0, 0)))]
    return np.concatenate(parts[1:], axis=1)


def _encode(pixels: Pixels) -> bytes:
    import imageio.v3

    encoded: bytes = imageio.v3.imwrite("<bytes>", pixels, extension=".png")
    return encoded

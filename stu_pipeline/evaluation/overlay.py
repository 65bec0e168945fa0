"""A picture of masks over their image, where people would rather look than read.

Reads: volumes. Writes: one PNG.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from stu_pipeline.datasets.reading import read_image, read_label_map
from stu_pipeline.storage import write_atomically

_AXIS_NAMES = ("axial", "coronal", "sagittal")
_WINDOW_PERCENTILES = (1.0, 99.0)


def draw_overlay(
    image: Path, prediction: Path, target: Path, *, reference: Path | None = None, title: str = ""
) -> None:
    """Draw three orthogonal slices through the masks: prediction filled, reference as a white line.

    Args:
        image: one channel.
        prediction: label map on the same grid.
        target: the PNG to write.
        reference: label map to compare with; None draws the prediction alone.
        title: heading.

    Raises:
        DataError: a file cannot be read.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    volume = read_image(image)
    voxels = volume.array[0].astype(np.float32)
    predicted = read_label_map(prediction).array
    known = read_label_map(reference).array if reference is not None else None
    # Colours follow the order of the labels: with ids of 1 and 65535 most of the scale would be unused.
    values = np.unique([0, *np.unique(predicted), *(() if known is None else np.unique(known))])
    centre = _find_centre(known if known is not None and known.any() else predicted)
    low, high = np.percentile(voxels, _WINDOW_PERCENTILES)
    figure = Figure(figsize=(13, 5), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, panel in enumerate(figure.subplots(1, 3)):
        rows, columns = (index for index in range(3) if index != axis)
        aspect = volume.spacing_mm[rows] / volume.spacing_mm[columns]
        # Rows of the coronal and sagittal pictures are z, which grows upwards; those of the axial one grow backwards.
        origin: Literal["upper", "lower"] = "upper" if axis == 0 else "lower"
        slices = np.take(voxels, centre[axis], axis)
        panel.imshow(slices, cmap="gray", vmin=low, vmax=high, aspect=aspect, origin=origin)
        mask = np.searchsorted(values, np.take(predicted, centre[axis], axis))
        panel.imshow(
            np.ma.masked_equal(mask, 0), cmap="turbo", vmin=0, vmax=max(len(values), 2), alpha=0.45, aspect=aspect,
            interpolation="nearest", origin=origin,
        )  # fmt: skip
        if known is not None:
            _draw_outlines(panel, np.take(known, centre[axis], axis))
        panel.set_title(f"{_AXIS_NAMES[axis]}, slice {centre[axis]}", fontsize="small")
        panel.set_axis_off()
    legend = "filled: prediction" + (", white line: reference" if known is not None else "")
    figure.suptitle(f"{title}\n{legend}" if title else legend)
    write_atomically(target, lambda temporary: figure.savefig(temporary, dpi=110, format="png"))


def _find_centre(mask: npt.NDArray[Any]) -> tuple[int, ...]:
    """Choose, per axis, the slice with the most foreground; the middle when there is none."""
    if not mask.any():
        return tuple(size // 2 for size in mask.shape)
    others = [tuple(index for index in range(3) if index != axis) for axis in range(3)]
    return tuple(int(np.argmax((mask > 0).sum(axis=axes))) for axes in others)


def _draw_outlines(panel: Any, mask: npt.NDArray[Any]) -> None:
    for label in np.unique(mask[mask > 0]):
        panel.contour(mask == label, levels=[0.5], colors="white", linewidths=0.8)

"""Draw where an export has to compute scores at all, for docs/results/.

    python -m tests.bench.draw_undecided_cells OUT.png LABEL_MAP

The label map stands for what a network says on its own grid: the highest label of every voxel. A cell between eight of
them is decided when all eight say the same; the others are drawn in orange. Prints the shares over the whole volume.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import SimpleITK
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

_ORANGE = "#e69f00"


def main() -> None:
    """Draw the cells of the coronal plane in which most labels meet."""
    target, source = Path(sys.argv[1]), Path(sys.argv[2])
    image = SimpleITK.ReadImage(str(source))
    labels = SimpleITK.GetArrayFromImage(image).astype(np.int64)
    corners = [
        labels[z : z - 1 or None, y : y - 1 or None, x : x - 1 or None]
        for z in (0, 1) for y in (0, 1) for x in (0, 1)
    ]  # fmt: skip
    undecided = np.any([corner != corners[0] for corner in corners[1:]], axis=0)
    winners = np.sort(np.stack([corner[undecided] for corner in corners]), axis=0)
    counts = 1 + (np.diff(winners, axis=0) > 0).sum(axis=0)
    print(f"{len(np.unique(labels))} labels, {undecided.mean():.1%} of {undecided.size} cells undecided")
    print({int(count): f"{(counts == count).mean():.1%}" for count in np.unique(counts)})
    plane = int(np.argmax(undecided.sum(axis=(0, 2))))
    spacing = image.GetSpacing()
    figure = Figure(figsize=(9, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    shades = np.random.default_rng(3).permutation(int(labels.max()) + 1)
    shown = np.where(labels[:, plane] > 0, 1 + shades[labels[:, plane]], 0)
    for panel, title in zip(
        figure.subplots(1, 2), ("highest label on the network's grid", "cells to compute"), strict=True
    ):
        is_right = title.startswith("cells")
        panel.imshow(
            np.ma.masked_equal(shown, 0), cmap="gray" if is_right else "turbo", alpha=0.35 if is_right else 0.9,
            vmin=-labels.max() / 2, aspect=spacing[2] / spacing[0], origin="lower", interpolation="nearest",
        )  # fmt: skip
        if is_right:
            cells = np.ma.masked_equal(undecided[:, plane].astype(int), 0)
            # A cell lies between voxels.
            rows, columns = cells.shape
            panel.imshow(
                cells, cmap=ListedColormap([_ORANGE]), aspect=spacing[2] / spacing[0], origin="lower",
                interpolation="nearest", extent=(0, columns, 0, rows),
            )  # fmt: skip
        panel.set_title(title, fontsize=10)
        panel.set_axis_off()
    figure.savefig(target, dpi=100)


if __name__ == "__main__":
    main()

"""Probabilities on the image's grid, written slab by slab: memory holds a few planes of them, never the volume.

Writes: `.npz` with the `.pkl` that `nnUNetv2_ensemble` wants beside it, or a chunked `.zarr.zip`.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from stu_pipeline.datasets.volume import Grid
from stu_pipeline.errors import NonFiniteError
from stu_pipeline.inference.case_grid import CaseGrid
from stu_pipeline.inference.slabs import Slab
from stu_pipeline.prediction.writing.npz_file import NpzSink
from stu_pipeline.prediction.writing.zarr_file import ZarrSink
from stu_pipeline.storage import write_bytes

ProbabilityKind = Literal["npz", "zarr"]
ENDINGS: Mapping[str, str] = {"npz": ".npz", "zarr": ".zarr.zip"}
PROPERTIES_ENDING = ".pkl"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbabilityTarget:
    """What is written, and where."""

    path: Path
    kind: ProbabilityKind
    grid: Grid
    """Of the image."""
    names: tuple[str, ...]
    """Of the channels, background included."""
    is_regions: bool = False
    """Channels are regions, which may overlap: outside the crop all are 0. Else the first one is 1 there."""
    bits: Literal[8, 16] = 16
    """Of a number in zarr; npz holds float32."""
    properties: Mapping[str, Any] | None = None
    """What nnU-Net's reader says of the image; written beside an npz."""


class Sink(Protocol):
    """A file that takes regions of `(c, z, y, x)`, in order along one axis."""

    def write(self, region: tuple[slice, slice, slice], values: npt.NDArray[np.float32]) -> None:
        """Put `(c, z, y, x)` values into a region of the image."""

    def finish(self) -> None:
        """Write the rest, read the file back and give it its name."""

    def close(self) -> None:
        """Remove what is not finished."""


class ProbabilityWriter:
    """Takes the slabs of one case and leaves one complete file, or none. Use it with `with`.

    Args:
        target: file and content.
        case_grid: where the slabs lie in the image.
    """

    def __init__(self, target: ProbabilityTarget, case_grid: CaseGrid) -> None:
        self.target = target
        self.case_grid = case_grid
        self._sink: Sink | None = None

    def __enter__(self) -> ProbabilityWriter:
        """Return the writer itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Remove what is not finished."""
        if self._sink is not None:
            self._sink.close()

    def add(self, slab: Slab) -> None:
        """Write the next probabilities, on the cropped image's grid in the plan's axes.

        Raises:
            NonFiniteError: they are NaN or infinite.
            StorageError: the disk is full or not writable.
        """
        values = slab.scores.detach().cpu().float().numpy()
        if len(values) != len(self.target.names):
            raise ValueError(f"{len(values)} channels, expected {len(self.target.names)}: {self.target.names}")
        if not np.isfinite(values.sum(dtype=np.float64)):
            raise NonFiniteError(f"probabilities for '{self.target.path.name}' are not finite")
        backward = self.case_grid.transpose_backward
        if self._sink is None:
            self._sink = self._open(axis=backward.index(slab.axis))
        ranges = [
            (low + slab.start, low + slab.stop) if axis == slab.axis else (low, high)
            for axis, (low, high) in enumerate(self.case_grid.box)
        ]
        z, y, x = (slice(*ranges[axis]) for axis in backward)
        self._sink.write((z, y, x), values.transpose(0, *(1 + axis for axis in backward)))

    def finish(self) -> tuple[Path, ...]:
        """Complete the file and return what was written.

        Raises:
            StorageError: the disk is full or not writable, or the file does not hold what was written.
        """
        if self._sink is None:
            raise ValueError("no slab was added")
        self._sink.finish()
        if self.target.kind != "npz" or self.target.properties is None:
            return (self.target.path,)
        beside = self.target.path.with_suffix(PROPERTIES_ENDING)
        # nnU-Net reads these back as a pickle; we never do.
        write_bytes(beside, pickle.dumps(dict(self.target.properties)))
        return (self.target.path, beside)

    def _open(self, *, axis: int) -> Sink:
        target, shape = self.target, (len(self.target.names), *self.target.grid.shape)
        outside = None if target.is_regions else 0
        if target.kind == "npz":
            return NpzSink(target.path, shape, ones_channel=outside, is_covered=self._is_covered())
        return ZarrSink(
            target.path, shape, axis=axis, bits=target.bits, ones_channel=outside, attributes=self._describe()
        )

    def _is_covered(self) -> bool:
        return self.case_grid.cropped_shape == self.case_grid.full_shape

    def _describe(self) -> dict[str, Any]:
        grid = self.target.grid
        return {
            "labels": list(self.target.names),
            "is_regions": self.target.is_regions,
            "axes": "czyx",
            "spacing_mm_zyx": list(grid.spacing_mm),
            "origin_mm_xyz": list(grid.origin),
            "direction": list(grid.direction),
            "num_dimensions": grid.num_dimensions,
        }

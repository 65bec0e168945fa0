"""Read the image of a case, verified, with the properties that the plan's own reader would give.

Reads: the channel files of a case.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stu_pipeline.datasets.cases import Case
from stu_pipeline.datasets.reading import Grid, read_channels
from stu_pipeline.errors import DataError, MemoryLimitError, ModelError
from stu_pipeline.nnunet.allowed_names import READERS
from stu_pipeline.nnunet.model import EngineModel
from stu_pipeline.nnunet.reader_properties import READERS as SAME_AXES_READERS
from stu_pipeline.nnunet.reader_properties import make_reader_properties

NUM_AXES = 3
# Their voxels lie as ours do; the others turn axes while they read a file of their own kind.
_DICOM_READERS = ("SimpleITKIO", "NibabelIO")
# Statistics of the intensities need no more voxels than these.
_SAMPLE_VOXELS = 1 << 22


@dataclass(frozen=True, slots=True, eq=False)
class RawCase:
    """A case as nnU-Net's reader gives it: float32 `(c, z, y, x)` with the reader's properties."""

    case: Case
    array: npt.NDArray[np.float32]
    properties: dict[str, Any]
    grid: Grid
    sample: npt.NDArray[np.float32]
    """Every `sample_step`-th voxel of the array along each axis, kept when the array is not."""
    sample_step: int = 1

    @property
    def voxel_ml(self) -> float | None:
        """Volume of one voxel in millilitres; None for a flat image."""
        return float(np.prod(self.grid.spacing_mm)) / 1000 if self.grid.num_dimensions == NUM_AXES else None

    def without_voxels(self) -> RawCase:
        """Return the geometry alone, to free the memory of the voxels."""
        return replace(self, array=np.empty((0, 0, 0, 0), dtype=np.float32))


def make_reader(model: EngineModel) -> Any:
    """Make nnU-Net's reader-writer of a plan."""
    return model.plans.image_reader_writer_class()


def read_raw_case(model: EngineModel, case: Case) -> RawCase:
    """Read the files of a case, verified byte by byte, with the properties that the plan's own reader would give.

    Raises:
        DataError: damaged, not finite, channels that do not fit the model or each other, or an ending that the
            plan's reader cannot read.
    """
    endings = READERS[model.reader_name]
    if case.ending.lower() not in endings:
        raise DataError(
            f"'{case.image_files[0].name}' ends in {case.ending}, but the model reads {', '.join(endings)}",
            where=case.image_files[0].parent,
            hint=f"convert it to {model.dataset.file_ending}",
        )
    if case.is_dicom and model.reader_name not in _DICOM_READERS:
        raise DataError(
            f"case '{case.id}' is a DICOM series, which a model of reader '{model.reader_name}' cannot take",
            where=case.image_files[0].parent,
            hint=f"convert it to {model.dataset.file_ending}",
        )
    verified = read_channels(case.image_files)
    if len(verified.array) != model.num_image_channels:
        raise DataError(
            f"case '{case.id}' has {len(verified.array)} channels, the model expects {model.num_image_channels}",
            where=case.image_files[0].parent,
            hint=f"expected: {', '.join(model.dataset.channel_names.values())}",
        )
    if model.reader_name not in SAME_AXES_READERS:
        return _read_reoriented(model, case, verified.grid)
    # Reading again with nnU-Net's reader would cost as much, and fail on a direction that was repaired here.
    array = verified.array.astype(np.float32, copy=False)
    properties = make_reader_properties(verified.grid, model.reader_name)
    return _make_raw_case(case, array, properties, verified.grid)


def choose_sample_step(num_voxels: int) -> int:
    """Choose the step along each axis with which few enough voxels are kept of an image."""
    step = 1
    while num_voxels > _SAMPLE_VOXELS * step**NUM_AXES:
        step += 1
    return step


@contextlib.contextmanager
def engine_errors(case: Case) -> Iterator[None]:
    """Turn what nnU-Net raises on one case into our errors."""
    from nibabel.filebasedimages import ImageFileError

    folder: Path = case.image_files[0].parent
    try:
        yield
    except MemoryError as error:
        raise explain_memory(error, f"case '{case.id}'") from error
    except (KeyError, IndexError, TypeError) as error:
        raise ModelError(f"plan does not fit case '{case.id}': {error!r}", where=folder) from error
    except (AssertionError, RuntimeError, ValueError, OSError, ImageFileError) as error:
        reason = next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), repr(error))
        raise DataError(f"case '{case.id}' cannot be preprocessed: {reason[:200]}", where=folder) from error


def explain_memory(error: BaseException, what: str) -> BaseException:
    """Return our error for a lack of memory; the error itself when it is about something else."""
    text = str(error)
    if isinstance(error, MemoryError) or "allocate" in text or "not enough memory" in text:
        return MemoryLimitError(f"not enough memory for {what}", hint="crop the image, or use a machine with more RAM")
    return error


def _read_reoriented(model: EngineModel, case: Case, grid: Grid) -> RawCase:
    """Read a verified case again with a reader that turns the axes."""
    reader = make_reader(model)
    with engine_errors(case):
        # File by file: nnU-Net compares the channels' grids without tolerance, and prints; that is done before.
        parts = [reader.read_images([str(file)]) for file in case.image_files]
    array = parts[0][0] if len(parts) == 1 else np.concatenate([part for part, _ in parts])
    return _make_raw_case(case, array.astype(np.float32, copy=False), parts[0][1], grid)


def _make_raw_case(case: Case, array: npt.NDArray[np.float32], properties: dict[str, Any], grid: Grid) -> RawCase:
    step = choose_sample_step(array[0].size)
    # A copy: preparing may use the array's memory.
    sample = array[:, ::step, ::step, ::step].copy()
    return RawCase(case=case, array=array, properties=properties, grid=grid, sample=sample, sample_step=step)

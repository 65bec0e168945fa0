"""Write a mask with nnU-Net's own writer, and believe it only after reading it back.

Writes: `<case><ending>`, and `<case>.json` with the spacing beside a TIFF stack.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stu_pipeline.datasets.endings import split_ending
from stu_pipeline.datasets.reading import check_same_grid, read_label_map
from stu_pipeline.errors import DataError, StorageError
from stu_pipeline.nnunet.model import EngineModel
from stu_pipeline.nnunet.raw_case import RawCase, make_reader
from stu_pipeline.storage import measure_free_gib, write_atomically, write_json

_AFFINE_TOLERANCE_MM = 1e-4


def write_mask(
    model: EngineModel,
    mask: npt.NDArray[Any],
    path: Path,
    raw: RawCase,
    *,
    before_commit: Callable[[Path], None] = lambda temporary: None,
) -> None:
    """Write a mask `(z, y, x)` on the grid of its image, atomically.

    Args:
        model: whose plan names the writer.
        mask: label values.
        path: final name; its ending decides the format.
        raw: the image, for grid and header.
        before_commit: called with the temporary file once it is proven, before it gets its final name.

    Raises:
        StorageError: the disk is full or not writable, or the file does not hold the mask.
    """
    ending = split_ending(path.name)[1]
    is_stack = model.reader_name == "Tiff3DIO"

    def write(temporary: Path) -> None:
        spacing_file = temporary.with_suffix(".json")  # nnU-Net's TIFF writer makes it
        try:
            _write(model, mask, temporary, raw)
            _verify(model, mask, temporary, raw)
        finally:
            if is_stack:
                spacing_file.unlink(missing_ok=True)
        if is_stack:
            spacing = [float(value) for value in raw.properties["spacing"]]
            write_json(path.with_name(path.name.removesuffix(ending) + ".json"), {"spacing": spacing})
        before_commit(temporary)

    write_atomically(path, write, suffix=ending)


def _write(model: EngineModel, mask: npt.NDArray[Any], temporary: Path, raw: RawCase) -> None:
    try:
        make_reader(model).write_seg(np.ascontiguousarray(mask), str(temporary), raw.properties)
    except RuntimeError as error:  # SimpleITK, when it notices at all
        last = str(error).strip().splitlines()[-1][:200]
        raise StorageError(f"cannot write the mask: {last}", where=temporary.parent) from error


def _verify(model: EngineModel, mask: npt.NDArray[Any], temporary: Path, raw: RawCase) -> None:
    # SimpleITK reports no error on a full disk, so only reading back shows what is there.
    try:
        found = read_label_map(temporary)
        values = found.array
        if "Reorient" in model.reader_name:
            values = make_reader(model).read_seg(str(temporary))[0][0]
    except (DataError, RuntimeError, OSError) as error:
        raise _unproven(temporary, str(error)) from error
    if values.shape != mask.shape or not np.array_equal(values, mask):
        raise _unproven(temporary, "the voxels differ")
    problems = [] if _has_own_affine(model) else check_same_grid(raw.grid, found)
    if _has_own_affine(model) and not _affines_agree(temporary, raw):
        problems = ["the affine differs"]
    if problems:
        raise _unproven(temporary, problems[0])


def _has_own_affine(model: EngineModel) -> bool:
    """Whether the writer is nibabel's, which keeps the sform where ITK would take the qform."""
    return model.reader_name.startswith("Nibabel")


def _affines_agree(temporary: Path, raw: RawCase) -> bool:
    import nibabel

    expected = raw.properties["nibabel_stuff"]["original_affine"]
    return bool(np.allclose(nibabel.load(temporary).affine, expected, rtol=0, atol=_AFFINE_TOLERANCE_MM))


def _unproven(temporary: Path, reason: str) -> StorageError:
    free = measure_free_gib(temporary.parent)
    return StorageError(
        f"the mask could not be verified after writing ({free:.2f} GiB free): {reason}",
        where=temporary.parent,
        hint="free some space and run the same command again",
    )

"""Copy a label file with other values on the same grid, in the same format; equal input gives equal bytes.

Writes: `.nii.gz .nii .nrrd .mha .tif .tiff .png .bmp`.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stu_pipeline.datasets.endings import NIFTI_ENDINGS, PICTURE_ENDINGS, TIFF_ENDINGS, split_ending
from stu_pipeline.datasets.reading import check_same_grid, read_label_map
from stu_pipeline.datasets.volume import Grid
from stu_pipeline.errors import DataError, StorageError
from stu_pipeline.storage import write_atomically

_GZIP_MAGIC = b"\x1f\x8b"
_FLAT = 2
Labels = npt.NDArray[Any]


def write_label_copy(source: Path, target: Path, convert: Callable[[Labels], Labels]) -> None:
    """Write the label map of `source` to `target` with converted values, atomically.

    Args:
        source: any label file that can be read.
        target: its ending decides the format; volumes may change theirs, pictures keep it.
        convert: gets and returns `(z, y, x)` integers.

    Raises:
        DataError: the source is damaged, or `convert` refuses its values.
        StorageError: the disk is full or not writable, or the file does not hold the labels.
    """
    volume = read_label_map(source)
    try:
        labels = np.ascontiguousarray(convert(volume.array))
    except DataError as error:
        raise DataError(f"'{source.name}' {error.problem}", where=source.parent, hint=error.hint) from error
    ending = split_ending(target.name)[1].lower()
    is_nifti = {ending, split_ending(source.name)[1].lower()} <= set(NIFTI_ENDINGS)

    def write(temporary: Path) -> None:
        if is_nifti:
            temporary.write_bytes(_pack_nifti(source, labels, ending))
        elif ending in (*PICTURE_ENDINGS, *TIFF_ENDINGS):
            _write_picture(temporary, labels if volume.grid.num_dimensions > 2 else labels[0], ending)
        else:
            _write_itk(volume.grid, temporary, labels)
        found = read_label_map(temporary)
        # The spacing of a TIFF stack is in a file of its own.
        is_moved = ending not in (*PICTURE_ENDINGS, *TIFF_ENDINGS) and bool(check_same_grid(volume.grid, found.grid))
        if is_moved or not np.array_equal(found.array, labels):
            raise StorageError(f"the copy of '{source.name}' differs from what was written", where=target.parent)

    write_atomically(target, write, suffix=ending)


def _pack_nifti(source: Path, labels: Labels, ending: str) -> bytes:
    import nibabel

    content = source.read_bytes()
    image: Any = nibabel.Nifti1Image.from_bytes(gzip.decompress(content) if content[:2] == _GZIP_MAGIC else content)
    header = image.header.copy()
    header.set_data_dtype(labels.dtype)
    header.set_slope_inter(1, 0)
    # Without an affine of its own the new image keeps both transforms of the header as they are.
    copied: Any = nibabel.Nifti1Image(labels.T.reshape(image.shape, order="F"), None, header)
    packed: bytes = copied.to_bytes()
    return gzip.compress(packed, compresslevel=6, mtime=0) if ending == ".nii.gz" else packed


def _write_picture(path: Path, labels: Labels, ending: str) -> None:
    if ending in TIFF_ENDINGS:
        import tifffile

        tifffile.imwrite(path, labels, photometric="minisblack")
    else:
        import imageio.v3

        imageio.v3.imwrite(path, labels)


def _write_itk(grid: Grid, path: Path, labels: Labels) -> None:
    import SimpleITK

    is_flat = grid.num_dimensions == _FLAT
    count = _FLAT if is_flat else 3
    image = SimpleITK.GetImageFromArray(labels[0] if is_flat else labels)
    # From the grid, not from the file: ITK would refuse a direction that was repaired on reading.
    image.SetSpacing(grid.spacing_mm[::-1][:count])
    image.SetOrigin(grid.origin[:count])
    image.SetDirection(np.array(grid.direction).reshape(3, 3)[:count, :count].ravel().tolist())
    SimpleITK.WriteImage(image, str(path), useCompression=True)

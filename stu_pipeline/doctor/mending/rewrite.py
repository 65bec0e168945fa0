"""Write label maps and image headers anew, and believe a file only after reading it back.

Reads: one image or label file. Writes: one file of the same kind.
"""

from __future__ import annotations

import gzip
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stu_pipeline.datasets.endings import NIFTI_ENDINGS, TIFF_ENDINGS, split_ending
from stu_pipeline.datasets.reading import Grid, check_same_grid, read_image, read_label_map
from stu_pipeline.errors import StorageError
from stu_pipeline.storage import write_atomically

_HEADER_BYTES = 348
_COMPRESSION = 6
_PICTURES = (".png", ".bmp")


def can_write_label(path: Path) -> bool:
    """Whether label maps of this kind can be written: all but TIFF, whose spacing lies in another file."""
    return split_ending(path.name)[1].lower() not in TIFF_ENDINGS


def can_write_header(path: Path) -> bool:
    """Whether the header of this kind of image can be changed without touching its voxels."""
    return split_ending(path.name)[1].lower() in NIFTI_ENDINGS


def find_stored_kind(path: Path) -> str:
    """Return how a file stores its voxels: NumPy's `u`, `i` or `f`."""
    if split_ending(path.name)[1].lower() in NIFTI_ENDINGS:
        import nibabel

        kind: str = nibabel.load(path).get_data_dtype().kind
        return kind
    import SimpleITK as sitk  # noqa: N813

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    name = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    return "f" if "float" in name else "u" if "unsigned" in name else "i"


def write_label(path: Path, array: npt.NDArray[Any], grid: Grid) -> None:
    """Write a label map `(z, y, x)` on a grid, atomically; the format follows the ending.

    The same arguments write the same bytes.

    Raises:
        StorageError: not writable, or the file does not hold the labels.
    """
    ending = split_ending(path.name)[1].lower()

    def write(temporary: Path) -> None:
        if ending in NIFTI_ENDINGS:
            _dump(temporary, _pack_nifti(array, grid), ending)
        elif ending in _PICTURES:
            import imageio.v3

            imageio.v3.imwrite(temporary, array[0])
        else:
            _write_itk(temporary, array, grid)
        found = read_label_map(temporary)
        _require_equal(path, found.array, array, check_same_grid(grid, found))

    write_atomically(path, write, suffix=ending)


def write_clean_header(source: Path, target: Path, grid: Grid) -> None:
    """Copy a NIfTI image with the position of `grid` in its header; the stored voxels stay byte for byte.

    Raises:
        StorageError: not writable, or the copy does not hold the same image.
    """
    from nibabel.nifti1 import Nifti1Header

    ending = split_ending(source.name)[1].lower()
    data = source.read_bytes()
    if ending == ".nii.gz":
        data = gzip.decompress(data)
    header = Nifti1Header.from_fileobj(BytesIO(data[:_HEADER_BYTES]), check=False)
    affine = _make_affine(grid)
    header.set_sform(affine, code=max(1, int(header["sform_code"])))
    header.set_qform(affine, code=max(1, int(header["qform_code"])))
    changed = header.binaryblock + data[_HEADER_BYTES:]

    def write(temporary: Path) -> None:
        _dump(temporary, changed, ending)
        before, after = read_image(source), read_image(temporary)
        problems = [*check_same_grid(grid, after), *after.grid.notes]
        _require_equal(target, after.array, before.array, problems)

    write_atomically(target, write, suffix=ending)


def _pack_nifti(array: npt.NDArray[Any], grid: Grid) -> bytes:
    import nibabel

    flat = grid.num_dimensions == 2
    affine = _make_affine(replace(grid, spacing_mm=(1.0, *grid.spacing_mm[1:])) if flat else grid)
    voxels = array[0].T if flat else array.transpose(2, 1, 0)
    image = nibabel.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    packed: bytes = image.to_bytes()
    return packed


def _make_affine(grid: Grid) -> npt.NDArray[np.float64]:
    """Return the 4 x 4 matrix of a NIfTI header (x to the right, y to the front) for a grid."""
    affine = np.eye(4)
    affine[:3, :3] = np.array(grid.direction).reshape(3, 3) * np.array(grid.spacing_mm[::-1])
    affine[:3, 3] = grid.origin
    affine[:2] *= -1
    return affine


def _write_itk(path: Path, array: npt.NDArray[Any], grid: Grid) -> None:
    import SimpleITK as sitk  # noqa: N813

    image = sitk.GetImageFromArray(array)
    image.SetSpacing(list(grid.spacing_mm[::-1]))
    image.SetOrigin(list(grid.origin))
    image.SetDirection(list(grid.direction))
    sitk.WriteImage(image, str(path), useCompression=True)


def _dump(path: Path, data: bytes, ending: str) -> None:
    # No time stamp: the same dataset is mended to the same bytes.
    path.write_bytes(gzip.compress(data, compresslevel=_COMPRESSION, mtime=0) if ending == ".nii.gz" else data)


def _require_equal(path: Path, found: npt.NDArray[Any], expected: npt.NDArray[Any], problems: list[str]) -> None:
    if not np.array_equal(found, expected):
        problems = ["the voxels differ", *problems]
    if problems:
        raise StorageError(
            f"'{path.name}' could not be verified after writing: {problems[0]}",
            where=path.parent,
            hint="free some space and run the same command again",
        )

"""NIfTI, NRRD and MetaImage files byte by byte, with whatever in their headers, and what SimpleITK makes of them."""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk  # noqa: N813


def list_orientations():
    """All 48 turns and reflections that map axes onto axes, as `(3, 3)` matrices."""
    found = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            matrix = np.zeros((3, 3))
            matrix[list(order), range(3)] = signs
            found.append(matrix)
    return found


def make_affine(direction, spacing=(1.0, 1.0, 1.0), origin=(0.0, 0.0, 0.0)):
    affine = np.eye(4)
    affine[:3, :3] = direction * np.array(spacing)
    affine[:3, 3] = origin
    return affine


def make_header(shape=(3, 4, 5), dtype=np.uint8, *, sform=None, qform=None, codes=(0, 0), spacing=(1.0, 1.0, 1.0)):
    """A header of nibabel's with sform and qform (4, 4), whatever their codes."""
    header = nib.Nifti1Header()
    header.set_data_dtype(dtype)
    header.set_data_shape(shape)
    header["pixdim"][1:4] = spacing
    if qform is not None:
        header.set_qform(qform, code=int(codes[1]))
        header["pixdim"][1:4] = spacing
    if sform is not None:
        header["srow_x"], header["srow_y"], header["srow_z"] = sform[:3]
    header["sform_code"], header["qform_code"] = codes
    header["vox_offset"], header["magic"] = 352, b"n+1"
    return header


def write_nifti(path: Path, header, array=None) -> Path:
    """Write a header with the voxels of an `(x, y, z)` array, zeros by default; packed when the name says so."""
    shape = header.get_data_shape()
    voxels = np.zeros(shape, header.get_data_dtype()) if array is None else array
    data = header.binaryblock + bytes(4) + voxels.tobytes(order="F")
    path.write_bytes(gzip.compress(data, 6, mtime=0) if path.suffix == ".gz" else data)
    return path


def write_nrrd(path: Path, lines, data: bytes) -> Path:
    path.write_bytes("\n".join(("NRRD0004", *lines, "", "")).encode() + data)
    return path


def write_mha(path: Path, lines, data: bytes) -> Path:
    head = "\n".join(("ObjectType = Image", *lines, "ElementDataFile = LOCAL", ""))
    path.write_bytes(head.encode() + data)
    return path


def read_itk_grid(path: Path):
    """Spacing (z, y, x), origin and direction as SimpleITK has them."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return reader.GetSpacing()[::-1], reader.GetOrigin(), reader.GetDirection()


def grid_of(grid):
    return grid.spacing_mm, grid.origin, grid.direction

"""B1: 40 pairs of files on both sides of each tolerance: same grid below, a named difference above."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from stu_pipeline.datasets.reading import read_channels, read_header
from stu_pipeline.datasets.volume import check_same_grid
from stu_pipeline.errors import DataError
from tests.image_files import make_affine, make_header, write_nifti

SPACING = (0.7, 0.9, 3.0)
ORIGIN = (-120.0, 35.5, 410.25)
OBLIQUE = Rotation.from_euler("xyz", (0.2, -0.4, 0.6)).as_matrix()
# Change and the factor of the tolerance: headers hold single precision, so 0.98 and 1.02 are as close as is fair.
BELOW, ABOVE = (1e-4, 0.1, 0.5, 0.98), (1.02, 1.5, 10.0, 100.0)
KINDS = ("origin along x", "origin along z", "spacing of x", "spacing of z", "direction")


def write(path, kind=None, factor=0.0, direction=OBLIQUE):
    spacing, origin, turn = np.array(SPACING), np.array(ORIGIN), direction
    if kind == "direction":
        turn = Rotation.from_rotvec([0, 0, 1e-3 * factor]).as_matrix() @ direction
    elif kind:
        axis = "xyz".index(kind[-1])
        if kind.startswith("origin"):
            origin = origin + direction[:, axis] * spacing[axis] * 0.1 * factor
        else:
            spacing[axis] *= 1 + 1e-3 * factor
    affine = make_affine(turn, spacing, origin)
    return write_nifti(path, make_header(sform=affine, qform=affine, codes=(1, 1), spacing=spacing))


@pytest.mark.parametrize("factor", BELOW)
@pytest.mark.parametrize("kind", KINDS)
def test_a_difference_below_the_tolerance_is_none(tmp_path, kind, factor):
    first, second = write(tmp_path / "a_0000.nii.gz"), write(tmp_path / "a_0001.nii.gz", kind, factor)
    assert check_same_grid(read_header(first), read_header(second)) == []
    assert read_channels([first, second]).array.shape == (2, 5, 4, 3)


@pytest.mark.parametrize("factor", ABOVE)
@pytest.mark.parametrize("kind", KINDS)
def test_a_difference_above_the_tolerance_is_named(tmp_path, kind, factor):
    first, second = write(tmp_path / "a_0000.nii.gz"), write(tmp_path / "a_0001.nii.gz", kind, factor)
    (problem,) = check_same_grid(read_header(first), read_header(second))
    assert problem.startswith(kind.split()[0])
    with pytest.raises(DataError, match="do not share one grid") as error:
        read_channels([first, second])
    assert error.value.details == (f"'a_0001.nii.gz': {problem}",)


def test_a_repaired_direction_equals_the_sound_one(tmp_path):
    lean = np.array([[1, 4e-4, 0], [0, 1, 0], [0, 0, 1]])
    paths = [write(tmp_path / "a_0000.nii.gz"), write(tmp_path / "a_0001.nii.gz", direction=OBLIQUE @ lean)]
    volume = read_channels(paths)
    assert len(volume.grid.notes) == 1 and volume.grid.notes[0].startswith("'a_0001.nii.gz': sform is off orthonormal")


@pytest.mark.parametrize("change", ["moved 100 mm", "flipped left-right"])
def test_a_gross_mismatch_is_named(tmp_path, change):
    first = write(tmp_path / "a.nii.gz")
    affine = make_affine(OBLIQUE, SPACING, ORIGIN)
    if change == "moved 100 mm":
        affine[0, 3] += 100
    else:
        affine[0] *= -1
    second = write_nifti(tmp_path / "b.nii.gz", make_header(sform=affine, codes=(1, 0), spacing=SPACING))
    assert check_same_grid(read_header(first), read_header(second))

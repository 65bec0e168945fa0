"""Which of a NIfTI file's two forms counts, in ITK's own numbers; noise is repaired, shear is refused."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from scipy.spatial.transform import Rotation

from stu_pipeline.datasets.reading import read_header, read_image
from stu_pipeline.errors import DataError
from tests.image_files import grid_of, list_orientations, make_affine, make_header, read_itk_grid, write_nifti

SPACING = (0.7, 0.8, 3.1)
ORIGIN = (-101.3, 7.77, 1234.5)
TURN = Rotation.from_euler("xyz", (0.3, -0.5, 0.9)).as_matrix()
OTHER = Rotation.from_euler("xyz", (1.3, 0.5, -0.9)).as_matrix()


def shear(amount, direction=None):
    """A direction whose second axis leans on the first by `amount` rad."""
    base = np.eye(3) if direction is None else direction
    return base @ np.array([[1.0, np.sin(amount), 0.0], [0.0, np.cos(amount), 0.0], [0.0, 0.0, 1.0]])


def write(path, sform=None, qform=None, codes=(0, 0), **options):
    forms = [None if form is None else make_affine(form, SPACING, ORIGIN) for form in (sform, qform)]
    return write_nifti(path, make_header(sform=forms[0], qform=forms[1], codes=codes, spacing=SPACING, **options))


@pytest.mark.parametrize("codes", [(1, 0), (2, 0), (4, 0), (0, 1), (0, 2), (1, 1)])
def test_all_48_orientations_are_simpleitks_to_the_last_bit(tmp_path, codes):
    for turn in (np.eye(3), TURN):
        for orientation in list_orientations():
            direction = orientation @ turn
            path = write(tmp_path / "a.nii", direction, direction, codes)
            assert grid_of(read_header(path)) == read_itk_grid(path)


@pytest.mark.parametrize(("codes", "used"), [((1, 1), TURN), ((1, 2), TURN), ((2, 1), OTHER), ((4, 1), OTHER)])
def test_of_two_forms_the_one_itk_prefers_counts_and_the_conflict_is_noted(tmp_path, codes, used):
    path = write(tmp_path / "a.nii", TURN, OTHER, codes)
    grid = read_header(path)
    assert grid_of(grid) == read_itk_grid(path)
    assert np.array(grid.direction).reshape(3, 3) == pytest.approx(np.diag((-1, -1, 1)) @ used, abs=1e-6)
    assert (
        "sform and qform differ" in grid.notes[0]
        and f"the {'sform' if used is TURN else 'qform'} is used" in (grid.notes[0])
    )


def test_a_file_without_a_form_lies_at_the_origin_as_in_itk(tmp_path):
    path = write(tmp_path / "a.nii")
    grid = read_header(path)
    assert grid_of(grid) == read_itk_grid(path) and grid.origin == (0, 0, 0)
    assert "no position in the header" in grid.notes[0]


@pytest.mark.parametrize("units", [0, 1, 2, 3, 8 + 2])
def test_units_scale_the_spacing_as_in_itk(tmp_path, units):
    spacing = {1: 1e-3, 3: 1e3}.get(units, 1.0) * np.array(SPACING)
    header = make_header(sform=make_affine(np.eye(3), spacing), codes=(1, 0), spacing=spacing)
    header["xyzt_units"] = units
    path = write_nifti(tmp_path / "a.nii", header)
    assert grid_of(read_header(path)) == read_itk_grid(path)


def test_flat_files_are_simpleitks(tmp_path):
    direction = np.diag((1.0, -1.0, 1.0))
    path = write(tmp_path / "a.nii", direction, codes=(1, 0), shape=(3, 4))
    spacing, origin, cosines = read_itk_grid(path)
    grid = read_header(path)
    assert grid.spacing_mm[1:] == spacing and grid.origin[:2] == origin and grid.origin[2] == 0
    assert grid.direction == (cosines[0], cosines[1], 0, cosines[2], cosines[3], 0, 0, 0, 1)


@pytest.mark.parametrize("amount", [1e-7, 1e-6, 5e-6])
def test_rounding_is_no_noise(tmp_path, amount):
    path = write(tmp_path / "a.nii", shear(amount, TURN), codes=(1, 0))
    grid = read_header(path)
    assert grid.notes == () and grid_of(grid) == read_itk_grid(path)


@pytest.mark.parametrize("amount", [2.1e-5, 1e-4, 3e-4, 9e-4])
@pytest.mark.parametrize("reflect", [1.0, -1.0])
def test_noise_is_repaired_and_said(tmp_path, amount, reflect):
    direction = shear(amount, TURN * np.array([1.0, 1.0, reflect]))
    grid = read_image(write(tmp_path / "a.nii.gz", direction, codes=(2, 0))).grid
    matrix = np.array(grid.direction).reshape(3, 3)
    assert np.abs(matrix.T @ matrix - np.eye(3)).max() < 1e-12 and np.linalg.det(matrix) == pytest.approx(reflect)
    assert np.abs(matrix - np.diag((-1, -1, 1)) @ direction).max() < amount
    (note,) = grid.notes
    assert note.startswith("sform is off orthonormal by ") and note.endswith(", repaired")
    assert float(note.split()[5].rstrip(",")) == pytest.approx(amount, rel=0.06)


@pytest.mark.parametrize("amount", [1.1e-3, 5e-3, 0.05, 0.3])
@pytest.mark.parametrize("codes", [(1, 0), (2, 0), (1, 1)])
def test_shear_is_refused_with_both_forms(tmp_path, amount, codes):
    path = write(tmp_path / "a.nii.gz", shear(amount), np.eye(3), codes)
    with pytest.raises(DataError, match="not at right angles") as error:
        read_image(path)
    sform, qform = error.value.details
    assert sform.startswith(f"sform (code {codes[0]}): [0.7 ") and error.value.hint
    assert qform.startswith(f"qform (code {codes[1]}): " + ("[0.7 0 0" if codes[1] else "not set"))


def test_a_noisy_sform_gives_way_to_the_qform_as_in_itk(tmp_path):
    path = write(tmp_path / "a.nii", shear(4e-4), np.eye(3), (1, 1))
    grid = read_header(path)
    assert grid_of(grid) == read_itk_grid(path) and "the qform is used" in grid.notes[0]


def test_a_sheared_template_sform_does_not_count_beside_a_qform(tmp_path):
    path = write(tmp_path / "a.nii", shear(0.2), TURN, (4, 1))
    grid = read_header(path)
    assert grid_of(grid) == read_itk_grid(path) and "the qform is used" in grid.notes[0]


@pytest.mark.parametrize("codes", [(1, 0), (1, 1), (4, 1)])
@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ((0, 0), np.nan, "sform is not finite"),
        ((2, 3), np.inf, "sform is not finite"),
        ((slice(None), 1), 0.0, "sform is singular"),
    ],
)
def test_a_broken_sform_is_refused(tmp_path, codes, entry, value, message):
    sform = make_affine(np.eye(3))
    sform[:3][entry] = value
    path = write_nifti(tmp_path / "a.nii", make_header(sform=sform, qform=make_affine(np.eye(3)), codes=codes))
    with pytest.raises(DataError, match=message):
        read_header(path)


def test_a_broken_quaternion_is_refused_where_it_counts(tmp_path):
    for value in (np.nan, 5.0):
        header = make_header(qform=make_affine(np.eye(3)), codes=(0, 1))
        header["quatern_b"] = value
        with pytest.raises(DataError, match="qform is not finite"):
            read_header(write_nifti(tmp_path / "a.nii", header))


def test_an_sform_of_other_voxel_sizes_is_noted_and_pixdim_counts(tmp_path):
    header = make_header(sform=make_affine(np.eye(3), (1, 1, 2.5)), codes=(1, 0))
    grid = read_header(write_nifti(tmp_path / "a.nii", header))
    assert grid.spacing_mm == (1, 1, 1)
    assert grid.notes == ("voxel sizes 1, 1, 2.5 of the sform differ from pixdim 1, 1, 1 (x, y, z), pixdim is used",)


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf, 1e30, 1e-30])
def test_a_voxel_size_that_is_none_is_refused(tmp_path, value):
    header = make_header(sform=make_affine(np.eye(3)), codes=(1, 0))
    header["pixdim"][2] = value
    with pytest.raises(DataError, match=r"voxel sizes|spacing"):
        read_header(write_nifti(tmp_path / "a.nii", header))


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_along_one_voxel_a_missing_voxel_size_is_one_as_in_itk(tmp_path, value):
    header = make_header((3, 4, 1), sform=make_affine(np.eye(3)), codes=(1, 0))
    header["pixdim"][3] = value
    path = write_nifti(tmp_path / "a.nii", header)
    grid = read_header(path)
    assert grid.spacing_mm == (1, 1, 1) and grid_of(grid) == read_itk_grid(path)
    assert "along z, which has one voxel" in grid.notes[0]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.uint32, np.int64, np.float32, np.float64])
@pytest.mark.parametrize(("slope", "intercept"), [(2.5, -7.3), (1, 5), (0, 5), (1e-12, 3), (np.nan, 4), (1, 0)])
def test_scaled_voxels_are_simpleitks(tmp_path, dtype, slope, intercept):
    array = np.random.default_rng(0).integers(0, 100, (3, 4, 5)).astype(dtype)
    array[0, 0, 0] = 123 if dtype == np.uint8 else 32_000 if dtype == np.int16 else 123_456_789
    header = make_header(dtype=dtype, sform=make_affine(np.eye(3)), codes=(1, 0))
    header["scl_slope"], header["scl_inter"] = slope, intercept
    path = write_nifti(tmp_path / "a.nii", header, array)
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(path))).astype(np.float32)
    assert np.array_equal(read_image(path).array[0], expected)

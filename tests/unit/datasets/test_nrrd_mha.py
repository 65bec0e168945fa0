"""NRRD and MetaImage files mean what SimpleITK says they mean, or are refused with the remedy."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from scipy.spatial.transform import Rotation

from stu_pipeline.datasets.reading import read_header, read_image
from stu_pipeline.errors import DataError
from tests.image_files import grid_of, list_orientations, read_itk_grid, write_mha, write_nrrd

DATA = bytes(range(24))
TURN = Rotation.from_euler("xyz", (0.3, -0.5, 0.9)).as_matrix()
NRRD = ("type: uchar", "dimension: 3", "sizes: 2 3 4", "encoding: raw")
MHA = ("NDims = 3", "DimSize = 2 3 4", "ElementType = MET_UCHAR", "BinaryData = True")
LPS = "space: left-posterior-superior"
FLAT_NRRD = ("type: uchar", "dimension: 2", "sizes: 6 4", "encoding: raw")
FLAT_MHA = ("NDims = 2", "DimSize = 6 4", "ElementType = MET_UCHAR", "BinaryData = True")


def show(vector):
    return "(" + ",".join(repr(float(value)) for value in vector) + ")"


def directions(matrix, spacing=(1.0, 1.0, 1.0)):
    return "space directions: " + " ".join(show(matrix[:, axis] * spacing[axis]) for axis in range(3))


def transform(matrix):
    return "TransformMatrix = " + " ".join(repr(float(value)) for value in matrix.T.ravel())


def require_same(path, num_axes=3):
    """The grid and the voxels are SimpleITK's; a flat image is compared in its two dimensions."""
    volume, image = read_image(path), sitk.ReadImage(str(path))
    spacing, origin, cosines = read_itk_grid(path)
    if num_axes == 3:
        assert grid_of(volume.grid) == (spacing, origin, cosines)
    else:
        assert volume.spacing_mm[1:] == spacing and volume.origin == (*origin, 0)
        assert volume.direction == (cosines[0], cosines[1], 0, cosines[2], cosines[3], 0, 0, 0, 1)
    assert np.array_equal(volume.array.ravel(), sitk.GetArrayFromImage(image).ravel())
    assert read_header(path) == volume.grid


@pytest.mark.parametrize("turn", [np.eye(3), TURN])
def test_nrrd_grids_are_simpleitks_in_all_48_orientations(tmp_path, turn):
    for orientation in list_orientations():
        lines = (*NRRD, LPS, directions(orientation @ turn, (0.7, 0.8, 3.1)), "space origin: (5,6.1,-7)")
        require_same(write_nrrd(tmp_path / "a.nrrd", lines, DATA))


@pytest.mark.parametrize("turn", [np.eye(3), TURN])
def test_mha_grids_are_simpleitks_in_all_48_orientations(tmp_path, turn):
    for orientation in list_orientations():
        lines = (*MHA, "ElementSpacing = 0.7 0.8 3.1", transform(orientation @ turn), "Offset = 5 6.1 -7")
        require_same(write_mha(tmp_path / "a.mha", lines, DATA))


@pytest.mark.parametrize(
    "lines",
    [
        (),
        ("spacings: 1 2 3",),
        ("spacings: 1 2 nan",),
        (LPS, "space origin: (5,6,7)"),
        *[
            (f"space: {name}", "space directions: (0,2,0) (1,0,0) (0,0,3)", "space origin: (5,6,7)")
            for name in ("right-anterior-superior", "RAS", "left-anterior-superior", "LAS", "LPS", "scanner-xyz")
        ],
        ("space dimension: 3", "space directions: (0,2,0) (1,0,0) (0,0,3)"),
        (LPS, directions(np.eye(3)), 'space units: "mm" "mm" "mm"', "kinds: domain domain domain", "key:=a: b"),
    ],
)
def test_nrrd_fields_mean_what_they_mean_to_simpleitk(tmp_path, lines):
    require_same(write_nrrd(tmp_path / "a.nrrd", (*NRRD, *lines), DATA))


@pytest.mark.parametrize(
    "lines",
    [
        (),
        ("ElementSize = 1 2 3", "Orientation = 0 1 0 0 0 1 1 0 0"),
        ("ElementSize = 1 2 3", "ElementSpacing = 4 5 6", "Position = 1 2 3"),
        ("Rotation = 0 1 0 1 0 0 0 0 1", "Origin = 1 2 3", "CenterOfRotation = 1 1 1", "AnatomicalOrientation = LPS"),
        ("ElementToIntensityFunctionSlope = 2",),
    ],
)
def test_mha_fields_mean_what_they_mean_to_simpleitk(tmp_path, lines):
    require_same(write_mha(tmp_path / "a.mha", (*MHA, *lines), DATA))


def test_flat_files_are_simpleitks(tmp_path):
    lines = ("space dimension: 2", "space directions: (0,1) (2,0)", "space origin: (1,2)")
    require_same(write_nrrd(tmp_path / "a.nrrd", (*FLAT_NRRD, *lines), DATA), num_axes=2)
    require_same(write_nrrd(tmp_path / "b.nrrd", (*FLAT_NRRD, "spacings: 1 2"), DATA), num_axes=2)
    require_same(write_mha(tmp_path / "a.mha", (*FLAT_MHA, "TransformMatrix = 0 1 1 0"), DATA), num_axes=2)


@pytest.mark.parametrize("dtype", [f"{kind}{size}" for kind in ("int", "uint") for size in (8, 16, 32, 64)]
                         + ["float32", "float64"])  # fmt: skip
@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
@pytest.mark.parametrize("packed", [True, False])
def test_every_type_of_number_is_read(tmp_path, dtype, ending, packed):
    array = np.random.default_rng(0).integers(0, 100, (4, 3, 2)).astype(dtype)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / f"a{ending}"), packed)
    assert np.array_equal(read_image(tmp_path / f"a{ending}").array[0], array)


def test_big_endian_numbers_are_read(tmp_path):
    lines = ("type: short", "dimension: 3", "sizes: 2 3 2", "encoding: raw", "endian: big")
    require_same(write_nrrd(tmp_path / "a.nrrd", lines, DATA))
    lines = ("NDims = 3", "DimSize = 2 3 2", "ElementType = MET_SHORT", "BinaryDataByteOrderMSB = True")
    require_same(write_mha(tmp_path / "a.mha", lines, DATA))


def test_axes_of_one_entry_are_dropped(tmp_path):
    lines = ("type: uchar", "dimension: 4", "sizes: 1 2 3 4", "encoding: raw", LPS)
    steps = "space directions: none (1,0,0) (0,1,0) (0,0,3)"
    for kind in ("list", "vector"):
        path = write_nrrd(tmp_path / "a.nrrd", (*lines, steps, f"kinds: {kind} domain domain domain"), DATA)
        assert read_image(path).spacing_mm == (3, 1, 1) and read_image(path).array.shape == (1, 4, 3, 2)
    lines = ("NDims = 4", "DimSize = 2 3 4 1", "ElementType = MET_UCHAR", "ElementSpacing = 1 2 3 4")
    assert read_image(write_mha(tmp_path / "a.mha", lines, DATA)).spacing_mm == (3, 2, 1)


@pytest.mark.parametrize("amount", [2.1e-5, 9e-4])
@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_noise_is_repaired_and_said(tmp_path, amount, ending):
    volume = read_image(write_turned(tmp_path / f"a{ending}", lean(amount)))
    matrix = np.array(volume.direction).reshape(3, 3)
    assert np.abs(matrix.T @ matrix - np.eye(3)).max() < 1e-12
    assert f"off orthonormal by {amount:.1e}, repaired" in volume.grid.notes[0]


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_rounding_is_left_alone_and_shear_is_refused(tmp_path, ending):
    path = write_turned(tmp_path / f"a{ending}", lean(5e-6))
    assert grid_of(read_header(path)) == read_itk_grid(path) and read_header(path).notes == ()
    for amount in (1.1e-3, 0.3):
        with pytest.raises(DataError, match="not at right angles") as error:
            read_header(write_turned(path, lean(amount)))
        assert error.value.details and error.value.hint


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
@pytest.mark.parametrize(("value", "message"), [(np.nan, "finite"), (0.0, "singular|spacing")])
def test_a_broken_direction_is_refused(tmp_path, ending, value, message):
    matrix = np.eye(3)
    matrix[1, 1] = value
    with pytest.raises(DataError, match=message):
        read_header(write_turned(tmp_path / f"a{ending}", matrix))


@pytest.mark.parametrize(
    ("lines", "data", "message"),
    [
        ((*NRRD[1:],), DATA, "stores voxels as ''"),
        (("type: block", *NRRD[1:]), DATA, "stores voxels as 'block'"),
        ((*NRRD[:3], "encoding: ascii"), DATA, "encoding 'ascii'"),
        ((*NRRD[:3], "encoding: bzip2"), DATA, "encoding 'bzip2'"),
        ((*NRRD, "data file: other.raw"), b"", "another file"),
        ((*NRRD, "byte skip: 2"), b"xx" + DATA, "skips bytes"),
        ((*NRRD, "spacings: 1 2 3", "axis mins: 5 6 7"), DATA, "axis mins"),
        (("type: short", *NRRD[1:]), DATA * 2, "endian"),
        ((*NRRD, "spacings: 1 2 -3"), DATA, "spacing"),
        ((*NRRD, "spacings: 1 2"), DATA, "2 spacings for 3 axes"),
        ((*NRRD, "space directions: (1,0,0) (0,1,0)"), DATA, "2 space directions for 3 axes"),
        ((*NRRD, "space directions: (1,0,0) (0,1,0) (0,x,1)"), DATA, "header that cannot be read"),
        ((*NRRD, "kinds: domain"), DATA, "1 kinds for 3 axes"),
        ((*NRRD, "kinds: 3-color domain domain"), DATA, "2 numbers per voxel"),
        (("type: uchar", "dimension: 4", "sizes: 2 3 2 2", "encoding: raw"), DATA, "4D and holds 2 volumes of 2x3x2"),
        (("type: uchar", "dimension: 3", "sizes: 2 3", "encoding: raw"), DATA, "dimension 3 with 2 sizes"),
        (("type: uchar", "dimension: 3", "sizes: 2 3 -4", "encoding: raw"), DATA, "dimensions"),
        (("type: uchar", "dimension: 3", "sizes: 8192 8192 8192", "encoding: gzip"), DATA, "limit"),
        (("type: uchar", "dimension: 3", "sizes: 1000 1000 1000", "encoding: gzip"), DATA, "cannot hold"),
        (("type: uchar", "dimension: 3", "sizes: 1000 1000 1000", "encoding: raw"), DATA, "bytes, expected 1000000"),
        (NRRD, DATA + b"x", "bytes, expected"),
        (NRRD, DATA[:-1], "bytes, expected"),
    ],
)
def test_what_nrrd_cannot_be_used_is_refused(tmp_path, lines, data, message):
    with pytest.raises(DataError, match=message) as error:
        read_image(write_nrrd(tmp_path / "a.nrrd", lines, data))
    assert error.value.hint and "'a.nrrd'" in error.value.problem


@pytest.mark.parametrize(
    ("lines", "data", "message"),
    [
        (MHA[:2], DATA, "stores voxels as ''"),
        ((*MHA[:3], "BinaryData = False"), DATA, "text"),
        ((*MHA, "HeaderSize = 100"), DATA, "skips bytes"),
        ((*MHA, "ObjectType = Tube"), DATA, "type 'Tube'"),
        ((*MHA, "ElementNumberOfChannels = 2"), DATA * 2, "2 numbers per voxel"),
        ((*MHA, "ElementSpacing = 1 2"), DATA, "2 numbers, expected 3"),
        ((*MHA, "ElementSpacing = 1 -2 3"), DATA, "spacing"),
        ((*MHA, "Offset = 1 inf 3"), DATA, "not finite"),
        ((*MHA, "TransformMatrix = 2 0 0 0 1 0 0 0 1"), DATA, "off orthonormal by 3"),
        ((*MHA, "CompressedData = True", "CompressedDataSize = 99"), DATA, "24 compressed bytes, expected 99"),
        (("NDims = 4", "DimSize = 2 3 2 2", *MHA[2:]), DATA, "4D and holds 2 volumes of 2x3x2"),
        (("NDims = 3", "DimSize = 2 3", *MHA[2:]), DATA, "NDims 3 with 2 sizes"),
        (("NDims = 3", "DimSize = 8192 8192 8192", *MHA[2:]), DATA, "limit"),
        (("NDims = 3", "DimSize = 999 999 999", *MHA[2:], "CompressedData = True"), DATA, "cannot hold"),
        (MHA, DATA + b"x", "bytes, expected"),
        (MHA, DATA[:-1], "bytes, expected"),
    ],
)
def test_what_mha_cannot_be_used_is_refused(tmp_path, lines, data, message):
    with pytest.raises(DataError, match=message) as error:
        read_image(write_mha(tmp_path / "a.mha", lines, data))
    assert error.value.hint and "'a.mha'" in error.value.problem


def lean(amount):
    return TURN @ np.array([[1.0, np.sin(amount), 0.0], [0.0, np.cos(amount), 0.0], [0.0, 0.0, 1.0]])


def write_turned(path, matrix):
    if path.suffix == ".nrrd":
        return write_nrrd(path, (*NRRD, LPS, directions(matrix)), DATA)
    return write_mha(path, (*MHA, transform(matrix)), DATA)

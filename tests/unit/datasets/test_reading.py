"""Damage, odd kinds and odd values never become voxels."""

from __future__ import annotations

import gzip
import os

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from stu_pipeline.datasets.reading import read_channels, read_header, read_image, read_label_map
from stu_pipeline.errors import DataError
from tests import synthetic


def pack_nifti(array, *, affine=None, change=None, kind=nib.Nifti1Image):
    """NIfTI bytes of an (x, y, z) array; `change` may edit the header."""
    image = kind(array, np.diag([1.0, 1.0, 2.0, 1.0]) if affine is None else affine)
    data = bytearray(image.to_bytes())
    if change:
        header = image.header.__class__(bytes(data[: image.header.sizeof_hdr]), check=False)
        change(header)
        data[: len(header.binaryblock)] = header.binaryblock
    return bytes(data)


def write_nifti(path, array, **options):
    data = pack_nifti(array, **options)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.fixture
def noise():
    return np.random.default_rng(3).integers(-1000, 2000, (9, 11, 13)).astype(np.int16)


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_an_image_reads_as_simpleitk_reads_it(tmp_path, noise, ending):
    direction = (0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0)
    path = synthetic.write_volume(
        tmp_path / f"a{ending}", noise, spacing_mm=(3, 0.5, 0.7), origin=(1, -2, 3), direction=direction
    )
    volume = read_image(path)
    assert volume.array.shape == (1, 9, 11, 13) and volume.array.dtype == np.float32
    assert np.array_equal(volume.array[0], noise)
    assert volume.spacing_mm == pytest.approx((3, 0.5, 0.7)) and volume.origin == pytest.approx((1, -2, 3))
    assert volume.direction == pytest.approx(direction) and volume.path == path
    assert read_header(path) == volume.grid


def test_slope_and_intercept_are_applied_as_simpleitk_applies_them(tmp_path, noise):
    def scale(header):
        header["scl_slope"], header["scl_inter"] = 0.3, -7.7

    path = write_nifti(tmp_path / "a.nii.gz", noise, change=scale)
    assert np.array_equal(read_image(path).array[0], sitk.GetArrayFromImage(sitk.ReadImage(str(path))))


@pytest.mark.parametrize("slope", [0.0, np.nan])
def test_a_slope_that_is_not_set_is_ignored(tmp_path, noise, slope):
    path = write_nifti(tmp_path / "a.nii.gz", noise, change=lambda header: header.__setitem__("scl_slope", slope))
    assert np.array_equal(read_image(path).array[0], noise.T)


def test_big_endian_files_are_read(tmp_path, noise):
    big = nib.Nifti1Image(noise.astype(">i2"), np.eye(4), nib.Nifti1Header(endianness=">"))
    (tmp_path / "big.nii").write_bytes(big.to_bytes())
    assert np.array_equal(read_image(tmp_path / "big.nii").array[0], noise.T)


def test_nifti2_is_refused_with_a_remedy(tmp_path, noise):
    with pytest.raises(DataError, match="NIfTI-2") as error:
        read_image(write_nifti(tmp_path / "two.nii.gz", noise, kind=nib.Nifti2Image))
    assert error.value.hint == "save it as NIfTI-1"


def test_a_gzip_of_two_members_is_read_whole(tmp_path, noise):
    data = pack_nifti(noise)
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(data[:700]) + gzip.compress(data[700:]))
    assert np.array_equal(read_image(tmp_path / "a.nii.gz").array[0], noise.T)


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_every_cut_file_is_refused_by_name(tmp_path, noise, ending, capfd):
    whole = synthetic.write_volume(tmp_path / f"whole{ending}", noise).read_bytes()
    path = tmp_path / f"cut{ending}"
    for length in np.unique(np.linspace(0, len(whole) - 1, 25).astype(int)):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=f"'cut{ending}'"):
            read_image(path)
    capfd.readouterr()  # the format libraries talk


@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_a_cut_picture_is_refused_unless_all_pixels_are_there(tmp_path, noise, ending):
    path = synthetic.write_volume(tmp_path / f"a{ending}", noise if ending == ".tif" else noise[0])
    whole, array = path.read_bytes(), read_image(path).array
    num_refused = 0
    for length in np.linspace(0, len(whole) - 1, 40).astype(int):
        path.write_bytes(whole[:length])
        try:
            assert np.array_equal(read_image(path).array, array)
        except DataError:
            num_refused += 1
    assert num_refused >= 35


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_a_flipped_bit_in_compressed_voxels_is_never_a_wrong_voxel(tmp_path, noise, ending, capfd):
    whole = synthetic.write_volume(tmp_path / f"whole{ending}", noise).read_bytes()
    path = tmp_path / f"flipped{ending}"
    generator = np.random.default_rng(1)
    num_refused = 0
    for _ in range(60):
        data = bytearray(whole)
        data[generator.integers(len(data) // 3, len(data))] ^= 1 << generator.integers(0, 8)
        path.write_bytes(bytes(data))
        try:
            array = read_image(path).array[0]
        except DataError:
            num_refused += 1
        else:
            assert np.array_equal(array, noise)
    assert num_refused >= 55
    capfd.readouterr()


def test_damage_is_located(tmp_path, noise):
    data = gzip.compress(pack_nifti(noise))
    (tmp_path / "cut.nii.gz").write_bytes(data[:900])
    with pytest.raises(DataError, match="cut short: its gzip stream has no end after 900 bytes"):
        read_image(tmp_path / "cut.nii.gz")
    (tmp_path / "short.nii.gz").write_bytes(gzip.compress(pack_nifti(noise)[:-5]))
    with pytest.raises(DataError, match="ends after 2921 of 2926 bytes"):
        read_image(tmp_path / "short.nii.gz")
    (tmp_path / "long.nii.gz").write_bytes(gzip.compress(pack_nifti(noise) + b"x"))
    with pytest.raises(DataError, match="more than the 2926 bytes"):
        read_image(tmp_path / "long.nii.gz")
    (tmp_path / "trailing.nii.gz").write_bytes(data + b"junk")
    with pytest.raises(DataError, match="bytes after its gzip stream"):
        read_image(tmp_path / "trailing.nii.gz")


def test_a_wrong_ending_names_the_right_one(tmp_path, noise):
    (tmp_path / "plain.nii.gz").write_bytes(pack_nifti(noise))
    with pytest.raises(DataError, match="not gzip-compressed") as plain:
        read_image(tmp_path / "plain.nii.gz")
    assert ".nii;" in plain.value.hint
    (tmp_path / "packed.nii").write_bytes(gzip.compress(pack_nifti(noise)))
    with pytest.raises(DataError, match="is gzip-compressed") as packed:
        read_image(tmp_path / "packed.nii")
    assert ".nii.gz;" in packed.value.hint


@pytest.mark.parametrize("content", [b"", b"<html>", b"\x1f\x8b", gzip.compress(b"<html>" * 99)])
def test_what_is_no_image_is_refused(tmp_path, content):
    (tmp_path / "a.nii.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"'a\.nii\.gz'"):
        read_image(tmp_path / "a.nii.gz")


def test_missing_unknown_and_irregular_files_are_refused(tmp_path):
    with pytest.raises(DataError, match="not found"):
        read_image(tmp_path / "a.nii.gz")
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(DataError, match="not an image file"):
        read_image(tmp_path / "a.txt")
    os.mkfifo(tmp_path / "pipe.nii.gz")
    with pytest.raises(DataError, match="not a regular file"):
        read_image(tmp_path / "pipe.nii.gz")


def test_4d_rgb_and_complex_are_refused_with_a_remedy(tmp_path):
    four = write_nifti(tmp_path / "four.nii.gz", np.zeros((4, 5, 6, 2), np.float32))
    with pytest.raises(DataError, match="4D and holds 2 volumes of 4x5x6") as error:
        read_image(four)
    assert "_0000" in error.value.hint
    colour = np.zeros((4, 5, 6), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    with pytest.raises(DataError, match="RGB"):
        read_image(write_nifti(tmp_path / "colour.nii.gz", colour))
    with pytest.raises(DataError, match="complex"):
        read_image(write_nifti(tmp_path / "complex.nii.gz", np.zeros((4, 5, 6), np.complex64)))
    vector = sitk.GetImageFromArray(np.zeros((4, 5, 6, 3), np.float32), isVector=True)
    sitk.WriteImage(vector, str(tmp_path / "vector.nrrd"))
    with pytest.raises(DataError, match="3 numbers per voxel"):
        read_image(tmp_path / "vector.nrrd")
    with pytest.raises(DataError, match="4D"):
        read_header(four)


def test_a_fourth_dimension_of_one_is_no_fourth_dimension(tmp_path, noise):
    path = write_nifti(tmp_path / "a.nii.gz", noise[..., None])
    assert read_image(path).array.shape == (1, 13, 11, 9)


@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 6, 1), (1, 6, 7), (7, 6)])
def test_thin_and_flat_images_are_read(tmp_path, shape):
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    volume = read_image(write_nifti(tmp_path / "a.nii.gz", array))
    assert volume.array.shape == (1, *([1] * (3 - len(shape))), *shape[::-1])
    assert np.array_equal(volume.array.ravel(), array.T.ravel())
    if len(shape) == 2:
        assert volume.grid.num_dimensions == 2 and volume.spacing_mm == (999, 1, 1)


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_voxels_are_counted_and_located(tmp_path, ending, value):
    array = np.zeros((4, 5, 6), np.float32)
    array[1, 2, 3] = array[3, 0, 0] = value
    path = synthetic.write_volume(tmp_path / f"a{ending}", array)
    with pytest.raises(DataError, match=r"2 voxels that are NaN or infinite, first at \(z, y, x\) = \(1, 2, 3\)"):
        read_image(path)


def test_a_scale_that_overflows_is_not_background(tmp_path, noise):
    path = write_nifti(tmp_path / "a.nii.gz", noise, change=lambda header: header.__setitem__("scl_slope", 1e38))
    with pytest.raises(DataError, match="NaN or infinite"):
        read_image(path)
    huge = synthetic.write_volume(tmp_path / "b.nii.gz", np.full((3, 3, 3), 1e300))
    with pytest.raises(DataError, match="27 voxels"):
        read_image(huge)


def test_voxels_that_no_scanner_makes_are_refused(tmp_path):
    # A z-score would turn the whole image into zeros: the variance overflows.
    array = np.ones((3, 4, 5), np.float32)
    array[1, 2, 3] = -1e30
    with pytest.raises(DataError, match=r"has 1 voxels beyond 1e\+12, first at \(z, y, x\) = \(1, 2, 3\): -1e\+30"):
        read_image(synthetic.write_volume(tmp_path / "a.nii.gz", array))
    array[1, 2, 3] = 1e12
    assert read_image(synthetic.write_volume(tmp_path / "b.nii.gz", array)).array.max() == np.float32(1e12)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("dim", [3, 8192, 8192, 8192, 1, 1, 1, 1], "limit"),
        ("dim", [3, 1000, 1000, 1000, 1, 1, 1, 1], "cannot hold"),
        ("dim", [3, -4, 4, 4, 1, 1, 1, 1], "dimensions"),
        ("dim", [9, 4, 4, 4, 1, 1, 1, 1], "dimensions|bits"),
        ("bitpix", 64, "bits per voxel"),
        ("vox_offset", 1e9, "cannot hold"),
        ("vox_offset", np.nan, "start at byte"),
        ("pixdim", [1, 0, 1, 1, 0, 0, 0, 0], "voxel sizes"),
        ("pixdim", [1, 1, np.nan, 1, 0, 0, 0, 0], "voxel sizes"),
        ("magic", b"abc", "magic"),
    ],
)
def test_a_lying_header_is_refused_before_memory_is_taken(tmp_path, noise, field, value, message):
    path = write_nifti(tmp_path / "a.nii.gz", noise, change=lambda header: header.__setitem__(field, value))
    with pytest.raises(DataError, match=message):
        read_image(path)


def test_random_headers_end_in_an_image_or_a_data_error(tmp_path, capfd):
    data = pack_nifti(np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    generator = np.random.default_rng(5)
    path = tmp_path / "a.nii"
    num_read = 0
    for _ in range(400):
        mutant = bytearray(data)
        for _ in range(generator.integers(1, 5)):
            mutant[generator.integers(0, 352)] = generator.integers(0, 256)
        path.write_bytes(bytes(mutant))
        try:
            num_read += np.isfinite(read_image(path).array).all()
        except DataError as error:
            assert "'a.nii'" in error.problem
    assert 100 < num_read < 400
    capfd.readouterr()


@pytest.mark.parametrize("spacing", [1e-3, 60.0, 1e30])
def test_an_impossible_spacing_is_refused(tmp_path, noise, spacing):
    path = write_nifti(tmp_path / "a.nii.gz", noise, affine=np.diag([1, spacing, 1, 1]))
    with pytest.raises(DataError, match="spacing"):
        read_image(path)


def test_sheared_axes_are_refused_with_a_remedy(tmp_path, noise, capfd):
    affine = np.eye(4)
    affine[0, 1] = 0.3
    image = nib.Nifti1Image(noise, affine)
    image.set_qform(None, 0)
    nib.save(image, tmp_path / "a.nii.gz")
    with pytest.raises(DataError, match="right angles") as error:
        read_image(tmp_path / "a.nii.gz")
    assert error.value.hint
    capfd.readouterr()


def test_label_maps_are_small_integers(tmp_path):
    labels = np.zeros((4, 5, 6), np.int64)
    labels[0, 0, 0] = 255
    volume = read_label_map(synthetic.write_volume(tmp_path / "a.nii.gz", labels))
    assert volume.array.dtype == np.uint8 and np.array_equal(volume.array, labels)
    for value in (256, 300, 65535):
        labels[0, 0, 0] = value
        volume = read_label_map(synthetic.write_volume(tmp_path / "b.nii.gz", labels))
        assert volume.array.dtype == np.uint16 and volume.array[0, 0, 0] == value


def test_nearly_whole_float_labels_are_rounded(tmp_path):
    labels = np.zeros((4, 5, 6))
    labels[1] = 1.0000001
    labels[2] = 1.9995
    volume = read_label_map(synthetic.write_volume(tmp_path / "a.nii.gz", labels))
    assert [int(part.max()) for part in volume.array] == [0, 1, 2, 0]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (1.5, r"1 voxels whose label is not a whole number, first 1.5 at \(z, y, x\) = \(2, 3, 4\)"),
        (-1.0, "outside 0 to 65535, first -1"),
        (65536.0, "outside 0 to 65535, first 65536"),
        (1e20, "outside"),
        (np.nan, r"1 voxels that are NaN or infinite, first at \(z, y, x\) = \(2, 3, 4\): nan"),
        (np.inf, r"first at \(z, y, x\) = \(2, 3, 4\): inf"),
    ],
)
def test_what_is_no_label_is_refused_with_value_and_place(tmp_path, value, message):
    labels = np.zeros((4, 5, 6))
    labels[2, 3, 4] = value
    with pytest.raises(DataError, match=message):
        read_label_map(synthetic.write_volume(tmp_path / "a.nii.gz", labels))


def test_pictures_have_the_shape_and_spacing_nnunet_gives_them(tmp_path):
    import imageio.v3

    grey = np.arange(30, dtype=np.uint8).reshape(5, 6)
    volume = read_image(synthetic.write_volume(tmp_path / "grey.png", grey))
    assert volume.array.shape == (1, 1, 5, 6) and volume.spacing_mm == (999, 1, 1)
    assert volume.grid.num_dimensions == 2 and np.array_equal(volume.array[0, 0], grey)
    imageio.v3.imwrite(tmp_path / "colour.png", np.stack([grey, grey + 1, grey + 2], axis=-1))
    assert np.array_equal(read_image(tmp_path / "colour.png").array[2, 0], grey + 2)
    with pytest.raises(DataError, match="3 channels"):
        read_label_map(tmp_path / "colour.png")


def test_a_tiff_stack_takes_its_spacing_from_the_json_beside_it(tmp_path):
    stack = np.arange(120, dtype=np.uint16).reshape(4, 5, 6)
    path = synthetic.write_volume(tmp_path / "case_0000.tif", stack)
    assert read_image(path).spacing_mm == (1, 1, 1)
    (tmp_path / "case.json").write_text('{"spacing": [4, 0.5, 0.5]}')
    volume = read_image(path)
    assert volume.spacing_mm == (4, 0.5, 0.5) and np.array_equal(volume.array[0], stack)
    (tmp_path / "case.json").write_text('{"spacing": [4, 0]}')
    with pytest.raises(DataError, match="no valid spacing"):
        read_image(path)


def test_channels_are_stacked_when_they_share_a_grid(tmp_path, noise):
    paths = [synthetic.write_volume(tmp_path / f"a_{i:04d}.nii.gz", noise + i, spacing_mm=(2, 1, 1)) for i in range(3)]
    volume = read_channels(paths)
    assert volume.array.shape == (3, 9, 11, 13) and np.array_equal(volume.array[2], noise + 2)
    synthetic.write_volume(paths[1], noise, spacing_mm=(2, 1, 1.1))
    synthetic.write_volume(paths[2], noise[1:], spacing_mm=(2, 1, 1))
    with pytest.raises(DataError, match="do not share one grid") as error:
        read_channels(paths)
    assert len(error.value.details) == 2 and "'a_0002.nii.gz': shape 8x11x13" in error.value.details[1]

"""DICOM series become the volume SimpleITK makes of them, or one clear line."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from stu_pipeline.datasets.cases import list_input_cases
from stu_pipeline.datasets.formats.dicom import read_series
from stu_pipeline.datasets.formats.dicom_order import order_slices
from stu_pipeline.datasets.formats.dicom_slices import SliceRequest, read_slices
from stu_pipeline.datasets.reading import read_channels, read_header, read_image
from stu_pipeline.errors import DataError, MemoryLimitError
from tests.image_files import grid_of

pytest.importorskip("pydicom", reason="DICOM files are made with pydicom (extra `dicom`)")

from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, RLELossless, generate_uid

from tests.dicom_files import make_slices, turn, write_slices


@pytest.fixture
def stored():
    return np.random.default_rng(5).integers(-200, 2000, (6, 9, 7)).astype(np.int16)


def read_here(folder):
    """Read the grid in this process: what the child does and the parent decides, without the time to start it."""
    files = tuple(sorted(folder.iterdir()))
    return order_slices(read_slices(SliceRequest(files)), folder)


def read_with_simpleitk(folder):
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    return reader.Execute()


@pytest.mark.parametrize("axes", [None, turn(), turn(-75.0, 160.0)])
def test_a_series_reads_as_simpleitk_reads_it(tmp_path, stored, axes):
    write_slices(tmp_path / "s", make_slices(stored, **({"axes": axes} if axes else {})))
    volume, image = read_image(tmp_path / "s"), read_with_simpleitk(tmp_path / "s")
    assert np.array_equal(volume.array[0], stored.astype(np.float32) - 1024)
    assert np.array_equal(volume.array[0], sitk.GetArrayFromImage(image))
    spacing, origin, direction = image.GetSpacing(), image.GetOrigin(), image.GetDirection()
    assert volume.spacing_mm == pytest.approx(spacing[::-1], rel=1e-6)
    assert volume.origin == pytest.approx(origin) and volume.direction == pytest.approx(direction, abs=1e-6)
    assert volume.spacing_mm == pytest.approx((2.0, 0.7, 0.5), rel=1e-6)  # not the thickness of 5 mm
    assert read_header(tmp_path / "s") == volume.grid


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless])
def test_every_way_to_store_the_voxels_gives_the_same(tmp_path, stored, syntax):
    stored = np.repeat(stored, 4, axis=2)  # GDCM refuses RLE streams of noise
    slices = make_slices(stored, syntax=None if syntax == RLELossless else syntax)
    for ds in slices:
        if syntax == RLELossless:
            ds.compress(syntax)
        elif syntax == ExplicitVRBigEndian:
            ds.PixelData = np.frombuffer(ds.PixelData, "<i2").astype(">i2").tobytes()
    files = write_slices(tmp_path / "s", slices)
    assert np.array_equal(read_slices(SliceRequest(tuple(files), with_voxels=True)), stored.astype(np.float32) - 1024)


def test_every_slice_keeps_its_own_slope(tmp_path, stored):
    slices = make_slices(stored, modality="MR")
    for index, ds in enumerate(slices):
        ds.RescaleSlope, ds.RescaleIntercept = 0.25 * (index + 1), index
    files = tuple(write_slices(tmp_path / "s", slices))
    expected = [plane * 0.25 * (index + 1) + index for index, plane in enumerate(stored)]
    assert np.array_equal(read_slices(SliceRequest(files, with_voxels=True)), np.array(expected, dtype=np.float32))


def test_a_series_without_uids_is_one_series(tmp_path, stored):
    write_slices(tmp_path, make_slices(stored, SeriesInstanceUID="", StudyInstanceUID=""))
    assert read_here(tmp_path)[1].shape == stored.shape


def change_one(name, value):
    return lambda slices: setattr(slices[2], name, value)


def change_all(name, value):
    return lambda slices: [setattr(ds, name, value(index)) for index, ds in enumerate(slices)]


def shift(index, axis, distance):
    def change(slices):
        position = list(slices[index].ImagePositionPatient)
        position[axis] = float(position[axis]) + distance
        slices[index].ImagePositionPatient = position

    return change


def tilt(slices):
    for index, ds in enumerate(slices):
        shift(0, 1, 0.5 * index)([ds])


def make_4d(slices):
    for index, ds in enumerate(slices):
        ds.ImagePositionPatient = [0, 0, 2 * (index % 3)]
        ds.EchoTime = [2.3, 4.6][index // 3]


def make_colour(slices):
    ds = slices[2]
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.PixelData = bytes(ds.Rows * ds.Columns * 3 + 1)


def make_larger(slices):
    slices[2].Rows = 12
    slices[2].PixelData = bytes(12 * 7 * 2)


REFUSED = {
    "gap": (lambda slices: slices.pop(2), "are 4 mm apart, the others 2 mm, 1 missing"),
    "uneven": (shift(2, 2, 0.5), "mm apart, the others 2 mm"),
    "double": (shift(2, 2, 2.0), "lie at the same place"),
    "tilt": (tilt, "tilted by 14 degrees"),
    "shifted": (shift(2, 0, 3.0), "shifted by 3 mm"),
    "orientation": (change_one("ImageOrientationPatient", [0, 1, 0, 0, 0, -1]), "another orientation"),
    "spacing": (change_one("PixelSpacing", [0.8, 0.5]), "has spacing 0.8x0.5 mm"),
    "size": (make_larger, "has 12x7 voxels"),
    "colour": (make_colour, "stored as RGB with 3 numbers per voxel"),
    "inverted": (change_one("PhotometricInterpretation", "MONOCHROME1"), "stored as MONOCHROME1"),
    "frames": (change_one("NumberOfFrames", 2), "holds 2 frames"),
    "4d": (make_4d, r"2 images of each of 3 places, which differ in echo time \(2.3, 4.6\)"),
    "no slope": (lambda slices: [delattr(ds, "RescaleSlope") for ds in slices], "no Hounsfield units"),
    "one slope": (lambda slices: delattr(slices[2], "RescaleIntercept"), "no Hounsfield units"),
    "slope 0": (change_all("RescaleSlope", lambda index: 0), "Hounsfield|slope of 0"),
    "no position": (lambda slices: delattr(slices[2], "ImagePositionPatient"), "no position or orientation"),
    "no spacing": (lambda slices: delattr(slices[2], "PixelSpacing"), "no pixel spacing"),
    "two series": (change_one("SeriesInstanceUID", "1.2.3"), "holds 2 series"),
    "no pixels": (lambda slices: delattr(slices[2], "PixelData"), "cannot be read"),
    "spacing zero": (change_all("PixelSpacing", lambda index: [0, 0]), "spacing"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_one_volume_is_refused_with_a_hint(tmp_path, stored, name):
    change, message = REFUSED[name]
    slices = make_slices(stored)
    change(slices)
    write_slices(tmp_path, slices)
    with pytest.raises(DataError, match=message) as caught:
        read_here(tmp_path)
    assert caught.value.hint


def test_several_series_are_listed(tmp_path, stored):
    slices = make_slices(stored)
    slices[0].SeriesInstanceUID, slices[0].SeriesDescription = generate_uid(), "Topogram"
    write_slices(tmp_path, slices)
    with pytest.raises(DataError) as caught:
        read_here(tmp_path)
    assert len(caught.value.details) == 2 and caught.value.details[0].startswith("'body' (CT, 5 slices")
    assert "'Topogram' (CT, 1 slices" in caught.value.details[1]


def test_missing_slope_is_no_fault_of_an_mr(tmp_path, stored):
    slices = make_slices(stored, modality="MR", RescaleSlope=None, RescaleIntercept=None)
    files = tuple(write_slices(tmp_path, slices))
    assert np.array_equal(read_slices(SliceRequest(files, with_voxels=True)), stored)


def test_slightly_uneven_slices_are_read_and_noted(tmp_path, stored):
    slices = make_slices(stored)
    shift(2, 2, 0.05)(slices)
    write_slices(tmp_path, slices)
    assert "off an even spacing of 2 mm by up to 0.05 mm" in read_here(tmp_path)[1].notes[0]


@pytest.mark.parametrize("cut", [1, 60, 126, 300])
def test_a_cut_slice_is_refused(tmp_path, stored, cut):
    files = write_slices(tmp_path, make_slices(stored))
    os.truncate(files[3], files[3].stat().st_size - cut)
    with pytest.raises(DataError, match=f"'{files[3].name}' cannot be read: it is cut, damaged"):
        read_here(tmp_path)


@pytest.mark.parametrize("syntax", [None, ImplicitVRLittleEndian])
def test_voxels_that_gdcm_would_make_up_are_refused(tmp_path, stored, syntax):
    slices = make_slices(stored, syntax=syntax)
    slices[3].PixelData = slices[3].PixelData[:-20]
    files = tuple(write_slices(tmp_path, slices))
    with pytest.raises(DataError, match=f"'{files[3].name}' holds fewer voxels than the 63 it says"):
        read_slices(SliceRequest(files, with_voxels=True))


def test_an_empty_or_overwritten_slice_is_not_passed_over(tmp_path, stored):
    files = write_slices(tmp_path / "s", make_slices(stored))
    files[5].write_bytes(b"")  # the last one: no gap tells of it
    with pytest.raises(DataError, match=f"'{files[5].name}' is not DICOM, beside 5 slices"):
        read_image(tmp_path / "s")


def test_notes_and_index_files_beside_the_slices_are_passed_over(tmp_path, stored):
    files = write_slices(tmp_path / "s", make_slices(stored))
    (tmp_path / "s" / "readme.txt").write_text("from the archive")
    (tmp_path / "s" / ".hidden").write_bytes(b"x")
    (tmp_path / "s" / "DICOMDIR").write_bytes(files[0].read_bytes())
    (tmp_path / "s" / "s.seg.dcm").write_bytes(files[0].read_bytes())
    assert read_image(tmp_path / "s").shape == stored.shape


def test_a_slice_that_asks_for_too_much_costs_one_case(tmp_path, stored):
    slices = make_slices(stored, Rows=60000, Columns=60000)
    write_slices(tmp_path / "s", slices)
    with pytest.raises(DataError, match="voxels") as caught:
        read_image(tmp_path / "s")
    assert caught.value.hint


def test_a_reader_that_dies_is_named_and_nothing_else_is_lost(tmp_path, stored, monkeypatch):
    write_slices(tmp_path / "s", make_slices(stored))
    monkeypatch.setattr("stu_pipeline.datasets.formats.dicom.read_slices", die)
    with pytest.raises(DataError, match=r"'s' was killed by signal 11 \(SIGSEGV\)") as caught:
        read_series(tmp_path / "s")
    assert "stops the DICOM reader" in caught.value.hint
    monkeypatch.undo()
    assert read_series(tmp_path / "s")[1].shape == (1, *stored.shape)


def die(request):
    os.kill(os.getpid(), 11)


def test_two_series_are_two_channels(tmp_path, stored):
    write_slices(tmp_path / "a_0000", make_slices(stored))
    write_slices(tmp_path / "a_0001", make_slices(stored + 1, modality="MR"))
    (case,) = list_input_cases(tmp_path, 2, ".nii.gz")
    assert case.id == "a" and case.is_dicom
    volume = read_channels(case.image_files)
    assert volume.array.shape == (2, *stored.shape) and np.array_equal(
        volume.array[1] - volume.array[0], stored * 0 + 1
    )
    assert grid_of(volume.grid) == grid_of(read_header(tmp_path / "a_0000"))


def test_cases_are_series_folders_beside_files(tmp_path, stored):
    write_slices(tmp_path / "p2", make_slices(stored[:2]))
    write_slices(tmp_path / "p1_0000", make_slices(stored[:2]))
    (tmp_path / "p0.nii.gz").write_bytes(b"read later")
    (tmp_path / "masks").mkdir()
    cases = list_input_cases(tmp_path, 1, ".nii.gz")
    assert [case.id for case in cases] == ["p0", "p1", "p2"]
    assert [case.ending for case in cases] == [".nii.gz"] * 3
    assert [case.is_dicom for case in cases] == [False, True, True]
    assert cases[2].image_files == (tmp_path / "p2",)


def test_a_series_itself_is_one_case_of_its_folders_name(tmp_path, stored, monkeypatch):
    write_slices(tmp_path / "p1", make_slices(stored[:2]))
    assert [case.id for case in list_input_cases(tmp_path / "p1", 1, ".nii.gz")] == ["p1"]
    monkeypatch.chdir(tmp_path / "p1")
    assert [case.id for case in list_input_cases(tmp_path.__class__("."), 1, ".nii.gz")] == ["p1"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda folder: (folder / "a.nii.gz").write_bytes(b""),
            "holds DICOM slices and 1 other images, first 'a.nii.gz'",
        ),
        (lambda folder: folder.joinpath("IM0000").rename(folder.parent / "IM0000"), "other|single|slices"),
    ],
)
def test_slices_among_other_images_are_refused(tmp_path, stored, make, message):
    write_slices(tmp_path / "in", make_slices(stored[:2]))
    make(tmp_path / "in")
    source = tmp_path / "in" if (tmp_path / "in" / "a.nii.gz").exists() else tmp_path / "IM0000"
    with pytest.raises(DataError, match=message):
        list_input_cases(source, 1, ".nii.gz")


def test_series_that_lie_too_deep_are_named(tmp_path, stored):
    write_slices(tmp_path / "in" / "patient" / "study" / "series", make_slices(stored[:2]))
    with pytest.raises(DataError, match="only in sub-folders, first 'patient/study/series'"):
        list_input_cases(tmp_path / "in", 1, ".nii.gz")


def test_a_series_of_a_model_with_two_channels_needs_its_partner(tmp_path, stored):
    write_slices(tmp_path / "a_0000", make_slices(stored[:2]))
    with pytest.raises(DataError, match="has 1 of 2 channels, missing 'a_0001'"):
        list_input_cases(tmp_path, 2, ".nii.gz")


def test_a_series_that_lies_there_twice_is_refused(tmp_path, stored):
    slices = make_slices(stored)
    write_slices(tmp_path / "s", slices)
    for index, ds in enumerate(slices):
        ds.save_as(tmp_path / "s" / f"copy_{index}")
    with pytest.raises(DataError, match="lie at the same place"):
        read_here(tmp_path / "s")


def test_a_series_is_read_in_parts_and_put_together(tmp_path, stored, monkeypatch):
    write_slices(tmp_path / "s", make_slices(stored))
    monkeypatch.setattr("stu_pipeline.datasets.formats.dicom._BYTES_PER_REQUEST", 600)  # two slices
    monkeypatch.setattr("stu_pipeline.datasets.formats.dicom._HEADERS_PER_REQUEST", 4)
    assert np.array_equal(read_series(tmp_path / "s")[1][0], stored - 1024.0)


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is set on Linux only")
def test_the_reader_cannot_take_all_memory(tmp_path, stored, monkeypatch):
    write_slices(tmp_path / "s", make_slices(stored))
    monkeypatch.setattr("stu_pipeline.datasets.formats.dicom.read_slices", take_memory)
    with pytest.raises(MemoryLimitError, match="not enough memory"):
        read_series(tmp_path / "s")


def take_memory(request):
    headers = read_slices(request)
    np.empty(7 << 30, dtype=np.uint8)  # address space alone, none of it used
    return headers

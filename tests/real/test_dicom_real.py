"""A real CT series, JPEG 2000 and anonymised down to empty identifiers: read as SimpleITK reads it, SEG and back."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from stu_pipeline.datasets.cases import list_input_cases
from stu_pipeline.datasets.reading import read_image
from stu_pipeline.errors import DataError
from stu_pipeline.prediction.writing.dicom_seg import SegmentationSource, write_dicom_seg
from tests.real_data import require

pytest.importorskip("highdicom", reason="needs the extra `dicom`")

import highdicom
import pydicom

pytestmark = pytest.mark.real
LABELS = {"background": 0, "soft tissue": 1, "bone": 2}


@pytest.fixture(scope="module")
def volume():
    return read_image(require("dicom_ct/series"))


def test_the_series_is_simpleitks_volume_where_pydicom_says_it_lies(volume):
    folder = volume.path
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    assert np.array_equal(volume.array[0], sitk.GetArrayFromImage(image))
    assert volume.origin == image.GetOrigin() and volume.direction == image.GetDirection()
    assert volume.spacing_mm == image.GetSpacing()[::-1] == (2.0, 0.9765625, 0.9765625)
    slices = [pydicom.dcmread(path, stop_before_pixels=True) for path in folder.iterdir()]
    slices.sort(key=lambda ds: ds.ImagePositionPatient[2])
    for index, ds in enumerate(slices):
        place = np.array(volume.origin) + index * volume.spacing_mm[0] * np.array(volume.direction)[2::3]
        assert place == pytest.approx([float(value) for value in ds.ImagePositionPatient], abs=1e-6)
    assert volume.array.min() == -1024 and volume.grid.notes == ()


def test_the_folder_above_is_a_folder_of_series(volume):
    (case,) = list_input_cases(volume.path.parent, 1, ".nii.gz")
    assert case.id == "series" and case.image_files == (volume.path,)


def test_a_real_slice_that_is_missing_cut_or_flipped(volume, tmp_path):
    files = sorted(volume.path.iterdir())
    folder = tmp_path / "s"
    shutil.copytree(volume.path, folder)
    (folder / files[7].name).unlink()
    with pytest.raises(DataError, match="are 4 mm apart, the others 2 mm, 1 missing"):
        read_image(folder)
    (folder / files[7].name).write_bytes(files[7].read_bytes()[:-1000])
    with pytest.raises(DataError, match="cannot be read"):
        read_image(folder)


def test_without_identifiers_no_segmentation_is_made(volume, tmp_path):
    source = SegmentationSource(series=volume.path, grid=volume.grid, labels=LABELS, model="S")
    with pytest.raises(DataError, match="StudyInstanceUID, SeriesInstanceUID"):
        write_dicom_seg(np.zeros(volume.shape, np.uint8), source, tmp_path / "a.seg.dcm")


def test_a_segmentation_comes_back_on_the_grid_of_the_series(volume, tmp_path):
    folder = tmp_path / "s"
    folder.mkdir()
    study, series = pydicom.uid.generate_uid(), pydicom.uid.generate_uid()
    for path in volume.path.iterdir():
        ds = pydicom.dcmread(path)
        ds.StudyInstanceUID, ds.SeriesInstanceUID = study, series
        ds.save_as(folder / path.name)
    mask = (volume.array[0] > 0).astype(np.uint8) + (volume.array[0] > 300)
    grid = read_image(folder).grid
    path = write_dicom_seg(
        mask, SegmentationSource(series=folder, grid=grid, labels=LABELS, model="S"), tmp_path / "a.seg.dcm"
    )
    found = highdicom.seg.segread(path).get_volume(combine_segments=True)
    columns = (np.array(grid.direction).reshape(3, 3) * np.array(grid.spacing_mm[::-1]))[:, ::-1]
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = columns, grid.origin
    expected = highdicom.Volume(mask, affine, coordinate_system="PATIENT")
    assert np.array_equal(found.match_geometry(expected.get_geometry(), tol=1e-4).array, mask)
    assert (mask == 2).sum() > 10_000

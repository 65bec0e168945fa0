"""A DICOM segmentation lies where its mask lies, voxel by voxel, or is not written."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from stu_pipeline.datasets.formats.dicom_order import order_slices
from stu_pipeline.datasets.formats.dicom_slices import SliceRequest, read_slices
from stu_pipeline.errors import DataError, StorageError, UsageError
from stu_pipeline.prediction.writing import dicom_seg
from stu_pipeline.prediction.writing.dicom_seg import SegmentationSource, require_highdicom, write_dicom_seg

pytest.importorskip("highdicom", reason="DICOM segmentations need the extra `dicom`")

import highdicom
import pydicom

from tests.dicom_files import PLAIN, make_slices, turn, write_slices

LABELS = {"background": 0, "liver": 1, "Tumour, left": 7, "absent": 9, "ignore": 10}


@pytest.fixture
def mask():
    array = np.zeros((6, 9, 7), dtype=np.uint8)
    array[1:4, 2:6, 1:3] = 1  # unlike in every direction, so that no turn or mirroring goes unseen
    array[3, 7, 5] = 7
    return array


def make_source(folder, *, labels=None, shape=(6, 9, 7), **options):
    slices = make_slices(np.arange(np.prod(shape)).reshape(shape).astype(np.int16), **options)
    files = tuple(write_slices(folder, slices))
    grid = order_slices(read_slices(SliceRequest(files)), folder)[1]
    return SegmentationSource(series=folder, grid=grid, labels=labels or LABELS, model="Dataset001 S"), slices


def rebuild(path, shape, source):
    """Rebuild the label map from the frames and their positions alone, without highdicom."""
    ds = pydicom.dcmread(path)
    frames = ds.pixel_array.reshape(-1, *shape[1:])
    matrix = np.array(source.grid.direction).reshape(3, 3) * np.array(source.grid.spacing_mm[::-1])
    array = np.zeros(shape, dtype=np.uint8)
    values = [label for name, label in source.labels.items() if name not in ("background", "ignore")]
    for frame, groups in zip(frames, ds.PerFrameFunctionalGroupsSequence, strict=True):
        place = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        index = np.linalg.solve(matrix, place - np.array(source.grid.origin))
        assert index[:2] == pytest.approx([0, 0], abs=1e-4) and index[2] == pytest.approx(round(index[2]), abs=1e-4)
        number = groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        array[round(index[2])][frame > 0] = values[number - 1]
    return array, ds


@pytest.mark.parametrize("axes", [PLAIN, turn(), turn(-75.0, 160.0)])
def test_the_mask_comes_back_voxel_by_voxel(tmp_path, mask, axes):
    source, slices = make_source(tmp_path / "s", axes=axes)
    path = write_dicom_seg(mask, source, tmp_path / "a.seg.dcm")
    array, ds = rebuild(path, mask.shape, source)
    assert np.array_equal(array, mask)
    shared = ds.SharedFunctionalGroupsSequence[0]
    assert [float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing] == [0.7, 0.5]
    cosines = [float(v) for v in shared.PlaneOrientationSequence[0].ImageOrientationPatient]
    assert cosines == pytest.approx([*axes[0], *axes[1]], abs=1e-6)
    assert ds.FrameOfReferenceUID == slices[0].FrameOfReferenceUID
    assert ds.StudyInstanceUID == slices[0].StudyInstanceUID and ds.PatientID == "42"


def test_highdicoms_own_volume_has_the_affine_of_the_mask(tmp_path, mask):
    source, _ = make_source(tmp_path / "s", axes=turn())
    path = write_dicom_seg(mask, source, tmp_path / "a.seg.dcm")
    volume = highdicom.seg.segread(path).get_volume(combine_segments=True)
    grid = source.grid
    columns = (np.array(grid.direction).reshape(3, 3) * np.array(grid.spacing_mm[::-1]))[:, ::-1]
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = columns, grid.origin
    # The volume spans the frames that are there; its first plane is plane 1 of the mask.
    expected = highdicom.Volume(np.zeros(mask.shape, np.uint8), affine, coordinate_system="PATIENT")
    numbers = np.where(mask == 7, 2, mask)
    assert np.array_equal(volume.match_geometry(expected.get_geometry(), tol=1e-4).array, numbers)


def test_segments_carry_names_colours_and_the_algorithm(tmp_path, mask):
    source, _ = make_source(tmp_path / "s")
    ds = pydicom.dcmread(write_dicom_seg(mask, source, tmp_path / "a.seg.dcm"))
    assert [item.SegmentLabel for item in ds.SegmentSequence] == ["liver", "Tumour, left", "absent"]
    assert {item.SegmentAlgorithmType for item in ds.SegmentSequence} == {"AUTOMATIC"}
    assert len({tuple(item.RecommendedDisplayCIELabValue) for item in ds.SegmentSequence}) == 3
    algorithm = ds.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
    assert algorithm.AlgorithmName == "Dataset001 S" and algorithm.AlgorithmVersion
    assert ds.SegmentationType == "BINARY" and ds.Manufacturer == "stu-pipeline"


def test_overlapping_regions_are_segments_of_their_own(tmp_path, mask):
    labels = {"background": 0, "whole": (1, 7), "core": (7,)}
    source, _ = make_source(tmp_path / "s", labels=labels)
    found = highdicom.seg.segread(write_dicom_seg(mask, source, tmp_path / "a.seg.dcm"))
    assert [found.get_volume(segment_numbers=[n]).array.sum() for n in (1, 2)] == [(mask > 0).sum(), (mask == 7).sum()]


def test_an_empty_mask_is_a_segmentation_without_voxels(tmp_path, mask):
    source, _ = make_source(tmp_path / "s")
    path = write_dicom_seg(mask * 0, source, tmp_path / "a.seg.dcm")
    assert not pydicom.dcmread(path).pixel_array.any()


def test_uids_that_are_only_in_the_preface_are_taken_from_there(tmp_path, mask):
    source, slices = make_source(tmp_path / "s", SOPClassUID="")
    ds = pydicom.dcmread(write_dicom_seg(mask, source, tmp_path / "a.seg.dcm"))
    referred = ds.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert {item.ReferencedSOPClassUID for item in referred} == {slices[0].file_meta.MediaStorageSOPClassUID}


@pytest.mark.parametrize("name", ["StudyInstanceUID", "FrameOfReferenceUID"])
def test_a_series_without_identifiers_is_refused(tmp_path, mask, name):
    source, _ = make_source(tmp_path / "s", **{name: ""})
    with pytest.raises(DataError, match=f"has no {name}") as caught:
        write_dicom_seg(mask, source, tmp_path / "a.seg.dcm")
    assert "--dicom-seg" in caught.value.hint and not (tmp_path / "a.seg.dcm").exists()


def test_a_file_that_does_not_hold_the_mask_is_never_left(tmp_path, mask, monkeypatch):
    source, _ = make_source(tmp_path / "s")
    save = highdicom.seg.Segmentation.save_as

    def save_mirrored(self, path):
        for frame in self.PerFrameFunctionalGroupsSequence:
            frame.PlanePositionSequence[0].ImagePositionPatient[2] *= -1
        save(self, path)

    monkeypatch.setattr(highdicom.seg.Segmentation, "save_as", save_mirrored)
    with pytest.raises(StorageError, match="could not be verified"):
        write_dicom_seg(mask, source, tmp_path / "a.seg.dcm")
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_value_that_no_label_names_is_not_dropped(tmp_path, mask):
    source, _ = make_source(tmp_path / "s", labels={"background": 0, "liver": 1})
    with pytest.raises(ValueError, match=r"holds \[7\], which no label names"):
        write_dicom_seg(mask, source, tmp_path / "a.seg.dcm")


def test_without_highdicom_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(UsageError) as caught:
        require_highdicom()
    assert caught.value.hint == "pip install 'stu-pipeline[dicom]'"
    assert dicom_seg.SEG_ENDING == ".seg.dcm"

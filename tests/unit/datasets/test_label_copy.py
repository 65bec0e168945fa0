"""Label files copied with consecutive ids: same grid, same format, same bytes every time."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest

from stu_pipeline.datasets.label_copy import write_label_copy
from stu_pipeline.datasets.label_ids import LabelIds
from stu_pipeline.datasets.reading import check_same_grid, read_label_map
from stu_pipeline.errors import DataError
from stu_pipeline.storage import hash_file
from tests.synthetic import make_label_map, write_volume

IDS = LabelIds((0, 3, 300))
ROTATED = (0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0)


def write_gapped(path, shape=(5, 6, 7), ids=IDS, **grid):
    labels = ids.to_original(make_label_map(shape))
    write_volume(path, labels, spacing_mm=(3.0, 1.5, 0.5)[-len(shape) :], **grid)
    return labels


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha", ".tif"])
def test_a_volume_keeps_its_grid_and_gets_consecutive_ids(tmp_path, ending):
    source, target = tmp_path / f"raw{ending}", tmp_path / "copies" / f"raw{ending}"
    has_grid = ending != ".tif"
    labels = write_gapped(source, **({"origin": (1.0, 2.0, 3.0), "direction": ROTATED} if has_grid else {}))
    before = hash_file(source)
    write_label_copy(source, target, IDS.to_consecutive)
    original, copied = read_label_map(source), read_label_map(target)
    assert np.array_equal(IDS.to_original(copied.array), labels)
    assert copied.array.max() == 2
    assert check_same_grid(original.grid, copied.grid) == []
    assert hash_file(source) == before
    assert [file.name for file in target.parent.iterdir()] == [target.name]


@pytest.mark.parametrize("ending", [".png", ".bmp"])
def test_a_picture_gets_consecutive_ids(tmp_path, ending):
    ids = LabelIds((0, 3, 200))
    source, target = tmp_path / f"raw{ending}", tmp_path / f"copy{ending}"
    labels = write_gapped(source, shape=(6, 7), ids=ids)
    write_label_copy(source, target, ids.to_consecutive)
    assert np.array_equal(ids.to_original(read_label_map(target).array)[0], labels)


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha", ".tif"])
def test_two_copies_have_the_same_bytes(tmp_path, ending):
    source = tmp_path / f"raw{ending}"
    write_gapped(source)
    hashes = set()
    for name in ("one", "two"):
        write_label_copy(source, tmp_path / name / f"raw{ending}", IDS.to_consecutive)
        hashes.add(hash_file(tmp_path / name / f"raw{ending}"))
    assert len(hashes) == 1


def test_a_flat_nifti_stays_flat(tmp_path):
    source, target = tmp_path / "raw.nii.gz", tmp_path / "copy.nii.gz"
    labels = write_gapped(source, shape=(6, 7))
    write_label_copy(source, target, IDS.to_consecutive)
    assert struct.unpack("<3h", gzip.decompress(target.read_bytes())[40:46]) == (2, 7, 6)
    assert np.array_equal(IDS.to_original(read_label_map(target).array)[0], labels)


def test_both_transforms_of_a_nifti_header_are_kept(tmp_path):
    source, target = tmp_path / "raw.nii.gz", tmp_path / "copy.nii.gz"
    write_gapped(source, origin=(1.0, 2.0, 3.0), direction=ROTATED)
    write_label_copy(source, target, IDS.to_consecutive)
    old, new = (gzip.decompress(file.read_bytes()) for file in (source, target))
    assert old[252:328] == new[252:328]  # qform and sform, their codes included
    assert old[76:108] == new[76:108]  # pixdim


def test_a_label_that_the_dataset_does_not_name_names_the_file(tmp_path):
    write_gapped(tmp_path / "raw.nii.gz")
    with pytest.raises(DataError, match=r"'raw\.nii\.gz' has \d+ voxels of label 300"):
        write_label_copy(tmp_path / "raw.nii.gz", tmp_path / "copy.nii.gz", LabelIds((0, 3, 4)).to_consecutive)
    assert not (tmp_path / "copy.nii.gz").exists()


def test_a_cut_file_is_not_copied(tmp_path):
    write_gapped(tmp_path / "raw.nii.gz")
    content = (tmp_path / "raw.nii.gz").read_bytes()
    (tmp_path / "raw.nii.gz").write_bytes(content[:-9])
    with pytest.raises(DataError, match=r"'raw\.nii\.gz'"):
        write_label_copy(tmp_path / "raw.nii.gz", tmp_path / "copy.nii.gz", IDS.to_consecutive)
    assert [file.name for file in tmp_path.iterdir()] == ["raw.nii.gz"]

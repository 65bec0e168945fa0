"""The phantom dataset: valid, repeatable, varied."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from stu_pipeline.datasets.check import check_dataset
from stu_pipeline.datasets.phantom import write_phantom_dataset
from stu_pipeline.datasets.reading import read_image, read_label_map
from stu_pipeline.errors import StorageError, UsageError


def hash_tree(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_phantom_dataset(tmp_path_factory.mktemp("raw"), num_cases=4, num_test=1)


def test_it_is_a_sound_dataset_with_every_organ_in_every_case(folder):
    report = check_dataset(folder, num_workers=0)
    assert folder.name == "Dataset999_StuPhantom" and report.num_cases == 4 and report.warnings == ()
    for case in report.cases:
        assert sorted(case.label_voxels) == [0, 1, 2, 3, 4, 5] and min(case.label_voxels.values()) > 300
    assert len({case.shape for case in report.cases}) > 1 and len({case.spacing_mm for case in report.cases}) == 4
    assert all(case.spacing_mm[0] > 1.5 * case.spacing_mm[1] for case in report.cases)
    assert len(list((folder / "imagesTs").iterdir())) == len(list((folder / "labelsTs").iterdir())) == 1


def test_left_is_left_and_the_spine_is_behind(folder):
    labels = read_label_map(folder / "labelsTr" / "phantom_000.nii.gz")
    assert labels.direction == pytest.approx((1, 0, 0, 0, 1, 0, 0, 0, 1))  # x to the left, y to the back

    def centre(label):
        return np.argwhere(labels.array == label).mean(axis=0)

    liver, right, left, spine, aorta = (centre(label) for label in range(1, 6))
    assert right[2] < spine[2] < left[2] and liver[2] < spine[2]
    assert aorta[1] < spine[1] and liver[0] > right[0]


def test_organs_are_brighter_than_their_surroundings_but_overlap(folder):
    image = read_image(folder / "imagesTr" / "phantom_001_0000.nii.gz").array[0]
    labels = read_label_map(folder / "labelsTr" / "phantom_001.nii.gz").array
    means = [image[labels == label].mean() for label in range(1, 6)]
    assert means[4] > means[1] > means[0] > means[3]  # aorta, kidney, liver, spine
    assert np.percentile(image[labels == 1], 95) > np.percentile(image[labels == 2], 5)


def test_the_same_seed_writes_the_same_bytes(tmp_path):
    options = {"num_cases": 2, "num_test": 1, "shape": (16, 20, 24)}
    first = hash_tree(write_phantom_dataset(tmp_path / "a", **options))
    assert first == hash_tree(write_phantom_dataset(tmp_path / "b", **options))
    other = hash_tree(write_phantom_dataset(tmp_path / "c", seed=1, **options))
    assert not set(first.values()) & set(other.values())


def test_an_interrupted_dataset_is_completed_and_a_foreign_one_kept(tmp_path):
    options = {"num_cases": 2, "num_test": 0, "shape": (16, 20, 24)}
    folder = write_phantom_dataset(tmp_path, **options)
    whole = hash_tree(folder)
    (folder / "dataset.json").unlink()
    (folder / "imagesTr" / "phantom_001_0000.nii.gz").unlink()
    assert hash_tree(write_phantom_dataset(tmp_path, **options)) == whole
    with pytest.raises(StorageError, match="not replaced"):
        write_phantom_dataset(tmp_path, **{**options, "seed": 5})
    assert hash_tree(folder) == whole


def test_impossible_wishes_are_refused(tmp_path):
    with pytest.raises(UsageError, match="16 voxels"):
        write_phantom_dataset(tmp_path, shape=(8, 20, 20))
    with pytest.raises(UsageError):
        write_phantom_dataset(tmp_path, num_cases=0)

"""`--fix` writes a corrected copy where the mend is certain; the dataset itself never changes."""

from __future__ import annotations

import gzip
import json

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from stu_pipeline.datasets.reading import read_image, read_label_map
from stu_pipeline.doctor.examine import examine_dataset
from stu_pipeline.doctor.mending.fix import require_target, write_fixed_copy
from stu_pipeline.errors import DataError, StorageError, UsageError
from stu_pipeline.log import Notice
from stu_pipeline.storage import hash_file
from tests.unit.doctor.conftest import SPACING_MM, make_case


def hash_tree(folder):
    return {str(path.relative_to(folder)): hash_file(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def fix(dataset, tmp_path, **options):
    """Fix a dataset, check that it did not change, and return the outcome and what the doctor says of the copy."""
    before = hash_tree(dataset.folder)
    outcome = write_fixed_copy(examine_dataset(dataset.folder), tmp_path / "Dataset802_Fixed", **options)
    assert hash_tree(dataset.folder) == before
    return outcome, examine_dataset(outcome.folder)


def test_a_sound_dataset_is_copied_byte_for_byte(dataset, tmp_path):
    outcome, after = fix(dataset, tmp_path)
    copied = hash_tree(outcome.folder)
    copied.pop("stu_doctor_fix.json")
    original = hash_tree(dataset.folder)
    assert {name: copied[name] for name in original if name != "dataset.json"} == {
        name: value for name, value in original.items() if name != "dataset.json"
    }
    assert json.loads((outcome.folder / "dataset.json").read_text()) == json.loads(
        (dataset.folder / "dataset.json").read_text()
    )
    assert outcome.mended == {} and outcome.undecided == () and after.findings == ()


def test_an_old_description_becomes_a_new_one(dataset, tmp_path):
    content = {
        "modality": {"0": "MRI"},
        "labels": {"0": "Background", "1": "big", "2": "small"},
        "numTraining": 3,
        "licence": "kept",
    }
    (dataset.folder / "dataset.json").write_text(json.dumps(content))
    outcome, after = fix(dataset, tmp_path)
    assert json.loads((outcome.folder / "dataset.json").read_text()) == {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "big": 1, "small": 2},
        "numTraining": 10,
        "licence": "kept",
        "file_ending": ".nii.gz",
    }
    assert len(outcome.mended["dataset.json"]) == 5 and after.findings == () and outcome.undecided == ()


def test_a_wrong_number_of_cases_is_corrected(dataset, tmp_path):
    dataset.describe(numTraining=99)
    outcome, after = fix(dataset, tmp_path)
    assert outcome.mended == {"dataset.json": ("numTraining 99 -> 10",)} and after.findings == ()


def test_names_without_a_channel_number_get_one(dataset, tmp_path):
    for number in range(10):
        dataset.image(number).rename(dataset.folder / "imagesTr" / f"case_{number:02d}.nii.gz")
    assert examine_dataset(dataset.folder).num_problems == 10
    outcome, after = fix(dataset, tmp_path)
    assert (outcome.folder / "imagesTr" / "case_04_0000.nii.gz").is_file()
    assert after.findings == () and outcome.undecided == ()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_float_labels_become_bytes(dataset, tmp_path, num_workers):
    label = make_case(4)[1]
    dataset.write_label(4, (label + 0.0004).astype(np.float32))
    outcome, after = fix(dataset, tmp_path, num_workers=num_workers)
    fixed = outcome.folder / "labelsTr" / "case_04.nii.gz"
    assert nibabel.load(fixed).get_data_dtype() == np.uint8
    assert np.array_equal(read_label_map(fixed).array, label)
    assert list(outcome.mended) == ["labelsTr/case_04.nii.gz"] and after.findings == ()


def test_label_gaps_are_closed_and_the_ids_kept(dataset, tmp_path):
    dataset.describe(numTraining=10, labels={"background": 0, "big": 3, "small": 300})
    for number in range(10):
        dataset.write_label(number, np.array([0, 3, 300], dtype=np.uint16)[make_case(number)[1]])
    outcome, after = fix(dataset, tmp_path)
    content = json.loads((outcome.folder / "dataset.json").read_text())
    assert content["labels"] == {"background": 0, "big": 1, "small": 2} and content["stu_label_ids"] == [0, 3, 300]
    fixed = outcome.folder / "labelsTr" / "case_04.nii.gz"
    assert np.array_equal(read_label_map(fixed).array, make_case(4)[1])
    assert read_label_map(fixed).spacing_mm == SPACING_MM
    assert after.findings == () and after.description.label_ids.original == (0, 3, 300)


def test_gaps_stay_when_one_label_map_cannot_be_renumbered(dataset, tmp_path):
    dataset.describe(numTraining=10, labels={"background": 0, "big": 3, "small": 300})
    for number in range(10):
        dataset.write_label(number, np.array([0, 3, 300 if number else 7], dtype=np.uint16)[make_case(number)[1]])
    outcome, _ = fix(dataset, tmp_path)
    assert "stu_label_ids" not in json.loads((outcome.folder / "dataset.json").read_text())
    assert int(read_label_map(outcome.folder / "labelsTr" / "case_04.nii.gz").array.max()) == 300
    assert [finding.action for finding in outcome.undecided if finding.severity == "problem"] == ["relabel"]


def test_a_label_map_a_hair_off_its_image_gets_the_image_s_position(dataset, tmp_path):
    dataset.write_label(4, make_case(4)[1], origin=(0.05, 0, 0))
    outcome, after = fix(dataset, tmp_path)
    assert read_label_map(outcome.folder / "labelsTr" / "case_04.nii.gz").origin == (0, 0, 0)
    assert "labelsTr/case_04.nii.gz" in outcome.mended and after.findings == ()


def test_a_label_map_far_off_its_image_is_left_to_the_user(dataset, tmp_path):
    dataset.write_label(4, make_case(4)[1], origin=(5, 0, 0))
    outcome, after = fix(dataset, tmp_path)
    assert outcome.mended == {} and [finding.action for finding in outcome.undecided] == ["regrid"]
    assert after.num_problems == 1


def test_a_direction_with_noise_is_made_orthonormal_and_the_voxels_stay(dataset, tmp_path):
    path = dataset.image(4)
    data = bytearray(gzip.decompress(path.read_bytes()))
    header = nibabel.Nifti1Header(bytes(data[:348]), check=False)
    affine = header.get_best_affine()
    affine[0, 1] += 2e-4
    header.set_sform(affine, code=1)
    header["qform_code"] = 0
    path.write_bytes(gzip.compress(header.binaryblock + bytes(data[348:])))
    notes = read_image(path).grid.notes
    if not notes:
        pytest.skip("this reader takes the direction as it is")
    outcome, after = fix(dataset, tmp_path)
    fixed = outcome.folder / "imagesTr" / "case_04_0000.nii.gz"
    assert read_image(fixed).grid.notes == () and np.array_equal(read_image(fixed).array, read_image(path).array)
    sitk.ReadImage(str(fixed))
    assert [finding.action for finding in after.findings] == []


def test_a_damaged_file_is_copied_as_it_is_and_left_to_the_user(dataset, tmp_path):
    dataset.label(4).write_bytes(dataset.label(4).read_bytes()[:200])
    outcome, after = fix(dataset, tmp_path)
    assert (outcome.folder / "labelsTr" / "case_04.nii.gz").read_bytes() == dataset.label(4).read_bytes()
    assert [finding.action for finding in outcome.undecided] == ["export"] and after.num_problems == 1


def test_the_same_dataset_is_mended_to_the_same_bytes(dataset, tmp_path):
    dataset.write_label(4, make_case(4)[1].astype(np.float32))
    examination = examine_dataset(dataset.folder)
    first = write_fixed_copy(examination, tmp_path / "a").folder
    second = write_fixed_copy(examination, tmp_path / "b").folder
    assert (first / "labelsTr/case_04.nii.gz").read_bytes() == (second / "labelsTr/case_04.nii.gz").read_bytes()


def test_sizes_are_said_before_anything_is_written(dataset, tmp_path):
    said = []

    def listen(event):
        if isinstance(event, Notice):
            said.append((event.text, (tmp_path / "copy").exists()))

    write_fixed_copy(examine_dataset(dataset.folder), tmp_path / "copy", listen=listen)
    assert said[0][0].startswith("copying 20 files") and not said[0][1]
    assert "DatasetNNN_Name" in said[-1][0]


@pytest.mark.parametrize("inside", [".", "imagesTr/new", ".."])
def test_a_copy_into_or_around_the_dataset_is_refused(dataset, inside):
    before = hash_tree(dataset.folder)
    with pytest.raises(UsageError, match="lie in each other"):
        write_fixed_copy(examine_dataset(dataset.folder), dataset.folder / inside)
    assert hash_tree(dataset.folder) == before


def test_a_folder_with_something_in_it_is_refused_before_the_dataset_is_read(dataset, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        require_target(tmp_path / "full", str(dataset.folder))
    with pytest.raises(UsageError, match="none was given"):
        require_target(tmp_path / "new", None)


def test_a_description_that_means_nothing_is_not_mended(dataset, tmp_path):
    (dataset.folder / "dataset.json").write_text('{"labels": 3}')
    with pytest.raises(DataError, match="cannot be mended"):
        write_fixed_copy(examine_dataset(dataset.folder), tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_an_unwritable_place_is_a_storage_error(dataset, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises((StorageError, UsageError)):
        write_fixed_copy(examine_dataset(dataset.folder), tmp_path / "file" / "copy")


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_other_formats_are_mended_too(dataset, tmp_path, ending):
    from tests.synthetic import write_tiny_dataset, write_volume

    folder = write_tiny_dataset(tmp_path / "other", num_cases=2, file_ending=ending)
    path = folder / "labelsTr" / f"case_000{ending}"
    expected = read_label_map(path)
    write_volume(path, expected.array.astype(np.float32), spacing_mm=expected.spacing_mm)
    outcome = write_fixed_copy(examine_dataset(folder), tmp_path / "copy")
    fixed = read_label_map(outcome.folder / "labelsTr" / path.name)
    assert np.array_equal(fixed.array, expected.array) and fixed.spacing_mm == expected.spacing_mm
    assert list(outcome.mended) == [f"labelsTr/{path.name}"]

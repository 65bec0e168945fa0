"""What a dataset.json may say, and what its errors say."""

from __future__ import annotations

import json

import pytest

from stu_pipeline.datasets.dataset_json import parse_dataset_json, read_dataset_json
from stu_pipeline.datasets.label_ids import LabelIds
from stu_pipeline.errors import DataError
from tests import synthetic

GOOD = {
    "channel_names": {"0": "CT", "1": "PET"},
    "labels": {"background": 0, "liver": 1, "tumour": 2},
    "numTraining": 3,
    "file_ending": ".nii.gz",
}


def read(folder, **changes):
    content = {key: value for key, value in {**GOOD, **changes}.items() if value is not ...}
    return read_dataset_json(synthetic.write_dataset_json(folder, **content))


def test_a_plain_dataset_json_is_read(tmp_path):
    found = read(tmp_path)
    assert found.channel_names == {0: "CT", 1: "PET"} and found.num_channels == 2
    assert found.labels == {"background": 0, "liver": 1, "tumour": 2} and found.label_values == (0, 1, 2)
    assert found.file_ending == ".nii.gz" and found.num_training == 3 and not found.has_regions
    assert found.raw["channel_names"] == GOOD["channel_names"] and found.find_name(2) == "tumour"
    assert read_dataset_json(tmp_path) == found


def test_regions_and_ignore_label_are_read(tmp_path):
    labels = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
    found = read(tmp_path, labels=labels, regions_class_order=[1, 2])
    assert found.labels == {"background": 0, "whole": (1, 2), "core": 2, "ignore": 3} and found.has_regions
    assert found.ignore_label == 3 and found.foreground_values == (1, 2) and found.regions_class_order == (1, 2)
    assert found.find_name(2) == "core" and found.find_name(1) == "whole"


def test_a_byte_order_mark_and_foreign_letters_are_fine(tmp_path):
    content = {**GOOD, "labels": {"background": 0, "Lebertumor \u00e4": 1}}
    (tmp_path / "dataset.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8-sig")
    assert "Lebertumor \u00e4" in read_dataset_json(tmp_path).labels


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channel_names": ...}, "key 'channel_names' is missing"),
        ({"channel_names": ["CT"]}, "channel_names must be an object"),
        ({"channel_names": {"0": "CT", "2": "PET"}}, "channel_names must count '0', '1'"),
        ({"channel_names": {"0": 5}}, "channel_names must name each"),
        ({"labels": {"liver": 1}}, "no 'background'"),
        ({"labels": {"background": 1, "liver": 0}}, "'background' must be 0"),
        ({"labels": {"background": 0}}, "no foreground"),
        ({"labels": {"background": 0, "a": 1, "b": 1}}, "label 1 has several names: a, b"),
        ({"labels": {"background": 0, "a": "1"}}, "without quotes"),
        ({"labels": {"background": 0, "a": 1.5}}, "whole number"),
        ({"labels": {"background": 0, "a": True}}, "whole number"),
        ({"labels": {"background": 0, "a": -1}}, "whole number"),
        ({"labels": {"background": 0, "a": 70000}}, "65535"),
        ({"labels": {"background": 0, "a": []}}, "whole number"),
        ({"labels": {"background": 0, "a": None}}, "found None"),
        ({"labels": {"background": 0, "ignore": 1, "a": 2}}, "'ignore' must be the highest"),
        ({"labels": {"background": 0, "a": [1, 2], "b": 2}}, "regions_class_order is needed"),
        ({"labels": {"background": 0, "a": [1, 2], "b": 2}, "regions_class_order": [1]}, "1 entries for 2 regions"),
        ({"numTraining": "2"}, "numTraining must be a whole number"),
        ({"file_ending": ".nii.gz/../x"}, "not supported"),
        ({"file_ending": ".dcm"}, r"'\.dcm' is not supported"),
        ({"overwrite_image_reader_writer": "os.system"}, "is not one of"),
        ({"overwrite_image_reader_writer": "NibabelIOWithReorient"}, "reorients"),
        ({"dataset": {"../../evil": {"images": ["a", "b"], "label": "c"}}}, "case name '../../evil' is not allowed"),
        ({"dataset": {"a": {"images": ["../a"], "label": "c"}}}, "leaves the dataset folder"),
        ({"dataset": {"a": {"images": ["$HOME/a"], "label": "c"}}}, "expected a plain path"),
        ({"dataset": {"a": {"images": "a", "label": "c"}}}, "must have a list"),
    ],
)
def test_each_fault_is_named(tmp_path, changes, message):
    with pytest.raises(DataError, match=message) as error:
        read(tmp_path, **changes)
    assert error.value.hint and error.value.where == tmp_path / "dataset.json"


def test_all_faults_come_together(tmp_path):
    with pytest.raises(DataError, match="and 2 more") as error:
        read(tmp_path, channel_names=..., labels={"liver": 1}, file_ending=".jpg")
    assert len(error.value.details) == 3


def test_old_forms_are_recognised(tmp_path):
    with pytest.raises(DataError, match="old nnU-Net v1") as inverted:
        read(tmp_path, labels={"0": "background", "1": "liver"})
    assert "turn labels round" in inverted.value.hint
    with pytest.raises(DataError, match="old nnU-Net v1") as modality:
        read(tmp_path, channel_names=..., modality={"0": "CT"})
    assert "channel_names" in modality.value.hint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "must hold an object, found a list"),
        ('{"labels": {"a": 1, "a": 2}}', "key 'a' more than once"),
        ('{"numTraining": NaN}', "holds NaN"),
        ("[" * 100000, "not valid JSON"),
    ],
)
def test_broken_files_are_named(tmp_path, text, message):
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(DataError, match=message):
        read_dataset_json(tmp_path)


def test_a_missing_file_says_what_a_dataset_needs(tmp_path):
    with pytest.raises(DataError, match=r"'dataset\.json' not found") as error:
        read_dataset_json(tmp_path / "dataset.json")
    assert "imagesTr" in error.value.hint


def test_listed_files_stay_in_the_folder_or_are_absolute(tmp_path):
    listed = {"case_a": {"images": ["x/a0.nii.gz", "/data/a1.nii.gz"], "label": "y/a.nii.gz"}}
    cases = read(tmp_path, dataset=listed).listed_cases
    assert [str(path) for path in cases["case_a"].images] == [str(tmp_path / "x/a0.nii.gz"), "/data/a1.nii.gz"]
    assert cases["case_a"].label == tmp_path / "y/a.nii.gz"


def test_gaps_are_accepted_and_mapped(tmp_path):
    found = read(tmp_path, labels={"background": 0, "b": 300, "a": 3, "ignore": 65535})
    assert found.labels == {"background": 0, "b": 2, "a": 1, "ignore": 3}
    assert found.label_values == (0, 1, 2, 3) and found.foreground_values == (1, 2) and found.ignore_label == 3
    assert found.label_ids == LabelIds((0, 3, 300, 65535)) == found.file_label_ids
    assert found.stored_label_ids == (0, 3, 300, 65535)
    assert found.engine_description["labels"] == found.labels
    assert found.engine_description["stu_label_ids"] == [0, 3, 300, 65535]
    assert found.raw["labels"]["b"] == 300, "what was read stays as it was"


def test_regions_and_their_order_are_mapped_too(tmp_path):
    labels = {"background": 0, "whole": [10, 20, 400], "core": [20, 400], "single": [400]}
    found = read(tmp_path, labels=labels, regions_class_order=[10, 20, 400])
    assert found.labels == {"background": 0, "whole": (1, 2, 3), "core": (2, 3), "single": 3}
    assert found.regions_class_order == (1, 2, 3)
    description = found.engine_description
    assert description["labels"] == {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "single": [3]}
    assert description["regions_class_order"] == [1, 2, 3]
    with pytest.raises(DataError, match=r"regions_class_order names \[7\]"):
        read(tmp_path, labels=labels, regions_class_order=[10, 20, 7])


def test_labels_without_gaps_need_no_table(tmp_path):
    found = read(tmp_path)
    assert found.label_ids is None and found.file_label_ids is None
    assert found.engine_description == found.raw and found.engine_description is not found.raw
    assert found.stored_label_ids == (0, 1, 2)


def test_an_engine_description_reads_back_to_the_same_table(tmp_path):
    labels = {"background": 0, "whole": [10, 20], "core": 20}
    first = read(tmp_path, labels=labels, regions_class_order=[10, 20])
    second = parse_dataset_json(first.engine_description, tmp_path / "dataset.json")
    assert second.labels == first.labels and second.label_ids == first.label_ids
    assert second.regions_class_order == first.regions_class_order
    assert second.file_label_ids is None, "beside such a file the label maps hold consecutive ids"
    assert second.stored_label_ids == (0, 1, 2) and second.engine_description == first.engine_description
    assert second.describe_original() == first.raw == first.describe_original()


@pytest.mark.parametrize(
    ("labels", "ids", "message"),
    [
        ({"background": 0, "a": 1}, [0, 3, 5], "has 3 ids, so labels must be 0 to 2"),
        ({"background": 0, "a": 3}, [0, 3], "has 2 ids, so labels must be 0 to 1"),
        ({"background": 0, "a": 1}, [3, 0], "start with 0 and ascend"),
        ({"background": 0, "a": 1}, "os.system", "list of whole numbers"),
        ({"background": 0, "a": 1}, None, "list of whole numbers"),
    ],
)
def test_a_table_that_does_not_fit_is_named(tmp_path, labels, ids, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, labels=labels, stu_label_ids=ids)


def test_a_table_without_gaps_is_none(tmp_path):
    assert read(tmp_path, labels={"background": 0, "a": 1}, stu_label_ids=[0, 1]).label_ids is None


def test_the_engine_gets_the_number_of_cases_that_are_there(tmp_path):
    found = read(tmp_path, numTraining=99)
    assert found.describe_for_engine(2)["numTraining"] == 2
    assert found.engine_description["numTraining"] == 99

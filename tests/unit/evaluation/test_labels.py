import pytest

from stu_pipeline.errors import DataError
from stu_pipeline.evaluation.labels import find_prediction_labels, find_reference_labels, label_values, read_labels
from tests.synthetic import write_dataset_json


def keys_of(label_set):
    return [label.key for label in label_set.labels]


def test_plain_labels_come_in_ascending_order(tmp_path):
    labels = read_labels(write_dataset_json(tmp_path, labels={"background": 0, "tumor": 2, "liver": 1}))
    assert keys_of(labels) == ["1", "2"]
    assert [label.name for label in labels.labels] == ["liver", "tumor"]
    assert labels.ignore is None


def test_regions_keep_their_order_and_stock_spelling(tmp_path):
    path = write_dataset_json(tmp_path, labels={"background": 0, "whole": [1, 2], "core": [2], "other": 3, "ignore": 4})
    labels = read_labels(path)
    assert keys_of(labels) == ["(1, 2)", "(2,)", "3"]
    assert labels.ignore == 4
    assert labels.known_values == {0, 1, 2, 3, 4}


def test_a_list_of_one_is_a_plain_label_where_there_are_no_regions(tmp_path):
    assert keys_of(read_labels(write_dataset_json(tmp_path, labels={"background": 0, "liver": [1]}))) == ["1"]


def test_labels_written_the_old_way_round_are_read(tmp_path):
    labels = read_labels(write_dataset_json(tmp_path, labels={"0": "background", "1": "liver", "2": "tumor"}))
    assert [(label.key, label.name) for label in labels.labels] == [("1", "liver"), ("2", "tumor")]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({}, "'labels' is missing or empty"),
        ({"labels": []}, "'labels' is missing or empty"),
        ({"labels": {"background": 0}}, "names no label but the background"),
        ({"labels": {"background": 0, "liver": "one"}}, "label 'liver' has value 'one'"),
        ({"labels": {"background": 0, "liver": -1}}, "label 'liver' has value '-1'"),
        ({"labels": {"background": 0, "liver": True}}, "label 'liver' has value 'True'"),
        ({"labels": {"background": 0, "liver": []}}, "label 'liver' has no value"),
        ({"labels": {"background": 0, "liver": 1, "ignore": [2, 3]}}, "'ignore' must be one value"),
        ({"labels": {"background": 0, "liver": 1, "hepar": 1}}, "several names to one value"),
    ],
)
def test_broken_labels_are_refused(tmp_path, content, problem):
    with pytest.raises(DataError, match=problem):
        read_labels(write_dataset_json(tmp_path, **content))


def test_values_found_are_named_after_themselves():
    labels = label_values([0, 5, 2])
    assert [(label.key, label.name) for label in labels.labels] == [("2", "label 2"), ("5", "label 5")]


def test_each_side_has_the_dataset_json_of_its_own_folder(tmp_path):
    reference, prediction = tmp_path / "raw" / "labelsTr", tmp_path / "pred"
    reference.mkdir(parents=True)
    prediction.mkdir()
    assert find_reference_labels(reference) is None and find_prediction_labels(prediction) is None
    inside = write_dataset_json(reference, labels={})
    assert find_reference_labels(reference) == inside
    beside = write_dataset_json(tmp_path / "raw", labels={})
    assert find_reference_labels(reference) == beside == find_reference_labels(reference / "a.nii.gz")
    predicted = write_dataset_json(prediction, labels={})
    assert find_prediction_labels(prediction) == predicted == find_prediction_labels(prediction / "a.nii.gz")

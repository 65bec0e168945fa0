"""A label mapping is read as it is written, or refused with everything that is wrong with it."""

from __future__ import annotations

import json

import pytest

from stu_pipeline.datasets.label_mapping import read_head_mapping, read_label_mapping
from stu_pipeline.errors import DataError

PREDICTION = {"liver": (1,), "kidney_left": (2,), "kidney_right": (3,), "spleen": (4,), "liver_tumor": (5,)}
REFERENCE = {"Liver": (1,), "kidney": (2,), "tumor": (3,), "left_kidney": (4,), "whole_liver": (1, 3)}


def write(tmp_path, labels, **more):
    path = tmp_path / "mapping.json"
    path.write_text(json.dumps({"schema": 1, "labels": labels} | more))
    return path


def read(tmp_path, labels, **more):
    mapped = read_label_mapping(write(tmp_path, labels, **more), prediction=PREDICTION, reference=REFERENCE)
    return {label.name: (label.prediction, label.reference) for label in mapped}


def refuse(tmp_path, labels, **more):
    with pytest.raises(DataError) as caught:
        read(tmp_path, labels, **more)
    return caught.value.details or (caught.value.problem,)


def test_one_name_and_a_list_of_names_belong_to_the_reference_label_of_the_key(tmp_path):
    assert read(tmp_path, {"Liver": "liver", "kidney": ["kidney_left", "kidney_right"]}) == {
        "Liver": (("liver",), ("Liver",)),
        "kidney": (("kidney_left", "kidney_right"), ("kidney",)),
    }


def test_a_common_name_of_its_own_and_several_reference_labels(tmp_path):
    entry = {"prediction": ["liver", "liver_tumor"], "reference": ["Liver", "tumor"]}
    assert read(tmp_path, {"all of the liver": entry}, comment="for the paper") == {
        "all of the liver": (("liver", "liver_tumor"), ("Liver", "tumor")),
    }


def test_nested_regions_may_share_labels_on_both_sides(tmp_path):
    labels = {"whole_liver": ["liver", "liver_tumor"], "tumor": "liver_tumor"}
    assert len(read(tmp_path, labels)) == 2


def test_every_unknown_name_is_listed_with_near_ones(tmp_path):
    problems = refuse(tmp_path, {"Liver": "lever", "kidni": "kidney_left", "tumor": "x9"})
    assert problems == (
        "'Liver': no label 'lever' in the prediction, nearest: 'liver'",
        "'kidni': no label 'kidni' in the reference, nearest: 'kidney'",
        "'tumor': no label 'x9' in the prediction",
    )


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        ({}, "'labels' is empty"),
        ({"Liver": []}, "'Liver' has an empty list for its prediction"),
        ({"Liver": ""}, "the prediction of 'Liver' must be a name"),
        ({"Liver": 1}, "the prediction of 'Liver' must be a name or a list of names, found 1"),
        ({"Liver": [1]}, "must be a name or a list of names"),
        ({"Liver": True}, "must be a name or a list of names"),
        ({" ": "liver"}, "a label has an empty name"),
        ({"Liver": None}, "'Liver' takes no predicted label"),
        ({"Liver": ["liver", "liver"]}, "the prediction of 'Liver' has 'liver' twice"),
        ({"Liver": {"reference": "Liver"}}, "'Liver' has no 'prediction'"),
        ({"Liver": {"prediction": "liver", "referense": "Liver"}}, "has the unknown key 'referense'"),
        ({"Liver": {"prediction": "liver", "allow_side_change": 1}}, "must be true or false"),
        ({"left_kidney": "kidney_right"}, "takes 'kidney_right' for 'left_kidney', another side"),
        ({"Liver": "liver", "tumor": "liver"}, "share labels of the prediction, but none of the reference"),
        ({"whole_liver": "liver", "tumor": "liver_tumor"}, "share labels of the reference, but none of the prediction"),
        (
            {"Liver": "liver", "again": {"prediction": "liver", "reference": "Liver"}},
            "'Liver' and 'again' are the same labels of the reference",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(tmp_path, labels, problem):
    assert any(problem in line for line in refuse(tmp_path, labels))


@pytest.mark.parametrize(
    ("more", "problem"),
    [({"schema": 2}, "'schema' must be 1"), ({"schema": True}, "'schema' must be 1"), ({"label": {}}, "key 'label'")],
)
def test_another_schema_and_unknown_keys_are_refused(tmp_path, more, problem):
    assert problem in refuse(tmp_path, {"Liver": "liver"}, **more)[0]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"labels": []}', '{"labels": {"a": "b", "a": "c"}}', "\x00"])
def test_what_is_no_mapping_is_refused(tmp_path, text):
    path = tmp_path / "mapping.json"
    path.write_text(text)
    with pytest.raises(DataError):
        read_label_mapping(path, prediction=PREDICTION, reference=REFERENCE)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"mapping\.json"):
        read_label_mapping(tmp_path / "mapping.json", prediction=PREDICTION, reference=REFERENCE)


def test_a_side_changes_only_when_it_is_said(tmp_path):
    entry = {"prediction": "kidney_right", "reference": "left_kidney", "allow_side_change": True}
    assert read(tmp_path, {"flipped": entry}) == {"flipped": (("kidney_right",), ("left_kidney",))}
    assert read(tmp_path, {"kidney": ["kidney_left", "kidney_right"]})  # a whole organ has no side


def test_heads_are_mapped_one_to_one(tmp_path):
    path = write(tmp_path, {"Liver": "liver", "new": {"prediction": None, "reference": "tumor"}, "kidney": None})
    assert read_head_mapping(path, list(PREDICTION), list(REFERENCE)) == {
        "Liver": "liver",
        "tumor": None,
        "kidney": None,
    }


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        ({"kidney": ["kidney_left", "kidney_right"]}, "maps several labels, a head takes one"),
        ({"Liver": "liver", "tumor": "liver"}, "label 'liver' of the weights is used 2 times"),
        ({"Liver": "liver", "x": {"prediction": "spleen", "reference": "Liver"}}, "'Liver' of the dataset is used 2"),
        ({"left_kidney": "kidney_right"}, "another side"),
        ({"Liver": "lver"}, "no label 'lver' in the weights, nearest: 'liver'"),
    ],
)
def test_heads_that_cannot_be_mapped_are_refused(tmp_path, labels, problem):
    with pytest.raises(DataError) as caught:
        read_head_mapping(write(tmp_path, labels), list(PREDICTION), list(REFERENCE))
    assert problem in str(caught.value)

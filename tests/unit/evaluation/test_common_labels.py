"""Two label lists become one numbering, by name or as a mapping says."""

from __future__ import annotations

import json

import numpy as np
import pytest

from stu_pipeline.errors import DataError
from stu_pipeline.evaluation.common_labels import choose_common_labels
from stu_pipeline.evaluation.labels import Label, LabelSet


def make_set(*, ignore=None, **values):
    labels = [
        Label(key=str(value), name=name, values=value if isinstance(value, tuple) else (value,))
        for name, value in values.items()
    ]
    return LabelSet(labels=tuple(labels), ignore=ignore)


def test_equal_lists_need_nothing():
    assert choose_common_labels(make_set(liver=1, spleen=2), make_set(spleen=2, liver=1)) is None


def test_another_spelling_with_the_same_values_needs_nothing():
    assert choose_common_labels(make_set(Liver=1), make_set(liver=1)) is None


def test_other_values_are_matched_by_name():
    common = choose_common_labels(make_set(spleen=1, liver=5), make_set(liver=1, spleen=2, aorta=3))
    marked, predicted = np.array([0, 1, 5]), np.array([0, 2, 1, 3])
    codes = {label.name: label.values for label in common.labels.labels}
    assert common.encode_reference(marked).tolist() == [0, *codes["spleen"], *codes["liver"]]
    assert common.encode_prediction(predicted).tolist() == [0, *codes["spleen"], *codes["liver"], 0]
    assert [label.key for label in common.labels.labels] == ["1", "5"]
    assert (common.reference_left_out, common.prediction_left_out) == ((), ("aorta",))


def test_a_further_predicted_label_is_told_though_the_values_agree():
    common = choose_common_labels(make_set(liver=1), make_set(liver=1, aorta=2))
    assert common.prediction_left_out == ("aorta",)
    assert common.encode_prediction(np.array([0, 1, 2])).tolist() == [0, 1, 0]


def test_values_alone_never_match():
    with pytest.raises(
        DataError, match="other names on both sides: reference label 'spleen' is not predicted"
    ) as caught:
        choose_common_labels(make_set(spleen=1, liver=2, kidney_right=3), make_set(liver=1, kidney_left=3))
    assert caught.value.details[1] == "reference label 'kidney_right' is not predicted"
    assert "--mapping" in caught.value.hint


def test_a_side_never_matches_the_other():
    with pytest.raises(DataError, match="'kidney_left' is not predicted"):
        choose_common_labels(make_set(kidney_left=1), make_set(kidney_right=1))


def test_ignored_voxels_of_the_reference_stay_ignored():
    common = choose_common_labels(make_set(liver=1, ignore=9), make_set(liver=4))
    assert common.encode_reference(np.array([9])).tolist() == [common.labels.ignore]
    assert common.labels.ignore not in {value for label in common.labels.labels for value in label.values}


def write(tmp_path, labels):
    path = tmp_path / "mapping.json"
    path.write_text(json.dumps({"schema": 1, "labels": labels}))
    return path


def test_many_become_one_on_either_side(tmp_path):
    mapping = write(
        tmp_path,
        {
            "kidney": ["kidney_left", "kidney_right"],
            "whole liver": {"prediction": "liver", "reference": ["liver", "tumor"]},
        },
    )
    reference = make_set(kidney=1, liver=2, tumor=3, spleen=4)
    prediction = make_set(kidney_left=1, kidney_right=2, liver=3)
    common = choose_common_labels(reference, prediction, mapping)
    kidney, liver = (label.values for label in common.labels.labels)
    assert common.encode_prediction(np.array([1, 2, 3])).tolist() == [*kidney, *kidney, *liver]
    assert common.encode_reference(np.array([1, 2, 3, 4])).tolist() == [*kidney, *liver, *liver, 0]
    assert [label.key for label in common.labels.labels] == ["1", "(2, 3)"]
    assert common.reference_left_out == ("spleen",) and common.source == str(mapping)


def test_nested_regions_share_codes(tmp_path):
    mapping = write(tmp_path, {"whole": ["edema", "core"], "inner": "core"})
    common = choose_common_labels(make_set(whole=(1, 2), inner=(2,)), make_set(edema=7, core=8), mapping)
    whole, inner = (set(label.values) for label in common.labels.labels)
    assert inner < whole
    assert common.encode_prediction(np.array([8])).tolist() == list(inner)
    assert common.encode_reference(np.array([1])).tolist() == list(whole - inner)

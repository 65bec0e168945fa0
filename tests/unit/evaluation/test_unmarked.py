"""Cases of a union are scored on the labels that somebody marked in them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from stu_pipeline import EvaluateConfig, evaluate
from stu_pipeline.errors import DataError
from tests.synthetic import write_dataset_json, write_volume


@pytest.fixture
def folders(tmp_path):
    """Two sources: one marks label 1, the other label 2. The predictions have both everywhere."""
    reference, prediction = tmp_path / "union" / "labelsTr", tmp_path / "masks"
    full = np.zeros((6, 8, 8), dtype=np.uint8)
    full[1:3, 2:6, 2:6], full[3:5, 2:6, 2:6] = 1, 2
    for case, marked in (("a__1", 1), ("b__1", 2)):
        write_volume(reference / f"{case}.nii.gz", np.where(full == marked, full, 0).astype(np.uint8))
        write_volume(prediction / f"{case}.nii.gz", full)
    return reference, prediction


def describe(folder, cases):
    table = {"sources": {"a": [1], "b": [2]}, "cases": cases}
    write_dataset_json(
        folder,
        channel_names={"0": "CT"},
        labels={"background": 0, "one": 1, "two": 2},
        numTraining=2,
        file_ending=".nii.gz",
        stu_partial_labels=table,
    )


def test_a_label_that_nobody_marked_in_a_case_has_no_score_there(folders):
    reference, prediction = folders
    describe(reference.parent, {"a__1": "a", "b__1": "b"})
    result = evaluate(EvaluateConfig(reference=reference, prediction=prediction, surface=False))
    assert result.mean_dice == 1 and [label.dice.num_values for label in result.labels] == [1, 1]
    summary = json.loads((prediction / "summary.json").read_text(encoding="utf-8"))
    scores = {entry["prediction_file"][-11:-7]: entry["metrics"] for entry in summary["metric_per_case"]}
    assert scores["a__1"]["1"]["Dice"] == 1 and scores["a__1"]["2"]["Dice"] is None


def test_without_the_table_the_other_source_s_labels_count_as_wrong(folders):
    reference, prediction = folders
    describe(reference.parent, {"a__1": "a", "b__1": "b"})
    path = reference.parent / "dataset.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["stu_partial_labels"]
    path.write_text(json.dumps(content), encoding="utf-8")
    result = evaluate(EvaluateConfig(reference=reference, prediction=prediction, surface=False))
    assert result.mean_dice == 0.5


def test_a_case_that_is_not_in_the_table_is_refused(folders):
    reference, prediction = folders
    describe(reference.parent, {"a__1": "a"})
    with pytest.raises(DataError, match="not in the table of marked labels, for example 'b__1'"):
        evaluate(EvaluateConfig(reference=reference, prediction=prediction, surface=False))

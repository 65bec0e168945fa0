"""Scores of labels that are not marked in a case are unknown, and no mean holds them."""

import json
import math

import pytest
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from stu_pipeline.evaluation.comparison.runs import read_run
from stu_pipeline.nnunet.summary import read_summary, score_case, summarise_cases, write_summary
from stu_pipeline.prediction.calibration.cases import read_scores
from tests.synthetic import make_label_map, write_volume


def score_twice(root, marked):
    """Score two cases; the prediction of the second lacks label 2."""
    cases = []
    for index, flags in enumerate(marked):
        labels = make_label_map((6, 8, 12))
        write_volume(root / "labelsTr" / f"case_{index}.nii.gz", labels, spacing_mm=(1, 1, 1))
        labels[labels == index + 1] = 0
        write_volume(root / "validation" / f"case_{index}.nii.gz", labels, spacing_mm=(1, 1, 1))
        cases.append(
            score_case(
                root / "labelsTr" / f"case_{index}.nii.gz",
                root / "validation" / f"case_{index}.nii.gz",
                reader=SimpleITKIO(),
                labels=[1, 2],
                ignore_label=None,
                marked=flags,
            )
        )
    return cases


def test_means_hold_only_cases_that_mark_the_label(tmp_path):
    summary = summarise_cases(score_twice(tmp_path, [(True, True), (True, False)]))
    assert summary["mean"][1]["Dice"] == 0.5  # missed in the first case
    assert summary["mean"][2]["Dice"] == 1.0  # missed in the second, where nobody marked it
    assert summary["foreground_mean"]["Dice"] == 0.75
    assert summary["mean"][2]["n_ref"] == summary["metric_per_case"][0]["metrics"][2]["n_ref"]
    assert summary["stu"]["partial_labels"]["num_cases_marked"] == {"1": 2, "2": 1}


@pytest.mark.parametrize("marked", [(None, None), ((True, True), (True, True))])
def test_without_unmarked_labels_the_summary_is_nnunets(marked, tmp_path):
    summary = summarise_cases(score_twice(tmp_path, marked))
    assert summary.keys() == {"metric_per_case", "mean", "foreground_mean"}
    assert summary["mean"][2]["Dice"] == 0.5


def test_a_label_that_no_case_marks_is_out_of_the_foreground_mean(tmp_path):
    summary = summarise_cases(score_twice(tmp_path, [(True, False), (True, False)]))
    assert math.isnan(summary["mean"][2]["Dice"]) and summary["foreground_mean"]["Dice"] == 0.5


def test_whoever_reads_the_summary_finds_unknown_scores(tmp_path):
    path = tmp_path / "validation" / "summary.json"
    write_summary(path, summarise_cases(score_twice(tmp_path, [(True, True), (True, False)])))
    assert set(json.loads(path.read_text())["metric_per_case"][1]["metrics"]["2"].values()) == {None}
    assert read_scores(path)["case_1"] == {(1,): 1.0, (2,): None}
    run = read_run(path, metric="Dice")
    assert math.isnan(run.scores["case_1"]["2"].value) and run.scores["case_1"]["2"].num_reference is None
    again = summarise_cases(read_summary(path)["metric_per_case"])
    assert again["mean"][2]["Dice"] == 1.0 and again["stu"] == json.loads(path.read_text())["stu"]

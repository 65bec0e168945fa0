import json
from pathlib import Path

import numpy as np
import pytest

from stu_pipeline.evaluation.cases import CasePair
from stu_pipeline.evaluation.config import EvaluateConfig, EvaluateResult
from stu_pipeline.evaluation.labels import label_values
from stu_pipeline.evaluation.metrics import score_case
from stu_pipeline.evaluation.report import (
    ScoreTable,
    build_label_table,
    build_summary,
    build_worst_table,
    describe_labels,
    rank_cases,
)
from stu_pipeline.evaluation.scoring import ScoredCase

LABELS = label_values([1, 2, 3]).labels


def make_case(name, predicted_layers, *, tolerance_mm=1.0):
    """Label 1 fills 4 of 8 layers and is predicted in the first few; label 2 is missed; label 3 is nowhere."""
    reference, prediction = np.zeros((2, 8, 6, 6), dtype=np.uint8)
    reference[:4], reference[7, 0, 0] = 1, 2
    prediction[:predicted_layers] = 1
    scores = score_case(reference, prediction, labels=LABELS[:2], spacing_mm=(1.0, 1.0, 1.0), tolerance_mm=tolerance_mm)
    return ScoredCase(
        pair=CasePair(case=name, reference=Path("r") / f"{name}.nii.gz", prediction=Path("p") / f"{name}.nii.gz"),
        scores={label.key: score for label, score in zip(LABELS, scores, strict=False)},
        num_voxels=reference.size,
    )


@pytest.fixture(params=[True, False], ids=["surface", "no surface"])
def table(request):
    tolerance_mm = 1.0 if request.param else None
    cases = [make_case(f"case_{layers}", layers, tolerance_mm=tolerance_mm) for layers in (4, 2, 3)]
    return ScoreTable(cases, LABELS, with_surface=request.param)


def make_result(table):
    return EvaluateResult(
        summary_path=None,
        num_cases=3,
        mean_dice=0.4,
        mean_dice_ci=(0.3, 0.5),
        labels=describe_labels(table, seed=0),
        cases=rank_cases(table),
    )


def test_summary_is_json_without_nan(table):
    config = EvaluateConfig(reference=Path("r"), prediction=Path("p"), tolerance_mm=2.0)
    summary = build_summary(table, make_result(table), config)
    text = json.dumps(summary, allow_nan=False)
    assert list(json.loads(text)) == ["foreground_mean", "mean", "metric_per_case", "stu"]
    assert summary["stu"]["config"]["tolerance_mm"] == 2.0


def test_means_leave_out_what_cannot_be_measured(table):
    config = EvaluateConfig(reference=Path("r"), prediction=Path("p"))
    summary = build_summary(table, make_result(table), config)
    dice = {key: mean["Dice"] for key, mean in summary["mean"].items()}
    assert dice == {"1": pytest.approx((1 + 2 * 2 / 6 + 2 * 3 / 7) / 3), "2": 0.0, "3": None}
    assert summary["foreground_mean"]["Dice"] == pytest.approx((dice["1"] + 0.0) / 2)
    assert summary["mean"]["3"]["TN"] == 8 * 6 * 6
    assert summary["metric_per_case"][0]["metrics"]["3"]["Dice"] is None


def test_a_missed_label_has_no_distance_and_is_counted():
    table = ScoreTable([make_case("a", 4), make_case("b", 2)], LABELS, with_surface=True)
    found, missed, absent = describe_labels(table, seed=0)
    assert (found.hd95_mm.num_values, found.hd95_mm.num_infinite) == (2, 0)
    assert (missed.hd95_mm.mean, missed.hd95_mm.num_infinite, missed.nsd.mean) == (None, 2, 0.0)
    assert (absent.hd95_mm.num_missing, absent.dice.num_missing, absent.dice.mean) == (2, 2, None)


def test_cases_are_ranked_from_the_worst(table):
    ranked = rank_cases(table)
    assert [case.case for case in ranked] == ["case_2", "case_3", "case_4"]
    assert (ranked[0].worst_label, ranked[0].worst_dice) == ("label 2", 0.0)
    assert ranked[2].mean_dice == 0.5  # label 3 is nowhere and does not count


def test_an_empty_case_is_ranked_last():
    empty = make_case("empty", 0)
    empty = ScoredCase(pair=empty.pair, scores={}, num_voxels=288)
    ranked = rank_cases(ScoreTable([empty, make_case("full", 1)], LABELS, with_surface=True))
    assert [(case.case, case.mean_dice) for case in ranked] == [("full", 0.2), ("empty", None)]


def test_label_table_has_a_row_per_label_and_the_mean(table):
    built = build_label_table(make_result(table), tolerance_mm=1.0)
    assert [row[0] for row in built.rows] == ["label 1", "label 2", "label 3", "mean"]
    assert all(len(row) == len(built.columns) for row in built.rows)
    assert built.rows[0][1] == "0.8413"
    assert built.rows[2][1] == "-"
    assert built.rows[-1][1:3] == ("0.4000", "0.3000 to 0.5000")
    assert built.columns[-2:] == ("volume error ml", "n")
    assert built.rows[0][-2] == f"{-(0 + 2 + 1) * 36 / 1000 / 3:+.3g}"
    if table.with_surface:
        assert built.columns[4:6] == ("HD95 mm", "NSD 1 mm")
        assert built.rows[1][4] == "- (3 infinite)"


def test_worst_table_shows_at_most_five():
    cases = [make_case(f"case_{index}", 1 + index % 4) for index in range(9)]
    built = build_worst_table(make_result(ScoreTable(cases, LABELS, with_surface=True)))
    assert [row[0] for row in built.rows] == ["case_0", "case_4", "case_8", "case_1", "case_5"]
    assert built.rows[0][1:] == ("0.2000", "label 2", "0.0000")

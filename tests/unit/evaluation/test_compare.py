"""Runs are matched by names of cases and labels, and refused where they were not scored against the same references."""

import csv
import html
import json

import numpy as np
import pytest

from stu_pipeline.errors import DataError, UsageError
from stu_pipeline.evaluation.comparison.compare import ALL_LABELS, CompareConfig, average_labels, compare
from stu_pipeline.evaluation.comparison.config import METRICS
from stu_pipeline.evaluation.comparison.runs import name_runs
from stu_pipeline.log import Notice

NAMES = {"1": "left", "2": "right"}


def write_summary(path, dice, *, names=NAMES, cases=None, num_reference=100, extra=None, tolerance_mm=1.0, ours=True):
    """Write a summary with `dice` (cases, labels); further metrics per score come from `extra(case, label)`."""
    entries = []
    for case, row in enumerate(np.atleast_2d(dice)):
        metrics = {}
        for label, value in zip(names, row, strict=True):
            scores = {
                "Dice": None if np.isnan(value) else float(value),
                "n_ref": num_reference,
                "n_pred": num_reference,
            }
            metrics[label] = scores | (extra(case, label) if extra else {})
        name = cases[case] if cases else f"case_{case}"
        entries.append({"metrics": metrics, "prediction_file": f"p/{name}.nii.gz", "reference_file": f"r/{name}.mha"})
    content = {"metric_per_case": entries, "mean": {}, "foreground_mean": {}}
    if ours:
        described = {key: {"name": name} for key, name in names.items()}
        content["stu"] = {"labels": described, "labels_from": "d.json", "config": {"tolerance_mm": tolerance_mm}}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def draw_dice(num_cases=20, *, gain=0.0, seed=0):
    generator = np.random.default_rng(99)
    hard = generator.uniform(0.6, 0.9, (num_cases, 2))
    return np.clip(hard + gain + np.random.default_rng(seed).normal(0, 0.01, hard.shape), 0, 1)


@pytest.fixture
def two(tmp_path):
    first = write_summary(tmp_path / "small" / "summary.json", draw_dice(seed=1))
    return first, write_summary(tmp_path / "large" / "summary.json", draw_dice(gain=0.02, seed=2))


def run(*runs, **options):
    return compare(CompareConfig(runs=runs, **options))


def test_a_better_run_is_found_and_said(two):
    result = run(*two)
    (pair,) = result.pairs
    assert (pair.first, pair.second, len(result.cases), result.labels) == ("small", "large", 20, ("left", "right"))
    expected = (draw_dice(gain=0.02, seed=2) - draw_dice(seed=1)).mean()
    assert pair.overall.difference == pytest.approx(expected)
    assert pair.overall.p_value < 0.001 and pair.overall.label == ALL_LABELS
    assert pair.sentence.startswith(f"large is better than small by {expected:.3f} Dice (95 % CI 0.0")
    assert "p < 0.001, large effect; large scores better in" in pair.sentence
    ranks = [item.mean_rank for item in result.runs]
    assert ranks == pytest.approx([1 + pair.overall.wins / 20, 1 + pair.overall.losses / 20])


def test_the_order_of_the_runs_turns_signs_only(two):
    there, back = run(*two).pairs[0], run(*reversed(two)).pairs[0]
    assert back.overall.difference == pytest.approx(-there.overall.difference)
    assert back.overall.p_value == pytest.approx(there.overall.p_value)
    assert (back.overall.wins, back.overall.losses) == (there.overall.losses, there.overall.wins)
    assert back.sentence.partition("%")[0] == there.sentence.partition("%")[0]


def test_equal_runs_show_no_difference(two):
    sentence = run(two[0], two[0], names=("a", "b")).pairs[0].sentence
    assert sentence == (
        "no difference was shown between a and b: +0.0000 Dice (95 % CI 0.0000 to 0.0000), p = 1.00; "
        "a scores better in 0 of 20 cases, equal in 20"
    )


def test_labels_are_corrected_together(two):
    labels = run(*two).pairs[0].labels
    smaller, larger = sorted(label.p_value for label in labels)
    assert sorted(label.p_corrected for label in labels) == pytest.approx([2 * smaller, max(2 * smaller, larger)])


def test_labels_are_matched_by_name(tmp_path):
    first = write_summary(tmp_path / "a" / "summary.json", [[0.5, 0.9]])
    second = write_summary(tmp_path / "b" / "summary.json", [[0.9, 0.5]], names={"1": "right", "2": "left"})
    assert [label.difference for label in run(first, second).pairs[0].labels] == [0.0, 0.0]


def test_labels_without_names_are_matched_by_key(tmp_path, two):
    unnamed = write_summary(tmp_path / "stock" / "summary.json", draw_dice(), ours=False)
    assert run(two[0], unnamed).labels == ("1", "2")


def test_names_of_a_stock_summary_come_from_the_dataset(tmp_path, two):
    folder = tmp_path / "model" / "fold_0" / "validation"
    write_summary(folder / "summary.json", draw_dice(), ours=False)
    (tmp_path / "model" / "dataset.json").write_text('{"labels": {"background": 0, "left": 1, "right": 2}}')
    assert run(two[0], tmp_path / "model").labels == ("left", "right")


def test_a_training_on_renumbered_labels_keeps_its_names(tmp_path):
    folder = tmp_path / "model" / "fold_0" / "validation"
    write_summary(folder / "summary.json", [[0.5, 0.9]], ours=False)
    description = {"labels": {"background": 0, "left": 1, "right": 2}, "stu_label_ids": [0, 7, 40]}
    (tmp_path / "model" / "dataset.json").write_text(json.dumps(description))
    evaluated = write_summary(tmp_path / "ours" / "summary.json", [[0.9, 0.5]], names={"7": "right", "40": "left"})
    assert [label.difference for label in run(evaluated, tmp_path / "model").pairs[0].labels] == [0.0, 0.0]


def test_a_model_folder_is_its_cross_validation(tmp_path):
    for model in ("a", "b"):
        for fold in range(2):
            path = tmp_path / model / f"fold_{fold}" / "validation" / "summary.json"
            write_summary(path, draw_dice(3), cases=[f"case_{3 * fold + index}" for index in range(3)])
    result = run(tmp_path / "a", tmp_path / "b")
    assert len(result.cases) == 6 and [item.name for item in result.runs] == ["a", "b"]


def test_folds_that_share_a_case_are_refused(tmp_path):
    for fold in range(2):
        write_summary(tmp_path / "a" / f"fold_{fold}" / "validation" / "summary.json", draw_dice(2))
    with pytest.raises(DataError, match="case 'case_0' is there twice"):
        run(tmp_path / "a", tmp_path / "a")


def test_other_cases_are_listed_and_refused_unless_common(tmp_path, two):
    other = write_summary(tmp_path / "c" / "summary.json", draw_dice(4), cases=["case_0", "case_1", "x", "y"])
    with pytest.raises(DataError, match="do not have the same cases") as caught:
        run(two[0], other)
    assert caught.value.details[1] == "2 cases not in every run, in c: 'x', 'y'"
    assert "'case_2', 'case_3'" in caught.value.details[0] and "--common" in caught.value.hint
    events = []
    result = compare(CompareConfig(runs=(two[0], other), common=True), listen=events.append)
    assert result.cases == ("case_0", "case_1") and len(result.left_out) == 2
    assert [event.text for event in events if isinstance(event, Notice)] == [f"left out {x}" for x in result.left_out]


def test_nothing_in_common_is_refused(tmp_path, two):
    other = write_summary(tmp_path / "c" / "summary.json", draw_dice(1), cases=["x"])
    with pytest.raises(DataError, match="share no case"):
        run(two[0], other, common=True)


def test_other_labels_are_listed_and_refused_unless_common(tmp_path, two):
    other = write_summary(tmp_path / "c" / "summary.json", draw_dice(), names={"1": "left", "2": "top"})
    with pytest.raises(DataError, match="do not have the same labels") as caught:
        run(two[0], other)
    assert caught.value.details[0].endswith("in small: 'right'")
    assert run(two[0], other, common=True).labels == ("left",)


def test_other_references_are_refused(tmp_path, two):
    other = write_summary(tmp_path / "c" / "summary.json", draw_dice(), num_reference=101)
    with pytest.raises(DataError, match="20 of 20 cases were not scored against the same references") as caught:
        run(two[0], other, common=True)
    assert "small 100, c 101" in caught.value.details[0]


def test_nsd_of_other_tolerances_is_refused(tmp_path):
    paths = [
        write_summary(
            tmp_path / name / "summary.json", [[0.5, 0.6]], tolerance_mm=tolerance, extra=lambda *_: {"NSD": 0.5}
        )
        for name, tolerance in (("a", 1.0), ("b", 2.0))
    ]
    with pytest.raises(DataError, match="different tolerances"):
        run(*paths, metric="NSD")
    assert run(*paths).pairs[0].overall.difference == 0.0


def test_a_missed_organ_counts_against_a_run_in_distances(tmp_path):
    def measure(missed):
        def extra(case, label):
            is_missed = missed and case < 12 and label == "1"
            return {"HD95_mm": None if is_missed else 5.0, "n_pred": 0 if is_missed else 100}

        return extra

    first = write_summary(tmp_path / "a" / "summary.json", draw_dice(), extra=measure(True))
    second = write_summary(tmp_path / "b" / "summary.json", draw_dice(), extra=measure(False))
    left = run(first, second, metric="HD95_mm").pairs[0].labels[0]
    assert (left.wins, left.ties, left.difference) == (12, 8, 0.0)
    assert left.p_value < 0.01


def test_a_label_nobody_has_is_left_out(tmp_path):
    values = draw_dice(5)
    values[0, 0] = np.nan
    first = write_summary(tmp_path / "a" / "summary.json", values)
    second = write_summary(tmp_path / "b" / "summary.json", draw_dice(5, seed=4))
    pair = run(first, second).pairs[0]
    assert (pair.labels[0].num_cases, pair.labels[0].num_left_out, pair.overall.num_cases) == (4, 1, 5)


def test_no_run_gains_by_lacking_a_hard_label():
    values = np.array([[[0.9, np.nan], [0.8, 0.4]], [[0.9, 0.2], [0.8, 0.4]]])
    assert average_labels(values).tolist() == [pytest.approx([0.9, 0.6])] * 2
    assert average_labels(values[::-1]).tolist() == [pytest.approx([0.9, 0.6])] * 2
    assert np.isnan(average_labels(np.full((2, 1, 1), np.nan))).all()


def test_volume_errors_count_by_their_size(tmp_path):
    paths = [
        write_summary(
            tmp_path / name / "summary.json", draw_dice(), extra=lambda *_, error=error: {"volume_error_ml": error}
        )
        for name, error in (("a", -3.0), ("b", 2.0))
    ]
    pair = run(*paths, metric="volume_error_ml").pairs[0]
    assert pair.overall.difference == -1.0
    assert pair.sentence.startswith("b is better than a by 1.00 ml volume error")


def test_three_runs_are_tested_together_and_in_pairs(tmp_path, two):
    third = write_summary(tmp_path / "third" / "summary.json", draw_dice(seed=7))
    result = run(*two, third)
    assert [(pair.first, pair.second) for pair in result.pairs] == [
        ("small", "large"), ("small", "third"), ("large", "third"),
    ]  # fmt: skip
    assert [test.label for test in result.friedman] == [ALL_LABELS, "left", "right"]
    assert result.friedman[0].p_value < 0.001 and result.friedman[0].p_corrected is None
    assert min(result.runs, key=lambda item: item.mean_rank).name == "large"
    assert "(corrected)" in result.pairs[0].sentence
    assert result.pairs[0].overall.p_corrected > result.pairs[0].overall.p_value


def test_files_hold_the_same_numbers(two, tmp_path):
    result = run(*two, output=tmp_path / "out")
    assert [path.name for path in result.files] == [f"comparison.{x}" for x in ("json", "csv", "md", "html")]
    document = json.loads(result.files[0].read_text())
    assert document["pairs"][0]["overall"]["difference"] == result.pairs[0].overall.difference
    with result.files[1].open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["label"] for row in rows] == ["left", "right", ALL_LABELS]
    assert float(rows[2]["difference"]) == result.pairs[0].overall.difference
    assert result.pairs[0].sentence in result.files[2].read_text()
    assert result.pairs[0].sentence in html.unescape(result.files[3].read_text())


def test_no_files_are_written_unless_asked(two, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    assert run(*two).files == () and sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("{}", "is not the summary of an evaluation"),
        ("[1, 2", "is not valid JSON"),
        ('{"metric_per_case": []}', "has no cases"),
        ('{"metric_per_case": [{"metrics": {"1": {"Dice": 1}}}]}', "does not name the files"),
        (
            '{"metric_per_case": [{"metrics": {"1": {"IoU": 1}}, "prediction_file": "a.nii"}]}',
            "has no 'Dice', only IoU",
        ),
        ('{"metric_per_case": [{"metrics": {"1": {"Dice": "x"}}, "prediction_file": "a.nii"}]}', "no usable scores"),
        ('{"metric_per_case": [{"prediction_file": "a.nii"}]}', "without 'metrics'"),
    ],
)
def test_a_broken_summary_is_named(two, tmp_path, content, problem):
    (tmp_path / "broken.json").write_text(content)
    with pytest.raises(DataError, match=problem):
        run(two[0], tmp_path / "broken.json")


def test_a_folder_without_summary_says_what_to_do(two, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no summary.json in 'empty'") as caught:
        run(two[0], tmp_path / "empty")
    assert caught.value.hint.startswith("stu evaluate")
    with pytest.raises(DataError, match="not found"):
        run(two[0], tmp_path / "nowhere")


def test_stock_nan_is_no_value(tmp_path, two):
    path = write_summary(tmp_path / "stock" / "summary.json", draw_dice())
    path.write_text(path.read_text().replace('"Dice": 0.', '"Dice": NaN, "was": 0.', 1))
    assert run(two[0], path).pairs[0].labels[0].num_left_out == 1


@pytest.mark.parametrize(
    "wrong", [{"runs": ()}, {"metric": "n_ref"}, {"names": ("a",)}, {"names": ("a", "a")}, {"seed": -1}]
)
def test_settings_that_make_no_sense_are_refused(tmp_path, wrong):
    with pytest.raises(UsageError):
        CompareConfig(**({"runs": (tmp_path, tmp_path)} | wrong))


def test_runs_are_named_by_what_tells_them_apart(tmp_path):
    paths = [tmp_path / "a" / "masks" / "summary.json", tmp_path / "b" / "masks"]
    assert name_runs(paths) == ("a/masks", "b/masks")
    assert name_runs([tmp_path / "x", tmp_path / "x"]) == ("x (1)", "x (2)")


def test_every_metric_has_a_direction_and_a_sentence(tmp_path):
    scores = {name: 0.5 for name in METRICS}
    paths = [write_summary(tmp_path / x / "summary.json", draw_dice(3), extra=lambda *_: scores) for x in "ab"]
    for metric in METRICS:
        assert "no difference was shown" in run(*paths, metric=metric).pairs[0].sentence

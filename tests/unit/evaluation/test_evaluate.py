import json

import numpy as np
import pytest

from stu_pipeline.errors import DataError, UsageError
from stu_pipeline.evaluation.evaluate import EvaluateConfig, evaluate
from stu_pipeline.log import Notice, Progress
from tests.synthetic import make_label_map, write_dataset_json, write_volume

LABELS = {"background": 0, "left": 1, "right": 2}


def write_folders(root, num_cases=3, *, shift=1, ending=".nii.gz"):
    """Write `labelsTr` and `pred`: each prediction is its reference, shifted along x."""
    for index in range(num_cases):
        labels = make_label_map((8, 10, 24), generator=np.random.default_rng(index)).astype(np.uint8)
        write_volume(root / "labelsTr" / f"case_{index}.nii.gz", labels)
        write_volume(root / "pred" / f"case_{index}{ending}", np.roll(labels, shift, axis=2))
    return root / "labelsTr", root / "pred"


def run(reference, prediction, **options):
    return evaluate(EvaluateConfig(reference=reference, prediction=prediction, **options))


def test_scores_of_shifted_boxes_are_known(tmp_path):
    reference, prediction = write_folders(tmp_path)
    write_dataset_json(tmp_path, labels=LABELS)
    result = run(reference, prediction)
    # Boxes 7 voxels wide, shifted by one: 6 of 7 are common.
    assert result.mean_dice == pytest.approx(6 / 7)
    assert [(label.name, label.dice.mean) for label in result.labels] == [
        ("left", pytest.approx(6 / 7)),
        ("right", pytest.approx(6 / 7)),
    ]
    assert result.labels[0].hd95_mm.mean == pytest.approx(1.0)
    assert result.labels[0].nsd.mean == 1.0
    assert (result.num_cases, result.missing, result.extra) == (3, (), ())
    assert result.labels_from == str(tmp_path / "dataset.json")


def test_summary_lands_in_the_prediction_folder(tmp_path):
    reference, prediction = write_folders(tmp_path)
    result = run(reference, prediction)
    assert result.summary_path == prediction / "summary.json"
    summary = json.loads(result.summary_path.read_text())
    assert summary["foreground_mean"]["Dice"] == result.mean_dice
    assert [case["prediction_file"] for case in summary["metric_per_case"]] == [
        str(prediction / f"case_{index}.nii.gz") for index in range(3)
    ]
    assert summary["stu"]["labels_from"] == "values found"


def test_a_second_run_replaces_the_summary_with_the_same(tmp_path):
    folders = write_folders(tmp_path)
    first = run(*folders).summary_path.read_text()
    assert run(*folders).summary_path.read_text() == first


def test_output_may_be_a_folder(tmp_path):
    (tmp_path / "out").mkdir()
    assert run(*write_folders(tmp_path), output=tmp_path / "out").summary_path == tmp_path / "out" / "summary.json"


def test_single_files_are_scored_and_nothing_is_written_unless_asked(tmp_path):
    reference, prediction = write_folders(tmp_path, num_cases=1)
    pair = reference / "case_0.nii.gz", prediction / "case_0.nii.gz"
    result = run(*pair)
    assert (result.summary_path, result.mean_dice_ci) == (None, None)
    assert result.mean_dice == pytest.approx(6 / 7)
    assert [path.name for path in prediction.iterdir()] == ["case_0.nii.gz"]
    assert run(*pair, output=tmp_path / "scores.json").summary_path.is_file()


def test_predictions_of_another_format_are_scored(tmp_path):
    assert run(*write_folders(tmp_path, ending=".mha")).mean_dice == pytest.approx(6 / 7)


def test_references_are_never_written_to(tmp_path):
    reference, prediction = write_folders(tmp_path)
    with pytest.raises(UsageError, match="among the references"):
        run(reference, reference)
    with pytest.raises(UsageError, match="among the references"):
        run(reference, prediction, output=reference / "scores.json")
    assert run(reference, reference, output=tmp_path / "scores.json").mean_dice == 1.0


def test_a_label_that_never_occurs_has_no_score_and_spoils_no_mean(tmp_path):
    folders = write_folders(tmp_path)
    write_dataset_json(tmp_path, labels=LABELS | {"rare": 7})
    result = run(*folders)
    assert result.mean_dice == pytest.approx(6 / 7)
    assert (result.labels[2].dice.mean, result.labels[2].dice.num_missing) == (None, 3)


def test_a_label_found_in_one_case_is_missing_in_the_others(tmp_path):
    reference, prediction = write_folders(tmp_path)
    for folder in (reference, prediction):
        extra = make_label_map((8, 10, 24), num_labels=3).astype(np.uint8)
        write_volume(folder / "extra.nii.gz", extra)
    result = run(reference, prediction)
    assert [label.key for label in result.labels] == ["1", "2", "3"]
    assert (result.labels[2].dice.mean, result.labels[2].dice.num_missing) == (1.0, 3)


def test_regions_and_ignored_voxels_are_scored(tmp_path):
    reference, prediction = np.zeros((2, 4, 8, 8), dtype=np.uint8)
    reference[:, :4], reference[:, 4:6], reference[:, 6:] = 1, 2, 3
    prediction[:, :4], prediction[:, 4:] = 2, 2
    write_volume(tmp_path / "labelsTr" / "a.nii.gz", reference)
    write_volume(tmp_path / "pred" / "a.nii.gz", prediction)
    write_dataset_json(tmp_path, labels={"background": 0, "whole": [1, 2], "core": 2, "ignore": 3})
    whole, core = run(tmp_path / "labelsTr", tmp_path / "pred").labels
    assert (whole.key, whole.dice.mean) == ("(1, 2)", 1.0)
    assert (core.key, core.dice.mean) == ("2", pytest.approx(2 * 2 / (2 + 6)))


def test_every_bad_case_is_named_and_nothing_is_written(tmp_path):
    reference, prediction = write_folders(tmp_path)
    write_volume(prediction / "case_0.nii.gz", np.zeros((8, 10, 23), dtype=np.uint8))
    (prediction / "case_2.nii.gz").write_bytes(b"no image")
    with pytest.raises(DataError, match="2 of 3 cases cannot be scored") as caught:
        run(reference, prediction)
    assert "case 'case_0'" in "".join(caught.value.details)
    assert "'case_2.nii.gz'" in "".join(caught.value.details)
    assert not (prediction / "summary.json").exists()


def test_one_bad_case_is_the_error_itself(tmp_path):
    reference, prediction = write_folders(tmp_path)
    (prediction / "case_2.nii.gz").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"'case_2.nii.gz'"):
        run(reference, prediction)


def test_unknown_labels_are_an_error(tmp_path):
    folders = write_folders(tmp_path)
    write_dataset_json(tmp_path, labels={"background": 0, "left": 1})
    with pytest.raises(DataError, match="3 of 3 cases cannot be scored") as caught:
        run(*folders)
    assert "unknown label values 2, expected 0, 1" in caught.value.details[0]


def test_only_background_is_an_error_when_no_labels_are_known(tmp_path):
    for folder in ("labelsTr", "pred"):
        write_volume(tmp_path / folder / "a.nii.gz", np.zeros((4, 5, 6), dtype=np.uint8))
    with pytest.raises(DataError, match="only background"):
        run(tmp_path / "labelsTr", tmp_path / "pred")
    write_dataset_json(tmp_path, labels=LABELS)
    assert run(tmp_path / "labelsTr", tmp_path / "pred").mean_dice is None


def test_cases_left_out_are_told_and_listed(tmp_path):
    reference, prediction = write_folders(tmp_path)
    (prediction / "case_1.nii.gz").rename(prediction / "other.nii.gz")
    events = []
    config = EvaluateConfig(reference=reference, prediction=prediction, allow_missing=True)
    result = evaluate(config, listen=events.append)
    assert (result.num_cases, result.missing, result.extra) == (2, ("case_1",), ("other",))
    assert [event.text for event in events if isinstance(event, Notice)] == [
        "left out 1 references without a prediction: case_1",
        "left out 1 predictions without a reference: other",
    ]
    assert [(event.done, event.total) for event in events if isinstance(event, Progress)] == [(1, 2), (2, 2)]
    summary = json.loads(result.summary_path.read_text())
    assert (summary["stu"]["missing"], summary["stu"]["extra"]) == (["case_1"], ["other"])


def test_surface_metrics_can_be_left_out(tmp_path):
    result = run(*write_folders(tmp_path), surface=False)
    assert result.labels[0].hd95_mm is None
    assert "NSD" not in json.loads(result.summary_path.read_text())["foreground_mean"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"tolerance_mm": -1.0},
        {"tolerance_mm": float("nan")},
        {"num_workers": -1},
        {"lesion_iou": 1.0},
        {"lesion_size_mm3": -1.0},
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path, wrong):
    with pytest.raises(UsageError):
        EvaluateConfig(reference=tmp_path, prediction=tmp_path, **wrong)

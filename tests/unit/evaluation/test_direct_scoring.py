"""Predictions of a model with labels of its own: scored by what both sides have, or refused with the reason."""

from __future__ import annotations

import json

import imageio.v3 as imageio
import numpy as np
import pytest

from stu_pipeline.cli import run
from stu_pipeline.evaluation.cases import CasePair
from stu_pipeline.evaluation.common_labels import choose_common_labels
from stu_pipeline.evaluation.evaluate import EvaluateConfig, evaluate
from stu_pipeline.evaluation.labels import read_labels
from stu_pipeline.evaluation.reporting.overlays import draw_case
from stu_pipeline.log import Notice
from tests.synthetic import make_label_map, write_dataset_json, write_volume

# The network's own order is alphabetical, the dataset's is not.
PREDICTED = {"background": 0, "aorta": 1, "kidney_left": 2, "kidney_right": 3, "liver": 4}
MARKED = {"background": 0, "liver": 1, "kidney_left": 2, "kidney_right": 3}


@pytest.fixture
def folders(tmp_path):
    """Write references of liver and kidneys, and the same structures in the model's numbering."""
    for index in range(2):
        marked = make_label_map((8, 10, 32), num_labels=3, generator=np.random.default_rng(index)).astype(np.uint8)
        predicted = np.array([0, 4, 2, 3], dtype=np.uint8)[marked]
        predicted[0, 0, :3] = 1
        write_volume(tmp_path / "raw" / "labelsTr" / f"case_{index}.nii.gz", marked)
        write_volume(tmp_path / "masks" / f"case_{index}.nii.gz", predicted)
    write_dataset_json(tmp_path / "raw", labels=MARKED)
    write_dataset_json(tmp_path / "masks", labels=PREDICTED)
    return tmp_path / "raw" / "labelsTr", tmp_path / "masks"


def write_mapping(tmp_path, labels):
    path = tmp_path / "mapping.json"
    path.write_text(json.dumps({"schema": 1, "labels": labels}))
    return path


def score(folders, **options):
    events = []
    config = EvaluateConfig(reference=folders[0], prediction=folders[1], **options)
    return evaluate(config, listen=events.append), [event.text for event in events if isinstance(event, Notice)]


def test_names_decide_where_the_numbers_differ(folders):
    result, notices = score(folders)
    assert [(label.name, label.key, label.dice.mean) for label in result.labels] == [
        ("liver", "1", 1.0),
        ("kidney_left", "2", 1.0),
        ("kidney_right", "3", 1.0),
    ]
    assert result.matching.source == "names" and result.matching.prediction_left_out == ("aorta",)
    assert notices == ["labels matched: 3 by name", "not scored, of the prediction: aorta"]
    assert result.warnings == ()
    summary = json.loads(result.summary_path.read_text())["stu"]
    assert summary["matching"]["labels"][0] == {"name": "liver", "prediction": ["liver"], "reference": ["liver"]}
    assert "raw/dataset.json and" in summary["labels_from"]


def test_a_mapping_names_what_is_scored_and_what_is_not(folders, tmp_path):
    mapping = write_mapping(
        tmp_path,
        {"kidneys": {"prediction": ["kidney_left", "kidney_right"], "reference": ["kidney_left", "kidney_right"]}},
    )
    result, notices = score(folders, mapping=mapping, report=tmp_path / "report")
    assert [(label.name, label.key, label.dice.mean) for label in result.labels] == [("kidneys", "(2, 3)", 1.0)]
    assert result.matching.reference_left_out == ("liver",)
    assert result.matching.prediction_left_out == ("aorta", "liver")
    assert "not scored, of the reference: liver" in notices
    page = (tmp_path / "report" / "report.html").read_text()
    assert "not scored, of the reference" in page and "kidneys: kidney_left + kidney_right" in page
    assert "not scored, of the prediction: aorta, liver" in (tmp_path / "report" / "summary.md").read_text()


def test_the_pictures_show_the_common_labels_only(folders):
    common = choose_common_labels(*(read_labels(folder / "dataset.json") for folder in (folders[0].parent, folders[1])))
    pair = CasePair(case="0", reference=folders[0] / "case_0.nii.gz", prediction=folders[1] / "case_0.nii.gz")

    def is_tinted(overlay):
        pixels = imageio.imread(overlay.png).astype(int)
        return bool((pixels.max(axis=-1) != pixels.min(axis=-1)).any())

    # They agree on every scored voxel; by their numbers alone they would not, and wrong labels are tinted.
    assert not is_tinted(draw_case(pair, common=common))
    assert is_tinted(draw_case(pair))


def test_predicted_labels_may_be_named_from_elsewhere(folders, tmp_path):
    names = write_dataset_json(tmp_path / "elsewhere", labels=PREDICTED)
    (folders[1] / "dataset.json").unlink()
    assert score(folders, prediction_labels=names)[0].mean_dice == 1.0


def test_without_names_of_the_prediction_those_of_the_reference_count(folders, tmp_path):
    (folders[1] / "dataset.json").unlink()
    assert run(["evaluate", "-r", str(folders[0]), "-p", str(folders[1])]) == 3  # value 4 is no label of it


def test_labels_of_the_reference_alone_do_not_name_the_prediction(folders, tmp_path):
    elsewhere = write_dataset_json(tmp_path / "elsewhere", labels=MARKED)
    assert score(folders, dataset_json=elsewhere)[0].mean_dice == 1.0


def test_ignored_voxels_are_in_no_score_of_common_labels(folders, tmp_path):
    write_dataset_json(folders[0].parent, labels=MARKED | {"ignore": 4})
    for index in range(2):
        marked = make_label_map((8, 10, 32), num_labels=3, generator=np.random.default_rng(index)).astype(np.uint8)
        marked[:, :, 26:] = 4
        write_volume(folders[0] / f"case_{index}.nii.gz", marked)
        predicted = np.array([0, 4, 2, 3, 4], dtype=np.uint8)[marked]
        write_volume(folders[1] / f"case_{index}.nii.gz", predicted)
    assert score(folders)[0].mean_dice == 1.0


def test_far_voxel_sizes_are_told(folders):
    plan = {"configurations": {"3d_fullres": {"spacing": [1.5, 1.5, 4]}}, "transpose_forward": [0, 1, 2]}
    (folders[1] / "plans.json").write_text(json.dumps(plan))
    report = {"recipe": {"models": [{"folder": "nnUNetTrainer__stuBPlans__3d_fullres"}]}}
    (folders[1] / "predictions.json").write_text(json.dumps(report))
    result, notices = score(folders)
    assert result.warnings == (notices[-1],) and "2 of 2 cases" in notices[-1]
    assert json.loads(result.summary_path.read_text())["stu"]["warnings"] == [notices[-1]]


def test_exchanged_sides_are_told(folders):
    marked = make_label_map((8, 10, 32), num_labels=3, generator=np.random.default_rng(0)).astype(np.uint8)
    write_volume(folders[1] / "case_0.nii.gz", np.array([0, 4, 3, 2], dtype=np.uint8)[marked])
    result, notices = score(folders)
    assert result.warnings == (notices[-1],)
    assert "left and right look exchanged in 1 of 2 cases: 'case_0' (100% of the common voxels)" in notices[-1]


def test_the_next_command_keeps_the_labels(folders, tmp_path, capsys):
    mapping = write_mapping(tmp_path, {"liver": "liver"})
    assert run(["evaluate", "-r", str(folders[0]), "-p", str(folders[1]), "--mapping", str(mapping)]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[-1].endswith(f"--mapping {mapping} --report report")


# -- what is refused, before anything is written -----------------------------------------------------------


def refuse(capsys, folders, code, *flags):
    assert run(["evaluate", "-r", str(folders[0]), "-p", str(folders[1]), *map(str, flags)]) == code
    assert not (folders[1] / "summary.json").exists()
    return capsys.readouterr().err


def test_names_that_disagree_are_refused_though_the_numbers_agree(folders, capsys):
    write_dataset_json(folders[1], labels={"background": 0, "lung": 1, "heart": 2, "spleen": 3, "liver": 4})
    error = refuse(capsys, folders, 3)
    assert "reference label 'kidney_left' is not predicted" in error and "--mapping FILE" in error


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        ({"liver": "lever"}, "no label 'lever' in the prediction, nearest: 'liver'"),
        ({"livre": "liver"}, "no label 'livre' in the reference, nearest: 'liver'"),
        ({"kidney_left": "kidney_right"}, "another side"),
        ({"liver": "aorta", "kidney_left": ["aorta", "kidney_left"]}, "share labels of the prediction"),
        ({"liver": []}, "empty list"),
        ({}, "'labels' is empty"),
        ([], "no table 'labels'"),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused(folders, tmp_path, capsys, labels, problem):
    assert problem in refuse(capsys, folders, 3, "--mapping", write_mapping(tmp_path, labels))


def test_a_mapping_with_a_key_twice_is_refused(folders, tmp_path, capsys):
    path = tmp_path / "mapping.json"
    path.write_text('{"schema": 1, "labels": {"liver": "liver", "liver": "aorta"}}')
    assert "the key 'liver' more than once" in refuse(capsys, folders, 3, "--mapping", path)


def test_a_mapping_that_is_not_there_is_refused(folders, tmp_path, capsys):
    assert "mapping.json" in refuse(capsys, folders, 3, "--mapping", tmp_path / "mapping.json")


def test_a_mapping_needs_the_names_of_both_sides(folders, tmp_path, capsys):
    mapping = write_mapping(tmp_path, {"liver": "liver"})
    (folders[1] / "dataset.json").unlink()
    assert "--prediction-labels" in refuse(capsys, folders, 2, "--mapping", mapping)
    write_dataset_json(folders[1], labels=PREDICTED)
    (folders[0].parent / "dataset.json").unlink()
    assert "hint: --labels" in refuse(capsys, folders, 2, "--mapping", mapping)


def test_unknown_values_of_the_prediction_ask_for_its_own_names(folders, capsys):
    write_volume(folders[1] / "case_0.nii.gz", np.full((8, 10, 32), 9, dtype=np.uint8))
    error = refuse(capsys, folders, 3)
    assert "the prediction has unknown label values 9" in error and "--prediction-labels FILE" in error


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        ({"direction": (-1, 0, 0, 0, 1, 0, 0, 0, 1)}, "direction differs by 3.14 rad"),
        ({"direction": (0, 1, 0, 1, 0, 0, 0, 0, -1)}, "direction differs"),
        ({"spacing_mm": (1.0, 1.0, 1.5)}, "spacing"),
        ({"origin": (0.0, 3.0, 0.0)}, "origin"),
    ],
)
def test_a_prediction_on_another_grid_is_refused(folders, capsys, header, problem):
    labels = make_label_map((8, 10, 32), num_labels=3, generator=np.random.default_rng(0)).astype(np.uint8)
    write_volume(folders[1] / "case_0.nii.gz", labels, **header)
    error = refuse(capsys, folders, 3)
    assert "the prediction's grid is not the reference's" in error and problem in error

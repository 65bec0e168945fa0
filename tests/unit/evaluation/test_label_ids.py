"""Label maps with the dataset's own ids and with consecutive ones are compared exactly."""

from __future__ import annotations

import json

import numpy as np
import pytest
from matplotlib import image as pictures

from stu_pipeline.errors import DataError
from stu_pipeline.evaluation.evaluate import EvaluateConfig, evaluate
from stu_pipeline.evaluation.labels import find_stored_ids, read_labels
from stu_pipeline.evaluation.overlay import draw_overlay
from tests.synthetic import make_image, make_label_map, write_dataset_json, write_volume

IDS = np.array([0, 255, 256, 300, 65535], dtype=np.uint16)
OWN = {"background": 0, "a": 255, "b": 256, "c": 300, "d": 65535}
COUNTED = {"background": 0, "a": 1, "b": 2, "c": 3, "d": 4}
TABLE = IDS.tolist()
LABEL_MAP = make_label_map((8, 10, 40), num_labels=4)
SHIFTED = np.roll(LABEL_MAP, 1, axis=2)


def write_own(folder, label_map):
    return write_volume(folder / "case.nii.gz", IDS[label_map]).parent


def write_counted(folder, label_map, *, describe=None):
    write_dataset_json(describe or folder, labels=COUNTED, stu_label_ids=TABLE)
    return write_volume(folder / "case.nii.gz", label_map.astype(np.uint8)).parent


def run(reference, prediction, **options):
    return evaluate(EvaluateConfig(reference=reference, prediction=prediction, **options))


def scores_of(result):
    return [(label.key, label.name, label.dice.mean) for label in result.labels]


@pytest.fixture
def expected(tmp_path):
    write_dataset_json(tmp_path / "plain", labels=COUNTED)
    result = run(
        write_volume(tmp_path / "plain" / "labelsTr" / "case.nii.gz", LABEL_MAP).parent,
        write_volume(tmp_path / "plain" / "pred" / "case.nii.gz", SHIFTED).parent,
    )
    assert 0 < result.mean_dice < 1
    return [(str(IDS[int(key)]), name, dice) for key, name, dice in scores_of(result)]


def test_own_ids_are_exact_to_the_last(tmp_path, expected):
    write_dataset_json(tmp_path, labels=OWN)
    result = run(write_own(tmp_path / "labelsTr", LABEL_MAP), write_own(tmp_path / "pred", SHIFTED))
    assert scores_of(result) == expected


def test_raw_references_meet_consecutive_predictions_of_stock_nnunet(tmp_path, expected):
    write_dataset_json(tmp_path, labels=OWN)
    result = run(write_own(tmp_path / "labelsTr", LABEL_MAP), write_counted(tmp_path / "pred", SHIFTED))
    assert scores_of(result) == expected


def test_a_corrected_copy_meets_masks_with_own_ids(tmp_path, expected):
    reference = write_counted(tmp_path / "fixed" / "labelsTr", LABEL_MAP, describe=tmp_path / "fixed")
    write_dataset_json(tmp_path / "pred", labels=OWN)
    assert scores_of(run(reference, write_own(tmp_path / "pred", SHIFTED))) == expected


def test_raw_references_meet_the_validation_of_a_fold(tmp_path, expected):
    write_dataset_json(tmp_path, labels=OWN)
    model = tmp_path / "model"
    prediction = write_counted(model / "fold_0" / "validation", SHIFTED, describe=model)
    assert scores_of(run(write_own(tmp_path / "labelsTr", LABEL_MAP), prediction)) == expected


def test_preprocessed_ground_truth_meets_the_validation_of_a_fold(tmp_path, expected):
    model = tmp_path / "model"
    prediction = write_counted(model / "fold_0" / "validation", SHIFTED, describe=model)
    reference = write_counted(tmp_path / "pre" / "gt_segmentations", LABEL_MAP, describe=tmp_path / "pre")
    assert scores_of(run(reference, prediction)) == expected


def test_a_label_beyond_the_table_is_refused(tmp_path):
    write_dataset_json(tmp_path, labels=OWN)
    reference = write_own(tmp_path / "labelsTr", LABEL_MAP)
    prediction = write_counted(tmp_path / "pred", SHIFTED)
    write_own(prediction, SHIFTED)
    with pytest.raises(
        DataError, match=r"holds label 65535, but the dataset\.json of its folder numbers the labels 0 to 4"
    ):
        run(reference, prediction)


def test_labels_are_named_with_their_own_ids(tmp_path):
    content = {"labels": {"background": 0, "all": [1, 2], "b": 2, "ignore": 3}, "stu_label_ids": [0, 5, 300, 65535]}
    labels = read_labels(write_dataset_json(tmp_path, **content))
    assert [(label.name, label.values) for label in labels.labels] == [("all", (5, 300)), ("b", (300,))]
    assert labels.ignore == 65535


@pytest.mark.parametrize("ids", [None, "x", [1], [0, 0], [0, 70000], {}])
def test_a_broken_table_is_refused(tmp_path, ids):
    with pytest.raises(DataError, match="stu_label_ids"):
        read_labels(write_dataset_json(tmp_path, labels={"background": 0, "a": 1}, stu_label_ids=ids))
    with pytest.raises(DataError, match="stu_label_ids"):
        find_stored_ids(tmp_path)


def test_a_table_too_short_for_the_labels_is_refused(tmp_path):
    with pytest.raises(DataError, match="label 2 is not in stu_label_ids"):
        read_labels(write_dataset_json(tmp_path, labels={"background": 0, "a": 2}, stu_label_ids=[0, 9]))


def test_folders_without_a_table_hold_their_own_ids(tmp_path):
    assert find_stored_ids(tmp_path) is None
    (tmp_path / "dataset.json").write_text(json.dumps([1]))
    assert find_stored_ids(tmp_path) is None


def test_a_picture_does_not_depend_on_the_ids(tmp_path):
    image = write_volume(tmp_path / "image.nii.gz", make_image(LABEL_MAP))
    drawn = []
    for index, ids in enumerate((np.arange(5, dtype=np.uint16), IDS)):
        mask = write_volume(tmp_path / f"mask_{index}.nii.gz", ids[SHIFTED])
        reference = write_volume(tmp_path / f"reference_{index}.nii.gz", ids[LABEL_MAP])
        draw_overlay(image, mask, tmp_path / f"{index}.png", reference=reference)
        drawn.append(pictures.imread(tmp_path / f"{index}.png"))
    assert np.array_equal(*drawn) and len(np.unique(drawn[0].reshape(-1, 4), axis=0)) > 50

"""Masks carry the ids of the dataset, whatever the network counts."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from stu_pipeline.errors import ModelError
from stu_pipeline.evaluation.evaluate import EvaluateConfig, evaluate
from stu_pipeline.prediction.config import PredictConfig
from stu_pipeline.prediction.predict import predict
from tests.model_folders import write_model_folder
from tests.synthetic import make_image, make_label_map, write_volume

IDS = (0, 255, 300, 65535)
LABELS = {"background": 0, "a": 1, "b": 2, "c": 3}


def make_model(place, *, ids: Any = IDS, **options: Any):
    folder = write_model_folder(place, network="PlainConvUNet", mirror_axes=(2,), **({"labels": LABELS} | options))
    if ids is not None:
        path = folder / "dataset.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"stu_label_ids": list(ids)}))
    return folder


@pytest.fixture
def image(tmp_path):
    return write_volume(
        tmp_path / "images" / "case_0000.nii.gz", make_image(make_label_map((10, 18, 20))), spacing_mm=(2.0, 1.0, 1.0)
    )


def run(image, output, *models):
    result = predict(PredictConfig(input=image.parent, output=output, models=models, num_workers=0))
    return sitk.GetArrayFromImage(sitk.ReadImage(str(output / "case.nii.gz"))), result


def test_masks_are_written_with_the_ids_of_the_dataset(tmp_path, image):
    plain, plain_result = run(image, tmp_path / "plain", make_model(tmp_path / "x", ids=None))
    mask, result = run(image, tmp_path / "mapped", make_model(tmp_path / "y"))
    assert set(np.unique(plain)) == {0, 1, 2, 3}, "the test needs every label"
    assert np.array_equal(mask, np.array(IDS)[plain])
    assert result.cases[0].volumes_ml == plain_result.cases[0].volumes_ml


def test_the_description_beside_the_masks_names_their_ids(tmp_path, image):
    run(image, tmp_path / "out", make_model(tmp_path / "x"))
    content = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert content["labels"] == {"background": 0, "a": 255, "b": 300, "c": 65535}
    assert "stu_label_ids" not in content
    result = evaluate(
        EvaluateConfig(reference=tmp_path / "out", prediction=tmp_path / "out", output=tmp_path / "s.json")
    )
    assert result.mean_dice == 1.0 and [label.key for label in result.labels] == ["255", "300", "65535"]


def test_regions_are_painted_with_the_ids_of_the_dataset(tmp_path, image):
    options = {
        "labels": {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "tip": 3},
        "regions_class_order": [1, 2, 3],
    }
    plain, _ = run(image, tmp_path / "plain", make_model(tmp_path / "x", ids=None, **options))
    mask, _ = run(image, tmp_path / "mapped", make_model(tmp_path / "y", **options))
    assert len(np.unique(plain)) > 2, "the test needs several labels"
    assert np.array_equal(mask, np.array(IDS)[plain])
    content = json.loads((tmp_path / "mapped" / "dataset.json").read_text())
    assert content["labels"] == {"background": 0, "whole": [255, 300, 65535], "core": [300, 65535], "tip": 65535}
    assert content["regions_class_order"] == [255, 300, 65535]


def test_models_with_other_ids_are_no_ensemble(tmp_path, image):
    models = [make_model(tmp_path / "x"), make_model(tmp_path / "y", ids=(0, 1, 2, 4))]
    with pytest.raises(ModelError, match="different labels") as error:
        run(image, tmp_path / "out", *models)
    assert "written with other label ids" in error.value.details[0]


def test_a_table_that_does_not_fit_the_labels_is_refused(tmp_path, image):
    with pytest.raises(ModelError, match="stu_label_ids"):
        run(image, tmp_path / "out", make_model(tmp_path / "x", ids=(0, 5)))

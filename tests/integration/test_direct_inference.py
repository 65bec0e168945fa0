"""A model of many labels predicts a dataset that names them otherwise, and is scored by what both have."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from stu_pipeline.workspace import Workspace
from tests.integration.commands import make_workspace, run_stu
from tests.model_folders import write_model_folder
from tests.synthetic import write_dataset_json, write_tiny_dataset

pytestmark = pytest.mark.integration

# As in the released weights: alphabetical, so that the numbers are nobody else's.
LABELS = ("background", "aorta", "kidney_left", "kidney_right", "liver", "spleen")
MARKED = {"background": 0, "kidneys": 1, "main artery": 2}
MAPPING = {"kidneys": ["kidney_left", "kidney_right"], "main artery": "aorta"}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return make_workspace(tmp_path_factory.mktemp("direct"))


@pytest.fixture(scope="module")
def raw(workspace: Workspace) -> Path:
    """Three cases of thick slices."""
    folder = write_tiny_dataset(
        workspace.raw, 905, name="Direct", num_cases=3, shape=(8, 20, 20), spacing_mm=(5.0, 1.0, 1.0)
    )
    content = json.loads((folder / "dataset.json").read_text())
    write_dataset_json(folder, **(content | {"labels": MARKED}))
    return folder


@pytest.fixture(scope="module")
def masks(workspace: Workspace, raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the model predicts, without training."""
    model = write_model_folder(
        workspace.results,
        dataset="Dataset801_TotalSegmentator",
        plan_name="stuSPublishedPlans",
        labels={name: value for value, name in enumerate(LABELS)},
        spacing_mm=(1.5, 1.5, 1.5),
        mirror_axes=None,
    )
    output = tmp_path_factory.mktemp("masks")
    assert run_stu(workspace, "predict", "-m", model, "-i", raw / "imagesTr", "-o", output, "--device", "cpu") == 0
    return output


@pytest.fixture
def mapping(tmp_path: Path) -> Path:
    path = tmp_path / "mapping.json"
    path.write_text(json.dumps({"schema": 1, "labels": MAPPING}))
    return path


def test_the_mapped_labels_are_scored(workspace, raw, masks, mapping, tmp_path, capfd):
    scores = tmp_path / "scores.json"
    flags = ("-r", raw / "labelsTr", "-p", masks, "--mapping", mapping, "-o", scores, "--json")
    assert run_stu(workspace, "evaluate", *flags) == 0
    out, err = capfd.readouterr()
    result = json.loads(out)
    assert {label["name"]: label["dice"]["mean"] for label in result["labels"]} == {
        "kidneys": pytest.approx(_measure_dice(raw, masks, marked=[1], predicted=[2, 3])),
        "main artery": pytest.approx(_measure_dice(raw, masks, marked=[2], predicted=[1])),
    }
    assert result["matching"]["prediction_left_out"] == ["liver", "spleen"]
    assert "3 of 3 cases have voxels more than 2 times larger" in result["warnings"][0]
    assert "not scored, of the prediction: liver, spleen" in err
    assert json.loads(scores.read_text())["stu"]["matching"]["source"] == str(mapping)


def test_without_a_mapping_other_names_are_refused(workspace, raw, masks, tmp_path, capfd):
    scores = tmp_path / "scores.json"
    assert run_stu(workspace, "evaluate", "-r", raw / "labelsTr", "-p", masks, "-o", scores) == 3
    assert "reference label 'kidneys' is not predicted" in capfd.readouterr().err
    assert not scores.exists()


def _measure_dice(raw: Path, masks: Path, *, marked: list[int], predicted: list[int]) -> float:
    dices = []
    for path in sorted((raw / "labelsTr").glob("*.nii.gz")):
        reference, prediction = (
            np.isin(sitk.GetArrayFromImage(sitk.ReadImage(str(folder / path.name))), values)
            for folder, values in ((raw / "labelsTr", marked), (masks, predicted))
        )
        dices.append(2 * float((reference & prediction).sum()) / float(reference.sum() + prediction.sum()))
    assert max(dices) > 0, "masks that never meet prove nothing"
    return float(np.mean(dices))

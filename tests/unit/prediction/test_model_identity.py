"""The same model is recognised without loading it, and what decides masks is in the recipe."""

from __future__ import annotations

import dataclasses
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from stu_pipeline.prediction.config import PredictConfig
from stu_pipeline.prediction.models.model_folder import open_model_folder
from stu_pipeline.prediction.models.model_identity import find_model_identity, identify_opened_model
from stu_pipeline.prediction.proof.recipe import describe_recipe, hash_recipe
from tests.model_folders import write_model_folder


def make_model(place: Path, **changes: Any) -> Path:
    return write_model_folder(place / "results", **({"network": "PlainConvUNet", "folds": (0, 1)} | changes))


def make_config(**changes: Any) -> PredictConfig:
    return PredictConfig(input=Path("in"), output=Path("out"), models=(Path("m"),), **changes)


@pytest.mark.parametrize("folds", ["auto", (1,)])
def test_the_identity_is_that_of_the_opened_model(tmp_path: Path, folds: Any):
    path = make_model(tmp_path)
    identity = find_model_identity(path, folds, "final")
    assert identity is not None and identity == identify_opened_model(open_model_folder(path, folds))
    assert set(identity.folds) == ({"0", "1"} if folds == "auto" else {"1"})


def test_a_cascade_is_identified_with_its_previous_stage(tmp_path: Path):
    make_model(tmp_path, configuration="3d_lowres", next_stage="3d_cascade_fullres", folds=(0,))
    path = make_model(tmp_path, configuration="3d_cascade_fullres", previous_stage="3d_lowres", folds=(0,))
    identity = find_model_identity(path, "auto", "final")
    assert identity == identify_opened_model(open_model_folder(path))
    assert identity is not None and identity.previous is not None
    shutil.rmtree(path.with_name(path.name.replace("cascade_fullres", "lowres")))
    assert find_model_identity(path, "auto", "final") is None


def test_a_model_trained_on_is_another_model(tmp_path: Path):
    path = make_model(tmp_path)
    before = find_model_identity(path, "auto", "final")
    make_model(tmp_path, seed=5)
    assert find_model_identity(path, "auto", "final") != before


@pytest.mark.parametrize("fault", ["missing", "no folds", "no plan", "damaged plan", "cut", "name"])
def test_only_opening_says_what_is_wrong(tmp_path: Path, fault: str):
    path = make_model(tmp_path, folds=(0,))
    if fault == "missing":
        shutil.rmtree(path)
    elif fault == "no folds":
        shutil.rmtree(path / "fold_0")
    elif fault == "no plan":
        (path / "plans.json").unlink()
    elif fault == "damaged plan":
        (path / "plans.json").write_text("[1]")
    elif fault == "cut":
        file = path / "fold_0" / "checkpoint_final.pth"
        file.write_bytes(file.read_bytes()[:-40])
        assert not zipfile.is_zipfile(file)
    else:
        path = path.rename(path.with_name("my_model"))
    assert find_model_identity(path, "auto", "final") is None


def test_a_recipe_is_the_same_for_an_opened_and_an_identified_model(tmp_path: Path):
    path = make_model(tmp_path)
    identity = find_model_identity(path, "auto", "final")
    assert identity is not None
    recipe = describe_recipe(make_config(), [identity])
    assert recipe == describe_recipe(make_config(), [open_model_folder(path)])
    # As version 0.1 wrote it, so that its masks stay proven.
    assert set(recipe) == {"models", "model_weights", "tta", "step", "precision", "probabilities"}
    assert set(recipe["models"][0]) == {
        "folder", "checkpoint", "folds", "plan_sha256", "dataset_sha256", "previous",
    }  # fmt: skip


UNDECISIVE = {"device": "cuda", "overwrite": True, "num_workers": 3, "report": Path("r")}


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(PredictConfig)])
def test_every_option_decides_masks_or_is_known_not_to(tmp_path: Path, name: str):
    examples = UNDECISIVE | {
        "tta": "none", "step": 0.25, "precision": "fp32", "probabilities": "npz", "effort": "elastic",
        "per_label_files": True, "dicom_seg": True, "postprocessing": "none", "probability_bits": 16,
    }  # fmt: skip
    if name not in examples:
        pytest.skip("paths and models are in the recipe by their content, the rest are about machines")
    is_decisive = name not in UNDECISIVE
    changed = describe_recipe(make_config(**{name: examples[name]}), [])
    assert (hash_recipe(changed) != hash_recipe(describe_recipe(make_config(), []))) == is_decisive


def test_further_decisions_are_part_of_the_recipe():
    plain = describe_recipe(make_config(), [])
    assert describe_recipe(make_config(), [], postprocessing_sha256=None) == plain
    assert describe_recipe(make_config(), [], postprocessing_sha256="ab")["postprocessing_sha256"] == "ab"

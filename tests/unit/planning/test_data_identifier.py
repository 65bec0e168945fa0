"""Scales share preprocessed data exactly when the voxels agree."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from stu_pipeline.knowledge import find_knowledge_folder
from stu_pipeline.planfile import preprocessing_settings
from stu_pipeline.planning.data_identifier import choose_data_identifier
from stu_pipeline.storage import write_json
from stu_pipeline.workspace import DatasetPaths, Workspace


@pytest.fixture(name="dataset")
def make_dataset(tmp_path: Path) -> DatasetPaths:
    workspace = Workspace(raw=tmp_path / "raw", preprocessed=tmp_path / "pre", results=tmp_path / "res")
    name = "Dataset905_LargeCt"
    return DatasetPaths(
        name=name,
        raw=workspace.raw / name,
        preprocessed=workspace.preprocessed / name,
        results=workspace.results / name,
        workspace=workspace,
    )


@pytest.fixture(name="plan")
def read_plan() -> dict[str, Any]:
    return json.loads((find_knowledge_folder() / "reference" / "large_ct" / "plan.json").read_text())


def choose(dataset: DatasetPaths, plan: dict[str, Any], name: str = "3d_fullres", **options: Any) -> str:
    return choose_data_identifier(dataset, plan, name, plan_name="stuLPlans", **options)


def test_full_resolution_and_2d_take_the_stock_name_in_an_empty_folder(
    dataset: DatasetPaths, plan: dict[str, Any]
) -> None:
    assert choose(dataset, plan) == "nnUNetPlans_3d_fullres"
    assert choose(dataset, plan, "2d") == "nnUNetPlans_2d"


def test_low_resolution_belongs_to_its_plan(dataset: DatasetPaths, plan: dict[str, Any]) -> None:
    assert choose(dataset, plan, "3d_lowres") == "stuLPlans_3d_lowres"


def test_a_folder_of_another_tool_is_not_shared(dataset: DatasetPaths, plan: dict[str, Any]) -> None:
    folder = dataset.data_folder("nnUNetPlans_3d_fullres")
    folder.mkdir(parents=True)
    assert choose(dataset, plan) == "nnUNetPlans_3d_fullres"
    (folder / "case.pkl").touch()
    assert choose(dataset, plan) == "stuLPlans_3d_fullres"


def test_our_folder_with_equal_settings_is_shared(dataset: DatasetPaths, plan: dict[str, Any]) -> None:
    folder = dataset.data_folder("nnUNetPlans_3d_fullres")
    folder.mkdir(parents=True)
    (folder / "case.pkl").touch()
    settings = preprocessing_settings(plan, "3d_fullres")
    write_json(dataset.manifest("nnUNetPlans_3d_fullres"), {"schema": 1, "settings": settings, "cases": {}})
    assert choose(dataset, plan) == "nnUNetPlans_3d_fullres"


def test_our_folder_with_other_settings_is_not_shared(dataset: DatasetPaths, plan: dict[str, Any]) -> None:
    settings = {**preprocessing_settings(plan, "3d_fullres"), "spacing": [9.0, 9.0, 9.0]}
    write_json(dataset.manifest("nnUNetPlans_3d_fullres"), {"schema": 1, "settings": settings, "cases": {}})
    assert choose(dataset, plan) == "stuLPlans_3d_fullres"


def test_a_damaged_manifest_is_not_trusted(dataset: DatasetPaths, plan: dict[str, Any]) -> None:
    path = dataset.manifest("nnUNetPlans_3d_fullres")
    path.parent.mkdir(parents=True)
    path.write_text("{")
    assert choose(dataset, plan) == "stuLPlans_3d_fullres"


def test_an_existing_plan_keeps_its_identifier_while_the_settings_agree(
    dataset: DatasetPaths, plan: dict[str, Any]
) -> None:
    existing = copy.deepcopy(plan)
    existing["configurations"]["3d_fullres"]["data_identifier"] = "stuLPlans_3d_fullres"
    assert choose(dataset, plan, existing=existing) == "stuLPlans_3d_fullres"
    existing["configurations"]["3d_fullres"]["spacing"] = [9.0, 9.0, 9.0]
    assert choose(dataset, plan, existing=existing) == "nnUNetPlans_3d_fullres"


def test_voxels_that_are_not_nnunets_do_not_take_its_name_first(dataset: DatasetPaths, plan: dict[str, Any]) -> None:
    assert choose(dataset, plan, is_default=False) == "stuLPlans_3d_fullres"
    # Where they are there already, they are shared all the same.
    settings = preprocessing_settings(plan, "3d_fullres")
    write_json(dataset.manifest("nnUNetPlans_3d_fullres"), {"schema": 1, "settings": settings, "cases": {}})
    assert choose(dataset, plan, is_default=False) == "nnUNetPlans_3d_fullres"

"""Nothing that trainings depend on is replaced."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from stu_pipeline.datasets.splits.choice import SplitRequest
from stu_pipeline.datasets.splits.decision import decide_splits
from stu_pipeline.errors import DataError, UsageError
from stu_pipeline.knowledge import find_knowledge_folder
from stu_pipeline.planning.writing import decide_action, find_model_folders, prepare_folder, read_existing
from stu_pipeline.storage import write_json
from stu_pipeline.workspace import DatasetPaths, Workspace

CASES = [f"case_{index}" for index in range(6)]


@pytest.fixture(name="dataset")
def make_dataset(tmp_path: Path) -> DatasetPaths:
    workspace = Workspace(raw=tmp_path / "raw", preprocessed=tmp_path / "pre", results=tmp_path / "res")
    name = "Dataset905_LargeCt"
    raw, pre, res = workspace.raw / name, workspace.preprocessed / name, workspace.results / name
    dataset = DatasetPaths(name=name, raw=raw, preprocessed=pre, results=res, workspace=workspace)
    write_json(dataset.dataset_json, {"numTraining": 6})
    return dataset


@pytest.fixture(name="plan")
def read_plan() -> dict[str, Any]:
    return json.loads((find_knowledge_folder() / "reference" / "large_ct" / "plan.json").read_text())


def test_a_first_plan_is_written(dataset: DatasetPaths, plan: dict[str, Any]) -> None:
    assert read_existing(dataset, "stuBPlans") is None
    assert decide_action(dataset, plan, None, force=False) == "written"


def test_an_equal_plan_stays(dataset: DatasetPaths, plan: dict[str, Any]) -> None:
    write_json(dataset.plan_file("stuBPlans"), plan)
    assert decide_action(dataset, plan, read_existing(dataset, "stuBPlans"), force=False) == "unchanged"


def test_an_unused_plan_is_replaced(dataset: DatasetPaths, plan: dict[str, Any]) -> None:
    assert decide_action(dataset, {**plan, "label_manager": "x"}, plan, force=False) == "replaced"


def test_a_plan_with_trainings_is_replaced_by_force_only(dataset: DatasetPaths, plan: dict[str, Any]) -> None:
    (dataset.results / "nnUNetTrainer__stuBPlans__3d_fullres").mkdir(parents=True)
    (dataset.results / "nnUNetTrainer__stuLPlans__3d_fullres").mkdir(parents=True)
    assert find_model_folders(dataset, "stuBPlans") == ["nnUNetTrainer__stuBPlans__3d_fullres"]
    changed = {**plan, "label_manager": "x"}
    with pytest.raises(UsageError, match="was trained with it") as caught:
        decide_action(dataset, changed, plan, force=False)
    assert "--force" in caught.value.hint
    assert decide_action(dataset, changed, plan, force=True) == "replaced"


def test_a_plan_of_another_tool_is_never_replaced(dataset: DatasetPaths, plan: dict[str, Any]) -> None:
    del plan["stu"]
    write_json(dataset.plan_file("nnUNetPlans"), plan)
    with pytest.raises(UsageError, match="'nnUNetPlans' exists and was not made by stu"):
        read_existing(dataset, "nnUNetPlans")


def test_a_broken_plan_is_replaced(dataset: DatasetPaths, plan: dict[str, Any]) -> None:
    path = dataset.plan_file("stuBPlans")
    path.parent.mkdir(parents=True)
    path.write_text("{")
    assert read_existing(dataset, "stuBPlans") is None
    assert decide_action(dataset, plan, None, force=False) == "replaced"


def test_splits_beside_the_raw_data_are_taken_over(dataset: DatasetPaths) -> None:
    splits = [{"train": CASES[:4], "val": CASES[4:]}]
    write_json(dataset.raw / "splits_final.json", splits)
    prepare_folder(dataset, CASES)
    assert json.loads(dataset.splits.read_text()) == splits
    assert json.loads((dataset.preprocessed / "dataset.json").read_text()) == {"numTraining": 6}


def test_splits_in_use_stay_and_a_difference_is_said(dataset: DatasetPaths) -> None:
    events: list[object] = []
    splits = [{"train": CASES[:4], "val": CASES[4:]}]
    write_json(dataset.splits, splits)
    write_json(dataset.raw / "splits_final.json", [{"train": CASES[2:], "val": CASES[:2]}])
    prepare_folder(dataset, CASES, listen=events.append)
    assert json.loads(dataset.splits.read_text()) == splits
    assert len(events) == 1


def test_splits_of_unknown_cases_are_refused(dataset: DatasetPaths) -> None:
    write_json(dataset.raw / "splits_final.json", [{"train": ["stranger"], "val": CASES[:2]}])
    with pytest.raises(DataError, match="stranger"):
        prepare_folder(dataset, CASES)


def test_a_description_for_the_engine_takes_the_place_of_the_raw_one_where_they_differ(dataset: DatasetPaths) -> None:
    prepare_folder(dataset, CASES, description={"numTraining": 6})
    assert dataset.preprocessed_dataset_json.read_bytes() == dataset.dataset_json.read_bytes()
    prepare_folder(dataset, CASES, description={"numTraining": 6, "stu_label_ids": [0, 3]})
    assert json.loads(dataset.preprocessed_dataset_json.read_text())["stu_label_ids"] == [0, 3]


def test_replaced_folds_are_said(dataset: DatasetPaths) -> None:
    prepare_folder(dataset, CASES)
    events: list[object] = []
    decision = decide_splits(dataset, CASES, SplitRequest(num_folds=3), force=True)
    prepare_folder(dataset, CASES, splits=decision, listen=events.append)
    assert len(json.loads(dataset.splits.read_text())) == 3
    assert "folds replaced: 3 folds of 6 cases" in str(events)


def test_how_steps_run_may_change_under_trainings(dataset: DatasetPaths, plan: dict[str, Any]) -> None:
    (dataset.results / "nnUNetTrainer__stuBPlans__3d_fullres").mkdir(parents=True)
    changed = copy.deepcopy(plan)
    changed["stu"]["execution"]["3d_fullres"]["activation_checkpointing"] = True
    assert decide_action(dataset, changed, plan, force=False) == "replaced"
    changed["stu"]["execution"]["3d_fullres"].update(micro_batch=1, batch_dice_scope="micro-batch")
    with pytest.raises(UsageError, match="was trained with it"):
        decide_action(dataset, changed, plan, force=False)

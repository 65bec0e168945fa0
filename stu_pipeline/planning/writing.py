"""Write a plan and what goes with it, without replacing anything that trainings depend on.

Writes: `<plan name>.json`, `<plan name>.run.json`, `dataset.json` and `splits_final.json` beside the
preprocessed data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from stu_pipeline.datasets.splits import prepare_splits, read_splits, write_splits
from stu_pipeline.errors import DataError, UsageError
from stu_pipeline.log import Listener, Notice, ignore_events
from stu_pipeline.planfile import STU_KEY, write_plan_file
from stu_pipeline.planning.config import PlanConfig
from stu_pipeline.planning.document import is_same_plan
from stu_pipeline.records import write_record
from stu_pipeline.storage import copy_file, read_json
from stu_pipeline.workspace import DatasetPaths


def read_existing(dataset: DatasetPaths, plan_name: str) -> dict[str, Any] | None:
    """Return the plan of that name, or None when there is none or it is unreadable.

    Raises:
        UsageError: the plan was not made by `stu`; it is never replaced.
    """
    path = dataset.plan_file(plan_name)
    if not path.is_file():
        return None
    try:
        existing = read_json(path)
    except DataError:
        return None
    if not isinstance(existing, dict) or STU_KEY not in existing:
        raise UsageError(
            f"plan '{plan_name}' exists and was not made by stu", where=path, hint="choose another name with --plan"
        )
    return existing


def decide_action(
    dataset: DatasetPaths, plan: Mapping[str, Any], existing: Mapping[str, Any] | None, *, force: bool
) -> Literal["written", "replaced", "unchanged"]:
    """Decide what becomes of an existing plan.

    Raises:
        UsageError: it differs, trainings were made with it, and `force` is not set.
    """
    path = dataset.plan_file(str(plan["plans_name"]))
    if existing is None:
        return "replaced" if path.is_file() else "written"
    if is_same_plan(existing, plan):
        return "unchanged"
    trained = find_model_folders(dataset, str(plan["plans_name"]))
    if trained and not force:
        raise UsageError(
            f"plan '{plan['plans_name']}' would change, and {trained[0]} was trained with it",
            where=path,
            hint="--plan NAME makes a second plan; --force replaces this one",
        )
    return "replaced"


def find_model_folders(dataset: DatasetPaths, plan_name: str) -> list[str]:
    """List the model folders that were made with a plan, by any trainer."""
    if not dataset.results.is_dir():
        return []
    return sorted(
        folder.name
        for folder in dataset.results.iterdir()
        if folder.is_dir() and folder.name.split("__")[1:2] == [plan_name]
    )


def prepare_folder(dataset: DatasetPaths, case_ids: Sequence[str], *, listen: Listener = ignore_events) -> None:
    """Copy `dataset.json` and make the splits; splits that are there already, here or with the raw data, stay.

    Raises:
        DataError: existing splits name cases that the dataset does not have.
    """
    target = dataset.preprocessed_dataset_json
    if not target.is_file() or target.read_bytes() != dataset.dataset_json.read_bytes():
        copy_file(dataset.dataset_json, target)
    provided = dataset.raw / dataset.splits.name
    if provided.is_file():
        if not dataset.splits.is_file():
            write_splits(dataset.splits, read_splits(provided))
        elif read_splits(dataset.splits) != read_splits(provided):
            text = f"'{provided.name}' beside the raw data differs from the one in use, which stays"
            listen(Notice(text=text, is_warning=True))
    prepare_splits(dataset.splits, case_ids)


def write_plan(dataset: DatasetPaths, plan: Mapping[str, Any], config: PlanConfig) -> None:
    """Write the plan and the record of how it was made."""
    name = str(plan["plans_name"])
    write_plan_file(dataset.plan_file(name), plan)
    inputs = {"dataset.json": dataset.dataset_json, "fingerprint": dataset.fingerprint}
    write_record(dataset.plan_record(name), stage="plan", config=config, inputs=inputs)

"""Write a plan and what goes with it, without replacing anything that trainings depend on.

Writes: `<plan name>.json`, `<plan name>.run.json`, `dataset.json`, `splits_final.json` and its record beside the
preprocessed data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from stu_pipeline.datasets.splits.decision import SplitDecision, decide_splits, write_decision
from stu_pipeline.errors import DataError, UsageError
from stu_pipeline.log import Listener, Notice, ignore_events
from stu_pipeline.planfile import STU_KEY, write_plan_file
from stu_pipeline.planning.config import PlanConfig
from stu_pipeline.planning.document import is_same_plan, is_same_recipe
from stu_pipeline.records import write_record
from stu_pipeline.storage import copy_file, previous_path, read_json, remove_leftovers, write_json
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
        UsageError: it differs in more than how steps run, trainings were made with it, and `force` is not set.
    """
    path = dataset.plan_file(str(plan["plans_name"]))
    if existing is None:
        return "replaced" if path.is_file() else "written"
    if is_same_plan(existing, plan):
        return "unchanged"
    trained = find_model_folders(dataset, str(plan["plans_name"]))
    if trained and not force and not is_same_recipe(existing, plan):
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


def sweep_leftovers(dataset: DatasetPaths, plan_name: str) -> None:
    """Remove what a killed planning left half written, under the plan's lock; preprocessing has a lock of its own."""
    written = (
        dataset.fingerprint,
        dataset.preprocessed_dataset_json,
        dataset.splits,
        dataset.splits_record,
        dataset.plan_file(plan_name),
        dataset.plan_record(plan_name),
    )
    for path in written:
        remove_leftovers(path)


def prepare_folder(
    dataset: DatasetPaths,
    case_ids: Sequence[str],
    *,
    description: Mapping[str, Any] | None = None,
    splits: SplitDecision | None = None,
    listen: Listener = ignore_events,
) -> None:
    """Write the `dataset.json` that trainings read, and the splits as decided.

    Args:
        dataset: where the files are.
        case_ids: all training cases.
        description: content of that `dataset.json`; None, or the content of the raw one, copies the raw file as it is.
        splits: what was decided about the folds; None takes those that are there, else nnU-Net's default.
        listen: receives a notice for what should be looked at.

    Raises:
        DataError: existing splits name cases that the dataset does not have.
    """
    decision = splits or decide_splits(dataset, case_ids)
    _write_description(dataset, description)
    for note in decision.notes:
        listen(Notice(text=note, is_warning=True))
    if decision.action == "replaced":
        previous = previous_path(dataset.splits).name
        listen(Notice(text=f"folds replaced: {decision.method}; the old ones are in '{previous}'"))
    write_decision(dataset, decision)


def write_plan(dataset: DatasetPaths, plan: Mapping[str, Any], config: PlanConfig) -> None:
    """Write the plan and the record of how it was made."""
    name = str(plan["plans_name"])
    write_plan_file(dataset.plan_file(name), plan)
    inputs = {"dataset.json": dataset.dataset_json, "fingerprint": dataset.fingerprint}
    write_record(dataset.plan_record(name), stage="plan", config=config, inputs=inputs)


def _write_description(dataset: DatasetPaths, description: Mapping[str, Any] | None) -> None:
    source, target = dataset.dataset_json, dataset.preprocessed_dataset_json
    if description is not None and read_json(source) != description:
        if not target.is_file() or read_json(target) != description:
            write_json(target, description)
    elif not target.is_file() or target.read_bytes() != source.read_bytes():
        copy_file(source, target)

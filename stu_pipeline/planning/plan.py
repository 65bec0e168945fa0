"""Plan a dataset: check it, fingerprint it, choose scale, patch and batch, write the plan.

Reads: the raw dataset. Writes, beside the preprocessed data: fingerprint, `dataset.json`, splits, plan.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stu_pipeline.datasets.cases import list_training_cases
from stu_pipeline.datasets.dataset_json import read_dataset_json
from stu_pipeline.errors import DataError
from stu_pipeline.log import Listener, Notice, Progress, ignore_events, log_to_file
from stu_pipeline.planning.budget import Budget, choose_budget
from stu_pipeline.planning.choose import PlanInput, Proposal, propose
from stu_pipeline.planning.config import Action, PlanConfig, PlanResult
from stu_pipeline.planning.fingerprint import (
    Fingerprint,
    choose_num_workers,
    find_fingerprint,
    measure_fingerprint,
    sign_sources,
    store_fingerprint,
)
from stu_pipeline.planning.writing import decide_action, prepare_folder, read_existing, write_plan
from stu_pipeline.storage import hold_lock
from stu_pipeline.workspace import DatasetPaths, find_dataset

_logger = logging.getLogger("stu_pipeline.planning")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Checked:
    """A checked dataset: the planner's input, and what its fingerprint was measured from."""

    given: PlanInput
    case_ids: list[str]
    fingerprint: Fingerprint
    sources: dict[str, Any]


def plan(config: PlanConfig, *, listen: Listener = ignore_events) -> PlanResult:
    """Plan a dataset. The same inputs give the same file, byte for byte; run again it changes nothing.

    Args:
        config: what to plan.
        listen: receives `Progress` and `Notice` events.

    Raises:
        DataError: the dataset is missing or has problems; all of them are listed.
        MemoryLimitError: no scale, or not the one asked for, fits the GPU memory.
        UsageError: a different plan of that name is in use (`force` replaces it).
        LockedError: another run plans the same dataset.
    """
    dataset = find_dataset(config.dataset)
    if not dataset.raw.is_dir():
        raise DataError(
            f"raw data of '{dataset.name}' not found, planning needs it",
            where=dataset.raw.parent,
            hint="set nnUNet_raw, or give the dataset's path",
        )
    with _open_folder(dataset, config) as log_path:
        checked = _read_input(dataset, config, log_path, listen)
        budget = choose_budget(dataset, config)
        proposal = propose(checked.given, config=config, budget=budget)
        for text in proposal.notices:
            listen(Notice(text=text, is_warning=True))
        action = _write(checked, proposal, config, listen)
    _logger.info("planned %s: %s", dataset.name, proposal.choice.reason)
    return _describe(checked.given, proposal, budget, action)


@contextlib.contextmanager
def _open_folder(dataset: DatasetPaths, config: PlanConfig) -> Iterator[Path | None]:
    """Hold the dataset's folder for one planning and log into it; a dry run touches nothing."""
    if config.dry_run:
        yield None
        return
    log_path = dataset.plan_log
    with hold_lock(dataset.plan_lock, what=f"the plan of '{dataset.name}'"), log_to_file(log_path):
        yield log_path


def _read_input(dataset: DatasetPaths, config: PlanConfig, log_path: Path | None, listen: Listener) -> _Checked:
    from stu_pipeline.datasets.check import require_dataset

    dataset_json = read_dataset_json(dataset.dataset_json)
    cases = list_training_cases(dataset.raw, dataset_json)
    workers = choose_num_workers(config.num_workers, cases)
    sources = sign_sources(cases, dataset_json)
    fingerprint = find_fingerprint(dataset, sources)

    def report(done: int, total: int) -> None:
        listen(Progress(step="check", done=done, total=total))

    # Files with a fingerprint were read to the end before; preprocessing reads them to the end again.
    checked = require_dataset(dataset.raw, num_workers=workers, read_voxels=fingerprint is None, on_progress=report)
    if fingerprint is None:
        num_voxels = sum(math.prod(case.shape) for case in checked.cases if case.shape)
        fingerprint = measure_fingerprint(
            cases, dataset_json, num_voxels=num_voxels, num_workers=workers, log_path=log_path, listen=listen
        )
    given = PlanInput(
        dataset=dataset,
        dataset_json=dataset_json,
        fingerprint=fingerprint.content,
        num_cases=len(cases),
        reader_name=fingerprint.reader_name,
        log_path=log_path,
    )
    return _Checked(given=given, fingerprint=fingerprint, sources=sources, case_ids=[case.id for case in cases])


def _write(checked: _Checked, proposal: Proposal, config: PlanConfig, listen: Listener) -> Action:
    dataset = checked.given.dataset
    existing = read_existing(dataset, proposal.plan_name)
    action = decide_action(dataset, proposal.raw, existing, force=config.force)
    if config.dry_run:
        return "dry run"
    store_fingerprint(dataset, checked.fingerprint, checked.sources, listen=listen)
    prepare_folder(dataset, checked.case_ids, listen=listen)
    if action == "replaced":
        listen(Notice(text=f"plan '{proposal.plan_name}' differs from the one that was there: replaced"))
    if action != "unchanged":
        write_plan(dataset, proposal.raw, config)
    return action


def _describe(given: PlanInput, proposal: Proposal, budget: Budget, action: Action) -> PlanResult:
    dataset = given.dataset
    return PlanResult(
        dataset=dataset.name,
        num_cases=given.num_cases,
        plan_name=proposal.plan_name,
        plan_file=dataset.plan_file(proposal.plan_name),
        action=action,
        choice=proposal.choice,
        gpu_memory_gib=budget.memory_gib,
        gpu_memory_source=budget.source,
        configurations=proposal.forecasts,
        default_configuration=proposal.default_configuration,
        forecast_status=proposal.forecast_status,
        raw_folder=dataset.raw,
        preprocessed_folder=dataset.preprocessed,
        results_folder=dataset.results,
    )

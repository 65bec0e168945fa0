"""Plan a dataset: check it, fingerprint it, choose scale, patch and batch, write the plan.

Reads: the raw dataset. Writes, beside the preprocessed data: fingerprint, `dataset.json`, splits, plan.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stu_pipeline.datasets.cases import list_training_cases
from stu_pipeline.datasets.check import DatasetReport, check_dataset, choose_num_workers, require_dataset
from stu_pipeline.datasets.dataset_json import read_dataset_json
from stu_pipeline.datasets.splits.choice import SplitRequest
from stu_pipeline.datasets.splits.decision import SplitDecision, decide_splits
from stu_pipeline.log import Listener, Notice, Progress, ignore_events, log_to_file
from stu_pipeline.planning.budget import Budget, choose_budget
from stu_pipeline.planning.choose import Proposal, propose
from stu_pipeline.planning.config import Action, PlanConfig, PlanResult
from stu_pipeline.planning.draft import PlanInput
from stu_pipeline.planning.fingerprint import build_fingerprint, store_fingerprint
from stu_pipeline.planning.pretrained import read_start
from stu_pipeline.planning.probe import measure_proposal
from stu_pipeline.planning.source import open_source
from stu_pipeline.planning.writing import decide_action, prepare_folder, read_existing, sweep_leftovers, write_plan
from stu_pipeline.storage import hold_lock, remove_leftovers
from stu_pipeline.workspace import DatasetPaths

_logger = logging.getLogger("stu_pipeline.planning")
# More are not read; `stu doctor` lists them all.
_MAX_WARNINGS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class _Checked:
    """A checked dataset: the planner's input, and what was found in its cases."""

    given: PlanInput
    report: DatasetReport


def plan(config: PlanConfig, *, listen: Listener = ignore_events) -> PlanResult:
    """Plan a dataset. The same inputs give the same file, byte for byte; run again it changes nothing.

    Args:
        config: what to plan.
        listen: receives `Progress` and `Notice` events.

    Raises:
        ModelError: pretrained weights are missing, refused or of another scale than the plan; told before any case is
            read.
        DataError: the dataset is missing or has problems; all of them are listed.
        MemoryLimitError: no scale, or not the one asked for, fits the GPU memory.
        UsageError: a different plan of that name is in use (`force` replaces it).
        LockedError: another run plans the same dataset.
    """
    start = read_start(config)
    with open_source(config, listen=listen) as dataset, _open_folder(dataset, config) as log_path:
        budget = choose_budget(dataset, config, start)
        checked = _read_input(dataset, config, log_path, listen)
        splits = _decide_splits(checked, config)
        proposal = propose(checked.given, config=config, budget=budget)
        if config.probe:
            proposal = measure_proposal(proposal, checked.given, listen=listen)
        for text in proposal.notices:
            listen(Notice(text=text, is_warning=True))
        action = _write(checked, proposal, splits, config, listen)
    _logger.info("planned %s: %s", dataset.name, proposal.choice.reason)
    return _describe(checked.given, proposal, budget, action, splits)


@contextlib.contextmanager
def _open_folder(dataset: DatasetPaths, config: PlanConfig) -> Iterator[Path | None]:
    """Hold the dataset's folder for one planning and log into it; a dry run touches nothing."""
    if config.dry_run:
        yield None
        return
    log_path = dataset.plan_log
    with hold_lock(dataset.plan_lock, what=f"the plan of '{dataset.name}'"), log_to_file(log_path):
        remove_leftovers(dataset.inspections)
        yield log_path


def _read_input(dataset: DatasetPaths, config: PlanConfig, log_path: Path | None, listen: Listener) -> _Checked:
    from stu_pipeline.nnunet.planner import find_reader_name, import_engine_meanwhile

    dataset_json = read_dataset_json(dataset.dataset_json)
    cases = list_training_cases(dataset.raw, dataset_json)

    def tell(done: int, total: int) -> None:
        listen(Progress(step="check and measure", done=done, total=total))

    with import_engine_meanwhile():
        report = check_dataset(
            dataset.raw,
            num_workers=choose_num_workers(config.num_workers, cases),
            on_progress=tell,
            cache=dataset.inspections,
            may_write_cache=not config.dry_run,
        )
    require_dataset(report, dataset.raw)
    for text in report.warnings[:_MAX_WARNINGS]:
        listen(Notice(text=text, is_warning=True))
    if len(report.warnings) > _MAX_WARNINGS:
        more = len(report.warnings) - _MAX_WARNINGS
        listen(Notice(text=f"and {more} more warnings: stu doctor {dataset.raw}", is_warning=True))
    given = PlanInput(
        dataset=dataset,
        dataset_json=dataset_json,
        fingerprint=build_fingerprint(report.cases),
        num_cases=len(cases),
        reader_name=find_reader_name(dataset_json.engine_description, cases[0].image_files[0], log_path=log_path),
        log_path=log_path,
    )
    return _Checked(given=given, report=report)


def _decide_splits(checked: _Checked, config: PlanConfig) -> SplitDecision:
    given, cases = checked.given, checked.report.cases
    foreground = frozenset(given.dataset_json.foreground_values)
    return decide_splits(
        given.dataset,
        [case.case_id for case in cases],
        SplitRequest(num_folds=config.num_folds, group_by=config.group_by, stratify=config.stratify),
        labels={case.case_id: case.labels & foreground for case in cases},
        label_names={value: given.dataset_json.find_name(value) for value in given.dataset_json.foreground_values},
        force=config.force,
    )


def _write(
    checked: _Checked, proposal: Proposal, splits: SplitDecision, config: PlanConfig, listen: Listener
) -> Action:
    dataset = checked.given.dataset
    existing = read_existing(dataset, proposal.plan_name)
    action = decide_action(dataset, proposal.raw, existing, force=config.force)
    if config.dry_run:
        for note in splits.notes:
            listen(Notice(text=note, is_warning=True))
        return "dry run"
    sweep_leftovers(dataset, proposal.plan_name)
    store_fingerprint(dataset, dict(checked.given.fingerprint), listen=listen)
    prepare_folder(
        dataset,
        [case.case_id for case in checked.report.cases],
        description=checked.given.dataset_json.describe_for_engine(checked.given.num_cases),
        splits=splits,
        listen=listen,
    )
    if action == "replaced":
        listen(Notice(text=f"plan '{proposal.plan_name}' differs from the one that was there: replaced"))
    if action != "unchanged" or config.probe:  # what was measured goes into the story of the same plan
        write_plan(dataset, proposal.raw, config)
    return action


def _describe(
    given: PlanInput, proposal: Proposal, budget: Budget, action: Action, splits: SplitDecision
) -> PlanResult:
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
        splits=splits.method,
        num_folds=len(splits.splits),
        raw_folder=dataset.raw,
        preprocessed_folder=dataset.preprocessed,
        results_folder=dataset.results,
        pretrained=proposal.start,
    )

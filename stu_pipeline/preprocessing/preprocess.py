"""Preprocess the cases of a dataset for the configurations of a plan, resumable case by case.

Reads: raw dataset, plan file. Writes: data folders, their manifests beside them, `gt_segmentations/`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from stu_pipeline.errors import DataError, MemoryLimitError, StuError, UsageError
from stu_pipeline.log import Listener, Notice, Progress, ignore_events
from stu_pipeline.storage import hold_lock
from stu_pipeline.workers import run_in_workers
from stu_pipeline.workspace import DatasetPaths, find_dataset

if TYPE_CHECKING:
    from stu_pipeline.datasets.cases import Case
    from stu_pipeline.datasets.dataset_json import DatasetJson
    from stu_pipeline.planfile import PlanFile
    from stu_pipeline.preprocessing.case import CaseJob
    from stu_pipeline.preprocessing.case_store import CaseStore
    from stu_pipeline.preprocessing.manifest import Stamp
    from stu_pipeline.preprocessing.resources import CaseSize

ENGINE_VERSION = 1
"""Part of what a finished case is known by. Raise it when the same input gives other arrays or other bytes."""
# A process that has imported nnU-Net and PyTorch is larger by this.
_ENGINE_GIB = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PreprocessConfig:
    """Which configurations of which plan to preprocess."""

    dataset: str
    plan_name: str
    configurations: tuple[str, ...] = ()
    """Empty: the first of 3d_fullres and 2d that the plan has."""
    num_workers: int | None = None
    force: bool = False
    """Redo finished cases."""

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            UsageError: a value makes no sense.
        """
        if self.num_workers is not None and self.num_workers < 0:
            raise UsageError(f"workers must be at least 0, got {self.num_workers}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PreprocessResult:
    """What was done, per configuration: its folder, and counts of cases."""

    dataset: str
    plan_name: str
    folders: dict[str, Path] = field(default_factory=dict)
    num_done: dict[str, int] = field(default_factory=dict)
    """Preprocessed in this run."""
    num_reused: dict[str, int] = field(default_factory=dict)
    """There already, and proven to be what this run would make."""
    num_redone: dict[str, int] = field(default_factory=dict)
    """Of those done: had been there, but damaged or made from something else."""
    num_removed: dict[str, int] = field(default_factory=dict)
    """No longer in the dataset."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What all configurations share."""

    dataset: DatasetPaths
    dataset_json: DatasetJson
    plan: PlanFile
    cases: list[Case]
    config: PreprocessConfig
    listen: Listener


def preprocess(config: PreprocessConfig, *, listen: Listener = ignore_events) -> PreprocessResult:
    """Preprocess what is not there yet; run it again and it continues.

    A case is finished when the manifest (or, while a run works, the journal) says from which input and
    with which settings it was made, and its files have the bytes noted there. Whatever else a folder of
    ours holds is done again or removed, and said. A folder that another tool made is used when it is
    complete, and never written to.

    Raises:
        ModelError: there is no such plan.
        DataError: cases are damaged (all of them named), or a foreign folder is incomplete.
        LockedError: another run preprocesses the same data.
        StorageError: the disk is full.
        MemoryLimitError: a case does not fit the memory, or a worker was killed for it.
    """
    from stu_pipeline.datasets.cases import list_training_cases
    from stu_pipeline.datasets.dataset_json import read_dataset_json
    from stu_pipeline.planfile import read_plan_file
    from stu_pipeline.preprocessing.ground_truth import copy_ground_truth

    dataset = find_dataset(config.dataset)
    plan = read_plan_file(dataset.plan_file(config.plan_name))
    dataset_json = read_dataset_json(dataset.dataset_json)
    cases = list_training_cases(dataset.raw, dataset_json)
    result = PreprocessResult(dataset=dataset.name, plan_name=plan.name)
    work = _Work(dataset=dataset, dataset_json=dataset_json, plan=plan, cases=cases, config=config, listen=listen)
    with hold_lock(dataset.preprocess_lock, what=f"preprocessed data of '{dataset.name}'"):
        # First, not last: nnU-Net copies these at the end, and a run that dies before it trains for days in vain.
        copy_ground_truth(
            dataset, cases, dataset_json.file_label_ids, file_ending=dataset_json.file_ending, listen=listen
        )
        for configuration in config.configurations or (plan.default_configuration,):
            # A cascade stage reads the data of the configuration it inherits from.
            _preprocess_configuration(work, configuration, result)
    return result


def _preprocess_configuration(work: _Work, configuration: str, result: PreprocessResult) -> None:
    """Preprocess one configuration and enter what was done into the result."""
    from stu_pipeline.host import count_usable_cores
    from stu_pipeline.preprocessing.case_store import CaseStore
    from stu_pipeline.preprocessing.reuse import Reuse, decide_reuse

    identifier = work.plan.configuration(configuration).data_identifier
    store = CaseStore(work.dataset, identifier, _make_stamp(work, configuration))
    wanted = work.config.num_workers
    if store.is_foreign:
        _require_complete(store.folder, work.cases)
        work.listen(Notice(text=f"'{identifier}' was preprocessed by another tool and is complete: used as it is"))
        reuse, todo, num_kept = Reuse(kept={}, redone={}), [], len(work.cases)
    else:
        reuse = decide_reuse(
            store,
            work.cases,
            force=work.config.force,
            num_workers=count_usable_cores() if wanted is None else wanted,
            listen=work.listen,
            step=f"verify {configuration}",
        )
        reuse.tell(identifier, work.listen)
        todo, num_kept = [case for case in work.cases if case.id not in reuse.kept], len(reuse.kept)
        store.keep(reuse.kept)
        _run_cases(work, store, todo, configuration)
    result.folders[configuration] = store.folder
    result.num_done[configuration] = len(todo)
    result.num_reused[configuration] = num_kept
    result.num_redone[configuration] = len(reuse.redone)
    result.num_removed[configuration] = len(reuse.removed)


def _make_stamp(work: _Work, configuration: str) -> Stamp:
    from stu_pipeline.planfile import preprocessing_settings
    from stu_pipeline.preprocessing.manifest import Stamp

    labels = work.dataset_json
    classes = sorted(list(value) if isinstance(value, tuple) else [value] for value in labels.labels.values())
    stored = labels.file_label_ids
    return Stamp(
        settings=preprocessing_settings(work.plan.raw, configuration),
        engine=ENGINE_VERSION,
        labels={
            "classes": classes,
            "ignore": labels.ignore_label,
            "stored_ids": None if stored is None else list(stored.original),
        },
    )


def _run_cases(work: _Work, store: CaseStore, todo: list[Case], configuration: str) -> None:
    from stu_pipeline.preprocessing.commit import commit_case
    from stu_pipeline.preprocessing.resources import measure_cases

    if not todo:
        return
    sizes = measure_cases(
        todo,
        work.plan.configuration(configuration),
        work.plan.transpose_forward,
        extra_gib=_announce_engine(work, configuration),
    )
    workers = _choose_workers(work, store, sizes, configuration=configuration, num_cases=len(todo))
    # Longest first: otherwise the last worker may be alone with the largest case at the end.
    todo = sorted(todo, key=lambda case: -sizes[case.id].num_voxels if case.id in sizes else 0)
    jobs = _make_jobs(work, store, todo, configuration)
    failures: dict[str, StuError] = {}
    outcomes = run_in_workers(commit_case, jobs, num_workers=workers, name_of=_job_name)
    # The workers end before the store sweeps the folders they write to.
    with store, contextlib.closing(outcomes):
        for count, outcome in enumerate(outcomes, start=1):
            case_id = outcome.item.case.id
            if outcome.result is not None:
                store.add(outcome.result)
            elif isinstance(outcome.error, DataError | MemoryLimitError):
                failures[case_id] = outcome.error
            elif outcome.error is not None:
                raise outcome.error
            work.listen(Progress(step=f"preprocess {configuration}", done=count, total=len(jobs), item=case_id))
    if failures:
        raise _summarise(failures, len(jobs))


def _announce_engine(work: _Work, configuration: str) -> float:
    """Say when nnU-Net's own code does the work, and return the memory it adds to every worker, in GiB."""
    from stu_pipeline.preparation.case_settings import find_engine_reasons

    reasons = find_engine_reasons(work.plan.raw, configuration)
    if reasons:
        work.listen(Notice(text=f"{configuration} is preprocessed by nnU-Net's own code: {'; '.join(reasons)}"))
    return _ENGINE_GIB if reasons else 0.0


def _choose_workers(
    work: _Work, store: CaseStore, sizes: dict[str, CaseSize], *, configuration: str, num_cases: int
) -> int:
    """Forecast disk and memory, refuse what cannot fit, and say what will be used."""
    from stu_pipeline.preprocessing.resources import choose_num_workers, forecast_disk_gib, require_disk

    disk_gib = forecast_disk_gib(sizes, work.dataset_json.num_channels)
    require_disk(store.folder, disk_gib)
    workers = choose_num_workers(work.config.num_workers, sizes)
    memory_gib = max(1, workers) * max((size.memory_gib for size in sizes.values()), default=0.0)
    text = f"preprocessing {configuration}: {num_cases} cases with {max(1, workers)} workers, "
    work.listen(Notice(text=f"{text}at most about {memory_gib:.1f} GiB of memory, about {disk_gib:.2f} GiB on disk"))
    return workers


def _make_jobs(work: _Work, store: CaseStore, todo: Sequence[Case], configuration: str) -> list[CaseJob]:
    from stu_pipeline.preprocessing.case import CaseJob

    return [
        CaseJob(
            case=case,
            plan=work.plan.raw,
            configuration=configuration,
            dataset_json=work.dataset_json.engine_description,
            label_ids=work.dataset_json.file_label_ids,
            data_folder=store.folder,
            scratch_folder=store.scratch,
        )
        for case in todo
    ]


def _summarise(failures: dict[str, StuError], num_cases: int) -> StuError:
    details = tuple(f"{case_id}: {failures[case_id]}" for case_id in sorted(failures))
    problem = f"{len(failures)} of {num_cases} cases could not be preprocessed"
    if all(isinstance(error, MemoryLimitError) for error in failures.values()):
        hint = "run the same command again with fewer --workers: finished cases are kept"
        return MemoryLimitError(problem, hint=hint, details=details)
    hint = "repair or remove them, then run the same command: finished cases are kept"
    return DataError(problem, hint=hint, details=details)


def _require_complete(folder: Path, cases: Sequence[Case]) -> None:
    from stu_pipeline.nnunet.preprocessor import case_files

    missing = [case.id for case in cases if not all(file.is_file() for file in case_files(folder, case.id))]
    if missing:
        raise DataError(
            f"preprocessed folder of another tool lacks {len(missing)} of {len(cases)} cases",
            where=folder,
            hint="finish or remove it; stu never writes into a folder it did not make",
            details=tuple(missing[:20]),
        )


def _job_name(job: CaseJob) -> str:
    return job.case.id

"""Preprocess the cases of a dataset for the configurations of a plan, resumable case by case.

Reads: raw dataset, plan file. Writes: data folders, their manifests beside them, `gt_segmentations/`.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stu_pipeline.errors import DataError, UsageError
from stu_pipeline.log import Listener, Notice, Progress, ignore_events
from stu_pipeline.preprocessing.manifest import CaseSource, Manifest, ManifestKeeper, read_manifest, write_manifest
from stu_pipeline.preprocessing.resources import choose_num_workers, forecast_disk_gib, require_disk
from stu_pipeline.storage import copy_file, hash_file, hold_lock, read_json, remove_leftovers
from stu_pipeline.workers import run_in_workers
from stu_pipeline.workspace import DatasetPaths, find_dataset

if TYPE_CHECKING:
    from stu_pipeline.datasets.cases import Case
    from stu_pipeline.nnunet.preprocessor import CaseJob
    from stu_pipeline.planfile import PlanFile


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
    """What was done: folder, finished and reused cases per configuration."""

    dataset: str
    plan_name: str
    folders: dict[str, Path] = field(default_factory=dict)
    num_done: dict[str, int] = field(default_factory=dict)
    num_reused: dict[str, int] = field(default_factory=dict)


def preprocess(config: PreprocessConfig, *, listen: Listener = ignore_events) -> PreprocessResult:
    """Preprocess what is not there yet; run it again and it continues.

    A case is finished when its files are complete under their final names and the manifest says
    from which input they were made. A folder that another tool made is used when it is complete and
    its plan agrees, and never written to.

    Raises:
        ModelError: there is no such plan.
        DataError: cases are damaged (all of them named), or a foreign folder is incomplete.
        LockedError: another run preprocesses the same data.
        StorageError: the disk is full.
    """
    from stu_pipeline.datasets.cases import list_training_cases
    from stu_pipeline.datasets.dataset_json import read_dataset_json
    from stu_pipeline.planfile import read_plan_file

    dataset = find_dataset(config.dataset)
    plan = read_plan_file(dataset.plan_file(config.plan_name))
    cases = list_training_cases(dataset.raw, read_dataset_json(dataset.dataset_json))
    result = PreprocessResult(dataset=dataset.name, plan_name=plan.name)
    with hold_lock(dataset.preprocess_lock, what=f"preprocessed data of '{dataset.name}'"):
        remove_leftovers(dataset.ground_truth)
        _copy_ground_truth(dataset, cases, listen)
        for configuration in config.configurations or (plan.default_configuration,):
            # A cascade stage reads the data of the configuration it inherits from.
            identifier = plan.configuration(configuration).data_identifier
            done, reused = _preprocess_configuration(dataset, plan, configuration, cases, config=config, listen=listen)
            result.folders[configuration] = dataset.data_folder(identifier)
            result.num_done[configuration] = done
            result.num_reused[configuration] = reused
    return result


def _preprocess_configuration(
    dataset: DatasetPaths,
    plan: PlanFile,
    configuration: str,
    cases: list[Case],
    *,
    config: PreprocessConfig,
    listen: Listener,
) -> tuple[int, int]:
    """Preprocess one configuration; return how many cases were done and how many were there."""
    from stu_pipeline.planfile import preprocessing_settings

    identifier = plan.configuration(configuration).data_identifier
    folder = dataset.data_folder(identifier)
    settings = preprocessing_settings(plan.raw, configuration)
    manifest = read_manifest(dataset.manifest(identifier))
    if manifest is None and _holds_cases(folder):
        _require_complete(folder, cases)
        listen(Notice(text=f"'{identifier}' was preprocessed by another tool and is complete: used as it is"))
        return 0, len(cases)
    sources = {case.id: CaseSource.of(case) for case in cases}
    finished: set[str] = set()
    if manifest is not None and manifest.settings == settings and not config.force:
        finished = _find_finished(folder, manifest, sources)
    manifest = Manifest(settings=settings, cases={case_id: sources[case_id] for case_id in sorted(finished)})
    _remove_strays(folder, finished)
    write_manifest(dataset.manifest(identifier), manifest)
    todo = [case for case in cases if case.id not in finished]
    keeper = ManifestKeeper(dataset.manifest(identifier), manifest, sources)
    _run_cases(_make_jobs(dataset, plan, configuration, todo), plan, keeper, config=config, listen=listen)
    return len(todo), len(finished)


def _make_jobs(dataset: DatasetPaths, plan: PlanFile, configuration: str, todo: list[Case]) -> list[CaseJob]:
    from stu_pipeline.nnunet.preprocessor import CaseJob

    identifier = plan.configuration(configuration).data_identifier
    dataset_json: dict[str, Any] = read_json(dataset.dataset_json)
    return [
        CaseJob(
            case=case,
            plan=plan.raw,
            dataset_json=dataset_json,
            configuration=configuration,
            data_folder=dataset.data_folder(identifier),
            scratch_folder=dataset.scratch_folder(identifier),
        )
        for case in todo
    ]


def _run_cases(
    jobs: list[CaseJob], plan: PlanFile, keeper: ManifestKeeper, *, config: PreprocessConfig, listen: Listener
) -> None:
    from stu_pipeline.nnunet.preprocessor import preprocess_case

    if not jobs:
        return
    planned = plan.configuration(jobs[0].configuration)
    num_channels = len(jobs[0].case.image_files)
    disk_gib = forecast_disk_gib(planned, num_cases=len(jobs), num_channels=num_channels)
    require_disk(jobs[0].data_folder, disk_gib)
    workers = choose_num_workers(config.num_workers, planned, num_channels)
    text = f"preprocessing {planned.name}: {len(jobs)} cases with {max(1, workers)} workers, about {disk_gib:.2f} GiB"
    listen(Notice(text=text))
    failures: list[str] = []
    with keeper:
        outcomes = run_in_workers(preprocess_case, jobs, num_workers=workers, name_of=_job_name)
        for count, outcome in enumerate(outcomes, start=1):
            case_id = outcome.item.case.id
            if outcome.error is None:
                keeper.add(case_id)
            elif isinstance(outcome.error, DataError):
                failures.append(f"{case_id}: {outcome.error}")
            else:
                raise outcome.error
            listen(Progress(step=f"preprocess {planned.name}", done=count, total=len(jobs), item=case_id))
    with contextlib.suppress(OSError):  # every worker is done, so it is empty
        jobs[0].scratch_folder.rmdir()
    if failures:
        raise DataError(
            f"{len(failures)} of {len(jobs)} cases could not be preprocessed",
            hint="repair or remove them, then run the same command: finished cases are kept",
            details=tuple(failures),
        )


def _find_finished(folder: Path, manifest: Manifest, sources: dict[str, CaseSource]) -> set[str]:
    """Find the cases whose files are there and were made from the input as it is now."""
    from stu_pipeline.nnunet.preprocessor import case_files

    return {
        case_id
        for case_id, source in manifest.cases.items()
        if sources.get(case_id) == source and all(file.is_file() for file in case_files(folder, case_id))
    }


def _copy_ground_truth(dataset: DatasetPaths, cases: list[Case], listen: Listener) -> None:
    # First, not last: nnU-Net copies these at the end, and a run that dies before it trains for days in vain.
    for count, case in enumerate(cases, start=1):
        if case.label_file is None:
            continue
        target = dataset.ground_truth / case.label_file.name
        if not target.is_file() or hash_file(target) != hash_file(case.label_file):
            copy_file(case.label_file, target)
        listen(Progress(step="copy ground truth", done=count, total=len(cases), item=case.id))


def _holds_cases(folder: Path) -> bool:
    return folder.is_dir() and any(folder.glob("*.pkl"))


def _require_complete(folder: Path, cases: list[Case]) -> None:
    from stu_pipeline.nnunet.preprocessor import case_files

    missing = [case.id for case in cases if not all(file.is_file() for file in case_files(folder, case.id))]
    if missing:
        raise DataError(
            f"preprocessed folder of another tool lacks {len(missing)} of {len(cases)} cases",
            where=folder,
            hint="finish or remove it; stu never writes into a folder it did not make",
            details=tuple(missing[:20]),
        )


def _remove_strays(folder: Path, finished: set[str]) -> None:
    """Remove files of unfinished cases from a folder of ours: nnU-Net reads every file it finds there."""
    from stu_pipeline.nnunet.preprocessor import case_files

    if not folder.is_dir():
        return
    keep = {file.name for case_id in finished for file in case_files(folder, case_id)}
    for file in folder.iterdir():
        if file.is_file() and file.name not in keep:
            file.unlink()


def _job_name(job: CaseJob) -> str:
    return job.case.id

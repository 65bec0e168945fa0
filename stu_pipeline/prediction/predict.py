"""Predict a file or a folder: verified inputs, proven masks, one bad case costs one case.

Writes: masks, `predictions.json`, `run.json`, and copies of the model's `plans.json` and `dataset.json`.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from stu_pipeline.datasets.cases import Case, list_input_cases
from stu_pipeline.errors import PartialError, StorageError, StuError, UsageError
from stu_pipeline.log import Listener, Notice, Progress, ignore_events
from stu_pipeline.prediction.case_runner import CaseFailure, CaseRunner
from stu_pipeline.prediction.config import CaseReport, PredictConfig, PredictResult
from stu_pipeline.prediction.device import choose_autocast, choose_device
from stu_pipeline.prediction.ensemble import Ensemble, InferenceSettings
from stu_pipeline.prediction.manifest import Manifest, describe_recipe
from stu_pipeline.prediction.model_folder import DATASET_FILE, PLAN_FILE, ModelFolder, open_model_folder
from stu_pipeline.prediction.outputs import LOCK_FILE, RECORD_FILE, Outputs, choose_outputs
from stu_pipeline.records import write_record
from stu_pipeline.storage import hold_lock, remove_leftovers, storage_errors, write_bytes

_MAX_LISTED = 10


def predict(config: PredictConfig, *, listen: Listener = ignore_events) -> PredictResult:
    """Predict every case of a file or a folder.

    What is in the output folder and proven to be the result of the same models, options and images is skipped.

    Args:
        config: what to predict, with what, and where to.
        listen: receives `Progress`, `Notice` and one `CaseReport` per case.

    Raises:
        UsageError: flags that do not fit each other, or masks in the way without `overwrite`.
        DataError: no cases, or none could be used.
        ModelError: a model folder cannot be used, or the models do not fit each other.
        StorageError: a mask could not be written; everything before it is kept.
        LockedError: another prediction writes to the same folder.
        PartialError: some cases failed; the report names them.
    """
    start = time.monotonic()
    settings = _choose_settings(config)
    folders = _open_models(config, listen)
    first = folders[0].model
    cases = list_input_cases(config.input, first.num_image_channels, first.dataset.file_ending)
    outputs = choose_outputs(config.input, config.output, cases)
    with _own(outputs):
        reports, failures = _predict_cases(config, settings, folders, cases, outputs, listen=listen)
        _write_surroundings(config, outputs, folders, listen)
    result = PredictResult(
        output=config.output,
        cases=tuple(sorted(reports, key=lambda report: report.case)),
        models=tuple(folder.summary for folder in folders),
        report=outputs.report or config.report,
        seconds=round(time.monotonic() - start, 3),
    )
    _raise_failures(failures, result)
    return result


def _choose_settings(config: PredictConfig) -> InferenceSettings:
    device = choose_device(config.device)
    return InferenceSettings(
        device=device,
        autocast=choose_autocast(config.precision, device),
        step=config.step,
        use_mirroring=config.tta == "full",
        may_repeat_in_fp32=config.precision == "auto",
    )


def _predict_cases(
    config: PredictConfig,
    settings: InferenceSettings,
    folders: Sequence[ModelFolder],
    cases: Sequence[Case],
    outputs: Outputs,
    *,
    listen: Listener,
) -> tuple[tuple[CaseReport, ...], tuple[CaseFailure, ...]]:
    """Skip what is proven and predict the rest; the report is written in any case."""
    manifest = Manifest(outputs, describe_recipe(config, folders))
    todo, finished = _sort_cases(cases, outputs, manifest, overwrite=config.overwrite)
    for report in finished:
        listen(report)
    if finished:
        listen(Notice(text=f"{len(finished)} of {len(cases)} cases are done already"))
    if not todo:
        manifest.write(config.report)
        return finished, ()
    ensemble = Ensemble(folders, settings, config.model_weights)
    runner = CaseRunner(ensemble, manifest, listen, num_workers=config.num_workers)
    done, failures = _run_all(config, runner, todo, listen)
    return (*finished, *done), failures


def _open_models(config: PredictConfig, listen: Listener) -> list[ModelFolder]:
    folders = []
    for path in config.models:
        folder = open_model_folder(path, config.folds, config.checkpoint, configuration=config.configuration)
        listen(Notice(text=f"model: {folder.summary}"))
        for text in folder.notices:
            listen(Notice(text=text, is_warning=True))
        folders.append(folder)
    return folders


@contextlib.contextmanager
def _own(outputs: Outputs) -> Iterator[None]:
    """Hold the output folder; a single file needs no lock, its rename is the only write."""
    with storage_errors(outputs.folder):
        outputs.folder.mkdir(parents=True, exist_ok=True)
    if outputs.is_single_file:
        if not os.access(outputs.folder, os.W_OK):
            raise StorageError("output folder is not writable", where=outputs.folder)
        yield
        return
    with hold_lock(outputs.folder / LOCK_FILE, what="the output folder"):
        remove_leftovers(outputs.folder)
        yield


def _sort_cases(
    cases: Sequence[Case], outputs: Outputs, manifest: Manifest, *, overwrite: bool
) -> tuple[list[Case], tuple[CaseReport, ...]]:
    """Split into what is to be done and what is proven; refuse what is there and not proven."""
    if overwrite:
        return list(cases), ()
    todo: list[Case] = []
    finished: list[CaseReport] = []
    problems: list[str] = []
    for case in cases:
        mask = outputs.masks[case.id]
        if not manifest.is_there(case):
            todo.append(case)
        elif reason := manifest.explain_unproven(case):
            problems.append(f"'{mask.name}': {reason}")
        else:
            finished.append(CaseReport(case=case.id, status="skipped", output=mask))
    if problems:
        more = (f"and {len(problems) - _MAX_LISTED} more",) if len(problems) > _MAX_LISTED else ()
        raise UsageError(
            f"{len(problems)} masks are in the way" if len(problems) > 1 else f"a mask is in the way: {problems[0]}",
            where=outputs.folder,
            hint="--overwrite, or another output folder",
            details=(*problems[:_MAX_LISTED], *more) if len(problems) > 1 else (),
        )
    return todo, tuple(finished)


def _run_all(
    config: PredictConfig, runner: CaseRunner, todo: Sequence[Case], listen: Listener
) -> tuple[tuple[CaseReport, ...], tuple[CaseFailure, ...]]:
    reports: list[CaseReport] = []
    failures: list[CaseFailure] = []
    listen(Progress(step="cases", done=0, total=len(todo)))
    try:
        for outcome in runner.run(todo):
            if isinstance(outcome, CaseFailure):
                failures.append(outcome)
            report = outcome.report if isinstance(outcome, CaseFailure) else outcome
            reports.append(report)
            runner.manifest.add_report(report)
            listen(report)
            listen(Progress(step="cases", done=len(reports), total=len(todo), item=report.case))
    except BaseException:
        # What is done stays proven through the journal when even the report cannot be written.
        with contextlib.suppress(StorageError):
            runner.manifest.write(config.report)
        raise
    runner.manifest.write(config.report)
    return tuple(reports), tuple(failures)


def _write_surroundings(
    config: PredictConfig, outputs: Outputs, folders: Sequence[ModelFolder], listen: Listener
) -> None:
    """Write the record, and put the model's plan and dataset where stock tools expect them."""
    if outputs.is_single_file:
        return
    first = folders[0]
    for content, name in ((first.plan_file.read_bytes(), PLAN_FILE), (first.describe_masks(), DATASET_FILE)):
        target = outputs.folder / name
        if target.is_file() and target.read_bytes() == content:
            continue
        if target.exists() and not config.overwrite:
            listen(Notice(text=f"'{name}' of another model is in the output folder and was kept", is_warning=True))
            continue
        write_bytes(target, content)
    inputs: dict[str, Path] = {}
    for index, folder in enumerate(folders):
        inputs |= {f"plan_{index}": folder.plan_file, f"dataset_{index}": folder.dataset_file}
    write_record(
        outputs.folder / RECORD_FILE,
        stage="predict",
        config=config,
        inputs=inputs,
        models=[folder.summary for folder in folders],
    )


def _raise_failures(failures: Sequence[CaseFailure], result: PredictResult) -> None:
    if not failures:
        return
    details = tuple(f"{failure.report.case}: {failure.error}" for failure in failures)
    where = result.report or result.output
    names = ", ".join(failure.report.case for failure in failures[:_MAX_LISTED])
    if len(failures) < len(result.cases):
        raise PartialError(
            f"{len(failures)} of {len(result.cases)} cases failed: {names}",
            where=where,
            hint="correct or remove them and run the same command again; finished cases are kept",
            details=details,
        )
    first: StuError = failures[0].error
    if len(failures) == 1:
        raise first
    raise type(first)(f"all {len(failures)} cases failed", where=where, hint=first.hint, details=details)

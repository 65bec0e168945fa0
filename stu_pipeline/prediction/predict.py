"""Predict a file or a folder: verified inputs, proven masks, one bad case costs one case.

Imports no torch before there is something to compute: a finished folder is recognised from its files.
Writes: masks, `predictions.json` and its tables, `run.json`, and copies of the model's `plans.json` and `dataset.json`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stu_pipeline.datasets.cases import Case, list_input_cases
from stu_pipeline.errors import PartialError, StorageError, StuError, UsageError
from stu_pipeline.log import Listener, Notice, Progress, ignore_events
from stu_pipeline.prediction.config import CaseReport, PredictConfig, PredictResult
from stu_pipeline.prediction.models.model_identity import find_model_identity
from stu_pipeline.prediction.models.model_json import DATASET_FILE, PLAN_FILE, RULES_FILE, read_model_dataset
from stu_pipeline.prediction.outputs import LOCK_FILE, RECORD_FILE, Outputs, choose_outputs
from stu_pipeline.prediction.proof.manifest import Manifest
from stu_pipeline.prediction.proof.recipe import describe_recipe
from stu_pipeline.prediction.run.extras_check import require_extras
from stu_pipeline.records import write_record
from stu_pipeline.storage import hash_file, hold_lock, remove_leftovers, storage_errors, write_bytes

if TYPE_CHECKING:
    from stu_pipeline.prediction.run.case_runner import CaseFailure, Outcome
    from stu_pipeline.prediction.run.session import Session

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
        MemoryLimitError: no case fits the memory.
        LockedError: another prediction writes to the same folder.
        PartialError: some cases failed; the report names them.
    """
    return _Prediction(config, listen).run()


class _Prediction:
    """One call of `predict`."""

    def __init__(self, config: PredictConfig, listen: Listener) -> None:
        self.config = config
        self.listen = listen
        self.start = time.monotonic()
        self._session: Session | None = None
        self.models = [find_model_identity(path, config.folds, config.checkpoint) for path in config.models]

    @property
    def session(self) -> Session:
        """The opened models."""
        if self._session is None:
            from stu_pipeline.prediction.run.session import Session

            self._session = Session(self.config, self.listen)
        return self._session

    @functools.cached_property
    def devices(self) -> list[str]:
        """The GPUs that share the cases; none where this process does it alone."""
        if (self.config.gpus or 1) == 1:
            return []
        from stu_pipeline.prediction.run.crew import list_devices

        return list_devices(self.config)

    def run(self) -> PredictResult:
        """Sort the cases, predict what is left, and report."""
        config = self.config
        dataset = read_model_dataset(config.models[0])
        cases = list_input_cases(config.input, dataset.num_channels, dataset.file_ending)
        require_extras(config, cases)
        outputs = choose_outputs(config.input, config.output, cases)
        if config.dry_run or not _may_be_finished(outputs) or None in self.models:
            _ = self.session, self.devices  # what is wrong with models and devices is said before anything is made
        if config.dry_run:
            return self._forecast(cases, outputs)
        with _own(outputs):
            reports, failures = self._predict_cases(cases, outputs)
            self._write_surroundings(outputs)
        result = PredictResult(
            output=config.output,
            cases=tuple(sorted(reports, key=lambda report: report.case)),
            models=tuple(folder.summary for folder in self._session.folders) if self._session else (),
            report=outputs.report or config.report,
            seconds=round(time.monotonic() - self.start, 3),
        )
        _raise_failures(failures, result)
        return result

    def _forecast(self, cases: Sequence[Case], outputs: Outputs) -> PredictResult:
        """Say what the cases without a mask would take; nothing is written."""
        todo = [case for case in cases if self.config.overwrite or not outputs.masks[case.id].exists()]
        forecast = self.session.forecast(todo)
        return PredictResult(
            output=self.config.output,
            cases=(),
            models=tuple(folder.summary for folder in self.session.folders),
            report=None,
            seconds=round(time.monotonic() - self.start, 3),
            forecast=forecast.describe(),
        )

    def _predict_cases(
        self, cases: Sequence[Case], outputs: Outputs
    ) -> tuple[tuple[CaseReport, ...], tuple[CaseFailure, ...]]:
        """Skip what is proven and predict the rest; the report is written in any case."""
        config = self.config
        manifest = self._open_manifest(outputs)
        todo, finished = _sort_cases(cases, outputs, manifest, overwrite=config.overwrite)
        for report in finished:
            manifest.add_report(report)
            self.listen(report)
        if finished:
            self.listen(Notice(text=f"{len(finished)} of {len(cases)} cases are done already"))
        if not todo:
            manifest.write(config.report)
            return finished, ()
        done, failures = self._run_all(todo, manifest)
        return (*finished, *done), failures

    def _open_manifest(self, outputs: Outputs) -> Manifest:
        known = [model for model in self.models if model is not None]
        models = known if len(known) == len(self.models) else self.session.folders
        recipe = describe_recipe(self.config, models, postprocessing_sha256=_hash_rules(self.config))
        return Manifest(outputs, recipe, is_thorough=self.config.verify)

    def _run_all(
        self, todo: Sequence[Case], manifest: Manifest
    ) -> tuple[tuple[CaseReport, ...], tuple[CaseFailure, ...]]:
        reports: list[CaseReport] = []
        failures: list[CaseFailure] = []
        self.listen(Progress(step="cases", done=0, total=len(todo)))
        try:
            for outcome in self._start(todo, manifest):
                if not isinstance(outcome, CaseReport):
                    failures.append(outcome)
                report = outcome if isinstance(outcome, CaseReport) else outcome.report
                reports.append(report)
                manifest.add_report(report)
                self.listen(report)
                self.listen(Progress(step="cases", done=len(reports), total=len(todo), item=report.case))
        except BaseException:
            # What is done stays proven through the journal when even the report cannot be written.
            with contextlib.suppress(StorageError):
                manifest.write(self.config.report)
            raise
        manifest.write(self.config.report)
        return tuple(reports), tuple(failures)

    def _start(self, todo: Sequence[Case], manifest: Manifest) -> Iterator[Outcome]:
        _ = self.session  # problems of the models are named once, here, not by every process
        if not self.devices:
            return self.session.run(todo, manifest)
        from stu_pipeline.prediction.run.crew import run_on_devices

        return run_on_devices(self.devices, todo, manifest, config=self.config)

    def _write_surroundings(self, outputs: Outputs) -> None:
        """Write the record, and put the model's plan and dataset where stock tools expect them."""
        if outputs.is_single_file or self._session is None:
            return
        folders = self._session.folders
        first = folders[0]
        for content, name in ((first.plan_file.read_bytes(), PLAN_FILE), (first.describe_masks(), DATASET_FILE)):
            target = outputs.folder / name
            if target.is_file() and target.read_bytes() == content:
                continue
            if target.exists() and not self.config.overwrite:
                text = f"'{name}' of another model is in the output folder and was kept"
                self.listen(Notice(text=text, is_warning=True))
                continue
            write_bytes(target, content)
        inputs: dict[str, Path] = {}
        for index, folder in enumerate(folders):
            inputs |= {f"plan_{index}": folder.plan_file, f"dataset_{index}": folder.dataset_file}
        write_record(
            outputs.folder / RECORD_FILE,
            stage="predict",
            config=self.config,
            inputs=inputs,
            models=[folder.summary for folder in folders],
        )


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


def _hash_rules(config: PredictConfig) -> str | None:
    """Return what identifies the learned post-processing of a single model; None where none is applied."""
    rules = config.models[0] / RULES_FILE
    return hash_file(rules) if config.postprocessing == "auto" and len(config.models) == 1 and rules.is_file() else None


def _may_be_finished(outputs: Outputs) -> bool:
    """Tell whether an earlier run came to its end: the record is the last thing it writes."""
    if outputs.report is None or not outputs.report.exists():
        return False
    return all((outputs.folder / name).is_file() for name in (PLAN_FILE, DATASET_FILE, RECORD_FILE))


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

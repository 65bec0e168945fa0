"""Run one cell: prepare, train, score, and write down what it came to.

Every step continues where an earlier run stopped. Writes: `cells/<cell>.json`, `scores/<cell>.json`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stu_pipeline.datasets.endings import split_ending
from stu_pipeline.datasets.splits.files import read_fold
from stu_pipeline.errors import DataError, StoppedError, StuError, UsageError
from stu_pipeline.log import Listener, ignore_events
from stu_pipeline.records import describe
from stu_pipeline.storage import hash_file, hold_lock, read_json
from stu_pipeline.study.asking import describe_asked, make_train_config
from stu_pipeline.study.cell_record import CellRecord, find_cell_record, is_proven, make_digest, write_cell_record
from stu_pipeline.study.cells import Cell
from stu_pipeline.study.failures import find_flags
from stu_pipeline.study.folders import StudyFolder, find_run
from stu_pipeline.study.manifest import Manifest, read_manifest
from stu_pipeline.study.prepare import Prepared, prepare_cell
from stu_pipeline.study.rows import read_rows
from stu_pipeline.workspace import use_workspace

if TYPE_CHECKING:
    from stu_pipeline import TrainResult


@dataclass(frozen=True, slots=True, kw_only=True)
class CellJob:
    """One cell, as it is handed to a process of its own."""

    manifest: Path
    cell: Cell
    force: bool = False
    num_workers: int | None = None
    """In place of the manifest's."""


def run_cell(job: CellJob, *, listen: Listener = ignore_events) -> CellRecord:
    """Run a cell to its end; a finished one is only recognised.

    Args:
        job: which cell.
        listen: receives the events of planning, preprocessing and training.

    Raises:
        UsageError: it was made with other settings, and `force` is not set.
        LockedError: another process runs it.
        StoppedError: a signal stopped it, the training's state is saved.
        StuError: whatever made it fail; that is in its record then.
    """
    manifest = choose_workers(read_manifest(job.manifest), job.num_workers)
    folder = StudyFolder(manifest.folder)
    asked = describe_asked(manifest, job.cell)
    digest = make_digest(asked)
    record_path, summary = folder.cell_record(job.cell.name), folder.cell_summary(job.cell.name)
    with hold_lock(folder.cell_lock(job.cell.name), what=f"cell '{job.cell.name}'"), use_workspace(folder.root):
        known = find_cell_record(record_path)
        if known is not None and known.digest == digest and is_proven(known, summary):
            return known
        is_other = known is not None and known.digest != digest
        if is_other and not job.force:
            raise UsageError(
                f"cell '{job.cell.name}' was made with other settings than the manifest's now",
                where=record_path,
                hint="undo the change, give the study another 'folder', or run it again from its beginning: --force",
            )
        before_s = known.elapsed_s if known is not None and not is_other else 0.0
        start = time.monotonic()
        record = CellRecord(state="started", digest=digest, asked=asked, elapsed_s=before_s)
        write_cell_record(record_path, record)
        try:
            done = _run(manifest, job.cell, listen, is_new=is_other or (job.force and known is not None))
        except StuError as error:
            spent = replace(record, elapsed_s=before_s + time.monotonic() - start)
            if not isinstance(error, StoppedError):
                spent = replace(spent, state="failed", error=str(error), exit_code=error.exit_code)
            write_cell_record(record_path, spent)
            raise
        finished = replace(record, state="done", elapsed_s=before_s + time.monotonic() - start, **done)
        write_cell_record(record_path, finished)
        return finished


def choose_workers(manifest: Manifest, num_workers: int | None) -> Manifest:
    """Return the manifest with another number of worker processes; None keeps its own."""
    if num_workers is None:
        return manifest
    return replace(manifest, budget=replace(manifest.budget, num_workers=num_workers))


def _run(manifest: Manifest, cell: Cell, listen: Listener, *, is_new: bool) -> dict[str, Any]:
    """Return the fields of a finished record."""
    from stu_pipeline import train

    prepared = prepare_cell(manifest, cell, listen)
    result = train(make_train_config(manifest, cell, fold=prepared.fold, force=is_new), listen=listen)
    summary = _score(manifest, cell, prepared)
    run = find_run(prepared.dataset, prepared.plan_name, prepared.configuration, prepared.fold)
    rows = read_rows(summary, cell)
    return {
        "summary_sha256": hash_file(summary),
        "run_folder": str(run.folder.relative_to(manifest.folder)),
        "mean_dice": describe(read_json(summary)["foreground_mean"]["Dice"]),
        "flags": find_flags(rows, run.metrics, num_epochs=manifest.budget.num_epochs),
        "facts": _describe_run(result, prepared, run.record),
    }


def _score(manifest: Manifest, cell: Cell, prepared: Prepared) -> Path:
    """Score the validation cases of a cell with surface distances as well; no case may be missing.

    Raises:
        DataError: the training left no mask for a case of its split.
    """
    from stu_pipeline import EvaluateConfig, evaluate

    dataset = prepared.dataset
    run = find_run(dataset, prepared.plan_name, prepared.configuration, prepared.fold)
    summary = StudyFolder(manifest.folder).cell_summary(cell.name)
    summary.parent.mkdir(parents=True, exist_ok=True)
    evaluate(
        EvaluateConfig(
            reference=dataset.ground_truth,
            prediction=run.validation_summary.parent,
            output=summary,
            dataset_json=dataset.preprocessed_dataset_json,
            tolerance_mm=manifest.budget.tolerance_mm,
            allow_missing=True,  # the references of the training cases
        )
    )
    scored = {split_ending(Path(case["prediction_file"]).name)[0] for case in read_json(summary)["metric_per_case"]}
    missing = sorted(set(read_fold(dataset.splits, prepared.fold)["val"]) - scored)
    if missing:
        raise DataError(
            f"{len(missing)} validation cases of '{cell.name}' have no mask: {', '.join(missing[:5])}",
            where=run.validation_summary.parent,
            hint="run the cell again from its beginning: --force",
        )
    return summary


def _describe_run(result: TrainResult, prepared: Prepared, run_record: Path) -> dict[str, Any]:
    record = read_json(run_record) if run_record.is_file() else {}
    return {
        "plan_sha256": prepared.plan_sha256,
        "fold": prepared.fold,
        "num_epochs": result.num_epochs,
        "training_s": result.elapsed_s,
        "validation_dice": result.mean_dice,
        "settings": record.get("settings"),
        "device": record.get("device"),
        "pretrained": _shorten_pretrained(record.get("pretrained")),
    }


def _shorten_pretrained(pretrained: Any) -> Any:
    """Keep what identifies the weights; the table of tensors stays in the run's own record."""
    if not isinstance(pretrained, dict):
        return pretrained
    return {key: value for key, value in pretrained.items() if isinstance(value, (str, int, float, bool))}

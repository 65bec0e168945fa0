"""What a run leaves about itself: `run.json`, its story, and the line it starts with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stu_pipeline.nnunet.settings import TrainerSettings
from stu_pipeline.plan_execution import Execution
from stu_pipeline.records import write_record
from stu_pipeline.storage import read_json, write_json
from stu_pipeline.training.parallel.shares import BatchRule
from stu_pipeline.training.run.job import Job
from stu_pipeline.training.run.state import ResumePoint
from stu_pipeline.workspace import RunPaths


class RunRecord:
    """Writes `run.json` and keeps it up to date.

    Args:
        job: the fold.
        settings: of this run.
        resume: where it begins.
    """

    def __init__(self, job: Job, settings: TrainerSettings, resume: ResumePoint | None) -> None:
        self._job = job
        self._settings = settings
        self._resume = resume

    def write(self, execution: dict[str, Any], **facts: Any) -> None:
        """Write `run.json`."""
        job, resume = self._job, self._resume
        write_record(
            job.paths.record,
            stage="train",
            config=job.config,
            inputs={
                "plan": job.dataset.plan_file(job.plan.name),
                "dataset_json": job.dataset.preprocessed_dataset_json,
            },
            settings=self._settings,
            continued_from=None
            if resume is None
            else {"checkpoint": resume.path.name, "epoch": resume.epoch, "step": resume.position.step},
            execution=execution,
            **facts,
        )

    def note_start(self, start: Mapping[str, Any]) -> None:
        """Put down what the training began with."""
        record = read_json(self._job.paths.record)
        write_json(self._job.paths.record, {**record, **describe_origin(start)})

    def note_execution(self, execution: Execution) -> None:
        """Put down that steps run in another way from now on."""
        record = read_json(self._job.paths.record)
        known = record.get("execution") or {}
        known |= {**execution.to_json(), "num_accumulation_steps": _count_parts(execution, known)}
        write_json(self._job.paths.record, {**record, "execution": known, "memory_ran_out": True})

    def describe_start(self, device: str, execution: dict[str, Any], rule: BatchRule) -> str:
        """Say in one line what is trained, and what is not ordinary about its steps."""
        resume, settings = self._resume, self._settings
        begin = "starting"
        if resume is not None:
            where = f" after step {resume.position.step}" if resume.position.step else ""
            begin = f"continuing from {resume.path.name} at epoch {resume.epoch}{where}"
        text = (
            f"{begin}: fold {self._job.config.fold} of {self._job.configuration}, {settings.num_epochs} epochs of "
            f"{settings.num_iterations} steps, {settings.precision} on {device}"
        )
        return (
            text
            + describe_step(execution)
            + ("" if rule.batch == execution["effective_batch"] else f"; {rule.sentence}")
        )


def describe_origin(start: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `run.json` says of the start: its kind, and the weights with the table of what was loaded."""
    if start["kind"] != "pretrained":
        return {"start": start["kind"], "pretrained": None}
    groups = [
        {**group, "parameters": len(group["parameters"])} for group in (start.get("tuning") or {}).get("groups", [])
    ]
    known = {name: value for name, value in start.items() if name not in ("kind", "tuning")}
    return {"start": start["kind"], "pretrained": {**known, "groups": groups}}


def read_start(paths: RunPaths) -> dict[str, Any]:
    """Read what a finished fold began with, from `run.json`; kind `unknown` where it has none.

    Raises:
        DataError: `run.json` is damaged.
    """
    if not paths.record.is_file():
        return {"kind": "unknown"}
    record = read_json(paths.record)
    return {"kind": record.get("start", "scratch"), **(record.get("pretrained") or {})}


def describe_step(execution: dict[str, Any]) -> str:
    """Say what is not ordinary about a step: how the batch is split, and what is recomputed."""
    text = ""
    if execution["num_accumulation_steps"] > 1:
        text += f", batch {execution['effective_batch']} in parts of {execution['micro_batch']}"
    return text + (", activation checkpointing" if execution["activation_checkpointing"] else "")


def _count_parts(execution: Execution, known: dict[str, Any]) -> int:
    return execution.count_accumulation_steps(int(known.get("effective_batch", execution.micro_batch)))

"""Several GPUs: one process each, cases handed out in small shares as they become free."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stu_pipeline.datasets.cases import Case
from stu_pipeline.errors import DataError, MemoryLimitError, StuError, UsageError
from stu_pipeline.log import ignore_events
from stu_pipeline.prediction.config import CaseReport, PredictConfig
from stu_pipeline.prediction.outputs import Outputs
from stu_pipeline.prediction.proof.manifest import Manifest
from stu_pipeline.prediction.run.case_runner import CaseFailure, Outcome
from stu_pipeline.prediction.run.session import Session
from stu_pipeline.workers import run_in_workers

# A share is long enough that reading and writing overlap with computing, and short enough that all end together.
_LARGEST_SHARE = 16
_SHARES_PER_GPU = 4
# The first share waits for networks to load, and a case may take minutes of work in one call of the device.
_PATIENCE_S = 600.0
# What a process that died is reported as; within a process such errors cost a case, not its share.
_LOST = (DataError, MemoryLimitError)
_SESSIONS: dict[str, Session] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Some cases for whichever process is free."""

    config: PredictConfig
    outputs: Outputs
    recipe: dict[str, Any]
    cases: tuple[Case, ...]


def run_on_devices(
    devices: Sequence[str], cases: Sequence[Case], manifest: Manifest, *, config: PredictConfig
) -> Iterator[Outcome]:
    """Predict cases on several devices and yield what became of each, as they finish.

    Every process announces its masks in the journal of `manifest` by itself. A process that dies costs the cases of
    its share that were not announced yet.

    Args:
        devices: one process each, for example `cuda:0` and `cuda:1`.
        cases: to be shared.
        manifest: of the output folder.
        config: of the prediction.

    Raises:
        StuError: what stops a run in one process too, for example an output that cannot be written.
    """
    size = max(1, min(_LARGEST_SHARE, len(cases) // (len(devices) * _SHARES_PER_GPU)))
    shares = [
        Share(config=config, outputs=manifest.outputs, recipe=manifest.recipe, cases=tuple(cases[start : start + size]))
        for start in range(0, len(cases), size)
    ]
    functions = [functools.partial(predict_share, device=device) for device in devices]
    for outcome in run_in_workers(functions, shares, name_of=_name_share, stall_s=_PATIENCE_S):
        if outcome.result is not None:
            yield from outcome.result
        elif isinstance(outcome.error, _LOST):
            yield from _fail_share(outcome.item, outcome.error)
        elif outcome.error is not None:
            raise outcome.error


def predict_share(share: Share, *, device: str) -> list[Outcome]:
    """Predict the cases of one share; the networks stay loaded for the next one."""
    session = _SESSIONS.get(device)
    if session is None:
        # `gpus` stays: every process gets its part of the RAM.
        session = _SESSIONS[device] = Session(replace(share.config, device=device), ignore_events)
    return list(session.run(share.cases, Manifest(share.outputs, share.recipe)))


def list_devices(config: PredictConfig) -> list[str]:
    """Name the devices of a prediction on several GPUs.

    Raises:
        UsageError: there are fewer GPUs.
    """
    import torch

    count = config.gpus or 1
    if torch.cuda.device_count() < count:
        raise UsageError(f"{count} GPUs wanted, found {torch.cuda.device_count()}", hint="stu doctor")
    return [f"cuda:{index}" for index in range(count)]


def _name_share(share: Share) -> str:
    names = [case.id for case in share.cases]
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"


def _fail_share(share: Share, error: StuError) -> Iterator[Outcome]:
    """Report the cases of a process that died: those it announced are done."""
    manifest = Manifest(share.outputs, share.recipe)
    for case in share.cases:
        if manifest.is_there(case) and manifest.explain_unproven(case) is None:
            yield CaseReport(case=case.id, status="skipped", output=share.outputs.masks[case.id])
        else:
            yield CaseFailure(CaseReport(case=case.id, status="failed", error=str(error)), error)

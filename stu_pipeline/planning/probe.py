"""Measure training steps of a plan before it is written, and put what was measured into its forecast.

The steps run in a process of their own: its memory can be measured from the start, and what kills it leaves the
planner alive to say so.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stu_pipeline import errors
from stu_pipeline.errors import MemoryLimitError, StuError
from stu_pipeline.log import Listener, Notice
from stu_pipeline.nnunet.environment import read_variables
from stu_pipeline.planning.choose import Proposal, apply_probe
from stu_pipeline.planning.draft import PlanInput

# A stage is not imported by another: it is run, and answers in JSON.
_COMMAND = (sys.executable, "-P", "-m", "stu_pipeline.training.probing.probe")
_MAX_LAST_WORDS = 200
_SMALLER_HINT = "plan for less with --gpu-memory, or take a smaller --scale"
_logger = logging.getLogger("stu_pipeline.planning")


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredStep:
    """What a training step took. Memory in GiB (2**30 bytes)."""

    device_name: str
    precision: str
    is_out_of_memory: bool
    peak_gib: float | None
    """None: it did not fit, or ran on a CPU, whose memory says nothing about a GPU."""
    step_s: float | None
    """Of one optimizer step. None: it did not fit."""
    note: str
    """What the numbers are, or where memory ran out."""


def measure_proposal(proposal: Proposal, given: PlanInput, *, listen: Listener) -> Proposal:
    """Run a few training steps of the default configuration on this machine's device.

    Raises:
        MemoryLimitError: they need more memory than the device, or the machine, has.
        StuError: the steps could not be run.
    """
    name = proposal.default_configuration
    measured = measure_step(proposal.raw, name, given.dataset_json.engine_description)
    if measured.is_out_of_memory or measured.step_s is None:
        raise MemoryLimitError(
            f"a training step of {name} does not fit {measured.device_name}: {measured.note}", hint=_SMALLER_HINT
        )
    listen(Notice(text=f"probed {name} on {measured.device_name} in {measured.precision}: {measured.note}"))
    return apply_probe(
        proposal, name, peak_gib=measured.peak_gib, step_s=measured.step_s, device_name=measured.device_name
    )


def measure_step(
    plan: Mapping[str, Any],
    configuration: str,
    dataset_json: Mapping[str, Any],
    *,
    device: str = "auto",
    command: tuple[str, ...] = _COMMAND,
) -> MeasuredStep:
    """Measure training steps in a process of their own.

    Args:
        plan: content of a plan file.
        configuration: its name.
        dataset_json: channels and labels, as the engine reads them.
        device: `auto`, `cuda` or `cpu`.
        command: what is started; the tests start other things.

    Raises:
        MemoryLimitError: the system killed it.
        StuError: the steps could not be run; or the process ended without a result.
    """
    request = {
        "plan": plan,
        "configuration": configuration,
        "dataset_json": dataset_json,
        "device": device,
        "parent": os.getpid(),
    }
    paths = os.pathsep.join(path for path in sys.path if path)
    ended = subprocess.run(
        command,
        input=json.dumps(request).encode(),
        capture_output=True,
        env={**read_variables(), "PYTHONPATH": paths},
        check=False,
    )
    words = ended.stderr.decode(errors="replace")
    _logger.debug("probe of %s: %s", configuration, words)
    try:
        answer = json.loads(ended.stdout)
    except ValueError:
        raise _explain_end(ended.returncode, words, configuration) from None
    if "error" in answer:
        raise _rebuild_error(answer["error"])
    return _parse(answer)


def _parse(answer: Mapping[str, Any]) -> MeasuredStep:
    return MeasuredStep(
        device_name=str(answer["device_name"]),
        precision=str(answer["precision"]),
        is_out_of_memory=bool(answer["is_out_of_memory"]),
        peak_gib=None if answer["tensors_gib"] is None else answer["peak_gib"],
        step_s=answer["step_s"],
        note=str(answer["note"]),
    )


def _explain_end(code: int, words: str, configuration: str) -> StuError:
    """Say how a process ended that gave no answer."""
    last = next((line.strip() for line in reversed(words.splitlines()) if line.strip()), "it said nothing")
    if code == -signal.SIGKILL:
        return MemoryLimitError(
            f"the training step of {configuration} was killed by SIGKILL, which is how the system takes memory back",
            hint=_SMALLER_HINT,
        )
    end = f"was killed by {_name_signal(-code)}" if code < 0 else f"ended with exit code {code}"
    return StuError(
        f"the training step of {configuration} {end}: {last[:_MAX_LAST_WORDS]}", hint="plan without --probe"
    )


def _name_signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _rebuild_error(facts: Mapping[str, Any]) -> StuError:
    kind = getattr(errors, str(facts["kind"]), StuError)
    where = None if facts["where"] is None else Path(facts["where"])
    error: StuError = kind(facts["problem"], where=where, hint=facts["hint"])
    return error

"""Run a few training steps of a plan on random numbers, and measure their memory and time on this machine.

The steps are a training's own: its network, loss, optimizer, precision, compilation and micro-batches. Loading and
augmentation are left out: they come before a step, when its memory is free. Nothing is read but the plan and
`dataset.json`, and nothing is written outside a temporary folder.

As `python -m stu_pipeline.training.probing.probe` it reads a request as JSON from stdin, and writes one JSON object to
stdout.
"""

from __future__ import annotations

import _thread
import contextlib
import gc
import json
import os
import platform
import statistics
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from stu_pipeline.errors import StuError, UsageError
from stu_pipeline.nnunet.memory_meter import MemoryUse, is_out_of_memory, open_meter
from stu_pipeline.nnunet.model import build_empty_network, open_engine_model
from stu_pipeline.nnunet.session import choose_device, choose_precision
from stu_pipeline.nnunet.trainer import nnUNetTrainer
from stu_pipeline.planfile import PlanFile, parse_plan
from stu_pipeline.storage import read_json
from stu_pipeline.training.loop.batch import Batch
from stu_pipeline.training.loop.compilation import choose_compilation, compile_network
from stu_pipeline.training.loop.step import TrainingStep
from stu_pipeline.training.probing.scratch import make_random_batch, open_scratch_trainer
from stu_pipeline.training.run.assembly import build_step

DEFAULT_NUM_STEPS = 5
# The first steps choose kernels, compile, and let the allocator's pool grow to its size.
_NUM_WARM_UP = 2
_BEAT_S, _ORPHAN_GRACE_S = 0.5, 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """What a training step took. Memory in GiB (2**30 bytes)."""

    device_name: str
    precision: str
    num_parameters: int
    is_out_of_memory: bool
    peak_gib: float | None
    """On CUDA what nvidia-smi shows while it trains; on the CPU the growth of the process. None: it did not fit."""
    step_s: float | None
    """Median seconds per optimizer step, all micro-batches together, without loading data. None: it did not fit."""
    tensors_gib: float | None = None
    """The part of the peak that tensors filled; CUDA only."""
    is_compiled: bool = False
    note: str
    """One sentence: what the numbers are, or where memory ran out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What is measured."""

    plan: PlanFile
    dataset_json: dict[str, Any]
    configuration: str
    device: torch.device
    precision: str
    compile: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    use: MemoryUse
    step_s: float
    is_compiled: bool
    problem: str
    """Why it is not compiled, where that was tried."""


def probe_configuration(
    plan: PlanFile,
    configuration: str,
    *,
    device: str = "auto",
    precision: str = "auto",
    compile: str = "auto",
    num_steps: int = DEFAULT_NUM_STEPS,
    dataset_json: Mapping[str, Any] | None = None,
) -> ProbeResult:
    """Measure training steps of one configuration. Running out of memory is a result, not an error.

    On the CPU, measure in a fresh process: memory that was freed before is not seen as growth.

    Args:
        plan: a plan of ours or of stock nnU-Net.
        configuration: for example `3d_fullres`.
        device: `auto`, `cuda` or `cpu`.
        precision: `auto`, `bf16`, `fp16` or `fp32`, as a training chooses it.
        compile: `auto`, `on` or `off`, as a training chooses it.
        num_steps: steps to time, after the warm-up.
        dataset_json: channels and labels; None reads the `dataset.json` beside the plan.

    Raises:
        ModelError: the plan or its network cannot be used.
        DataError: there is no `dataset.json` beside the plan.
        UsageError: the device is not there, or cannot be measured.
    """
    if num_steps < 1:
        raise UsageError(f"num_steps must be at least 1, got {num_steps}")
    chosen = choose_device(device)
    if chosen.type not in ("cuda", "cpu"):
        raise UsageError(f"a probe measures 'cuda' and 'cpu', not '{chosen.type}'", hint="use --device cpu")
    smallest = plan.configuration(configuration).smallest_map_voxels
    where = plan.path or Path(f"{plan.name}.json")
    work = _Work(
        plan=plan,
        dataset_json=dict(dataset_json if dataset_json is not None else read_json(where.with_name("dataset.json"))),
        configuration=configuration,
        device=chosen,
        precision=choose_precision(precision, chosen, smallest_map_voxels=smallest),
        compile=compile,
    )
    facts: dict[str, Any] = {
        "device_name": _name_device(chosen),
        "precision": work.precision,
        "num_parameters": _count_parameters(work, where),
    }
    try:
        found = _measure(work, num_steps)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        note = f"memory ran out: {str(error).partition(chr(10))[0]}"
        return ProbeResult(**facts, is_out_of_memory=True, peak_gib=None, step_s=None, note=note)
    finally:
        gc.collect()
        if chosen.type == "cuda":
            torch.cuda.empty_cache()
    return _describe(found, facts)


def _measure(work: _Work, num_steps: int) -> _Measured:
    meter = open_meter(work.device)
    opened = open_scratch_trainer(
        work.plan, work.dataset_json, work.configuration, device=work.device, precision=work.precision
    )
    with opened as trainer:
        is_compiled, problem = _compile(trainer, work)
        step, batch = build_step(trainer, trainer.execution), make_random_batch(trainer)
        trainer.network.train()
        for _ in range(_NUM_WARM_UP):
            step.run(batch)
        meter.start()
        seconds = [_time_step(step, batch) for _ in range(num_steps)]
        return _Measured(use=meter.read(), step_s=statistics.median(seconds), is_compiled=is_compiled, problem=problem)


def _compile(trainer: nnUNetTrainer, work: _Work) -> tuple[bool, str]:
    if not choose_compilation(work.compile, work.device):
        return False, ""
    trainer.network, problem = compile_network(
        trainer.network,
        num_channels=trainer.num_input_channels,
        strides=work.plan.configuration(work.configuration).total_stride,
        device=work.device,
        precision=work.precision,
    )
    return not problem, problem


def _time_step(step: TrainingStep, batch: Batch) -> float:
    start = time.perf_counter()
    step.run(batch)
    if batch.data.device.type == "cuda":
        torch.cuda.synchronize(batch.data.device)
    return time.perf_counter() - start


def _count_parameters(work: _Work, where: Path) -> int:
    model = open_engine_model(work.plan.raw, work.dataset_json, work.configuration, where=where)
    with torch.device("meta"):
        return sum(weight.numel() for weight in build_empty_network(model).parameters())


def _name_device(device: torch.device) -> str:
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"


def _describe(found: _Measured, facts: dict[str, Any]) -> ProbeResult:
    use = found.use
    note = _explain(use)
    return ProbeResult(
        **facts,
        is_out_of_memory=False,
        peak_gib=use.peak / 2**30,
        step_s=found.step_s,
        tensors_gib=None if use.tensors is None else use.tensors / 2**30,
        is_compiled=found.is_compiled,
        note=f"{note}; {found.problem}" if found.problem else note,
    )


def _explain(use: MemoryUse) -> str:
    if use.outside is None:
        return "memory is what this process grew by on the CPU; it says nothing about a GPU"
    return (
        f"memory is what nvidia-smi shows: {(use.peak - use.outside) / 2**30:.2f} GiB in PyTorch's pool, "
        f"{use.outside / 2**30:.2f} GiB of driver, libraries and other programs"
    )


def main() -> int:
    """Serve one request, and return the exit code: 0, or that of the error in the answer.

    The request holds `plan` (a plan's content), `configuration`, `dataset_json`, `num_steps`, `device`, `precision`
    and `compile`, the last three optional, and `parent`, the process to outlive not; left out, there is none. The
    answer is a `ProbeResult`, or `error` with `kind`, `problem`, `where` and `hint`.
    """
    request: dict[str, Any] = json.load(sys.stdin)
    answer_to = os.dup(1)
    os.dup2(2, 1)  # whatever else is said goes to stderr
    parent = request.pop("parent", None)
    if parent is not None:
        threading.Thread(target=_follow_parent, args=(int(parent),), daemon=True).start()
    plan = request.pop("plan")
    try:
        answer, code = asdict(probe_configuration(parse_plan(plan), request.pop("configuration"), **request)), 0
    except StuError as error:
        where = None if error.where is None else str(error.where)
        facts = {"kind": type(error).__name__, "problem": error.problem, "where": where, "hint": error.hint}
        answer, code = {"error": facts}, error.exit_code
    with os.fdopen(answer_to, "w", encoding="utf-8") as stream, contextlib.suppress(BrokenPipeError):
        json.dump(answer, stream)
    return code


def _follow_parent(parent: int) -> None:
    """End this process after its parent: first so that temporary files go, then in any case."""
    while os.getppid() == parent:
        time.sleep(_BEAT_S)
    _thread.interrupt_main()
    time.sleep(_ORPHAN_GRACE_S)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())

"""Run a few training steps of a plan on random numbers, and measure their memory and time on this machine.

The steps are the trainer's own: its network, loss, optimizer, precision, compilation and micro-batches. Nothing is
read but the plan and `dataset.json`, and nothing is written outside a temporary folder.
"""

from __future__ import annotations

import gc
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from stu_pipeline.errors import UsageError
from stu_pipeline.log import ignore_events
from stu_pipeline.nnunet.environment import engine_environment, set_variables
from stu_pipeline.nnunet.memory_meter import MemoryUse, is_out_of_memory, open_meter
from stu_pipeline.nnunet.model import build_empty_network, open_engine_model
from stu_pipeline.nnunet.output import engine_output
from stu_pipeline.nnunet.session import choose_device, choose_precision, open_trainer
from stu_pipeline.nnunet.settings import TrainerSettings
from stu_pipeline.nnunet.trainer import nnUNetTrainer
from stu_pipeline.planfile import PlanFile
from stu_pipeline.storage import read_json
from stu_pipeline.workspace import Workspace, find_dataset

DEFAULT_NUM_STEPS = 5
_DATASET = "Dataset000_Probe"
# The first steps choose kernels, compile, and allocate the optimizer's state. An fp16 scaler skips its first steps
# until the scale fits, and the state comes with the first step that is not skipped.
_MIN_WARM_UP = 2
_MAX_WARM_UP = 20


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
    note: str
    """One sentence: what the numbers are, or where memory ran out."""


def probe_configuration(
    plan: PlanFile,
    configuration: str,
    *,
    device: str = "auto",
    precision: str = "auto",
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
    found = choose_precision(precision, chosen, smallest_map_voxels=smallest)
    where = plan.path or Path(f"{plan.name}.json")
    content = dict(dataset_json if dataset_json is not None else read_json(where.with_name("dataset.json")))
    facts: dict[str, Any] = {
        "device_name": _name_device(chosen),
        "precision": found,
        "num_parameters": _count_parameters(plan, content, configuration, where),
    }
    try:
        use, step_s = _measure(plan, content, configuration, device=chosen, precision=found, num_steps=num_steps)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        note = f"memory ran out: {str(error).splitlines()[0]}"
        return ProbeResult(**facts, is_out_of_memory=True, peak_gib=None, step_s=None, note=note)
    finally:
        gc.collect()
        if chosen.type == "cuda":
            torch.cuda.empty_cache()
    return ProbeResult(
        **facts,
        is_out_of_memory=False,
        peak_gib=use.peak / 2**30,
        step_s=step_s,
        tensors_gib=None if use.tensors is None else use.tensors / 2**30,
        note=_explain(use),
    )


def _measure(
    plan: PlanFile,
    dataset_json: dict[str, Any],
    configuration: str,
    *,
    device: torch.device,
    precision: str,
    num_steps: int,
) -> tuple[MemoryUse, float]:
    meter = open_meter(device)
    with _open_scratch_trainer(plan, dataset_json, configuration, device=device, precision=precision) as trainer:
        batch = make_random_batch(trainer)
        trainer.network.train()
        for step in range(_MAX_WARM_UP):
            trainer.train_step(batch)
            if step + 1 >= _MIN_WARM_UP and trainer.optimizer.state:
                break
        meter.start()
        seconds = [_time_step(trainer, batch) for _ in range(num_steps)]
        return meter.read(), statistics.median(seconds)


@contextmanager
def _open_scratch_trainer(
    plan: PlanFile, dataset_json: dict[str, Any], configuration: str, *, device: torch.device, precision: str
) -> Iterator[nnUNetTrainer]:
    """Open the trainer in a temporary workspace. Names in the plan cannot lead out of it."""
    raw = {**plan.raw, "dataset_name": _DATASET}
    with tempfile.TemporaryDirectory(prefix="stu-probe-") as folder:
        root = Path(folder)
        workspace = Workspace(raw=root / "raw", preprocessed=root / "preprocessed", results=root / "results")
        (workspace.raw / _DATASET).mkdir(parents=True)
        data = find_dataset(_DATASET, workspace).data_folder(plan.configuration(configuration).data_identifier)
        data.mkdir(parents=True)
        (data / "probe.b2nd").touch()  # the engine tells the format from the files it finds
        with (
            engine_environment(workspace, num_workers=0),
            set_variables({"nnUNet_wandb_enabled": "0"}),
            engine_output(None),
        ):
            yield open_trainer(
                raw,
                dataset_json,
                configuration=configuration,
                fold=0,
                device=device,
                settings=TrainerSettings(precision=precision),
                listen=ignore_events,
                is_stop_asked=lambda: False,
            )


def make_random_batch(trainer: nnUNetTrainer) -> dict[str, Any]:
    """Make one batch as the trainer's loader would, of random numbers: same shapes, types and kind of memory."""
    patch = [int(size) for size in trainer.configuration_manager.patch_size]
    labels = trainer.label_manager
    is_pinned = trainer.device.type == "cuda"
    data = torch.randn(trainer.batch_size, trainer.num_input_channels, *patch, pin_memory=is_pinned)
    target = []
    for scale in trainer._get_deep_supervision_scales() or [[1.0] * len(patch)]:
        size = [round(voxels * factor) for voxels, factor in zip(patch, scale, strict=True)]
        if labels.has_regions:
            num_maps = len(labels.foreground_regions) + labels.has_ignore_label
            level = torch.rand(trainer.batch_size, num_maps, *size) < 0.5
        else:
            num_values = labels.num_segmentation_heads + labels.has_ignore_label
            level = torch.randint(0, num_values, (trainer.batch_size, 1, *size), dtype=torch.int16)
        target.append(level.pin_memory() if is_pinned else level)
    return {"data": data, "target": target if trainer.enable_deep_supervision else target[0], "keys": []}


def _time_step(trainer: nnUNetTrainer, batch: dict[str, Any]) -> float:
    start = time.perf_counter()
    trainer.train_step(batch)
    if trainer.device.type == "cuda":
        torch.cuda.synchronize(trainer.device)
    return time.perf_counter() - start


def _count_parameters(plan: PlanFile, dataset_json: dict[str, Any], configuration: str, where: Path) -> int:
    model = open_engine_model(plan.raw, dataset_json, configuration, where=where)
    with torch.device("meta"):
        return sum(weight.numel() for weight in build_empty_network(model).parameters())


def _name_device(device: torch.device) -> str:
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)"


def _explain(use: MemoryUse) -> str:
    if use.outside is None:
        return "memory is what this process grew by on the CPU; it says nothing about a GPU"
    return (
        f"memory is what nvidia-smi shows: {(use.peak - use.outside) / 2**30:.2f} GiB in PyTorch's pool, "
        f"{use.outside / 2**30:.2f} GiB of driver, libraries and other programs"
    )

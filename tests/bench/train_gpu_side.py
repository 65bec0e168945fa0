"""Train a few steps of one side, ours or stock nnU-Net's, from preprocessed files to updated weights, and time them.

A process of its own: `python -m tests.bench.train_gpu_side REQUEST`, the request as JSON; it prints one JSON line.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stu_pipeline.log import ignore_events
from stu_pipeline.nnunet.environment import engine_environment, set_variables
from stu_pipeline.nnunet.memory_meter import is_out_of_memory, open_meter
from stu_pipeline.nnunet.output import engine_output
from stu_pipeline.nnunet.session import open_trainer
from stu_pipeline.nnunet.settings import TrainerSettings
from stu_pipeline.planfile import PlanFile
from stu_pipeline.preprocessing.case_files import write_case_files
from stu_pipeline.preprocessing.class_locations import sample_class_locations
from stu_pipeline.storage import read_json, write_json
from stu_pipeline.training.loop.compilation import choose_compilation, compile_network
from stu_pipeline.training.loop.control import RunControl
from stu_pipeline.training.loop.ledger import StepLedger
from stu_pipeline.training.loop.loop import LoopParts
from stu_pipeline.training.parallel.ranks import Ranks
from stu_pipeline.training.parallel.shares import choose_batch_rule
from stu_pipeline.training.run.assembly import Assembly, assemble
from stu_pipeline.training.run.signals import SignalFlags
from stu_pipeline.workspace import Workspace
from tests.bench.measure_gpu import CONFIGURATION, Row, build_plan, describe_dataset

DATASET, IDENTIFIER = "Dataset000_Measured", "measured"
NUM_CASES = 8
_CASE_OVER_PATCH = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What one side is asked to do."""

    side: str
    """`stu` or `nnunet`."""
    folder: str
    """Holds the preprocessed cases; `write_cases` makes it."""
    scale: str
    patch: tuple[int, ...]
    batch: int = 2
    precision: str = "bf16"
    """Of ours; stock nnU-Net chooses for itself: fp16 on CUDA, fp32 elsewhere."""
    device: str = "cuda"
    workers: int = 12
    warm_up: int = 20
    steps: int = 100


def main() -> None:
    """Measure one side and print what it came to."""
    content = json.loads(sys.argv[1])
    print(json.dumps(measure(Request(**{**content, "patch": tuple(content["patch"])}))))


def measure(request: Request) -> dict[str, Any]:
    """Measure one side. Out of memory is a result."""
    folder = Path(request.folder)
    workspace = Workspace(
        raw=folder / "raw", preprocessed=folder / "preprocessed", results=folder / f"results_{request.side}"
    )
    sides = {"stu": _open_ours, "nnunet": _open_stock}
    try:
        with (
            engine_environment(workspace, num_workers=request.workers),
            set_variables({"nnUNet_wandb_enabled": "0"}),
            engine_output(folder / f"{request.side}.log"),
            sides[request.side](request) as (run_step, settle),
        ):
            return _time_steps(request, run_step, settle)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return {"is_out_of_memory": True}


def write_cases(folder: Path, patch: tuple[int, ...]) -> None:
    """Write preprocessed cases half as long again as the patch: three labels in smooth noise."""
    row = Row(scale="S", patch=patch)
    home = folder / "preprocessed" / DATASET
    (folder / "raw" / DATASET).mkdir(parents=True, exist_ok=True)
    shape = tuple(math.ceil(_CASE_OVER_PATCH * size) for size in patch)
    names = [f"case_{index}" for index in range(NUM_CASES)]
    for seed, name in enumerate(names):
        generator = np.random.default_rng(seed)
        grid = np.meshgrid(*(np.arange(size) / 11 for size in shape), indexing="ij", sparse=True)
        waves = sum(np.sin(axis + phase) for axis, phase in zip(grid, generator.uniform(0, 6, 3), strict=True))
        labels = np.digitize(waves, (0.8, 1.6)).astype(np.int16)
        image = (waves + generator.normal(size=shape)).astype(np.float32)[None]
        properties = {"class_locations": sample_class_locations(labels, (1, 2)), "spacing": (1.0, 1.0, 1.0)}
        write_case_files(home / IDENTIFIER, name, image=image, labels=labels, properties=properties, patch_size=patch)
    write_json(home / "dataset.json", describe_dataset(row))
    write_json(home / "dataset_fingerprint.json", {})
    half = NUM_CASES // 2
    write_json(home / "splits_final.json", [{"train": names[:half], "val": names[half:]}])


@contextlib.contextmanager
def _open_ours(request: Request) -> Iterator[tuple[Callable[[int], float], Callable[[], None]]]:
    plan, device = _build_plan(request), torch.device(request.device)
    trainer = open_trainer(
        plan.raw,
        read_json(Path(request.folder) / "preprocessed" / DATASET / "dataset.json"),
        configuration=CONFIGURATION,
        fold=0,
        device=device,
        settings=TrainerSettings(precision=request.precision, seed=0),
        listen=ignore_events,
        is_stop_asked=lambda: False,
    )
    if choose_compilation("auto", device):
        strides = plan.configuration(CONFIGURATION).total_stride
        trainer.network, problem = compile_network(
            trainer.network, num_channels=1, strides=strides, device=device, precision=request.precision
        )
        if problem:
            raise SystemExit(problem)
    trainer.network.train()
    parts = assemble(
        Assembly(
            trainer=trainer,
            ranks=Ranks(),
            batch_rule=choose_batch_rule(request.batch, 1, lr_given=False, num_epochs=1000),
            control=RunControl(SignalFlags(), interval_s=math.inf),
            listen=ignore_events,
            num_workers=request.workers,
            execution=trainer.execution,
            note_execution=_refuse_step_down,
        )
    )
    batches, ledger = parts.open_batches(0), StepLedger(Path(request.folder))
    try:
        yield lambda number: _run_ours(parts, batches, ledger, number), ledger.settle
    finally:
        batches.close()


def _refuse_step_down(execution: object) -> None:
    raise MemoryError(f"it would train on as {execution}, which is not what is compared")


def _run_ours(parts: LoopParts, batches: Any, ledger: StepLedger, number: int) -> float:
    """Take a batch and train on it as the loop does; return the seconds waited for it."""
    batch = batches.take(number)
    outcome = parts.relief.run(parts.step, batch)
    nothing = torch.empty(0, device=batch.data.device)
    ledger.add(outcome, nothing, batch_cases=batch.case_ids, epoch=0, step=number)
    return batches.take_waited_s()


@contextlib.contextmanager
def _open_stock(request: Request) -> Iterator[tuple[Callable[[int], float], Callable[[], None]]]:
    from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    content = {**_build_plan(request).raw, "continue_training": False}
    description = read_json(Path(request.folder) / "preprocessed" / DATASET / "dataset.json")
    torch.manual_seed(0)
    trainer = nnUNetTrainer(content, CONFIGURATION, 0, description, torch.device(request.device))
    trainer.initialize()
    trainer.on_train_start()
    trainer.network.train()

    def run(number: int) -> float:
        start = time.perf_counter()
        batch = next(trainer.dataloader_train)
        waited = time.perf_counter() - start
        trainer.train_step(batch)
        return waited

    try:
        yield run, lambda: None
    finally:
        for loader in (trainer.dataloader_train, trainer.dataloader_val):
            if isinstance(loader, NonDetMultiThreadedAugmenter):
                loader._finish()


def _build_plan(request: Request) -> PlanFile:
    return build_plan(Row(scale=request.scale, patch=request.patch, batch=request.batch))


def _time_steps(request: Request, run: Callable[[int], float], settle: Callable[[], object]) -> dict[str, Any]:
    device = torch.device(request.device)
    meter = open_meter(device)
    for number in range(request.warm_up):
        run(number)
    settle()
    meter.start()
    start, waited = _read_clock(device), 0.0
    for number in range(request.warm_up, request.warm_up + request.steps):
        waited += run(number)
    settle()
    elapsed = _read_clock(device) - start
    return {
        "is_out_of_memory": False,
        "images_per_s": request.steps * request.batch / elapsed,
        "step_s": elapsed / request.steps,
        "data_wait": waited / elapsed,
        "peak_gib": meter.read().peak / 2**30,
        "request": asdict(request) | {"folder": ""},
    }


def _read_clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


if __name__ == "__main__":
    main()

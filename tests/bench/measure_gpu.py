"""Measure memory and speed of real training steps on a CUDA device, for the tables in plans/.

    make gpu                                   # or: python -m tests.bench.measure_gpu --quick

One row per scale, patch, batch and precision: peak memory (allocated, and as the driver sees it) and seconds
per step, with the network, nnU-Net's loss with deep supervision, and the optimizer of a training. Writes
`plans/measured_gpu.json` after every row, so an interrupted run keeps what it has.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

TARGET = Path(__file__).resolve().parents[2] / "plans" / "measured_gpu.json"
STRIDES = [[1, 1, 1], *[[2, 2, 2]] * 5]
NUM_LABELS = 3
NUM_STEPS = 6


def main() -> None:
    """Measure every row that fits and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small part of the table")
    parser.add_argument("--device", default="cuda", help="cpu runs the code without measuring memory")
    parser.add_argument("--output", type=Path, default=TARGET)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("no CUDA device: nothing measured")
        return
    rows: list[dict[str, Any]] = []
    for case in list_cases(quick=arguments.quick, tiny=device.type == "cpu"):
        rows.append({**case, **measure_case(case, device)})
        print(json.dumps(rows[-1]), flush=True)
        write_table(rows, device, arguments.output)


def list_cases(*, quick: bool, tiny: bool) -> list[dict[str, Any]]:
    """List what to measure, cheap rows first."""
    if tiny:
        return [{"scale": "S", "patch": [64, 64, 64], "batch": 1, "precision": "bf16"}]
    patches = [[96, 96, 96], [128, 128, 128]] if quick else [[96, 96, 96], [128, 128, 128], [160, 160, 160]]
    return [
        {"scale": scale, "patch": patch, "batch": batch, "precision": precision}
        for scale in ("S", "B", "L", "H")
        for patch in patches
        for batch in ((2,) if quick else (1, 2, 4))
        for precision in (("bf16",) if quick else ("bf16", "fp16", "fp32"))
    ]


def measure_case(case: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Run a few training steps; an out-of-memory row says so."""
    try:
        return run_steps(case, device)
    except torch.OutOfMemoryError:
        return {"out_of_memory": True}
    finally:
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def run_steps(case: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """Return seconds per step (median) and peak memory in GiB."""
    from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
    from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
    from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

    from stu_pipeline.networks.scales import SCALES
    from stu_pipeline.networks.stunet import STUNet

    spec = SCALES[case["scale"]]
    with device:
        network = STUNet(
            1, NUM_LABELS, STRIDES, list(spec.features_per_stage), list(spec.n_blocks_per_stage), deep_supervision=True
        ).train()
    loss = DeepSupervisionWrapper(
        DC_and_CE_loss(
            {"batch_dice": False, "smooth": 1e-5, "do_bg": False, "ddp": False}, {},
            dice_class=MemoryEfficientSoftDiceLoss,
        ),
        [8 / 15, 4 / 15, 2 / 15, 1 / 15, 0],
    )  # fmt: skip
    optimizer = torch.optim.SGD(network.parameters(), 1e-2, momentum=0.99, nesterov=True, weight_decay=3e-5)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(case["precision"])
    scaler = torch.amp.GradScaler(device.type, enabled=case["precision"] == "fp16")
    data = torch.randn(case["batch"], 1, *case["patch"], device=device)
    sizes = [[size >> level for size in case["patch"]] for level in range(5)]
    target = [torch.randint(0, NUM_LABELS, (case["batch"], 1, *size), device=device).float() for size in sizes]
    seconds = []
    for step in range(NUM_STEPS):
        if device.type == "cuda" and step == 1:
            torch.cuda.reset_peak_memory_stats(device)
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            output = network(data)
        scaler.scale(loss([part.float() for part in output], target)).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 12)
        scaler.step(optimizer)
        scaler.update()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return {"step_s": statistics.median(seconds[1:]), **read_memory(device)}


def read_memory(device: torch.device) -> dict[str, float]:
    """Return peak memory in GiB: tensors, the allocator's pool, and what the whole device has in use."""
    if device.type != "cuda":
        return {}
    free, total = torch.cuda.mem_get_info(device)
    return {
        "allocated_gib": torch.cuda.max_memory_allocated(device) / 2**30,
        "reserved_gib": torch.cuda.max_memory_reserved(device) / 2**30,
        "device_gib": (total - free) / 2**30,
    }


def write_table(rows: list[dict[str, Any]], device: torch.device, target: Path) -> None:
    """Write the rows with their provenance."""
    from stu_pipeline.records import read_versions
    from stu_pipeline.storage import write_json

    provenance = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "versions": read_versions(),
        "num_labels": NUM_LABELS,
    }
    write_json(target, {"schema": 1, "provenance": provenance, "rows": rows})


if __name__ == "__main__":
    main()

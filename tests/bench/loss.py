"""Measure our loss against nnU-Net's: forward and backward, time and memory, and print a table.

    OMP_NUM_THREADS=1 python -m tests.bench.loss [--labels 3,40,105] [--edge 64] [--pairs 5]

Both run in turn in one process for the time, and each in a process of its own for the memory: what is taken beyond
logits and targets, as a multiple of the logits. On CUDA where there is a device; nnU-Net's loss is not compiled.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BATCH = 2
WHICH = ("ours", "nnU-Net")


def main() -> None:
    """Print the table, or measure one row of it in this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--labels", default="3,40,105")
    parser.add_argument("--edge", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--measure", choices=("time", *WHICH), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure is not None:
        logits, targets = make_batch(int(given.labels), given.edge)
        if given.measure == "time":
            print(json.dumps(measure_seconds(logits, targets, given.pairs)))
        else:
            print(json.dumps(measure_memory(given.measure, logits, targets)))
        return
    print(f"batch {BATCH}, {given.edge}^3 voxels, float32, one level; medians of {given.pairs} pairs")
    print(f"{'labels':>6} {'ours':>9} {'nnU-Net':>9} {'ratio':>7} {'memory/logits: ours':>20} {'nnU-Net':>8}")
    for labels in given.labels.split(","):
        arguments = [f"--labels={labels}", f"--edge={given.edge}", f"--pairs={given.pairs}"]
        seconds = run_worker([*arguments, "--measure=time"])
        memory = [run_worker([*arguments, f"--measure={which}"]) for which in WHICH]
        ratio = statistics.median(theirs / mine for mine, theirs in zip(*seconds, strict=True))
        ours, stock = (statistics.median(values) for values in seconds)
        print(f"{labels:>6} {ours:8.3f}s {stock:8.3f}s {ratio:6.2f}x {memory[0]:20.2f} {memory[1]:8.2f}", flush=True)


def run_worker(arguments: list[str]) -> Any:
    """Measure in a process of its own; this one imports no torch, as a child starts with its parent's peak."""
    command = [sys.executable, "-m", "tests.bench.loss", *arguments]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def make_batch(num_labels: int, edge: int) -> tuple[Any, Any]:
    """Make logits and targets with blocks of equal labels, on the device."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    coarse = torch.randint(0, num_labels, (BATCH, 1, *[-(-edge // 8)] * 3), dtype=torch.int16)
    for axis in (2, 3, 4):
        coarse = coarse.repeat_interleave(8, axis).narrow(axis, 0, edge)
    logits = torch.randn(BATCH, num_labels, edge, edge, edge, device=device, requires_grad=True)
    return logits, coarse.to(device)


def choose_loss(which: str) -> Callable[[Any, Any], Any]:
    """Build one of the two losses for a single output."""
    if which == "ours":
        from stu_pipeline.training.loss.segmentation import build_loss

        return build_loss(regions=False, batch_dice=False)
    from tests import engine_loss

    return engine_loss.build_loss().loss


def measure_seconds(logits: Any, targets: Any, num_pairs: int) -> list[list[float]]:
    """Return the seconds of forward and backward of both losses, measured in turn."""
    losses = [choose_loss(which) for which in WHICH]
    seconds: list[list[float]] = [[], []]
    for _ in range(num_pairs + 1):
        for index, loss in enumerate(losses):
            start = time.perf_counter()
            take_step(loss, logits, targets)
            seconds[index].append(time.perf_counter() - start)
    return [values[1:] for values in seconds]  # the first warms up


def measure_memory(which: str, logits: Any, targets: Any) -> float:
    """Return the memory taken by one forward and backward beyond logits and targets, over that of the logits."""
    import torch

    loss = choose_loss(which)
    take_step(loss, logits[..., :8, :8, :8].detach().requires_grad_(), targets[..., :8, :8, :8])
    if logits.is_cuda:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        take_step(loss, logits, targets)
        return (torch.cuda.max_memory_allocated() - before) / logits.nbytes
    before = read_status("VmRSS")
    take_step(loss, logits, targets)
    return (read_status("VmHWM") - before) / logits.nbytes


def take_step(loss: Callable[[Any, Any], Any], logits: Any, targets: Any) -> None:
    """Run forward and backward, to their end."""
    import torch

    torch.autograd.grad(loss(logits, targets), logits)
    if logits.is_cuda:
        torch.cuda.synchronize()


def read_status(name: str) -> int:
    """Return a size of this process in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


if __name__ == "__main__":
    main()

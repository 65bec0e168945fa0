"""Training steps of `stu` against stock nnU-Net's: the same network, plan and data, in one run, in turn.

    python -m tests.bench.train_vs_nnunet [--quick]

Images per second of the whole loop, waiting for data included. Stock has no bf16: on the CPU it computes in fp32.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.bench.measure_process import Measurement, run_measured
from tests.real_data import ROOT

DATASET = "Dataset004_Hippocampus"
ARMS = {
    "nnU-Net": ("--arm", "stock"),
    "stu, fp32": ("--arm", "ours", "--precision", "fp32"),
    "stu, bf16": ("--arm", "ours", "--precision", "bf16"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", default="S")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--quick", action="store_true", help="one short turn")
    parser.add_argument("--workspace", type=Path, help="where the dataset is planned and preprocessed already")
    options = parser.parse_args(arguments)
    if not (ROOT / DATASET).is_dir():
        print(f"'{DATASET}' not found in STU_REAL_DATA or ../shared/data: nothing measured")
        return
    repeats, steps = (1, 3) if options.quick else (options.repeats, options.steps)
    with tempfile.TemporaryDirectory(prefix="stu-bench-") as folder:
        root = options.workspace or Path(folder)
        variables = {"STU_WORKSPACE": str(root), "OMP_WAIT_POLICY": "PASSIVE"}
        _require_planned(root, options.scale, variables)
        results: dict[str, list[Measurement]] = {name: [] for name in ARMS}
        for _ in range(repeats):
            for name, flags in ARMS.items():
                command = [sys.executable, "-m", "tests.bench.train_worker", str(ROOT / DATASET),
                           "--plan", f"stu{options.scale}Plans", "--steps", str(steps), *flags]  # fmt: skip
                results[name].append(run_measured(command, variables=variables, log=Path(folder) / "worker.log"))
        _print_table(results, options.scale, repeats, steps)


def _require_planned(root: Path, scale: str, variables: dict[str, str]) -> None:
    plan = root / "nnUNet_preprocessed" / DATASET / f"stu{scale}Plans.json"
    if not plan.is_file():
        command = [sys.executable, "-m", "stu_pipeline", "plan", str(ROOT / DATASET), "--scale", scale, "-q"]
        run_measured(command, variables={**os.environ, **variables}, log=root / "plan.log")


def _print_table(results: dict[str, list[Measurement]], scale: str, repeats: int, steps: int) -> None:
    print(f"{time.strftime('%Y-%m-%d')}, {_name_processor()}, {os.cpu_count()} cores, scale {scale}, hippocampus, "
          f"medians of {repeats} turns of {steps} steps")  # fmt: skip
    print("| arm | images per second | waiting for data | against nnU-Net, paired | lowest to highest |")
    print("|---|---|---|---|---|")
    for name, runs in results.items():
        speeds = [run.document["images_per_s"] for run in runs]
        ratios = [ours / stock.document["images_per_s"] for ours, stock in zip(speeds, results["nnU-Net"], strict=True)]
        wait = statistics.median(run.document["data_wait"] for run in runs)
        print(f"| {name} | {statistics.median(speeds):.2f} | {wait:.1%} | {statistics.median(ratios):.2f} | "
              f"{min(ratios):.2f} to {max(ratios):.2f} |")  # fmt: skip


def _name_processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()

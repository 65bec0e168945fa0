"""`stu predict` against stock `nnUNetv2_predict`: the same models, images and mirrored copies, on the CPU, in turn.

    python -m tests.bench.predict_vs_nnunet --model FOLDER [--model FOLDER] [--cases 60] [--rounds 3]

Whole commands from start to end, stock with its default workers. Needs trained model folders, fold 0 is used.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from tests.bench.mask_agreement import Agreement, compare_masks
from tests.bench.measure_process import list_session
from tests.real_data import ROOT

DATASET = "Dataset004_Hippocampus"
_LOOK_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class Run:
    """What one command took."""

    seconds: float
    cpu_s: float
    """Of the command and all processes it waited for."""
    peak_mib: float
    """Of all its processes together; what they share counts once (PSS)."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, action="append", required=True, help="a model folder; may be repeated")
    parser.add_argument("--cases", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", default="auto", help="of ours; stock computes in fp32 on the CPU")
    options = parser.parse_args(arguments)
    images = sorted((ROOT / DATASET / "imagesTr").glob("*.nii.gz"))[: options.cases]
    if not images:
        print(f"'{DATASET}' not found in STU_REAL_DATA or ../shared/data: nothing measured")
        return
    print(f"{time.strftime('%Y-%m-%d')}, {_name_processor()}, {os.cpu_count()} cores, {len(images)} cases, "
          f"medians of {options.rounds} rounds, load before {os.getloadavg()[0]:.1f}; torch {version('torch')}, "
          f"nnunetv2 {version('nnunetv2')}")  # fmt: skip
    print(
        "| model | stu, s | nnU-Net, s | times faster | CPU time, times less | stu, MiB | nnU-Net, MiB | voxels equal "
        "| Dice |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="stu-bench-") as folder:
        inputs = Path(folder) / "in"
        inputs.mkdir()
        for image in images:
            (inputs / image.name).symlink_to(image)
        for model in options.model:
            _measure_model(model, inputs, Path(folder), rounds=options.rounds, precision=options.precision)


def _measure_model(model: Path, inputs: Path, folder: Path, *, rounds: int, precision: str) -> None:
    python = [sys.executable, "-m"]
    outputs = {name: folder / name for name in ("stu", "stock")}
    commands = {
        "stu": [*python, "stu_pipeline", "predict", "-i", str(inputs), "-o", str(outputs["stu"]), "-m", str(model),
                "--folds", "0", "--device", "cpu", "--precision", precision],
        "stock": [*python, "tests.bench.predict_worker", "stock", "-i", str(inputs), "-o", str(outputs["stock"]),
                  "-m", str(model), "-f", "0", "-device", "cpu"],
    }  # fmt: skip
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            shutil.rmtree(outputs[name], ignore_errors=True)
            runs[name].append(_run(command, folder / f"{name}.log"))
    _print_row(model.name, runs["stu"], runs["stock"], compare_masks(outputs["stock"], outputs["stu"]))


def _print_row(name: str, ours: Sequence[Run], stock: Sequence[Run], masks: Agreement) -> None:
    ratio = statistics.median(theirs.seconds / mine.seconds for mine, theirs in zip(ours, stock, strict=True))
    cpu = statistics.median(theirs.cpu_s / mine.cpu_s for mine, theirs in zip(ours, stock, strict=True))
    seconds = [statistics.median(run.seconds for run in runs) for runs in (ours, stock)]
    peaks = [statistics.median(run.peak_mib for run in runs) for runs in (ours, stock)]
    dice = ", ".join(f"{label}: {statistics.mean(values):.4f}" for label, values in masks.dice.items())
    print(f"| {name} | {seconds[0]:.1f} | {seconds[1]:.1f} | {ratio:.2f} | {cpu:.2f} | {peaks[0]:.0f} | "
          f"{peaks[1]:.0f} | {masks.num_equal / masks.num_voxels:.4%} | {dice} |", flush=True)  # fmt: skip


def _run(command: Sequence[str], log: Path) -> Run:
    """Run a command to its end.

    Raises:
        RuntimeError: it failed; the end of its log is in the message.
    """
    start = time.perf_counter()
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
        )
        peaks, is_over = [0.0], threading.Event()
        watch = threading.Thread(target=_watch, args=(process.pid, peaks, is_over), daemon=True)
        watch.start()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        is_over.set()
        watch.join()
    if process.returncode:
        text = log.read_text(encoding="utf-8", errors="replace")
        raise RuntimeError(f"exit code {process.returncode} of {' '.join(command)}\n{text[-3000:]}")
    return Run(seconds, usage.ru_utime + usage.ru_stime, max(peaks))


def _watch(leader: int, peaks: list[float], is_over: threading.Event) -> None:
    while not is_over.wait(_LOOK_EVERY_S):
        peaks.append(sum(_read_pss_mib(pid) for pid in list_session(leader)))


def _read_pss_mib(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:  # it is over, or on its way
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")), 0.0)


def _name_processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()

"""Measure whole training steps against stock nnU-Net's on a GPU: same network, plan and precision class.

    make gpu                                   # or: python -m tests.bench.train_gpu --scales S,B,L,H --workers 12
    python -m tests.bench.train_gpu --device cpu --tiny       # shows that it runs; measures no GPU

Both sides read the same preprocessed cases from disk, augment them, and train. Ours: bf16, augmentation on the GPU.
Stock: its `nnUNetTrainer`, fp16, its loader with as many processes. torch.compile on both, as both do by default.
Each side of each scale is a process of its own. Out comes a table, `plans/measured_gpu_training.json` and
`docs/results/training-gpu.md`; `--page-only` writes the page again from what there is.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stu_pipeline.host import count_usable_cores
from stu_pipeline.storage import read_json, write_json
from tests.bench.measure_process import run_measured

REPOSITORY = Path(__file__).resolve().parents[2]
TARGET = REPOSITORY / "plans" / "measured_gpu_training.json"
PAGE = REPOSITORY / "docs" / "results" / "training-gpu.md"
SCALES = ("S", "B", "L", "H")
# What this project asks of itself: images per second against stock, and the share of time in which data is waited for.
GOALS = {"S": 2.5, "B": 1.7, "L": 1.2}
MAX_DATA_WAIT, MAX_H_GIB = 0.05, 80
SIDES = ("stu", "nnunet")
_NOTHING = "not measured"
_MAX_WORKERS = 12

Rows = dict[str, dict[str, Any]]
"""Scale to what each side came to."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, and write it down."""
    options = parse_options(arguments)
    if options.page_only:
        write_page(read_rows(TARGET), PAGE)
        return
    if options.device == "cuda" and not _has_cuda():
        print("no CUDA device: nothing measured")
        return
    target, page = choose_targets(options)
    rows = read_rows(target)
    with tempfile.TemporaryDirectory(prefix="stu-bench-") as folder:
        patch = (32,) * 3 if options.tiny else (128,) * 3
        make_cases(Path(folder), patch)
        for scale in options.scales:
            rows[scale] = measure_scale(scale, patch, Path(folder), options)
            write_json(target, describe_rows(rows))
            print(format_row(scale, rows[scale]), flush=True)
    write_page(rows, page)
    print(f"table in {target} and {page}")


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--scales", type=lambda text: text.split(","), default=list(SCALES))
    parser.add_argument("--workers", type=int, default=max(1, min(_MAX_WORKERS, count_usable_cores() - 1)))
    parser.add_argument("--steps", type=int, default=100, help="timed steps, after the warm-up")
    parser.add_argument("--warm-up", type=int, default=20)
    parser.add_argument("--tiny", action="store_true", help="scale S at 32x32x32, two steps")
    parser.add_argument("--output", type=Path, help=f"default: {TARGET.name} in plans/; on the CPU a temporary folder")
    parser.add_argument("--page-only", action="store_true", help="write the page from what was measured before")
    options = parser.parse_args(arguments)
    if options.tiny:
        options.scales, options.steps, options.warm_up = ["S"], 2, 1
    return options


def choose_targets(options: argparse.Namespace) -> tuple[Path, Path]:
    """Keep what a CPU measured away from the project's own tables."""
    if options.output is not None:
        return options.output, options.output.with_suffix(".md")
    if options.device == "cuda" and not options.tiny:
        return TARGET, PAGE
    folder = Path(tempfile.mkdtemp(prefix="stu-measured-"))
    return folder / TARGET.name, folder / PAGE.name


def make_cases(folder: Path, patch: tuple[int, ...]) -> None:
    """Write what both sides read."""
    from tests.bench.train_gpu_side import write_cases

    write_cases(folder, patch)


def measure_scale(scale: str, patch: tuple[int, ...], folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Measure both sides of one scale, one after the other, each in a process of its own."""
    from tests.bench.train_gpu_side import Request

    found: dict[str, Any] = {}
    for side in SIDES:
        request = Request(
            side=side,
            folder=str(folder),
            scale=scale,
            patch=patch,
            precision="bf16" if options.device == "cuda" else "fp32",
            device=options.device,
            workers=options.workers,
            warm_up=options.warm_up,
            steps=options.steps,
        )
        command = [sys.executable, "-m", "tests.bench.train_gpu_side", json.dumps(asdict(request))]
        try:
            found[side] = run_measured(command, variables={}, log=folder / f"{scale}_{side}.log").document
        except RuntimeError as error:
            print(f"{scale}, {side}: failed\n{error}", file=sys.stderr)
            found[side] = None
    return found | describe_machine(options.device)


def describe_machine(device: str) -> dict[str, str]:
    """Return what the numbers are of."""
    import torch

    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "torch": str(torch.__version__),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def describe_rows(rows: Rows) -> dict[str, Any]:
    """Return the content of the table's file."""
    return {"schema": 1, "what": "whole training steps beside stock nnU-Net (tests/bench/train_gpu.py)", "rows": rows}


def read_rows(target: Path) -> Rows:
    """Read what was measured before; nothing where there is no file."""
    rows: Rows = dict(read_json(target)["rows"]) if target.is_file() else {}
    return rows


def find_ratio(row: Mapping[str, Any]) -> float | None:
    """Return how many times as many images per second we train; None where a side has no number."""
    speeds = [(row.get(side) or {}).get("images_per_s") for side in SIDES]
    return speeds[0] / speeds[1] if all(speeds) else None


def format_row(scale: str, row: Mapping[str, Any]) -> str:
    """Write one row of the page's table; what was not measured is said to be so."""
    ours, stock = (row.get(side) for side in SIDES)
    ratio, goal = find_ratio(row), GOALS.get(scale)
    cells = [
        scale,
        _write(ours, "images_per_s", "{:.2f}"),
        _write(stock, "images_per_s", "{:.2f}"),
        _NOTHING if ratio is None else f"{ratio:.2f}",
        f"at least {goal}" if goal else f"fits {MAX_H_GIB} GiB",
        _write(ours, "data_wait", "{:.1%}"),
        _write(stock, "data_wait", "{:.1%}"),
        _write(ours, "peak_gib", "{:.1f}"),
        _write(stock, "peak_gib", "{:.1f}"),
    ]
    return f"| {' | '.join(cells)} |"


def write_page(rows: Rows, page: Path) -> None:
    """Write the page; rows without a number stay, marked as such."""
    sources = sorted({f"{row['device']}, torch {row['torch']}, {row['date']}" for row in rows.values()})
    measured = (
        f"Measured on {'; '.join(sources)}." if sources else "Nothing here has been measured yet: no GPU was at hand."
    )
    lines = [
        "# Training beside nnU-Net on a GPU",
        "",
        "Whole training steps at 128x128x128, batch 2, with augmentation: preprocessed cases on disk in, updated",
        "weights out. Both sides train the same network by the same plan, compiled. `stu`: bf16, augmentation on the",
        "GPU. nnU-Net: its own trainer, fp16, its own loader with as many processes.",
        "",
        measured,
        "",
        "| scale | stu images/s | nnU-Net images/s | ratio | asked for | stu waits for data | nnU-Net waits for data"
        " | stu GiB | nnU-Net GiB |",
        f"|{'---|' * 9}",
        *(format_row(scale, rows.get(scale, {})) for scale in SCALES),
        "",
        f"Waiting for data should stay under {MAX_DATA_WAIT:.0%} of the time. GiB is the peak that `nvidia-smi` shows.",
        "",
        "This page is written by `make gpu` (`python -m tests.bench.train_gpu`), which needs a CUDA device; the",
        f"numbers are kept in `plans/{TARGET.name}`.",
    ]
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write(found: Mapping[str, Any] | None, key: str, form: str) -> str:
    if not found:
        return _NOTHING
    return "out of memory" if found["is_out_of_memory"] else form.format(found[key])


def _has_cuda() -> bool:
    import torch

    return bool(torch.cuda.is_available())


if __name__ == "__main__":
    main()

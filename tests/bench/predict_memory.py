"""Compare the memory that `stu predict --dry-run` forecasts with what the same command then takes.

    python -m tests.bench.predict_memory            # or: --quick

Folders of small cases and of large ones of different sizes, 3 and 40 labels, a tiny network with patches of 64 voxels
cubed: the arrays around the network are what is measured. Every run is a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.measure_process import Measurement, run_measured
from tests.synthetic import write_volume

LARGE = ((160, 160, 160), (200, 256, 256), (160, 200, 180))
SMALL = ((36, 50, 40),) * 12
NUM_LABELS = (3, 40)
SPACING_MM = 1.5
"""Of the model; images have 1 mm, so that both grids differ."""
THREADS = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One folder."""

    name: str
    num_labels: int
    options: tuple[str, ...] = ()


ROWS = (
    *(Row(name="small", num_labels=count) for count in NUM_LABELS),
    *(Row(name="large", num_labels=count) for count in NUM_LABELS),
    Row(name="large", num_labels=40, options=("--probabilities", "npz")),
    Row(name="large", num_labels=40, options=("--workers", "0")),
)


def main() -> None:
    """Print the table."""
    rows = ROWS[:3] if "--quick" in sys.argv[1:] else ROWS
    print(f"{'cases':8} {'labels':>6}  {'options':22} {'forecast':>10} {'measured':>10} {'ratio':>6} {'seconds':>8}")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_inputs(root)
        for row in rows:
            forecast_mib, measured = measure(root, row)
            print(
                f"{row.name:8} {row.num_labels:6}  {' '.join(row.options):22} {forecast_mib:6.0f} MiB "
                f"{measured.peak_mib:6.0f} MiB {measured.peak_mib / forecast_mib:6.2f} {measured.seconds:8.1f}",
                flush=True,
            )


def write_inputs(root: Path) -> None:
    """Write images of noise, which compress as badly as any, and models, in a process that then is gone."""
    for name, shapes in (("small", SMALL), ("large", LARGE)):
        write_images(root / name, shapes)
    for count in NUM_LABELS:
        code = "from pathlib import Path; from tests.bench.predict_memory import write_model as write; "
        code += f"write(Path({str(root)!r}), {count})"
        run_measured([sys.executable, "-c", code], variables=THREADS, log=root / "log.txt")


def write_images(folder: Path, shapes: Sequence[tuple[int, int, int]]) -> None:
    """Write whole numbers, as CT has them."""
    generator = np.random.default_rng(0)
    for index, shape in enumerate(shapes):
        voxels = generator.integers(-100, 200, shape).astype(np.int16)
        write_volume(folder / f"case_{index:02d}_0000.nii.gz", voxels, spacing_mm=(1.0, 1.0, 1.0))


def write_model(root: Path, num_labels: int) -> Path:
    """Write a model with random weights."""
    from tests.model_folders import write_model_folder

    labels: dict[str, Any] = {"background": 0} | {f"label{index}": index for index in range(1, num_labels + 1)}
    return write_model_folder(
        root / f"model_{num_labels}",
        network="PlainConvUNet",
        mirror_axes=(),
        labels=labels,
        patch=(64, 64, 64),
        spacing_mm=(SPACING_MM,) * 3,
        normalisation="CTNormalization",
    )


def measure(root: Path, row: Row) -> tuple[float, Measurement]:
    """Return the forecast in MiB, and what the run took."""
    model = next((root / f"model_{row.num_labels}").glob("*/*"))
    output = root / f"masks_{row.name}_{row.num_labels}_{'_'.join(row.options).strip('-')}"
    command = [sys.executable, "-m", "stu_pipeline", "predict", "-i", str(root / row.name), "-o", str(output)]
    command += ["-m", str(model), "--device", "cpu", "--json", *row.options]
    said = subprocess.run(
        [*command, "--dry-run"], env={**os.environ, **THREADS}, check=True, capture_output=True, text=True
    )
    forecast_mib = json.loads(said.stdout)["forecast"]["peak_gib"] * 1024
    return forecast_mib, run_measured(command, variables=THREADS, log=root / "log.txt")


if __name__ == "__main__":
    main()

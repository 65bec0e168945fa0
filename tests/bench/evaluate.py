"""Measure the surface metrics of one many-label case against surface-distance, and print a table.

    OMP_NUM_THREADS=1 python -m tests.bench.evaluate [--shape 300 512 512] [--labels 105] [--pairs 3] [--ours-only]

Ours scores all labels in one pass, with overlap counts and volumes; surface-distance is asked label by label. The
table says how far the numbers differ. Each runs in a process of its own, in turn. Seconds are of the CPU, which other
work on the machine hardly changes; memory is what the process takes at its peak beyond the two label maps.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np

SPACING_MM = (1.5, 0.8, 0.8)
TOLERANCE_MM = 2.0
OURS, WITH_LESIONS, THEIRS = WHICH = ("ours", "ours, and lesions", "surface-distance")
WRITE = "write"


def main() -> None:
    """Print the table, or measure one side in this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", type=int, nargs=3, default=(150, 256, 256))
    parser.add_argument("--labels", type=int, default=105)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--ours-only", action="store_true")
    parser.add_argument("--measure", nargs=2, metavar=("WHICH", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure is not None:
        name, folder = given.measure
        if name == WRITE:
            write_case(Path(folder), tuple(given.shape), given.labels)
        else:
            print(json.dumps(measure(name, Path(folder), given.labels)))
        return
    which = WHICH[:2] if given.ours_only else WHICH
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["--shape", *(str(size) for size in given.shape), "--labels", str(given.labels)]
        run_worker(WRITE, folder, arguments)
        runs = [{name: json.loads(run_worker(name, folder, arguments)) for name in which} for _ in range(given.pairs)]
    print(f"{'x'.join(map(str, given.shape))} voxels, {given.labels} labels, medians of {given.pairs} runs in turn")
    for name in which:
        seconds = statistics.median(run[name]["seconds"] for run in runs)
        print(f"{name:<18}{seconds:9.2f} s{max(run[name]['memory_mib'] for run in runs):9.0f} MiB")
    if not given.ours_only:
        ratio = statistics.median(run[THEIRS]["seconds"] / run[OURS]["seconds"] for run in runs)
        first, second = (np.array(runs[0][name]["scores"]) for name in (OURS, THEIRS))
        print(
            f"ratio {ratio:.1f}x; {len(first)} labels compared, largest difference {np.abs(first - second).max():.1e}"
        )


def run_worker(which: str, folder: str, arguments: list[str]) -> str:
    """Run one side in a process of its own; this one stays small, as a child starts with its parent's peak."""
    command = [sys.executable, "-m", "tests.bench.evaluate", *arguments, "--measure", which, folder]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def measure(which: str, folder: Path, num_labels: int) -> dict:
    """Score the case in a folder; returns the seconds, the memory and the four surface metrics of each label."""
    reference, prediction = (np.load(folder / f"{name}.npy") for name in ("reference", "prediction"))
    # What is loaded late is loaded before the clock starts.
    warnings.simplefilter("ignore", DeprecationWarning)
    cube = np.ones((2, 2, 2), dtype=np.uint8)
    score_case(which, cube, cube, 1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    scores = score_case(which, reference, prediction, num_labels)
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"seconds": seconds, "memory_mib": (peak - before) / 1024, "scores": scores}


def score_case(which: str, reference: np.ndarray, prediction: np.ndarray, num_labels: int) -> list:
    """Score every label; returns for each both mean distances, HD95 and NSD."""
    from stu_pipeline.evaluation import metrics
    from stu_pipeline.evaluation.labels import label_values
    from stu_pipeline.evaluation.lesions import LesionRule
    from tests.surface_reference import score_by_surface_distance

    values = range(1, num_labels + 1)
    if which == THEIRS:
        return [
            score_by_surface_distance(reference == value, prediction == value, SPACING_MM, TOLERANCE_MM)
            for value in values
        ]
    scored = metrics.score_case(
        reference,
        prediction,
        labels=label_values(values).labels,
        spacing_mm=SPACING_MM,
        tolerance_mm=TOLERANCE_MM,
        lesion_rule=LesionRule() if which == WITH_LESIONS else None,
    )
    surfaces = [scores.surface for scores in scored]
    return [[s.mean_ref_to_pred_mm, s.mean_pred_to_ref_mm, s.hd95_mm, s.nsd] for s in surfaces]


def write_case(folder: Path, shape: tuple[int, int, int], num_labels: int) -> None:
    """Write a phantom and the same shifted by a voxel with one voxel in a thousand missing."""
    reference = make_phantom(shape, num_labels)
    prediction = np.roll(reference, (1, 1, -1), (0, 1, 2))
    prediction[np.random.default_rng(1).random(shape, dtype=np.float32) < 0.001] = 0
    np.save(folder / "reference.npy", reference)
    np.save(folder / "prediction.npy", prediction)


def make_phantom(shape: tuple[int, int, int], num_labels: int) -> np.ndarray:
    """Make a label map of ellipsoids of many sizes, each in at least part of its place."""
    generator = np.random.default_rng(0)
    phantom = np.zeros(shape, dtype=np.uint8)
    sizes = np.sort(generator.uniform(0.03, 0.13, num_labels))[::-1]  # large ones first: small ones stay whole
    for label, size in enumerate(sizes, start=1):
        radii = np.maximum(size * np.array(shape) * generator.uniform(0.7, 1.3, 3), 2.0)
        centre = [
            generator.uniform(radius + 1, length - radius - 1) for radius, length in zip(radii, shape, strict=True)
        ]
        box = tuple(slice(int(c - r), int(c + r) + 2) for c, r in zip(centre, radii, strict=True))
        grid = np.ogrid[box]
        distance = sum(((axis - c) / r) ** 2 for axis, c, r in zip(grid, centre, radii, strict=True))
        phantom[box][distance <= 1] = label
    return phantom


if __name__ == "__main__":
    main()

"""Masks computed in bfloat16 against those in float32, of a trained model, all mirrored copies, on the CPU.

python -m tests.bench.precision_masks --model FOLDER [--cases 40]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.bench.mask_agreement import compare_masks
from tests.bench.measure_process import run_measured
from tests.real_data import ROOT

DATASET = "Dataset004_Hippocampus"
LARGE_VOXELS = 10_000
LEAST_DICE = 0.998


def main(arguments: Sequence[str] | None = None) -> None:
    """Predict twice and print a row per label."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="a model folder trained on the dataset")
    parser.add_argument("--dataset", default=DATASET)
    parser.add_argument("--cases", type=int, default=40, help="validation cases of fold 0, at most")
    options = parser.parse_args(arguments)
    images = ROOT / options.dataset / "imagesTr"
    validated = sorted(path.name.removesuffix(".nii.gz") for path in options.model.glob("fold_0/validation/*.nii.gz"))
    names = [name for name in validated if list(images.glob(f"{name}_0000.*"))][: options.cases]
    if not names:
        print(f"no validation cases of '{options.dataset}' found: nothing measured")
        return
    with tempfile.TemporaryDirectory(prefix="stu-bench-") as folder:
        inputs = Path(folder) / "in"
        inputs.mkdir()
        for name in names:
            for file in images.glob(f"{name}_*"):
                (inputs / file.name).symlink_to(file)
        seconds = {}
        for precision in ("fp32", "bf16"):
            command = [sys.executable, "-m", "stu_pipeline", "predict", "-i", str(inputs),
                       "-o", f"{folder}/{precision}", "-m", str(options.model), "--folds", "0", "--device", "cpu",
                       "--precision", precision]  # fmt: skip
            run = run_measured(command, variables={"OMP_WAIT_POLICY": "PASSIVE"}, log=Path(folder) / "run.log")
            seconds[precision] = run.seconds
        result = compare_masks(Path(folder) / "fp32", Path(folder) / "bf16")
    print(f"{len(names)} validation cases of {options.dataset}; fp32 {seconds['fp32']:.0f} s, "
          f"bf16 {seconds['bf16']:.0f} s; {result.num_equal / result.num_voxels:.5%} of the voxels equal")  # fmt: skip
    print(
        "| label | cases | voxels, median | Dice, mean | lowest | lowest of masks over 10,000 voxels (0.998 wanted) |"
    )
    print("|---|---|---|---|---|---|")
    for label, values in result.dice.items():
        sizes = result.sizes[label]
        large = [value for value, size in zip(values, sizes, strict=True) if size > LARGE_VOXELS]
        text = "none so large" if not large else f"{min(large):.5f}" + ("" if min(large) >= LEAST_DICE else ", MISSED")
        print(f"| {label} | {len(values)} | {statistics.median(sizes):.0f} | {statistics.mean(values):.5f} | "
              f"{min(values):.5f} | {text} |")  # fmt: skip


if __name__ == "__main__":
    main()

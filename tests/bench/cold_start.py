"""The time from the start of `stu predict` to the first tiles, with nothing loaded before.

python -m tests.bench.cold_start --model FOLDER [--rounds 5]
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.bench.measure_process import run_measured
from tests.real_data import ROOT

IMAGE = ROOT / "Dataset004_Hippocampus" / "imagesTr" / "hippocampus_001_0000.nii.gz"
TARGET_S = 6.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print one line per number."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="a trained model folder")
    parser.add_argument("--image", type=Path, default=IMAGE)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    if not options.image.is_file():
        print(f"'{options.image.name}' not found in STU_REAL_DATA or ../shared/data: nothing measured")
        return
    firsts, ends = [], []
    with tempfile.TemporaryDirectory(prefix="stu-bench-") as folder:
        for index in range(options.rounds):
            mask = Path(folder) / f"mask_{index}.nii.gz"
            command = [sys.executable, "-m", "tests.bench.predict_worker", "ours", "-i", str(options.image),
                       "-o", str(mask), "-m", str(options.model), "--device", "cpu"]  # fmt: skip
            document = run_measured(command, variables={"OMP_WAIT_POLICY": "PASSIVE"}, log=mask.with_suffix(".log"))
            firsts.append(document.document["first_tile_s"])
            ends.append(document.document["end_s"])
    load = os.getloadavg()[0]
    print(f"medians of {options.rounds}, load of the machine {load:.1f} on {os.cpu_count()} cores")
    print(f"start to first tiles: {statistics.median(firsts):.2f} s ({min(firsts):.2f} to {max(firsts):.2f}), "
          f"target {TARGET_S:g} s")  # fmt: skip
    print(f"start to end of the command: {statistics.median(ends):.2f} s ({min(ends):.2f} to {max(ends):.2f})")


if __name__ == "__main__":
    main()

"""Write docs/results/plan-gallery.md: what `stu plan` decides for real datasets, and why.

    python -m tests.bench.plan_gallery

Reads the datasets of $STU_REAL_DATA (else ../shared/data); writes nothing but the page.
"""

from __future__ import annotations

import datetime
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import stu_pipeline
from tests.real_data import ROOT

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "results" / "plan-gallery.md"
DATASETS = {
    "Dataset004_Hippocampus": "T1 MR crops of about 36x50x35 voxels at 1 mm, two labels, 200 cases.",
    "Dataset101_OpenKBP": "Head-and-neck CT of 128x128x128 voxels with 16 different spacings, seven organs, 24 cases.",
    "Dataset107_MSlesion4ch": "Four MR channels at 1 mm, one label of small lesions, a single case.",
    "Dataset108_MouseBrain": "In-vivo mouse brain MR at 0.15 mm, 37 labels, 8 cases.",
    "Dataset112_TotalSegCT": "A body CT at 3 mm with 61 labels, a single case.",
    "Dataset113_SpinalCordTiny": "Spinal cord MR, tiny, oblique, mixed spacings and orientations, 6 cases.",
    "Dataset115_PyRadiomicsNRRD": "NRRD files with negative direction cosines, 3 cases.",
    "Dataset117_SpleenCrop": "An anisotropic CT crop, 5 x 0.8 x 0.8 mm, a single case.",
}
GPU_MEMORY_GIB = 24
# Lines that name folders of the machine the page was made on.
_PLACES = re.compile(r"^(plan \(|preprocessed data:|results:|workspace:|next:)")


def main() -> None:
    """Plan every dataset as a dry run and write the page."""
    parts = [HEAD.format(date=datetime.date.today().isoformat(), version=stu_pipeline.__version__)]
    for name, what in DATASETS.items():
        if not (ROOT / name).is_dir():
            sys.exit(f"'{name}' not found in STU_REAL_DATA or ../shared/data")
        text = plan(name)
        parts.append(f"## {name}\n\n{what}\n\n```text\n$ {' '.join(command(name))}\n{text}\n```\n")
        print(name, flush=True)
    PAGE.write_text("\n".join(parts), encoding="utf-8")


def command(name: str) -> list[str]:
    """Return the command as a reader would type it."""
    return ["stu", "plan", name, "--gpu-memory", str(GPU_MEMORY_GIB), "--dry-run"]


def plan(name: str) -> str:
    """Run the command in an empty workspace; return what it says, without the places of this machine."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "nnUNet_raw": str(ROOT), "STU_WORKSPACE": folder, "COLUMNS": "120"}
        environment.pop("nnUNet_preprocessed", None)
        environment.pop("nnUNet_results", None)
        done = subprocess.run(
            [sys.executable, "-m", "stu_pipeline", *command(name)[1:]],
            env=environment, capture_output=True, text=True, check=True, cwd=folder,
        )  # fmt: skip
    lines = [line.rstrip() for line in done.stdout.splitlines() if not _PLACES.match(line)]
    return "\n".join(lines).strip()


HEAD = """# Gallery: what `stu plan` decides, and why

Made on {date} with stu {version} by `python -m tests.bench.plan_gallery`, for a 24 GiB GPU, on a machine without.
Each block is what the command prints, without the folders of the machine. Forecasts are not measurements: each says
where its numbers come from ([how self-configuration works](../explanation/how-self-configuration-works.md)).
"""

if __name__ == "__main__":
    main()

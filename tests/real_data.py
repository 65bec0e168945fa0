"""Where the real volumes are, and which sets there may be. Nothing of them is ever copied into the project."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(os.environ.get("STU_REAL_DATA") or Path(__file__).parents[1].parent / "shared" / "data")
DATASETS = (
    "Dataset004_Hippocampus",
    "Dataset101_OpenKBP",
    "Dataset107_MSlesion4ch",
    "Dataset108_MouseBrain",
    "Dataset112_TotalSegCT",
    "Dataset113_SpinalCordTiny",
    "Dataset115_PyRadiomicsNRRD",
    "Dataset117_SpleenCrop",
)


def require(name: str) -> Path:
    """Return a file or folder of the real data; without it the test is skipped, with the reason."""
    import pytest  # here: the benchmarks import this module and stay small

    path = ROOT / name
    if not path.exists():
        pytest.skip(f"real data '{name}' not found in STU_REAL_DATA or ../shared/data")
    return path

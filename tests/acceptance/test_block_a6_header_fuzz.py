"""A6: whatever a header says, reading ends soon, in a DataError or in a volume within the limits."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.reader_fuzz import HEADROOM_BYTES, SLOW_S

REPOSITORY = Path(__file__).parents[2]


def fuzz(kind, count):
    """Run the cases in a process whose memory is limited, with every warning an error; return what it measured."""
    command = [sys.executable, "-W", "error", "-m", "tests.acceptance.reader_fuzz", kind, str(count)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["read"] + found["refused"] == count
    assert found["longest_s"] < SLOW_S and found["peak_bytes"] < HEADROOM_BYTES
    return found


def test_300_mutated_nifti_headers_end_well():
    found = fuzz("nifti", 300)
    assert found["refused"] > 50 and found["read"] > 100


@pytest.mark.parametrize("kind", ["nrrd", "mha", "tif", "png"])
def test_150_mutated_files_of_the_other_formats_end_well(kind):
    found = fuzz(kind, 150)
    assert found["refused"] > 50 and found["read"] > 0


@pytest.mark.slow
def test_20000_mutated_nifti_headers_end_well():
    found = fuzz("nifti", 20_000)
    assert found["refused"] > 4000 and found["read"] > 8000


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nrrd", "mha", "tif", "png"])
def test_5000_mutated_files_of_the_other_formats_end_well(kind):
    found = fuzz(kind, 5000)
    assert found["refused"] > 1000 and found["read"] > 10

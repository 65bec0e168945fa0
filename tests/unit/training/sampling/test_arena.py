"""Memory that processes share."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stu_pipeline.training.sampling.arena import Arena


def count_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def test_arrays_of_all_places_keep_their_values():
    arena = Arena(3, 100)
    arrays = []
    for index in range(3):
        place = arena.open_place(index)
        arrays += [place.allocate((10,), np.float32), place.allocate((5, 3), np.int16)]
    for number, array in enumerate(arrays):
        array[...] = number
    assert all((array == number).all() for number, array in enumerate(arrays))
    assert all(array.ctypes.data % 64 == 0 and array.flags.writeable for array in arrays)
    arena.close_file()
    del arena
    assert (arrays[-1] == 5).all()


def test_the_same_requests_find_the_same_memory_again():
    arena = Arena(2, 1000)
    arena.open_place(1).allocate((4, 5), np.float32)[...] = 3
    assert (arena.open_place(1).allocate((4, 5), np.float32) == 3).all()
    assert (arena.open_place(0).allocate((4, 5), np.float32) == 0).all()
    arena.close_file()


def test_more_than_a_place_holds_is_refused():
    arena = Arena(1, 100)
    with pytest.raises(ValueError, match="does not fit"):
        arena.open_place(0).allocate((10**6,), np.float32)
    arena.close_file()


def test_memory_and_files_are_given_back():
    gc.collect()
    before = count_files()
    for _ in range(5):
        arena = Arena(1, 1000)
        arena.open_place(0).allocate((3,), np.float32)[...] = 1
        arena.close_file()
        arena.close_file()
    del arena
    gc.collect()
    assert count_files() == before


@pytest.mark.parametrize(("limit", "error"), [("FSIZE", "StorageError"), ("AS", "MemoryLimitError")])
def test_a_limit_of_the_system_is_an_error_of_the_user(limit, error):
    script = (
        f"import resource\nfrom stu_pipeline.errors import {error}\n"
        "from stu_pipeline.training.sampling.arena import Arena\n"
        f"resource.setrlimit(resource.RLIMIT_{limit}, (1 << 30, 1 << 30))\n"
        f"try:\n    Arena(4, 1 << 30)\nexcept {error} as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert re.search(r"memory for (4 )?training samples", done.stdout)

import errno
import math
import pickle
from pathlib import Path

import blosc2
import numpy as np
import pytest

from stu_pipeline.errors import StorageError
from stu_pipeline.preprocessing.case_files import choose_chunks, write_case_files


def write(folder, **changes):
    generator = np.random.default_rng(0)
    given = {
        "image": generator.normal(size=(2, 20, 30, 40)).astype(np.float32),
        "labels": generator.integers(-1, 3, (20, 30, 40)).astype(np.int16),
        "properties": {"spacing": [1.0, 1.0, 1.0]},
        "patch_size": (16, 16, 16),
        **changes,
    }
    return given, write_case_files(folder, "case", **given)


def test_what_is_written_is_read_back_through_a_memory_map(tmp_path):
    given, files = write(tmp_path / "new")
    image, labels = (blosc2.open(str(file), mode="r", mmap_mode="r") for file in files[:2])
    assert np.array_equal(image[:], given["image"]) and image.dtype == np.float32
    assert np.array_equal(labels[:], given["labels"][None]) and labels.dtype == np.int16
    assert pickle.loads(files[2].read_bytes()) == given["properties"]


def test_a_part_is_read_without_the_rest(tmp_path):
    given, files = write(tmp_path)
    image = blosc2.open(str(files[0]), mode="r", mmap_mode="r")
    assert np.array_equal(image[1:, 3:9, 10:11, 5:35], given["image"][1:, 3:9, 10:11, 5:35])


def test_views_are_written_like_copies(tmp_path):
    image = np.random.default_rng(0).normal(size=(1, 10, 12, 14)).astype(np.float32)
    _, first = write(tmp_path / "one", image=image.transpose(0, 3, 1, 2))
    _, second = write(tmp_path / "two", image=np.ascontiguousarray(image.transpose(0, 3, 1, 2)))
    assert first[0].read_bytes() == second[0].read_bytes()


def test_labels_take_a_fraction_of_their_size(tmp_path):
    labels = np.zeros((64, 64, 64), dtype=np.int16)
    labels[10:40, 10:40, 10:40] = 1
    _, files = write(tmp_path, labels=labels)
    assert files[1].stat().st_size < labels.nbytes / 50


def test_a_full_disk_is_said(tmp_path, monkeypatch):
    def fail(*_given):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(StorageError, match="no space left"):
        write(tmp_path)


@pytest.mark.parametrize(
    ("shape", "patch"),
    [
        ((1, 300, 512, 512), (128, 128, 128)),
        ((4, 155, 240, 240), (128, 160, 112)),
        ((1, 20, 512, 512), (512, 512)),
        ((1, 35, 51, 35), (40, 56, 40)),
        ((1, 1, 1, 1), (16, 16, 16)),
        ((1, 1000, 9, 9), (128, 128, 128)),
    ],
)
def test_blocks_and_chunks_fit_their_limits_and_the_patch(shape, patch):
    blocks, chunks = choose_chunks(shape, patch, 4)
    assert math.prod(blocks) * 4 <= 128 * 1024 and math.prod(chunks) * 4 <= 4 * 1024**2
    sides = (1, 1, *patch) if len(patch) == 2 else (1, *patch)
    for block, chunk, size, side in zip(blocks, chunks, shape, sides, strict=True):
        assert 1 <= block <= chunk <= min(size, side)

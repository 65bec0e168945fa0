"""A1 and A2: a cut file is refused by name; a flipped bit is refused or changes nothing."""

from __future__ import annotations

import gzip
import zlib

import numpy as np
import pytest

from stu_pipeline.datasets.reading import read_image, read_label_map
from stu_pipeline.errors import DataError
from tests.synthetic import make_image, make_label_map, write_volume

CUTS = 40
FLIPS = 60
SHAPE = (24, 40, 48)
FILES = [("image", ".nii.gz"), ("label", ".nii.gz"), ("image", ".nrrd"), ("label", ".nrrd"),
         ("image", ".mha"), ("label", ".mha"), ("image", ".nii")]  # fmt: skip
PACKED = [(kind, ending) for kind, ending in FILES if ending != ".nii"]


def write(folder, kind, ending):
    """A compressed file of an image or a label map, and the function that reads it."""
    labels = make_label_map(SHAPE)
    array = labels if kind == "label" else make_image(labels).astype(np.int16)
    return write_volume(folder / f"whole{ending}", array, spacing_mm=(2, 1, 1)).read_bytes(), (
        read_label_map if kind == "label" else read_image
    )


@pytest.mark.parametrize("count", [6, pytest.param(CUTS, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("kind", "ending"), FILES)
def test_a_cut_file_is_refused_by_name(tmp_path, kind, ending, count):
    whole, read = write(tmp_path, kind, ending)
    path = tmp_path / f"cut{ending}"
    lengths = np.random.default_rng(1).choice(len(whole), count - 2, replace=False)
    for length in (0, len(whole) - 1, *lengths):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=f"'cut{ending}'") as error:
            read(path)
        assert error.value.where == tmp_path and error.value.hint


@pytest.mark.parametrize("length", range(8))
def test_a_cut_trailer_is_refused(tmp_path, length):
    whole, read = write(tmp_path, "image", ".nii.gz")
    (tmp_path / "cut.nii.gz").write_bytes(whole[: len(whole) - 8 + length])
    with pytest.raises(DataError, match=f"no end after {len(whole) - 8 + length} bytes"):
        read(tmp_path / "cut.nii.gz")


@pytest.mark.parametrize("count", [8, pytest.param(FLIPS, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("kind", "ending"), PACKED)
def test_a_flipped_bit_is_refused_or_changes_nothing(tmp_path, kind, ending, count):
    whole, read = write(tmp_path, kind, ending)
    original = read(tmp_path / f"whole{ending}")
    path = tmp_path / f"flipped{ending}"
    generator = np.random.default_rng(2)
    # NRRD and MetaImage headers are plain text without a checksum: only the compressed part is promised.
    start = {".nii.gz": 0, ".nrrd": whole.find(b"\n\n") + 2, ".mha": whole.find(b"LOCAL\n") + 6}[ending]
    num_refused = 0
    for _ in range(count):
        data = bytearray(whole)
        data[generator.integers(start, len(data))] ^= 1 << int(generator.integers(8))
        path.write_bytes(bytes(data))
        try:
            volume = read(path)
        except DataError as error:
            assert path.name in error.problem
            num_refused += 1
        else:
            assert np.array_equal(volume.array, original.array) and volume.grid == original.grid
            assert unpack(bytes(data[start:])) == unpack(whole[start:])
    assert num_refused >= 0.9 * count


@pytest.mark.parametrize("count", [8, pytest.param(FLIPS, marks=pytest.mark.slow)])
def test_a_flipped_bit_in_a_png_is_refused_or_changes_nothing(tmp_path, count):
    picture = np.random.default_rng(0).integers(0, 255, (40, 50)).astype(np.uint8)
    whole = write_volume(tmp_path / "whole.png", picture).read_bytes()
    generator = np.random.default_rng(3)
    for _ in range(count):
        data = bytearray(whole)
        data[generator.integers(len(data))] ^= 1 << int(generator.integers(8))
        (tmp_path / "flipped.png").write_bytes(bytes(data))
        try:
            array = read_image(tmp_path / "flipped.png").array[0, 0]
        except DataError as error:
            assert "flipped.png" in error.problem
        else:
            assert np.array_equal(array, picture)


def unpack(data):
    return gzip.decompress(data) if data.startswith(b"\x1f\x8b") else zlib.decompress(data)

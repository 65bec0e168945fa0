"""Boxes of preprocessed cases."""

from __future__ import annotations

import blosc2
import numpy as np
import pytest

from stu_pipeline.errors import DataError
from stu_pipeline.training.sampling.reading import open_case, read_box
from tests.unit.training.sampling.tiny_cases import SHAPE, write_case


def read(case, lower, sizes, num_label_maps=1):
    data = np.full((case.data.shape[0], *sizes), 7, np.float32)
    labels = np.full((num_label_maps, *sizes), 7, np.int16)
    read_box(case, lower, data=data, labels=labels)
    return data, labels


def cut(array, lower, sizes, outside):
    """Do the same with padding on all sides."""
    margin = 40
    padded = np.pad(array, [(0, 0)] + [(margin, margin)] * 3, constant_values=outside)
    return padded[(slice(None), *(slice(m + margin, m + margin + s) for m, s in zip(lower, sizes, strict=True)))]


@pytest.mark.parametrize(
    ("lower", "sizes"),
    [
        ((2, 3, 4), (5, 6, 7)), ((-3, -2, -1), (6, 6, 6)), ((10, 15, 12), (9, 9, 9)), ((-4, -4, -4), (30, 30, 30)),
        ((0, 0, 0), SHAPE), ((20, 2, 2), (4, 4, 4)), ((-9, 2, 2), (9, 4, 4)),
    ],
)  # fmt: skip
def test_a_box_holds_the_image_and_its_outside(tmp_path, lower, sizes):
    image, labels = write_case(tmp_path, "case", num_channels=2)
    case = open_case(tmp_path, "case", num_channels=2)
    data, found = read(case, lower, sizes)
    assert case.shape == SHAPE
    np.testing.assert_array_equal(data, cut(image, lower, sizes, 0))
    np.testing.assert_array_equal(found, cut(labels, lower, sizes, -1))


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int16])
def test_the_previous_stage_comes_second(tmp_path, kind):
    write_case(tmp_path, "case")
    previous = np.random.default_rng(0).integers(0, 5, SHAPE).astype(kind)
    (tmp_path / "previous").mkdir()
    blosc2.asarray(previous, urlpath=str(tmp_path / "previous" / "case.b2nd"))
    case = open_case(tmp_path, "case", num_channels=1, previous_folder=tmp_path / "previous")
    _, labels = read(case, (-1, 0, 0), (4, 4, 4), num_label_maps=2)
    np.testing.assert_array_equal(labels[1:], cut(previous[None].astype(np.int16), (-1, 0, 0), (4, 4, 4), -1))


def test_unpacked_files_of_older_versions_are_read(tmp_path):
    image, labels = np.random.rand(1, 5, 6, 7).astype(np.float32), np.ones((1, 5, 6, 7), np.int8)
    np.save(tmp_path / "case.npy", image)
    np.save(tmp_path / "case_seg.npy", labels)
    data, found = read(open_case(tmp_path, "case", num_channels=1), (0, 0, 0), (5, 6, 7))
    assert (data == image).all() and (found == 1).all()


def test_packed_files_of_older_versions_are_refused_with_a_way_out(tmp_path):
    np.savez(tmp_path / "case.npz", data=np.zeros((1, 2, 2, 2)))
    with pytest.raises(DataError, match=r"packed in .case\.npz") as caught:
        open_case(tmp_path, "case", num_channels=1)
    assert "--augment cpu" in caught.value.hint


@pytest.mark.parametrize("name", ["case.b2nd", "case_seg.b2nd"])
def test_a_missing_or_cut_file_is_named_with_its_case(tmp_path, name):
    write_case(tmp_path, "case")
    path = tmp_path / name
    content = path.read_bytes()
    for size in (0, 40, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(DataError, match=f"'{name}' of case 'case' is damaged") as caught:
            open_case(tmp_path, "case", num_channels=1)
        assert caught.value.where == tmp_path
    path.unlink()
    with pytest.raises(DataError, match=f"case 'case' has no file '{name}'"):
        open_case(tmp_path, "case", num_channels=1)


def test_voxels_that_cannot_be_unpacked_are_named(tmp_path):
    noise = np.random.default_rng(0).normal(size=(1, 32, 32, 32)).astype(np.float32)
    blosc2.asarray(noise, urlpath=str(tmp_path / "case.b2nd"), chunks=(1, 32, 32, 32), blocks=(1, 8, 8, 8))
    blosc2.asarray(np.zeros(noise.shape, np.int16), urlpath=str(tmp_path / "case_seg.b2nd"))
    content = bytearray((tmp_path / "case.b2nd").read_bytes())
    content[400:4000] = b"\xff" * 3600
    (tmp_path / "case.b2nd").write_bytes(content)
    with pytest.raises(DataError, match=r"of case 'case' (is|are) damaged"):
        read(open_case(tmp_path, "case", num_channels=1), (0, 0, 0), (32, 32, 32))


def test_arrays_that_do_not_fit_the_plan_are_refused(tmp_path):
    write_case(tmp_path, "case")
    with pytest.raises(DataError, match="'case' does not fit the plan: it has 1 channels, the plan has 2"):
        open_case(tmp_path, "case", num_channels=2)
    (tmp_path / "previous").mkdir()
    blosc2.asarray(np.zeros((3, 3, 3), np.int16), urlpath=str(tmp_path / "previous" / "case.b2nd"))
    with pytest.raises(DataError, match="prediction is 3x3x3 int16"):
        open_case(tmp_path, "case", num_channels=1, previous_folder=tmp_path / "previous")
    blosc2.asarray(np.zeros((1, 3, 3, 3), np.int16), urlpath=str(tmp_path / "case_seg.b2nd"), mode="w")
    with pytest.raises(DataError, match="the labels are 1x3x3x3 int16"):
        open_case(tmp_path, "case", num_channels=1)
    blosc2.asarray(np.zeros((3, 3)), urlpath=str(tmp_path / "case.b2nd"), mode="w")
    with pytest.raises(DataError, match="an image is 3x3 float64"):
        open_case(tmp_path, "case", num_channels=1)

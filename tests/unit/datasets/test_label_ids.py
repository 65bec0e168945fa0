"""Ids with gaps become consecutive ones and come back exactly."""

from __future__ import annotations

import numpy as np
import pytest

from stu_pipeline.datasets.label_ids import MAX_NUM_LABELS, LabelIds, check_label_ids, make_label_ids
from stu_pipeline.errors import DataError

IDS = (0, 3, 255, 256, 300, 65535)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.int64])
def test_ids_come_back_exactly(dtype):
    original = np.random.default_rng(0).choice(IDS, (3, 4, 5)).astype(dtype)
    consecutive = LabelIds(IDS).to_consecutive(original)
    assert consecutive.dtype == np.uint8 and consecutive.max() == 5
    back = LabelIds(IDS).to_original(consecutive)
    assert back.dtype == np.uint16 and np.array_equal(back, original)


def test_ids_up_to_255_stay_bytes():
    ids = LabelIds((0, 4, 255))
    back = ids.to_original(np.array([[0, 1, 2]], dtype=np.uint8))
    assert back.dtype == np.uint8 and back.tolist() == [[0, 4, 255]]


def test_more_than_256_labels_need_two_bytes():
    ids = LabelIds(tuple(range(0, 600, 2)))
    consecutive = ids.to_consecutive(np.array([598, 0, 512]))
    assert consecutive.dtype == np.uint16 and consecutive.tolist() == [299, 0, 256]


def test_unknown_values_are_counted_and_named():
    ids = LabelIds((0, 3, 300))
    array = np.array([0, 1, 1, 3, 300, 301, 65535])
    assert ids.count_unknown(array) == {1: 2, 301: 1, 65535: 1}
    with pytest.raises(DataError, match="2 voxels of label 1, 1 voxels of label 301, 1 voxels of label 65535"):
        ids.to_consecutive(array)


@pytest.mark.parametrize("value", [-1, 65536, 2**40])
def test_values_out_of_range_are_unknown_and_never_wrap(value):
    assert LabelIds((0, 3)).count_unknown(np.array([0, 3, value])) == {value: 1}


def test_known_values_and_empty_arrays_have_no_unknowns():
    ids = LabelIds((0, 3))
    assert ids.count_unknown(np.array([0, 3, 3], dtype=np.uint8)) == {}
    assert ids.count_unknown(np.zeros((0, 2), dtype=np.uint8)) == {}


def test_consecutive_values_need_no_table():
    assert make_label_ids([2, 0, 1, 1]) is None
    assert make_label_ids([0, 5, 2]) == LabelIds((0, 2, 5))


@pytest.mark.parametrize(
    ("ids", "problem"),
    [
        (None, "list of whole numbers"),
        ("012", "list of whole numbers"),
        ([0, "1"], "list of whole numbers"),
        ([0, 1.0], "list of whole numbers"),
        ([0, True], "list of whole numbers"),
        ([], "start with 0"),
        ([1, 2], "start with 0"),
        ([0, 2, 2], "ascend"),
        ([0, 65536], "must not exceed 65535"),
        (list(range(0, 2 * MAX_NUM_LABELS, 1))[: MAX_NUM_LABELS + 1], "more than the 32768"),
    ],
)
def test_a_table_that_is_none_is_refused(ids, problem):
    assert problem in check_label_ids(ids)
    with pytest.raises((ValueError, TypeError)):
        LabelIds(ids if ids is None else tuple(ids))

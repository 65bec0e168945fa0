"""NumPy's values come back as plain ones, and nothing of NumPy is built from what a file says."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from stu_pipeline.datasets.plain_numpy import PlainArray, PlainDtype
from stu_pipeline.datasets.plain_pickle import load_settings_pickle


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("value", [
    np.float32(0.5), np.float64(-2.25), np.int64(7), np.bool_(True), np.float16(1.5), np.uint8(200),
])  # fmt: skip
def test_scalars_become_python_numbers(value, protocol):
    found = load_settings_pickle(pickle.dumps({"x": value}, protocol))["x"]
    assert found == value and type(found) in (float, int, bool)


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("array", [
    np.arange(6).reshape(2, 3), np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.arange(3, dtype=">i4"),
    np.zeros((0, 2)), np.array([True, False]),
])  # fmt: skip
def test_arrays_become_nested_lists(array, protocol):
    found = load_settings_pickle(pickle.dumps(array, protocol))
    assert isinstance(found, list) and found == array.tolist()


def test_numpy_1_is_read_too():
    data = pickle.dumps([np.float64(0.5), np.arange(2)], 2)
    assert b"numpy._core" in data
    assert load_settings_pickle(data.replace(b"numpy._core", b"numpy.core")) == [0.5, [0, 1]]


@pytest.mark.parametrize("value", [
    np.array([{}], dtype=object), np.array(["text"]), np.array([b"bytes"]), np.zeros(2, dtype=[("a", "f4")]),
    np.datetime64("2020-01-01"), np.complex64(1j), np.zeros(3, dtype="V4"),
])  # fmt: skip
def test_everything_but_numbers_is_refused(value):
    with pytest.raises(pickle.UnpicklingError, match="numpy"):
        load_settings_pickle(pickle.dumps(value, 2))


@pytest.mark.parametrize("state", [
    (3, "<", None, ("a",), {"a": 1}, -1, -1, 0), (3, "<", (1, (2,)), None, None, -1, -1, 0),
    (3, "?", None, None, None, -1, -1, 0),
])  # fmt: skip
def test_a_type_cannot_grow_fields(state):
    with pytest.raises(pickle.UnpicklingError):
        PlainDtype("f8").__setstate__(state)


@pytest.mark.parametrize("state", [
    (1, (2,), PlainDtype("f8"), False, b"\0" * 8), (1, (1 << 62,), PlainDtype("f8"), False, b""),
    (1, (-1,), PlainDtype("f8"), False, b"\0" * 8), (1, (1,), np.dtype(object), False, [1]),
    (1, (1,), PlainDtype("f8"), False, [1.0]), (1, (2_000_000,), PlainDtype("i1"), False, b"\0" * 2_000_000),
])  # fmt: skip
def test_an_array_must_fit_its_bytes(state):
    with pytest.raises(pickle.UnpicklingError, match=r"numpy\.ndarray"):
        PlainArray().__setstate__(state)

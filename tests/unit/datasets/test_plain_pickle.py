"""Pickles of settings are data: no names of code, and no memory out of proportion."""

from __future__ import annotations

import os
import pickle
import tracemalloc
from collections import OrderedDict

import pytest

from stu_pipeline.datasets.plain_pickle import PICKLE_ERRORS, load_settings_pickle


def test_settings_come_back():
    content = OrderedDict(a=[1, 2.5, None, True], b={"c": ("text", b"bytes")})
    for protocol in range(5):
        assert load_settings_pickle(pickle.dumps(content, protocol)) == content


class Call:
    def __reduce__(self):
        return os.getcwd, ()


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_name_of_code_is_refused(protocol):
    with pytest.raises(pickle.UnpicklingError, match="getcwd', which is not data"):
        load_settings_pickle(pickle.dumps([Call()], protocol))


@pytest.mark.parametrize("data", [
    b"\x80\x02]r\xff\xff\xff\x7f.",  # a place in memory for each number below 2^31
    b"]p2000000000\n.",
    b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\x00\x00.",
    b"\x80\x02c__builtin__\nbytes\nJ\xff\xff\xff\x7f\x85R.",
])  # fmt: skip
def test_a_few_bytes_do_not_ask_for_gigabytes(data):
    tracemalloc.start()
    with pytest.raises(PICKLE_ERRORS):
        load_settings_pickle(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 22


@pytest.mark.parametrize("data", [b"", b"x", b"\x80\x04", b"\x80\x04]", b"\x80\x04.", b"(" * 1000])
def test_damage_is_one_of_the_named_errors(data):
    with pytest.raises(PICKLE_ERRORS):
        load_settings_pickle(data)

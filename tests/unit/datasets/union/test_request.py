"""What may be asked of a union, before any file is looked at."""

from __future__ import annotations

import pytest

from stu_pipeline.datasets.union.request import UnionRequest, split_source
from stu_pipeline.errors import UsageError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("107", ("107", None)),
        ("107:0", ("107", (0,))),
        ("Dataset107_A:2,0", ("Dataset107_A", (2, 0))),
        ("/data/a:b/Dataset107_A", ("/data/a:b/Dataset107_A", None)),
        ("/data/Dataset107_A:1", ("/data/Dataset107_A", (1,))),
    ],
)
def test_a_source_may_pick_channels(text, expected):
    assert split_source(text) == expected


def test_one_dataset_is_no_union_unless_a_model_is_extended():
    with pytest.raises(UsageError, match="two datasets or more, got '101'"):
        UnionRequest(sources=("101",))
    with pytest.raises(UsageError, match="got none"):
        UnionRequest(sources=())
    assert UnionRequest(sources=("101",), labels_of=("liver",)).labels_of == ("liver",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": ("101", "102", "101")}, "'101' is given twice"),
        ({"sources": ("101", "107:1,1")}, "'107:1,1' picks a channel twice"),
        ({"labels_of": ()}, "no labels to keep"),
        ({"labels_of": ("liver", "background")}, "'background' cannot be"),
        ({"labels_of": ("liver", "liver")}, "'liver' cannot be"),
    ],
)
def test_what_cannot_be_a_union_is_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        UnionRequest(**{"sources": ("101", "102"), **changes})

"""The table of which labels are marked in which case."""

from __future__ import annotations

import pytest

from stu_pipeline.datasets.partial_labels import PARTIAL_LABELS_KEY, PartialLabels, find_partial_labels
from stu_pipeline.errors import DataError

TABLE = {"sources": {"A": [3, 1], "B": []}, "cases": {"A__1": "A", "B__1": "B"}}


def test_a_table_says_what_is_marked_in_a_case():
    partial = find_partial_labels({PARTIAL_LABELS_KEY: TABLE})
    assert partial.list_marked("A__1") == (1, 3) and partial.list_marked("B__1") == ()
    with pytest.raises(DataError, match="case 'C' is not in"):
        partial.list_marked("C")


def test_without_a_table_every_label_is_marked():
    assert find_partial_labels({"labels": {}}) is None


def test_what_is_written_is_read_again():
    partial = PartialLabels(sources={"A": (1, 3)}, cases={"A__1": "A"})
    assert find_partial_labels({PARTIAL_LABELS_KEY: partial.to_json()}) == partial


@pytest.mark.parametrize(
    "content",
    [
        [],
        {"sources": {}},
        {"sources": [], "cases": {}},
        {"sources": {"A": 1}, "cases": {}},
        {"sources": {"A": [0]}, "cases": {}},
        {"sources": {"A": [True]}, "cases": {}},
        {"sources": {"A": ["1"]}, "cases": {}},
        {"sources": {"A": [1]}, "cases": {"x": "B"}},
        {"sources": {"A": [1]}, "cases": {"x": ["A"]}},
    ],
)
def test_a_malformed_table_is_refused(content):
    with pytest.raises(DataError, match="not a table of sources and cases"):
        find_partial_labels({PARTIAL_LABELS_KEY: content})


def test_a_label_that_the_dataset_does_not_have_is_refused():
    labels = {"background": 0, "liver": 10, "both": [10, 20], "ignore": 30}
    partial = {"sources": {"A": [1, 2]}, "cases": {}}
    assert find_partial_labels({PARTIAL_LABELS_KEY: partial, "labels": labels}) is not None
    with pytest.raises(DataError, match="lists label 3, the highest is 2"):
        find_partial_labels({PARTIAL_LABELS_KEY: {"sources": {"A": [1, 3]}, "cases": {}}, "labels": labels})

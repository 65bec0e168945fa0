"""From the table in dataset.json to a flag per output of the network."""

import pytest

from stu_pipeline.datasets.marked_outputs import find_marked_outputs
from stu_pipeline.errors import DataError

LABELS = [0, 1, 2, 3]
REGIONS = [(1, 2, 3), (2, 3), 3]


def describe(sources=None, cases=None):
    sources = sources or {"liver": [1, 2], "spleen": [3]}
    return {"stu_partial_labels": {"sources": sources, "cases": cases or {"a": "liver", "b": "spleen"}}}


def test_a_dataset_without_table_has_all_marked():
    assert find_marked_outputs({"labels": {"background": 0}}, LABELS, case_ids=["a"]) is None


def test_the_background_is_always_marked_and_a_label_where_its_source_lists_it():
    marked = find_marked_outputs(describe(), LABELS, case_ids=["a", "b"])
    assert marked.list_flags("a") == (True, True, True, False)
    assert marked.list_flags("b") == (True, False, False, True)


def test_a_region_is_marked_where_all_its_labels_are():
    sources = {"core": [3], "all": [1, 2, 3]}
    marked = find_marked_outputs(describe(sources, {"a": "core", "b": "all"}), REGIONS, case_ids=["a"])
    assert marked.list_flags("a") == (False, False, True)
    assert marked.list_flags("b") == (True, True, True)


@pytest.mark.parametrize(
    ("sources", "outputs", "case_ids", "expected"),
    [
        (None, LABELS, ["a", "x", "y"], "case 'x' is not in it"),
        ({"liver": [1, 4], "spleen": [3]}, LABELS, ["a"], "source 'liver' marks label 4, which the network does not"),
        ({"liver": [1], "spleen": []}, LABELS, ["a"], "source 'spleen' marks no label or region as a whole"),
        ({"liver": [1, 2], "spleen": [3]}, [(1, 2, 3)], ["a"], "source 'liver' marks no label or region as a whole"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(sources, outputs, case_ids, expected, tmp_path):
    with pytest.raises(DataError, match=expected) as caught:
        find_marked_outputs(describe(sources), outputs, case_ids=case_ids, where=tmp_path)
    assert caught.value.exit_code == 3 and caught.value.where == tmp_path


def test_all_missing_cases_are_named():
    with pytest.raises(DataError, match="case 'x'") as caught:
        find_marked_outputs(describe(), LABELS, case_ids=["y", "x", "a"])
    assert caught.value.details == ("case 'y' is not in it",)


def test_a_pair_that_changes_sides_is_marked_on_both_or_on_neither():
    with pytest.raises(DataError, match="source 'spleen' marks only one of labels 2 and 3, which change places"):
        find_marked_outputs(describe({"liver": [1], "spleen": [3]}), LABELS, case_ids=["a"], pairs=[(2, 3)])
    sources = {"liver": [1], "spleen": [2, 3]}
    assert find_marked_outputs(describe(sources), LABELS, case_ids=["a"], pairs=[(2, 3)]) is not None

"""The file that says which labels of the sources are one: read with every fault named."""

from __future__ import annotations

import pytest

from stu_pipeline.datasets.union.mapping import parse_union_labels, read_union_labels
from stu_pipeline.errors import DataError

LABELS = {"Dataset101_A": ("cord", "kidney_left", "kidney_right", "couch"), "Dataset102_B": ("liver",)}


def parse(**sources):
    return parse_union_labels(sources, LABELS)


def test_labels_are_renamed_joined_and_left_out():
    renames, problems = parse(
        Dataset101_A={"cord": "spinal_cord", "couch": None, "kidney": ["kidney_left", "kidney_right"]}
    )
    assert problems == []
    assert renames == {
        "Dataset101_A": {"cord": "spinal_cord", "couch": None, "kidney_left": "kidney", "kidney_right": "kidney"}
    }


@pytest.mark.parametrize(
    ("source", "labels", "message"),
    [
        ("Dataset103_C", {}, "the mapping names 'Dataset103_C', the sources are 'Dataset101_A', 'Dataset102_B'"),
        ("Dataset101_A", ["cord"], "must be an object"),
        ("Dataset101_A", {"spine": "x"}, "names label 'spine', 'Dataset101_A' has 'cord', 'kidney_left'"),
        ("Dataset101_A", {"kidney": ["kidney_left", "kidney"]}, "names label 'kidney'"),
        ("Dataset101_A", {"kidney": []}, "must list names of labels"),
        ("Dataset101_A", {"kidney": [1]}, "must list names of labels"),
        ("Dataset101_A", {"cord": 3}, "makes 'cord' 3, expected a name or null"),
        ("Dataset101_A", {"cord": " "}, "expected a name or null"),
        ("Dataset101_A", {"cord": "a\nb"}, "expected a name or null"),
        ("Dataset101_A", {"cord": "Background"}, "mapped to null"),
        ("Dataset101_A", {"cord": "IGNORE"}, "expected 'ignore' in lower case"),
        ("Dataset101_A", {"cord": "a", "b": ["cord"]}, "names label 'cord' twice"),
    ],
)
def test_a_fault_of_the_mapping_is_named(source, labels, message):
    renames, problems = parse_union_labels({source: labels}, LABELS)
    assert len(problems) == 1 and message in problems[0]
    assert renames.get(source, {}).get("cord", "a") == "a"


def test_all_faults_are_named_at_once():
    _, problems = parse(Dataset101_A={"x": "y", "cord": 1}, Dataset103_C={})
    assert len(problems) == 3
    assert len(parse_union_labels([], LABELS)[1]) == 1


def test_a_mapping_file_that_is_none_is_refused(tmp_path):
    assert read_union_labels(None) == {}
    with pytest.raises(DataError, match=r"'no\.json' not found"):
        read_union_labels(tmp_path / "no.json")
    path = tmp_path / "labels.json"
    path.write_text('{"A": {"x": "a", "x": "b"}}')
    with pytest.raises(DataError, match="the key 'x' more than once"):
        read_union_labels(path)

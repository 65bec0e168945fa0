"""Labels joined by name, numbered, and every clash found."""

from __future__ import annotations

import pytest

from stu_pipeline.datasets.union.label_space import SourceLabels, join_labels

A, B = "Dataset101_A", "Dataset102_B"


def source(name, *labels, **facts):
    return SourceLabels(name=name, labels={label: value for value, label in enumerate(labels, start=1)}, **facts)


def join(*sources, renames=None, labels_of=()):
    space, problems = join_labels(sources, renames or {}, labels_of=labels_of)
    assert problems == []
    return space


def find_clashes(*sources, renames=None, labels_of=()):
    return join_labels(sources, renames or {}, labels_of=labels_of)[1]


def test_labels_are_numbered_in_order_of_first_appearance():
    space = join(source(A, "SpinalCord", "RightParotid"), source(B, "liver", "parotid_R", "spinal_cord"))
    assert space.names == ("SpinalCord", "RightParotid", "liver")
    assert space.tables == {A: {0: 0, 1: 1, 2: 2}, B: {0: 0, 1: 3, 2: 2, 3: 1}}
    assert space.describe() == {"background": 0, "SpinalCord": 1, "RightParotid": 2, "liver": 3}
    assert space.list_marked(A) == (1, 2) and space.list_marked(B) == (1, 2, 3)


def test_a_mapping_renames_joins_and_leaves_out():
    renames = {A: {"cord": "spinal_cord", "couch": None}, B: {"kidney_left": "kidney", "kidney_right": "kidney"}}
    sources = source(A, "cord", "couch", "kidney"), source(B, "kidney_left", "kidney_right", "Spinal Cord")
    space = join(*sources, renames=renames)
    assert space.names == ("spinal_cord", "kidney")
    assert space.tables == {A: {0: 0, 1: 1, 2: 0, 3: 2}, B: {0: 0, 1: 2, 2: 2, 3: 1}}


def test_an_ignore_label_is_carried_as_the_highest_value():
    space = join(
        source(A, "liver", ignore_value=2), source(B, "spleen", "artefact"), renames={B: {"artefact": "ignore"}}
    )
    assert space.describe() == {"background": 0, "liver": 1, "spleen": 2, "ignore": 3}
    assert space.tables == {A: {0: 0, 1: 1, 2: 3}, B: {0: 0, 1: 2, 2: 3}}
    assert space.list_marked(A) == (1,) and space.list_marked(B) == (2,)


def test_labels_of_a_model_come_first_and_keep_their_numbers():
    space = join(source(A, "lesion", "Spleen"), labels_of=("liver", "spleen", "kidney_left"))
    assert space.names == ("liver", "spleen", "kidney_left", "lesion")
    assert space.tables == {A: {0: 0, 1: 4, 2: 2}} and space.list_marked(A) == (2, 4)


def test_of_two_labels_of_a_model_that_differ_in_spelling_the_exact_name_decides():
    labels_of = ("Bone", "liver", "bone")
    assert join(source(A, "bone", "cord"), labels_of=labels_of).tables == {A: {0: 0, 1: 3, 2: 4}}
    assert join(source(A, "Bone", "cord"), labels_of=labels_of).tables == {A: {0: 0, 1: 1, 2: 4}}
    (problem,) = find_clashes(source(A, "BONE"), labels_of=labels_of)
    assert problem == f"'BONE' of '{A}' could be 'Bone' or 'bone' of the trained model"


def test_a_name_without_side_beside_names_with_sides_is_a_clash():
    sources = source(A, "kidney", "liver"), source(B, "kidney_left", "kidney_right")
    assert find_clashes(*sources) == [f"'kidney' of '{A}' has no side, 'kidney_left' of '{B}' has one"]
    assert find_clashes(*sources, renames={A: {"kidney": None}}) == []
    assert find_clashes(source(A, "kidney", "kidney_left"), source(B, "liver")) == []
    assert "of the trained model" in find_clashes(source(A, "kidney_left"), labels_of=("kidney",))[0]


def test_names_of_one_source_that_differ_in_spelling_only_are_a_clash():
    sources = source(A, "Liver", "liver", "cord"), source(B, "liver")
    assert find_clashes(*sources) == [f"labels 'Liver' and 'liver' of '{A}' differ in spelling only"]
    assert find_clashes(*sources, renames={A: {"liver": "liver_2"}}) == []


def test_a_mapping_must_name_every_label_that_it_makes_one():
    sources = source(A, "kidney", "cyst"), source(B, "liver")
    (problem,) = find_clashes(*sources, renames={A: {"cyst": "kidney"}})
    assert problem == f"labels 'kidney' and 'cyst' of '{A}' become one, but the mapping does not name 'kidney'"
    assert find_clashes(*sources, renames={A: {"cyst": "kidney", "kidney": "kidney"}}) == []


@pytest.mark.parametrize(
    ("first", "renames", "message"),
    [
        (source(A, "1", "core", unnamed=("1",)), {}, f"label 1 of '{A}' has no name of its own"),
        (source(A, "a", "b"), {"a": None, "b": None}, f"no label of '{A}' is used"),
        (source(A, "a", "Back ground"), {}, f"'{A}' has a label 'Back ground' beside the background"),
    ],
)
def test_other_clashes_are_named(first, renames, message):
    (problem,) = find_clashes(first, source(B, "liver"), renames={A: renames})
    assert message in problem


def test_a_label_that_only_regions_hold_can_be_named():
    space = join(source(A, "1", "core", unnamed=("1",)), source(B, "edema"), renames={A: {"1": "edema"}})
    assert space.names == ("edema", "core")


def test_all_clashes_are_found_at_once():
    sources = source(A, "kidney", "Liver", "liver"), source(B, "kidney_left", "a"), source("Dataset103_C", "x")
    assert len(find_clashes(*sources, renames={"Dataset103_C": {"x": None}})) == 3

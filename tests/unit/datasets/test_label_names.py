"""Names that mean the same, and names that only look like it."""

from __future__ import annotations

import pytest

from stu_pipeline.datasets.label_names import change_sides, find_nearest_names, match_names, read_plain_names


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("kidney_left", "Left Kidney"),
        ("rib_left_1", "rib_1_left"),
        ("adrenal_gland_right", "RightAdrenalGland"),
        ("vertebrae_L1", "Vertebrae L1"),
        ("urinary_bladder", "UrinaryBladder"),
        ("small_bowel", "small-bowel"),
        ("label1_2", "label 1 2"),
    ],
)
def test_spelling_aside_these_are_the_same(first, second):
    assert match_names([first], [second]) == {first: second}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("kidney_left", "kidney_right"),
        ("kidney_left", "kidney"),
        ("kidney", "kidney_left"),
        ("rib_left_1", "rib_left_10"),
        ("label1_2", "label12"),
        ("vertebrae_L1", "vertebrae_T1"),
        ("???", "!!!"),
        ("leftkidney", "kidney_left"),  # one glued name alone is no proof of a side
    ],
)
def test_these_are_not_the_same(first, second):
    assert match_names([first], [second]) == {}


def test_a_glued_side_counts_beside_the_other_one():
    plain = read_plain_names(["leftkidney", "rightkidney"])
    assert plain["leftkidney"] == ("kidney", "left")
    assert match_names(["leftkidney", "rightkidney"], ["kidney_left"]) == {"leftkidney": "kidney_left"}


def test_two_names_like_it_match_nothing():
    assert match_names(["liver"], ["Liver", "LIVER"]) == {}
    assert match_names(["liver"], ["Liver", "liver"]) == {"liver": "liver"}


def test_no_names_match_nothing():
    assert match_names([], ["liver"]) == {} == match_names(["liver"], [])


def test_changing_sides_is_seen():
    assert change_sides("kidney_left", "kidney right") and change_sides("kidney", "kidney_left")
    assert not change_sides("kidney_left", "left_lung") and not change_sides("liver", "spleen")


def test_a_misspelt_name_has_near_ones():
    assert find_nearest_names("Lver", ["spleen", "liver"]) == ["liver"]
    assert find_nearest_names("aorta", ["spleen", "liver"]) == []
    assert find_nearest_names("kidney_left", ["kidney_right", "kidney"]) == ["kidney"]
    assert find_nearest_names("kidney_left", ["kidney_right"], across_sides=True) == ["kidney_right"]

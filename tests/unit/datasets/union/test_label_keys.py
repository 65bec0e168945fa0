"""When names of different datasets mean one label."""

from __future__ import annotations

import pytest

from stu_pipeline.datasets.union.label_keys import make_keys


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("SpinalCord", "spinal_cord"),
        ("Spinal Cord", "spinal-cord"),
        ("RightParotid", "parotid_right"),
        ("kidney_L", "Left Kidney"),
        ("rib_left_7", "rib_7_left"),
        ("leftkidney", "kidney_left"),
        ("Kidney2_left", "kidney_2_L"),
        ("vertebrae_L1", "VertebraeL1"),
    ],
)
def test_names_of_one_label_have_one_key(first, second):
    keys = make_keys([first, second])
    assert keys[first] == keys[second]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("kidney_left", "kidney_right"),
        ("kidney", "kidney_left"),
        ("rib_1_1", "rib_11"),
        ("GTV", "GTV+"),
        ("tumor", "tumour"),
        ("vertebrae_L1", "vertebrae_L2"),
        ("+", "-"),
    ],
)
def test_names_of_two_labels_have_two_keys(first, second):
    keys = make_keys([first, second])
    assert keys[first] != keys[second]


def test_a_side_that_may_be_none_counts_beside_its_mirror_image_only():
    assert make_keys(["cleft"])["cleft"].side is None
    assert make_keys(["bright", "cleft"])["bright"].side is None
    assert make_keys(["leftkidney", "rightkidney"])["leftkidney"].side == "left"
    assert make_keys(["leftkidney", "kidney_left"])["leftkidney"].side == "left"
    assert make_keys(["kidney_left"])["kidney_left"].side == "left"

"""Left for right is seen in the voxels that both maps have."""

from __future__ import annotations

import numpy as np

from stu_pipeline.evaluation.exchanged_sides import SideOverlap, measure_side_overlap, warn_of_exchanged_sides
from stu_pipeline.evaluation.labels import Label

LABELS = [
    Label(key="1", name="kidney_left", values=(1,)),
    Label(key="(2, 3)", name="kidney_right", values=(2, 3)),
    Label(key="4", name="liver", values=(4,)),
]


def measure(reference, prediction, labels=LABELS):
    return measure_side_overlap(np.array([[reference]], np.uint16), np.array([[prediction]], np.uint16), labels)


def test_voxels_count_by_side_and_only_those_of_pairs():
    assert measure([1, 1, 2, 3, 4, 0], [1, 2, 3, 1, 4, 1]) == SideOverlap(same=2, other=2)
    assert not SideOverlap(same=2, other=2).is_exchanged


def test_labels_without_pairs_and_empty_maps_tell_nothing():
    assert measure([4, 1], [4, 2], LABELS[1:]) == SideOverlap()
    assert measure([0, 0], [0, 0]) == SideOverlap()
    assert warn_of_exchanged_sides([("a", SideOverlap())]) == ()


def test_only_some_cases_are_named():
    cases = [(f"case_{index}", SideOverlap(same=1, other=3)) for index in range(7)] + [("good", SideOverlap(same=1))]
    (warning,) = warn_of_exchanged_sides(cases)
    assert "in 7 of 8 cases: 'case_0' (75% of the common voxels)" in warning and "and 2 more" in warning
    assert "good" not in warning

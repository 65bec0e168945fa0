"""Pairs of labels and regions, the block in a checkpoint, and the channels that swap."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import pytest

from stu_pipeline.datasets.dataset_json import parse_dataset_json
from stu_pipeline.datasets.laterality import Mirroring, find_side_labels, find_side_swap
from stu_pipeline.errors import DataError, ModelError

KIDNEYS = {"background": 0, "kidney_right": 1, "liver": 2, "kidney_left": 3}
REGIONS = {
    "background": 0, "kidneys": [1, 2, 3, 4], "kidney_left": [1, 2], "kidney_right": [3, 4], "tumor_left": 2,
    "tumor_right": 4,
}  # fmt: skip


def describe(labels, **more):
    content = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 4, "file_ending": ".nii.gz", **more}
    if any(isinstance(label, list) for label in labels.values()):
        content["regions_class_order"] = list(
            range(1, sum(name not in ("background", "ignore") for name in labels) + 1)
        )
    return parse_dataset_json(content, Path("dataset.json"))


def test_labels_are_paired_by_their_names():
    sides = find_side_labels(describe(KIDNEYS))
    assert sides.names == (("kidney_left", "kidney_right"),)
    assert sides.pairs == ((1, 3),) and sides.lone == () and sides.has_sides


def test_labels_without_sides_have_none():
    sides = find_side_labels(describe({"background": 0, "liver": 1, "ignore": 2}))
    assert sides.pairs == () and sides.lone == () and not sides.has_sides


def test_a_label_without_its_partner_is_lone():
    sides = find_side_labels(describe({"background": 0, "kidney_left": 1}))
    assert sides.lone == ("kidney_left",) and sides.pairs == () and sides.has_sides


def test_pairs_are_of_consecutive_ids_where_the_dataset_has_gaps():
    sides = find_side_labels(describe({"background": 0, "liver": 7, "hip_left": 300, "hip_right": 20}))
    assert sides.pairs == ((2, 3),)


def test_given_pairs_go_before_names():
    labels = {"background": 0, "ren_a": 1, "ren_b": 2, "hip_left": 3}
    sides = find_side_labels(describe(labels, left_right_pairs=[["ren_a", "ren_b"]]))
    assert sides.pairs == ((1, 2),) and sides.lone == ()


def test_an_empty_list_switches_pairs_off():
    assert not find_side_labels(describe(KIDNEYS, left_right_pairs=[])).has_sides


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([["kidney_left", "spleen"]], "'spleen' is not a label"),
        ([["kidney_left", "kidney_right"], ["kidney_left", "liver"]], "'kidney_left' is there twice"),
        ([["liver", "liver"]], "'liver' is there twice"),
        ([["background", "liver"]], "'background' is not a label"),
        ([["kidney_left"]], "expected a list like"),
        ("kidney_left", "expected a list like"),
        ({"kidney_left": "kidney_right"}, "expected a list like"),
        ([[1, 3]], "expected a list like"),
        (None, "expected a list like"),
    ],
)
def test_given_pairs_that_make_no_sense_are_refused(given, message):
    with pytest.raises(DataError, match=message) as caught:
        find_side_labels(describe(KIDNEYS, left_right_pairs=given), where=Path("dataset.json"))
    assert caught.value.where == Path("dataset.json") and "left_right_pairs" in str(caught.value)


def test_the_partner_of_a_region_is_the_region_of_the_swapped_labels():
    sides = find_side_labels(describe(REGIONS))
    assert sides.pairs == ((1, 3), (2, 4)) and sides.lone == ()


def test_labels_that_no_region_tells_apart_are_paired_in_order():
    regions = {"background": 0, "left": [1, 3], "right": [2, 4]}
    assert find_side_labels(describe(regions)).pairs == ((1, 2), (3, 4))


def test_regions_that_no_swap_exchanges_are_lone():
    sides = find_side_labels(describe({"background": 0, "left": [1, 2], "right": 3}))
    assert sides.pairs == () and set(sides.lone) == {"left", "right"}


def test_given_regions_that_no_swap_exchanges_are_refused():
    dataset = describe({"background": 0, "a": [1, 2], "b": 3}, left_right_pairs=[["a", "b"]])
    with pytest.raises(DataError, match="'a' and 'b' hold labels that have no partner"):
        find_side_labels(dataset)


MIRRORING = Mirroring(axes=(0, 1, 2), swapping_axes=(2,), pairs=((1, 3),))


def test_a_mirroring_survives_json():
    assert Mirroring.from_json(json.loads(json.dumps(MIRRORING.to_json()))) == MIRRORING
    assert Mirroring.from_json(Mirroring(axes=()).to_json()) == Mirroring(axes=())


@pytest.mark.parametrize(
    "content",
    [
        None,
        [0, 1],
        {},
        {"axes": 3},
        {"axes": [0, 0]},
        {"axes": [-1]},
        {"axes": [0.0]},
        {"axes": [True]},
        {"axes": [0], "swapping_axes": [1]},
        {"axes": [0], "swapping_axes": [0], "pairs": [[1, 2, 3]]},
        {"axes": [0], "swapping_axes": [0], "pairs": [[1, 1]]},
        {"axes": [0], "swapping_axes": [0], "pairs": [[1, 2], [2, 3]]},
        {"axes": [0], "swapping_axes": [0], "pairs": [["a", "b"]]},
        {"axes": [0], "swapping_axes": [0], "pairs": 5},
    ],
)
def test_a_block_that_is_no_mirroring_is_refused(content):
    with pytest.raises(ModelError, match="no usable mirroring"):
        Mirroring.from_json(content, where=Path("checkpoint_final.pth"))


def test_stock_nnunet_is_told_the_axes_that_need_no_swap():
    assert MIRRORING.plain_axes == (0, 1)
    assert MIRRORING.without_swaps() == Mirroring(axes=(0, 1))
    assert Mirroring(axes=(0, 2)).plain_axes == (0, 2)


def test_an_odd_number_of_swapping_axes_swaps_sides():
    two = Mirroring(axes=(0, 1, 2), swapping_axes=(1, 2))
    swaps = {axes for count in range(4) for axes in combinations(range(3), count) if two.swaps_sides(axes)}
    assert swaps == {(1,), (2,), (0, 1), (0, 2)}


def test_outputs_and_the_previous_stage_swap_their_channels():
    swap = find_side_swap(MIRRORING, outputs=[0, 1, 2, 3], num_image_channels=2, previous_labels=[1, 2, 3])
    assert swap is not None
    assert swap.outputs == (0, 3, 2, 1) and swap.inputs == (0, 1, 4, 3, 2)
    assert swap.applies_to((0, 2)) and not swap.applies_to((0, 1)) and not swap.applies_to(())


def test_regions_swap_as_whole_regions():
    mirroring = Mirroring(axes=(2,), swapping_axes=(2,), pairs=((1, 3), (2, 4)))
    swap = find_side_swap(mirroring, outputs=[(1, 2, 3, 4), (1, 2), (3, 4), 2, 4], num_image_channels=1)
    assert swap is not None and swap.outputs == (0, 2, 1, 4, 3) and swap.inputs == (0,)


def test_nothing_to_swap_is_no_swap():
    assert find_side_swap(Mirroring(axes=(0, 1)), outputs=[0, 1], num_image_channels=1) is None
    without_pairs = Mirroring(axes=(0,), swapping_axes=(0,))
    assert find_side_swap(without_pairs, outputs=[0, 1], num_image_channels=1) is None


@pytest.mark.parametrize("outputs", [[0, 1, 2], [(1, 2), 3]])
def test_a_mirroring_of_other_labels_is_refused(outputs):
    with pytest.raises(ModelError, match="has no partner"):
        find_side_swap(MIRRORING, outputs=outputs, num_image_channels=1)

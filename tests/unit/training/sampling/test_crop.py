"""Where a patch lies."""

from __future__ import annotations

import numpy as np
import pytest

from stu_pipeline.training.sampling.crop import CropRule, choose_case, choose_corner, choose_is_foreground, choose_voxel


def places(**voxels):
    return {int(key[1:]): np.array(value, dtype=np.int16).reshape(-1, 4) for key, value in voxels.items()}


@pytest.fixture
def generator():
    return np.random.default_rng(0)


@pytest.mark.parametrize(
    ("batch", "share", "expected"), [(2, 0.33, 1), (3, 0.33, 1), (4, 0.33, 1), (5, 0.33, 2), (1, 0.33, 0), (4, 1, 4)]
)
def test_the_last_samples_of_a_batch_show_foreground(generator, batch, share, expected):
    rule = CropRule(batch=batch, foreground_share=share)
    chosen = [choose_is_foreground(generator, slot, rule) for slot in range(batch)]
    assert chosen == [False] * (batch - expected) + [True] * expected


def test_by_chance_every_slot_shows_foreground_as_often(generator):
    rule = CropRule(batch=1, foreground_share=0.33, is_probabilistic=True)
    share = np.mean([choose_is_foreground(generator, 0, rule) for _ in range(4000)])
    assert abs(share - 0.33) < 0.03


def test_every_case_is_as_likely(generator):
    counts = np.bincount([int(choose_case(generator, "012")) for _ in range(3000)])
    assert len(counts) == 3 and abs(counts - 1000).max() < 130


def test_a_label_is_chosen_before_a_voxel(generator):
    known = places(_1=[(0, 1, 1, 1)], _2=[(0, 5, 5, index) for index in range(99)], _3=[])
    rule = CropRule(batch=1)
    chosen = [choose_voxel(generator, known, rule, is_foreground=True) for _ in range(1000)]
    assert 430 < chosen.count((1, 1, 1)) < 570


def test_without_foreground_or_without_need_the_patch_may_lie_anywhere(generator):
    rule = CropRule(batch=1)
    assert choose_voxel(generator, places(_1=[]), rule, is_foreground=True) is None
    assert choose_voxel(generator, {}, rule, is_foreground=True) is None
    assert choose_voxel(generator, places(_1=[(0, 1, 1, 1)]), rule, is_foreground=False) is None


def test_regions_are_chosen_like_labels(generator):
    known = {(1, 2): np.array([[0, 3, 3, 3]]), 2: np.array([[0, 4, 4, 4]])}
    chosen = {choose_voxel(generator, known, CropRule(batch=1), is_foreground=True) for _ in range(50)}
    assert chosen == {(3, 3, 3), (4, 4, 4)}


def test_with_an_ignore_label_other_patches_are_centred_on_what_is_annotated(generator):
    rule = CropRule(batch=1, annotated_key=(-1, 0, 1))
    known = {1: np.array([[0, 3, 3, 3]]), (-1, 0, 1): np.array([[0, 4, 4, 4]])}
    assert choose_voxel(generator, known, rule, is_foreground=False) == (4, 4, 4)
    # What is annotated is no foreground, unless there is nothing else.
    assert {choose_voxel(generator, known, rule, is_foreground=True) for _ in range(50)} == {(3, 3, 3)}
    known[1] = np.empty((0, 4), int)
    assert choose_voxel(generator, known, rule, is_foreground=True) == (4, 4, 4)
    known[-1, 0, 1] = np.empty((0, 4), int)
    assert choose_voxel(generator, known, rule, is_foreground=False) is None
    with pytest.raises(KeyError):
        choose_voxel(generator, {}, rule, is_foreground=False)


def test_the_patch_reaches_both_borders_and_no_further(generator):
    corners = np.array(
        [choose_corner(generator, (20, 9), patch=(8, 8), initial_patch=(13, 8), voxel=None) for _ in range(2000)]
    )
    assert corners.min(0).tolist() == [-3, 0] and corners.max(0).tolist() == [20 + 3 - 13, 1]


def test_a_small_image_lies_inside_the_box(generator):
    for _ in range(200):
        (corner,) = choose_corner(generator, (5,), patch=(8,), initial_patch=(12,), voxel=None)
        assert corner <= 0 and corner + 12 >= 5


def test_a_box_around_a_voxel_may_end_but_not_begin_far_outside(generator):
    def choose(voxel):
        return choose_corner(generator, (20,), patch=(8,), initial_patch=(12,), voxel=(voxel,))

    assert [choose(0), choose(10), choose(19)] == [(-2,), (4,), (13,)]

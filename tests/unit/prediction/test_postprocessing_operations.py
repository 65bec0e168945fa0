"""Components and holes of a label map, against brute force and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from stu_pipeline.prediction.postprocessing.operations import (
    add_counts,
    choose_kept,
    count_values,
    find_boxes,
    find_components,
    find_holes,
    join_boxes,
    remove_components,
)


def draw_map(seed: int, *, density: float = 0.3, shape=(6, 9, 8)) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return np.where(generator.random(shape) < density, generator.integers(1, 4, shape), 0).astype(np.uint8)


SHAPES = [(6, 9, 8), (1, 9, 8), (9, 1, 4), (5, 6, 1), (1, 1, 13), (1, 13, 1), (13, 1, 1), (1, 1, 1), (2, 2, 2)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(6))
def test_components_are_those_of_scipy_and_numbered_as_they_are_met(seed, shape):
    label_map = draw_map(seed, density=0.2 + 0.1 * seed, shape=shape)
    boxes = find_boxes(label_map)
    for values in ((1,), (2, 3), (1, 2, 3)):
        box = join_boxes(boxes, values)
        if box is None:
            continue
        found = find_components(label_map, values, box)
        expected, number = ndimage.label(np.isin(label_map, values), structure=np.ones((3, 3, 3)))
        whole = np.zeros(label_map.shape, dtype=int)
        whole[box] = found.ids
        assert len(found.sizes) == number
        # The same parts, and a number per part: pairs of numbers are as many as parts.
        pairs = {pair for pair in zip(whole.ravel().tolist(), expected.ravel().tolist(), strict=True) if any(pair)}
        assert len(pairs) == number
        firsts = [int(np.flatnonzero(whole.ravel() == index)[0]) for index in range(1, number + 1)]
        assert firsts == sorted(firsts)
        assert found.sizes.tolist() == np.bincount(whole.ravel())[1:].tolist()


def test_voxels_that_share_a_corner_are_one_component():
    label_map = np.zeros((2, 2, 2), dtype=np.uint8)
    label_map[0, 0, 0] = label_map[1, 1, 1] = 1
    assert find_components(label_map, (1,), find_boxes(label_map)[1]).sizes.tolist() == [2]


def test_of_equally_large_components_the_one_met_first_stays():
    label_map = np.zeros((1, 1, 9), dtype=np.uint8)
    label_map[0, 0, [1, 2, 4, 5, 7]] = 1
    for view in (label_map, np.asfortranarray(label_map)):
        cleaned = view.copy(order="K")
        components = find_components(cleaned, (1,), find_boxes(cleaned)[1])
        remove_components(cleaned, components, choose_kept(components.sizes, keep_largest=1), 0)
        assert np.flatnonzero(cleaned).tolist() == [1, 2]


def test_a_component_of_just_the_minimum_size_stays():
    sizes = np.array([2, 3, 4])
    voxel = 0.7 * 0.7 * 1.1
    assert choose_kept(sizes, min_size_mm3=3 * 0.7 * 1.1 * 0.7, voxel_mm3=voxel).tolist() == [False, True, True]
    assert choose_kept(sizes, min_size_mm3=3.01 * voxel, voxel_mm3=voxel).tolist() == [False, False, True]
    assert choose_kept(sizes, keep_largest=2, min_size_mm3=4, voxel_mm3=1).tolist() == [False, False, True]
    assert choose_kept(np.zeros(0, dtype=np.int64), keep_largest=1).tolist() == []


@pytest.mark.parametrize("seed", range(6))
def test_holes_are_what_scipy_fills_and_background(seed):
    label_map = draw_map(seed, density=0.9, shape=(7, 9, 8))
    label_map[label_map == 3] = 1
    label_map[label_map == 2] = 1 + seed % 2  # every other time with a second label
    label_map[2:5, 3:6, 3:6] = 1
    label_map[3, 4, 4] = 0
    box = find_boxes(label_map)[1]
    holes = np.zeros(label_map.shape, dtype=bool)
    holes[box] = find_holes(label_map, (1,), box)
    member = label_map == 1
    expected = ndimage.binary_fill_holes(member) & ~member & (label_map == 0)
    assert np.array_equal(holes, expected)
    assert expected.any()


def test_another_label_in_a_hole_stays_and_what_touches_the_border_is_open():
    label_map = np.ones((3, 5, 5), dtype=np.uint8)
    label_map[1, 2, 1:4] = [0, 2, 0]
    label_map[0, 0, 0] = 0
    holes = find_holes(label_map, (1,), find_boxes(label_map)[1])
    assert np.argwhere(holes).tolist() == [[1, 2, 1], [1, 2, 3]]


def test_a_flat_image_has_holes_within_its_plane():
    label_map = np.ones((1, 3, 3), dtype=np.uint8)
    label_map[0, 1, 1] = 0
    assert find_holes(label_map, (1,), find_boxes(label_map)[1]).sum() == 1
    thick = np.concatenate([label_map, np.zeros_like(label_map)])
    assert find_holes(thick, (1,), find_boxes(thick)[1]).sum() == 0


def test_counts_by_value_are_those_of_numpy():
    label_map = draw_map(3)
    counts = count_values(label_map)
    assert counts.tolist() == np.bincount(label_map.ravel()).tolist()
    assert add_counts(counts, (2, 3, 900)) == np.isin(label_map, (2, 3)).sum()


def test_a_map_without_labels_has_no_boxes():
    assert find_boxes(np.zeros((2, 2, 2), dtype=np.uint16)) == {}
    assert join_boxes({}, (1, 2)) is None

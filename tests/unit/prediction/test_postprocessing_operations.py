"""Components and holes of a label map, against brute force and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from stu_pipeline.prediction.postprocessing.operations import (
    add_counts,
    choose_kept,
    count_values,
    fill_holes,
    find_all_components,
    find_boxes,
    find_components,
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


def test_of_many_equally_large_components_the_first_ones_stay():
    sizes = np.random.default_rng(0).integers(4, 6, 500)
    kept = choose_kept(sizes, keep_largest=20)
    assert np.flatnonzero(kept).tolist() == np.flatnonzero(sizes == 5)[:20].tolist()


def test_a_component_of_just_the_minimum_size_stays():
    sizes = np.array([2, 3, 4])
    voxel = 0.7 * 0.7 * 1.1
    assert choose_kept(sizes, min_size_mm3=3 * 0.7 * 1.1 * 0.7, voxel_mm3=voxel).tolist() == [False, True, True]
    assert 5 * (0.7 * 0.7 * 1.1) < 5 * 0.7 * 0.7 * 1.1  # by rounding
    assert choose_kept(np.array([5]), min_size_mm3=5 * 0.7 * 0.7 * 1.1, voxel_mm3=0.7 * 0.7 * 1.1).all()
    assert choose_kept(sizes, min_size_mm3=3.01 * voxel, voxel_mm3=voxel).tolist() == [False, False, True]
    assert choose_kept(sizes, keep_largest=2, min_size_mm3=4, voxel_mm3=1).tolist() == [False, False, True]
    assert choose_kept(np.zeros(0, dtype=np.int64), keep_largest=1).tolist() == []


def fill(label_map: np.ndarray, values=(1,)) -> np.ndarray:
    """Return where holes of a label would be filled."""
    box = join_boxes(find_boxes(label_map), values)
    components = find_components(label_map, values, box)
    cleaned = label_map.copy()
    filled = fill_holes(cleaned, components, np.full(len(components.sizes), 9))
    assert filled.sum() == (cleaned != label_map).sum()
    assert set(cleaned[cleaned != label_map].tolist()) <= {9}
    return cleaned != label_map


@pytest.mark.parametrize("shape", [(7, 9, 8), (1, 20, 30), (20, 1, 30)])
@pytest.mark.parametrize("density", [0.5, 0.7, 0.9])
@pytest.mark.parametrize("seed", range(6))
def test_holes_are_what_scipy_fills_and_background(seed, density, shape):
    label_map = draw_map(seed, density=density, shape=shape)
    label_map[label_map == 3] = 1
    label_map[label_map == 2] = 1 + seed % 2  # every other time with a second label
    middle = tuple(slice(size // 2 - 1, size // 2 + 2) if size > 1 else slice(None) for size in shape)
    label_map[middle] = 1
    label_map[tuple(size // 2 for size in shape)] = 0
    member = label_map == 1
    if 1 in shape:
        axis = shape.index(1)
        expected = np.expand_dims(ndimage.binary_fill_holes(member.squeeze(axis)), axis)
    else:
        expected = ndimage.binary_fill_holes(member)
    expected = expected & ~member & (label_map == 0)
    assert np.array_equal(fill(label_map), expected)
    assert expected.any()


def test_another_label_in_a_hole_stays_and_what_touches_the_border_is_open():
    label_map = np.ones((3, 5, 5), dtype=np.uint8)
    label_map[1, 2, 1:4] = [0, 2, 0]
    label_map[0, 0, 0] = 0
    assert np.argwhere(fill(label_map)).tolist() == [[1, 2, 1], [1, 2, 3]]


def test_a_label_within_a_hole_of_itself_keeps_its_own_hole():
    label_map = np.zeros((9, 9, 9), dtype=np.uint8)
    for start, value in ((0, 1), (1, 0), (3, 1), (4, 0)):
        label_map[start : 9 - start, start : 9 - start, start : 9 - start] = value
    assert np.array_equal(fill(label_map), label_map == 0)


def test_a_flat_image_has_holes_within_its_plane_and_a_plane_of_a_thick_one_has_not():
    label_map = np.ones((1, 3, 3), dtype=np.uint8)
    label_map[0, 1, 1] = 0
    assert fill(label_map).sum() == 1
    assert fill(np.concatenate([label_map, np.zeros_like(label_map)])).sum() == 0


def test_all_labels_at_once_are_what_each_is_alone():
    label_map = draw_map(5, density=0.6)
    found, values = find_all_components(label_map, (slice(0, 6), slice(0, 9), slice(0, 8)))
    boxes = find_boxes(label_map)
    for value in (1, 2, 3):
        alone = find_components(label_map, (value,), boxes[value])
        assert found.sizes[values == value].tolist() == alone.sizes.tolist()
    cleaned = label_map.copy()
    remove_components(cleaned, found, found.sizes > 3, 0)
    assert (cleaned != 0).sum() == found.sizes[found.sizes > 3].sum()


def test_counts_by_value_are_those_of_numpy():
    label_map = draw_map(3)
    counts = count_values(label_map)
    assert counts.tolist() == np.bincount(label_map.ravel()).tolist()
    assert add_counts(counts, (2, 3, 900)) == np.isin(label_map, (2, 3)).sum()


def test_a_map_without_labels_has_no_boxes():
    assert find_boxes(np.zeros((2, 2, 2), dtype=np.uint16)) == {}
    assert join_boxes({}, (1, 2)) is None

import itertools

import numpy as np
import pytest

from stu_pipeline.evaluation.surface_elements import find_elements, list_areas

ONE = [np.array([False, True])]


def measure_area(mask, spacing_mm):
    (elements,) = find_elements(mask.astype(np.uint16), ONE)
    return list_areas(spacing_mm)[elements.codes].sum()


def encode_plainly(mask):
    """The code of every cell of a mask, corner by corner."""
    padded = np.pad(mask, 1).astype(np.int64)
    codes = np.zeros([size + 1 for size in mask.shape], dtype=np.int64)
    for corner in itertools.product((0, 1), repeat=mask.ndim):
        codes = 2 * codes + padded[tuple(slice(a, a + size) for a, size in zip(corner, codes.shape, strict=True))]
    return codes.ravel()


def assert_same_elements(elements, mask):
    codes = encode_plainly(mask)
    cells = np.flatnonzero((codes != 0) & (codes != codes.max(initial=2**2**mask.ndim - 1)))
    np.testing.assert_array_equal(elements.cells, cells)
    np.testing.assert_array_equal(elements.codes, codes[cells])


@pytest.mark.parametrize("slab_voxels", [1, 700, 1 << 20])
@pytest.mark.parametrize("shape", [(7, 9, 11), (13, 8), (1, 5, 6)])
def test_one_pass_finds_what_a_look_at_each_mask_finds(monkeypatch, shape, slab_voxels):
    monkeypatch.setattr("stu_pipeline.evaluation.surface_elements._SLAB_VOXELS", slab_voxels)
    label_map = np.random.default_rng(2).choice(
        np.array([0, 1, 2, 3], dtype=np.uint16), shape, p=[0.5, 0.3, 0.15, 0.05]
    )
    groups = [(1,), (2,), (1, 2), (3,), (1, 2, 3), (2,), ()]
    found = find_elements(label_map, [np.isin(np.arange(5), group) for group in groups])
    for group, elements in zip(groups, found, strict=True):
        assert_same_elements(elements, np.isin(label_map, group))


def test_a_mask_is_closed_at_the_edge_of_the_image():
    (elements,) = find_elements(np.ones((3, 4, 5), dtype=np.uint16), ONE)
    assert len(elements.cells) == 4 * 5 * 6 - 2 * 3 * 4


def test_an_empty_map_has_no_elements():
    (elements,) = find_elements(np.zeros((3, 4, 5), dtype=np.uint16), ONE)
    assert elements.cells.size == elements.codes.size == 0


@pytest.mark.parametrize("spacing_mm", [(1.0, 1.0, 1.0), (5.0, 0.8, 0.7)])
def test_the_area_of_a_box_is_that_of_its_sides_with_bevelled_edges(spacing_mm):
    mask = np.zeros((9, 10, 11), dtype=bool)
    mask[2:6, 2:8, 1:9] = True
    depth, height, width = sides = np.array([3, 5, 7]) * np.array(spacing_mm)
    expected = 2 * (depth * height + depth * width + height * width)
    for axis in range(3):
        across = np.delete(spacing_mm, axis)
        expected += 4 * sides[axis] * np.hypot(*across) / 2
    half = np.array(spacing_mm) / 2
    # Each corner is one triangle between the middles of three voxel edges.
    triangle = np.linalg.norm(np.cross([-half[0], half[1], 0], [-half[0], 0, half[2]])) / 2
    assert measure_area(mask, spacing_mm) == pytest.approx(expected + 8 * triangle)


def test_a_single_voxel_is_an_octahedron():
    mask = np.zeros((3, 3, 3), dtype=bool)
    mask[1, 1, 1] = True
    assert measure_area(mask, (1.0, 1.0, 1.0)) == pytest.approx(np.sqrt(3))


def test_a_square_has_the_length_of_its_sides_with_cut_corners():
    mask = np.zeros((8, 8), dtype=bool)
    mask[2:6, 1:7] = True
    assert measure_area(mask, (2.0, 3.0)) == pytest.approx(2 * 3 * 2 + 2 * 5 * 3 + 4 * np.hypot(2, 3) / 2)


def test_pixels_that_share_a_corner_are_each_outlined_whole():
    assert measure_area(np.eye(2, dtype=bool), (2.0, 3.0)) == pytest.approx(8 * np.hypot(2, 3) / 2)


def test_a_mask_and_its_complement_share_their_surface():
    for spacing_mm in ((1.0, 2.0, 3.0), (2.0, 3.0)):
        areas = list_areas(spacing_mm)
        np.testing.assert_array_equal(areas, areas[::-1])
        assert areas[0] == 0.0 and (areas[1:-1] > 0).all()


def test_the_areas_are_those_of_marching_cubes_as_first_published():
    # Another triangulation, or another way to join corners that meet across a face, gives other sums.
    assert list_areas((1.0, 1.0, 1.0)).sum() == pytest.approx(241.3431397055, abs=1e-9)
    assert list_areas((1.0, 2.0, 3.0)).sum() == pytest.approx(950.4895895094, abs=1e-9)

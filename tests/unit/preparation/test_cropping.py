import numpy as np
import pytest
from scipy import ndimage

from stu_pipeline.preparation.cropping import find_nonzero_region
from tests.synthetic import make_sphere


def test_an_image_without_zeros_is_kept_whole():
    region = find_nonzero_region(np.ones((1, 3, 4, 5), dtype=np.float32))
    assert region.box == ((0, 3), (0, 4), (0, 5)) and region.inside is None


def test_the_box_encloses_what_is_nonzero_in_any_channel():
    image = np.zeros((2, 9, 9, 9), dtype=np.float32)
    image[0, 2, 3, 4] = 1
    image[1, 5, 6, 4] = -1
    region = find_nonzero_region(image)
    assert region.box == ((2, 6), (3, 7), (4, 5))
    assert region.inside.sum() == 2


def test_an_image_of_zeros_keeps_its_box_and_is_all_outside():
    region = find_nonzero_region(np.zeros((1, 3, 4, 5), dtype=np.float32))
    assert region.box == ((0, 3), (0, 4), (0, 5)) and not region.inside.any()


@pytest.mark.parametrize("seed", range(6))
def test_holes_are_filled_as_by_scipy_on_the_whole_volume(seed):
    generator = np.random.default_rng(seed)
    image = (generator.random((1, 14, 15, 16)) < 0.6 + 0.05 * seed).astype(np.float32)
    image[:, :2] = image[..., -3:] = 0
    region = find_nonzero_region(image)
    filled = ndimage.binary_fill_holes(image[0] != 0)[region.slices]
    assert np.array_equal(region.inside, filled)


def test_a_hole_inside_the_object_belongs_to_it():
    ball = make_sphere((15, 15, 15), 6)
    hollow = ball & ~make_sphere((15, 15, 15), 3)
    region = find_nonzero_region(hollow[None].astype(np.float32))
    assert np.array_equal(region.inside, ball[region.slices])

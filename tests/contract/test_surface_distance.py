"""Surface metrics equal those of DeepMind's surface-distance; here on made masks, in tests/real on real ones."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from stu_pipeline.evaluation.surface import score_surfaces
from stu_pipeline.evaluation.surface_elements import list_areas
from tests.surface_reference import score_by_surface_distance

pytest.importorskip("surface_distance")

# It looks up scipy's functions by names that scipy is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:surface_distance.*")

SPACINGS = [(1.0, 1.0, 1.0), (5.0, 0.8, 0.8), (0.3, 2.0, 1.1)]


def make_blobs(shape, generator):
    """Two masks of smooth noise that agree in part; often they touch the edge."""
    field = gaussian_filter(generator.normal(size=shape), generator.uniform(0.5, 2.0))
    other = field + 0.3 * field.std() * gaussian_filter(generator.normal(size=shape), 1.0)
    level = generator.uniform(0.2, 0.95)
    return field > np.quantile(field, level), other > np.quantile(other, level)


@pytest.mark.parametrize("spacing_mm", SPACINGS)
def test_the_area_of_every_element_is_the_same(spacing_mm):
    from surface_distance import lookup_tables

    surface = lookup_tables.create_table_neighbour_code_to_surface_area(spacing_mm)
    contour = lookup_tables.create_table_neighbour_code_to_contour_length(spacing_mm[1:])
    np.testing.assert_allclose(list_areas(spacing_mm), surface, rtol=0, atol=1e-12)
    np.testing.assert_allclose(list_areas(spacing_mm[1:]), contour, rtol=0, atol=1e-12)


@pytest.mark.parametrize("spacing_mm", SPACINGS)
@pytest.mark.parametrize("tolerance_mm", [0.7, 2.5])
def test_surface_metrics_are_the_same(spacing_mm, tolerance_mm):
    generator = np.random.default_rng(7)
    for _ in range(8):
        reference, prediction = make_blobs(generator.integers(3, 26, 3), generator)
        scores = score_surfaces(reference, prediction, spacing_mm=spacing_mm, tolerance_mm=tolerance_mm)
        expected = score_by_surface_distance(reference, prediction, spacing_mm, tolerance_mm)
        assert expected == pytest.approx(
            (scores.mean_ref_to_pred_mm, scores.mean_pred_to_ref_mm, scores.hd95_mm, scores.nsd), abs=1e-9
        )


def test_contours_of_flat_images_are_the_same():
    generator = np.random.default_rng(8)
    for _ in range(8):
        reference, prediction = make_blobs(generator.integers(4, 40, 2), generator)
        scores = score_surfaces(reference[None], prediction[None], spacing_mm=(9.0, 1.5, 0.4), tolerance_mm=1.0)
        expected = score_by_surface_distance(reference, prediction, (1.5, 0.4), 1.0)
        assert expected == pytest.approx(
            (scores.mean_ref_to_pred_mm, scores.mean_pred_to_ref_mm, scores.hd95_mm, scores.nsd), abs=1e-9
        )

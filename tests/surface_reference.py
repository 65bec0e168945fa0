"""Surface metrics by DeepMind's surface-distance, for tests and benchmarks to compare with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def score_by_surface_distance(
    reference: np.ndarray, prediction: np.ndarray, spacing_mm: Sequence[float], tolerance_mm: float
) -> tuple[float, float, float, float]:
    """Score two boolean masks, neither empty.

    Returns:
        Mean distance from reference to prediction and back, HD95 (all in mm) and NSD.
    """
    import surface_distance as theirs  # here: a test without it is skipped, not broken

    distances = theirs.compute_surface_distances(reference, prediction, spacing_mm)
    to_prediction, to_reference = theirs.compute_average_surface_distance(distances)
    return (
        float(to_prediction),
        float(to_reference),
        float(theirs.compute_robust_hausdorff(distances, 95)),
        float(theirs.compute_surface_dice_at_tolerance(distances, tolerance_mm)),
    )

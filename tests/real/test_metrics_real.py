"""Real label maps, disturbed in known ways: surface metrics are DeepMind's surface-distance's to 1e-6."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import grey_erosion

from stu_pipeline.datasets.reading import read_label_map
from stu_pipeline.evaluation.labels import label_values
from stu_pipeline.evaluation.metrics import find_values, score_case
from tests.real_data import DATASETS, require
from tests.surface_reference import score_by_surface_distance

pytest.importorskip("surface_distance")

pytestmark = [pytest.mark.real, pytest.mark.filterwarnings("ignore::DeprecationWarning:surface_distance.*")]

# No distance between voxels of these maps that the rounding of a header would move across it.
TOLERANCE_MM = 1.0


def shift(labels):
    return np.roll(labels, [min(1, size - 1) for size in labels.shape], axis=(0, 1, 2))


def erode(labels):
    return grey_erosion(labels, footprint=np.ones([min(2, size) for size in labels.shape]))


def drop_pieces(labels):
    """Leave out one voxel in eight and add a stray piece in a corner: ragged surfaces, distant parts."""
    changed = np.where(np.random.default_rng(0).random(labels.shape) < 0.125, 0, labels)
    changed[-3:, -3:, -3:] = labels.max()
    return changed.astype(labels.dtype)


def list_maps(name):
    paths = [path for path in require(name).glob("labelsT*/*") if path.name.endswith((".nii.gz", ".nrrd"))]
    assert paths, name
    return sorted(paths)


def compare(path, disturb):
    """Compare every label of one map that neither side lacks; returns how many."""
    volume = read_label_map(path)
    reference, spacing_mm = volume.array, volume.grid.spacing_mm
    prediction = disturb(reference)
    labels = label_values(find_values(reference).tolist()).labels
    scored = score_case(reference, prediction, labels=labels, spacing_mm=spacing_mm, tolerance_mm=TOLERANCE_MM)
    present = [(label, scores) for label, scores in zip(labels, scored, strict=True) if scores.n_pred]
    for label, scores in present:
        masks = [label_map == label.values[0] for label_map in (reference, prediction)]
        ours = scores.surface
        found = (ours.mean_ref_to_pred_mm, ours.mean_pred_to_ref_mm, ours.hd95_mm, ours.nsd)
        expected = score_by_surface_distance(*masks, spacing_mm, TOLERANCE_MM)
        assert found == pytest.approx(expected, abs=1e-6), f"{path.name}, label {label.key}, {disturb.__name__}"
    return len(present)


@pytest.mark.parametrize("name", DATASETS)
def test_surface_metrics_are_those_of_surface_distance(name):
    assert compare(list_maps(name)[0], drop_pieces) > 0


@pytest.mark.slow
@pytest.mark.parametrize("disturb", [shift, erode, drop_pieces])
@pytest.mark.parametrize("name", DATASETS)
def test_surface_metrics_are_those_of_surface_distance_on_every_map(name, disturb):
    assert sum(compare(path, disturb) for path in list_maps(name)) > 0

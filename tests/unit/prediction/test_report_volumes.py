"""Volumes and touched faces of masks with known geometry."""

from __future__ import annotations

import numpy as np
import pytest

from stu_pipeline.prediction.report.volumes import count_voxels, find_touched_faces, list_foreground, measure_volumes

LABELS = {"background": 0, "liver": 1, "spleen": 2, "ignore": 3}


def make_mask(shape=(6, 7, 8), dtype=np.uint8):
    mask = np.zeros(shape, dtype=dtype)
    mask[2:4, 2:5, 2:6] = 1
    return mask


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16])
def test_a_box_has_the_volume_of_its_voxels(dtype):
    counts = count_voxels(make_mask(dtype=dtype), 3)
    assert measure_volumes(counts, LABELS, 0.5) == {"liver": 2 * 3 * 4 * 0.5, "spleen": 0.0}


def test_flat_images_have_no_volumes():
    assert measure_volumes(count_voxels(make_mask(), 3), LABELS, None) == {}


def test_regions_count_all_their_values():
    mask = make_mask()
    mask[5, 5, 5] = 2
    counts = count_voxels(mask, 4)
    volumes = measure_volumes(counts, {"background": 0, "whole": (1, 2), "core": 2}, 1.0)
    assert volumes == {"whole": 25.0, "core": 1.0}


def test_background_and_ignore_are_no_foreground():
    assert list_foreground(LABELS) == {"liver": (1,), "spleen": (2,)}
    assert list_foreground({"background": 0, "region": (0, 1)}) == {"region": (1,)}


@pytest.mark.parametrize(
    ("place", "face"),
    [((0, 3, 3), (0, 0)), ((5, 3, 3), (0, 1)), ((3, 0, 3), (1, 0)), ((3, 6, 3), (1, 1)), ((3, 3, 0), (2, 0)),
     ((3, 3, 7), (2, 1))],
)  # fmt: skip
def test_every_face_is_told_apart(place, face):
    mask = make_mask()
    assert find_touched_faces(count_voxels(mask, 3), LABELS) == {}
    mask[place] = 2
    assert find_touched_faces(count_voxels(mask, 3), LABELS) == {"spleen": (face,)}


def test_an_axis_with_one_voxel_has_no_faces():
    mask = np.ones((1, 4, 5), dtype=np.uint8)
    assert set(find_touched_faces(count_voxels(mask, 2), LABELS)["liver"]) == {(1, 0), (1, 1), (2, 0), (2, 1)}


def test_a_mask_of_background_is_empty():
    assert count_voxels(np.zeros((2, 3, 4), dtype=np.uint8), 3).is_empty
    assert not count_voxels(make_mask(), 3).is_empty

"""Draws are pure functions of the key, and boxes hold every voxel a transformed patch shows."""

import itertools
import subprocess
import sys

import numpy as np
import pytest

from stu_pipeline.datasets.laterality import Mirroring
from stu_pipeline.training.augmentation.draws import (
    draw_affine,
    draw_mirror_axes,
    find_patch_center,
    find_plain_offset,
    find_source_box,
)
from stu_pipeline.training.augmentation.settings import AugmentationSettings
from stu_pipeline.training.sampling.sample import SampleKey


def make_settings(patch=(8, 8, 8), initial_patch=(14, 14, 14), **changes):
    values = {"rotation_rad": (-0.5, 0.5), "is_dummy_2d": False, "mirroring": Mirroring(axes=(0, 1, 2)), **changes}
    return AugmentationSettings(patch=patch, initial_patch=initial_patch, **values)


def make_keys(count, *, seed=0, phase="train", slot=0):
    return [SampleKey(seed=seed, phase=phase, step=step, slot=slot) for step in range(count)]


def test_a_draw_depends_on_nothing_but_the_key():
    settings = make_settings()
    first = [draw_affine(key, settings) for key in make_keys(60)]
    again = [draw_affine(key, settings) for key in reversed(make_keys(60))][::-1]
    for one, other in zip(first, again, strict=True):
        assert (one is None) == (other is None)
        assert one is None or np.array_equal(one, other)
    mirrored = [draw_mirror_axes(key, settings) for key in make_keys(60)]
    assert mirrored == [draw_mirror_axes(key, settings) for key in make_keys(60)]


@pytest.mark.parametrize("other", [{"seed": 1}, {"phase": "validation"}, {"slot": 1}])
def test_another_key_draws_something_else(other):
    settings = make_settings()
    changed = [draw_affine(key, settings) for key in make_keys(60, **other)]
    pairs = zip([draw_affine(key, settings) for key in make_keys(60)], changed, strict=True)
    assert sum(one is not None and other is not None and np.allclose(one, other) for one, other in pairs) == 0
    assert [draw_mirror_axes(key, settings) for key in make_keys(60)] != [
        draw_mirror_axes(key, settings) for key in make_keys(60, **other)
    ]


def test_dummy_2d_leaves_the_first_axis_alone():
    settings = make_settings(is_dummy_2d=True)
    affines = [affine for affine in (draw_affine(key, settings) for key in make_keys(100)) if affine is not None]
    assert len(affines) > 20
    for affine in affines:
        assert affine.shape == (3, 3)
        assert np.array_equal(affine[0], [1, 0, 0]) and np.array_equal(affine[:, 0], [1, 0, 0])


def test_flat_patches_get_flat_affines():
    settings = make_settings((8, 8), (14, 14), mirroring=Mirroring(axes=(0, 1)))
    affines = [draw_affine(key, settings) for key in make_keys(100)]
    assert {affine.shape for affine in affines if affine is not None} == {(2, 2)}


def test_only_allowed_axes_are_mirrored_and_none_without_any():
    one_axis = make_settings(mirroring=Mirroring(axes=(2,)))
    assert {draw_mirror_axes(key, one_axis) for key in make_keys(30)} == {(), (2,)}
    no_axis = make_settings(mirroring=Mirroring(axes=()))
    assert {draw_mirror_axes(key, no_axis) for key in make_keys(5)} == {()}


@pytest.mark.parametrize(
    ("patch", "initial_patch", "offset", "center"),
    [
        ((8,), (14,), (3,), (3.5,)),
        ((8,), (15,), (3,), (4.0,)),
        ((9,), (14,), (3,), (3.5,)),
        ((9,), (15,), (3,), (4.0,)),
        ((8,), (8,), (0,), (3.5,)),
    ],
)
def test_the_plain_patch_is_cut_by_whole_voxels_and_the_transformed_one_is_centred(
    patch, initial_patch, offset, center
):
    settings = make_settings(patch, initial_patch)
    assert find_plain_offset(settings) == offset
    assert find_patch_center(settings) == center


@pytest.mark.parametrize(
    ("patch", "initial_patch"), [((8, 9, 10), (40, 40, 41)), ((9, 7, 5), (12, 12, 9)), ((8, 9), (15, 30))]
)
def test_the_source_box_holds_every_corner_that_interpolation_reads(patch, initial_patch):
    settings = make_settings(patch, initial_patch)
    offset = np.array(find_plain_offset(settings))
    for key in make_keys(150):
        affine = draw_affine(key, settings)
        if affine is None:
            continue
        lower, upper = (np.array(end) for end in find_source_box(affine, settings))
        outputs = np.array(list(itertools.product(*((0, size - 1) for size in patch)))) - (np.array(patch) - 1) / 2
        places = outputs @ affine.T + find_patch_center(settings)
        first = np.maximum(np.floor(places).min(0), -offset)
        last = np.minimum(np.floor(places).max(0) + 1, np.array(initial_patch) - 1 - offset)
        assert (lower <= first).all() and (upper > last).all()
        assert (lower >= -offset).all() and (upper <= initial_patch - offset).all()
        # Not much more than needed: one voxel for evenness and one for rounding at either end.
        assert (first - lower <= 2).all() and (upper - 1 - last <= 1).all()
        assert ((lower + offset) % 2 == 0).all()


def test_the_source_box_is_mostly_smaller_than_the_initial_patch():
    settings = make_settings((128, 128, 128), (205, 205, 205), rotation_rad=(-np.pi / 6, np.pi / 6))
    shares = []
    for key in make_keys(400):
        affine = draw_affine(key, settings)
        if affine is not None:
            lower, upper = find_source_box(affine, settings)
            shares.append(np.prod(np.subtract(upper, lower)) / 205**3)
    assert np.mean(shares) < 0.75


def test_loader_processes_can_import_the_draws_without_torch():
    code = "import sys, stu_pipeline.training.augmentation.draws; print('torch' in sys.modules)"
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert outcome.stdout.strip() == "False"

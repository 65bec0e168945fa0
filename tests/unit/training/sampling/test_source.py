"""Samples as a function of their key."""

from __future__ import annotations

import pickle
from dataclasses import replace

import blosc2
import numpy as np
import pytest

from stu_pipeline.errors import DataError
from stu_pipeline.training.augmentation.draws import draw_affine, find_patch_center, find_source_box
from stu_pipeline.training.sampling.crop import CropRule
from stu_pipeline.training.sampling.sample import SampleKey
from tests.unit.training.sampling.tiny_cases import (
    INITIAL_PATCH,
    PATCH,
    SHAPE,
    describe,
    make_settings,
    make_source,
    write_case,
    write_cases,
)


def key(step, slot=0, phase="train", seed=0):
    return SampleKey(seed=seed, phase=phase, step=step, slot=slot)


def find_step(settings, is_transformed, slot=0):
    steps = (step for step in range(100) if (draw_affine(key(step, slot), settings) is not None) == is_transformed)
    return next(steps)


def find_first_voxel(values, shape):
    """Find where the patch begins in an image whose voxels count from 1."""
    place = np.argwhere(values[0] > 0)[0]
    inside = np.unravel_index(int(values[0][tuple(place)]) - 1, shape)
    return tuple(int(i - p) for i, p in zip(inside, place, strict=True))


def test_equal_keys_give_equal_samples_and_others_do_not(tmp_path):
    source = make_source(tmp_path, write_cases(tmp_path))
    keys = [key(step, slot) for step in range(4) for slot in range(2)]
    first = [describe(source.make_sample(one)) for one in keys]
    copy = pickle.loads(pickle.dumps(source))
    assert [describe(copy.make_sample(one)) for one in reversed(keys)] == first[::-1]
    assert len({content[5] for content in first}) > 4
    assert describe(source.make_sample(key(0, seed=1)))[4:] != first[0][4:]
    assert describe(source.make_sample(key(0, phase="validation")))[4:] != first[0][4:]


def test_a_case_is_named_without_reading_it(tmp_path):
    source = make_source(tmp_path, write_cases(tmp_path, 5))
    missing = replace(source, folder=tmp_path / "nowhere")
    assert all(missing.name_case(key(s)) == source.make_sample(key(s)).case_id for s in range(20))
    with pytest.raises(DataError, match=f"case '{source.name_case(key(3))}' has no file"):
        missing.make_sample(key(3))


def test_an_untransformed_sample_is_the_patch_itself(tmp_path):
    image, labels = write_case(tmp_path, "case")
    settings = make_settings()
    source = make_source(tmp_path, ("case",), settings=settings)
    for step in range(30):
        sample = source.make_sample(key(step))
        if sample.affine is not None:
            continue
        first = find_first_voxel(sample.data, SHAPE)
        assert sample.data.shape == (1, *PATCH) and sample.labels.shape == (1, *PATCH) and sample.center == ()
        # nnU-Net's rounding lets the patch of an odd initial patch begin one voxel outside.
        assert all(-1 <= f <= size - p + 1 for f, p, size in zip(first, PATCH, SHAPE, strict=True))
        box = tuple(slice(f + 9, f + 9 + p) for f, p in zip(first, PATCH, strict=True))
        np.testing.assert_array_equal(sample.data[0], np.pad(image[0], 9)[box])
        np.testing.assert_array_equal(sample.labels[0], np.pad(labels[0], 9, constant_values=-1)[box])


def test_a_transformed_sample_covers_what_the_patch_looks_at(tmp_path):
    image, _ = write_case(tmp_path, "case", shape=(40, 40, 40))
    settings = make_settings()
    source = make_source(tmp_path, ("case",), settings=settings)
    step = find_step(settings, is_transformed=True)
    sample = source.make_sample(key(step))
    affine = draw_affine(key(step), settings)
    lower, upper = find_source_box(affine, settings)
    sizes = tuple(up - low for low, up in zip(lower, upper, strict=True))
    np.testing.assert_array_equal(sample.affine, affine)
    assert sample.data.shape[1:] == sizes and all(s <= i for s, i in zip(sizes, INITIAL_PATCH, strict=True))
    assert sample.center == tuple(c - low for c, low in zip(find_patch_center(settings), lower, strict=True))
    first = find_first_voxel(sample.data, (40, 40, 40))
    values = image[0][tuple(slice(max(f, 0), f + s) for f, s in zip(first, sizes, strict=True))]
    np.testing.assert_array_equal(sample.data[0][sample.data[0] > 0], values.ravel())


@pytest.mark.parametrize("choice", ["validation", "not augmenting"])
def test_other_samples_are_never_transformed_and_stay_inside(tmp_path, choice):
    cases = write_cases(tmp_path)
    source = make_source(tmp_path, cases, is_augmenting=choice == "validation", rule=CropRule(batch=9))
    phase = "validation" if choice == "validation" else "train"
    for step in range(40):
        sample = source.make_sample(key(step, phase=phase))
        assert sample.affine is None and sample.data.shape == (1, *PATCH) and (sample.labels >= 0).all()


def test_forced_samples_show_foreground(tmp_path):
    source = make_source(tmp_path, write_cases(tmp_path), is_augmenting=False)
    forced = [source.make_sample(key(step, slot=1)) for step in range(30)]
    assert all((sample.labels > 0).any() for sample in forced)
    assert {1, 2} <= {int(sample.labels[0][tuple(size // 2 for size in PATCH)]) for sample in forced}


def test_an_image_smaller_than_the_patch_is_padded(tmp_path):
    write_case(tmp_path, "case", shape=(3, 24, 4))
    source = make_source(tmp_path, ("case",))
    for step in range(20):
        sample = source.make_sample(key(step, slot=step % 2))
        assert (sample.data[sample.labels == -1] == 0).all() and (sample.labels == -1).any()
        if sample.affine is None and step % 2 == 0:
            assert (sample.labels != -1).sum() == 3 * 8 * 4


def test_flat_patches_are_slices(tmp_path):
    _, labels = write_case(tmp_path, "case", num_channels=2)
    settings = make_settings((8, 8), (12, 13), rotation_rad=(-3, 3))
    source = make_source(tmp_path, ("case",), settings=settings, num_channels=2)
    slices = set()
    for step in range(60):
        sample = source.make_sample(key(step, slot=step % 2))
        assert sample.data.ndim == 3 and sample.labels.ndim == 3 and len(sample.data) == 2
        if sample.affine is None:
            assert sample.data.shape == (2, 8, 8)
            z, y, x = find_first_voxel(sample.data[:1, None], SHAPE)
            inside = sample.labels[0] >= 0
            found = np.pad(labels[0, z], 20)[y + 20 : y + 28, x + 20 : x + 28]
            np.testing.assert_array_equal(sample.labels[0][inside], found[inside])
            slices.add(z)
        else:
            assert sample.affine.shape == (2, 2) and len(sample.center) == 2
    assert len(slices) > 5


def test_the_previous_stage_is_cut_out_like_the_labels(tmp_path):
    _, labels = write_case(tmp_path, "case")
    (tmp_path / "previous").mkdir()
    blosc2.asarray(labels[0] * 3, urlpath=str(tmp_path / "previous" / "case.b2nd"))
    source = make_source(tmp_path, ("case",), previous_folder=tmp_path / "previous")
    for step in range(10):
        sample = source.make_sample(key(step))
        assert len(sample.labels) == 2
        np.testing.assert_array_equal(sample.labels[1], np.where(sample.labels[0] < 0, -1, 3 * sample.labels[0]))


def test_a_case_without_foreground_is_sampled_anywhere(tmp_path):
    write_case(tmp_path, "case", labels=np.zeros(SHAPE, np.int16))
    source = make_source(tmp_path, ("case",), is_augmenting=False)
    firsts = {find_first_voxel(source.make_sample(key(s, 1)).data, SHAPE) for s in range(20)}
    assert len(firsts) > 10


def test_with_an_ignore_label_patches_are_centred_on_what_is_annotated(tmp_path):
    labels = np.full(SHAPE, 3, np.int16)
    labels[7, 10, 8] = 0
    write_case(tmp_path, "case", labels=labels, keys=(1, 2, (-1, 0, 1, 2)))
    rule = CropRule(batch=2, annotated_key=(-1, 0, 1, 2))
    source = make_source(tmp_path, ("case",), rule=rule, is_augmenting=False)
    assert all(source.make_sample(key(s, s % 2)).labels[0, 3, 4, 4] == 0 for s in range(10))
    other = make_source(tmp_path, ("case",), rule=replace(rule, annotated_key=(-1, 0, 1)))
    with pytest.raises(DataError, match="'case' was preprocessed without the ignore label"):
        other.make_sample(key(0))


def test_properties_are_not_read_where_they_are_not_needed(tmp_path):
    write_case(tmp_path, "case")
    (tmp_path / "case.pkl").unlink()
    source = make_source(tmp_path, ("case",))
    source.make_sample(key(0, slot=0))
    with pytest.raises(DataError, match="no file"):
        source.make_sample(key(0, slot=1))


def test_no_case_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no case to sample"):
        make_source(tmp_path, ())


def test_no_sample_is_larger_than_was_said(tmp_path):
    source = make_source(tmp_path, write_cases(tmp_path), settings=make_settings(initial_patch=(20, 20, 20)))
    sizes = [sample.data.nbytes + sample.labels.nbytes for sample in map(source.make_sample, map(key, range(40)))]
    assert max(sizes) <= source.max_sample_bytes == 8000 * 6
    assert replace(source, is_augmenting=False).max_sample_bytes == np.prod(PATCH) * 6

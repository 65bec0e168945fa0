"""A batch is made sample by sample, in nnU-Net's order, and the same in every company."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from stu_pipeline.datasets.laterality import Mirroring
from stu_pipeline.training.augmentation.draws import (
    draw_affine,
    draw_mirror_axes,
    find_patch_center,
    find_source_box,
)
from stu_pipeline.training.augmentation.intensity import apply_intensity
from stu_pipeline.training.augmentation.pipeline import Augmenter
from stu_pipeline.training.augmentation.settings import AugmentationSettings
from stu_pipeline.training.augmentation.targets import encode_previous
from stu_pipeline.training.sampling.sample import Sample, SampleKey

PATCH = (10, 12, 8)
CPU = torch.device("cpu")


def make_settings(patch=PATCH, **changes):
    values = {
        "initial_patch": tuple(size + 7 for size in patch),
        "rotation_rad": (-0.5, 0.5),
        "is_dummy_2d": False,
        "mirroring": Mirroring(axes=tuple(range(len(patch))), swapping_axes=(1,), pairs=((1, 2),)),
        **changes,
    }
    return AugmentationSettings(patch=patch, **values)


def make_sample(step, settings, *, num_maps=1, num_channels=2, is_transformed=True):
    key = SampleKey(seed=3, phase="train", step=step, slot=step % 2)
    affine = draw_affine(key, settings) if is_transformed else None
    shape, center = settings.patch, ()
    if affine is not None:
        lower, upper = find_source_box(affine, settings)
        shape = tuple(high - low for low, high in zip(lower, upper, strict=True))
        center = tuple(middle - low for middle, low in zip(find_patch_center(settings), lower, strict=True))
    generator = np.random.default_rng(step)
    labels = generator.integers(-1, 4, (num_maps, *shape)).astype(np.int16)
    data = generator.normal(size=(num_channels, *shape)).astype(np.float32)
    return Sample(key=key, case_id=f"case_{step}", data=data, labels=labels, affine=affine, center=center)


def assert_same(batch, place, other, other_place):
    assert torch.equal(batch.data[place], other.data[other_place])
    for target, other_target in zip(batch.targets, other.targets, strict=True):
        assert torch.equal(target[place], other_target[other_place])


def test_a_batch_has_the_shapes_and_types_the_step_expects():
    settings = make_settings(deep_supervision_scales=((1.0, 1.0, 1.0), (0.5, 0.5, 0.5)))
    samples = [make_sample(step, settings) for step in range(3)]
    batch = Augmenter(settings, CPU, is_augmenting=True)(samples)
    assert batch.data.shape == (3, 2, *PATCH) and batch.data.dtype == torch.float32
    assert [tuple(target.shape) for target in batch.targets] == [(3, 1, 10, 12, 8), (3, 1, 5, 6, 4)]
    assert {target.dtype for target in batch.targets} == {torch.int16}
    assert batch.case_ids == ["case_0", "case_1", "case_2"]
    assert batch.keys == [sample.key for sample in samples]
    assert batch.data.isfinite().all() and batch.targets[0].min() == 0


def test_a_sample_comes_out_the_same_alone_in_company_and_again():
    settings = make_settings(previous_labels=(1, 2, 3), masked_channels=(1,))
    samples = [make_sample(step, settings, num_maps=2) for step in range(24)]
    assert 3 < sum(sample.affine is not None for sample in samples) < 20
    augmenter = Augmenter(settings, CPU, is_augmenting=True)
    together = augmenter(samples)
    backwards = augmenter(samples[::-1])
    for place, sample in enumerate(samples):
        assert_same(together, place, augmenter([sample]), 0)
        assert_same(together, place, backwards, -1 - place)


def test_the_samples_themselves_are_not_changed():
    settings = make_settings(masked_channels=(0,))
    samples = [make_sample(step, settings) for step in range(12)]
    before = [(sample.data.copy(), sample.labels.copy()) for sample in samples]
    Augmenter(settings, CPU, is_augmenting=True)(samples)
    for sample, (data, labels) in zip(samples, before, strict=True):
        assert np.array_equal(sample.data, data) and np.array_equal(sample.labels, labels)


def test_arrays_that_must_not_be_written_are_fine():
    settings = make_settings()
    sample = make_sample(1, settings)
    expected = Augmenter(settings, CPU, is_augmenting=True)([sample])
    sample.data.setflags(write=False)
    sample.labels.setflags(write=False)
    assert_same(Augmenter(settings, CPU, is_augmenting=True)([sample]), 0, expected, 0)


def test_validation_only_removes_the_outside():
    settings = make_settings(masked_channels=(0, 1))
    samples = [make_sample(step, settings, is_transformed=False) for step in range(6)]
    batch = Augmenter(settings, CPU, is_augmenting=False)(samples)
    for place, sample in enumerate(samples):
        assert np.array_equal(batch.data[place].numpy(), sample.data)
        assert np.array_equal(batch.targets[0][place].numpy(), np.maximum(sample.labels, 0))


def test_intensities_come_before_mirroring_and_labels_are_mirrored_alike():
    settings = make_settings()
    augmenter = Augmenter(settings, CPU, is_augmenting=True)
    num_mirrored = 0
    for step in range(20):
        sample = make_sample(step, settings, is_transformed=False)
        batch = augmenter([sample])
        axes = draw_mirror_axes(sample.key, settings)
        expected = apply_intensity(torch.from_numpy(sample.data[None].copy()), [sample.key], settings)
        assert torch.equal(batch.data, expected.flip([axis + 2 for axis in axes]))
        labels = np.flip(np.maximum(sample.labels, 0), [axis + 1 for axis in axes])
        if 1 in axes:
            labels = np.array([0, 2, 1, 3], dtype=np.int16)[labels]
        assert np.array_equal(batch.targets[0][0].numpy(), labels)
        num_mirrored += bool(axes)
    assert 10 < num_mirrored < 20


def test_masked_channels_are_zero_outside_after_everything_else():
    settings = make_settings(masked_channels=(1,), mirroring=Mirroring(axes=()))
    for step in range(8):
        sample = make_sample(step, settings, is_transformed=False)
        batch = Augmenter(settings, CPU, is_augmenting=True)([sample])
        is_outside = torch.from_numpy(sample.labels[0] < 0)
        assert (batch.data[0, 1][is_outside] == 0).all()
        assert (batch.data[0, 0][is_outside] != 0).all()


@pytest.mark.parametrize("is_augmenting", [True, False])
def test_the_previous_stage_becomes_the_last_input_channels(is_augmenting):
    settings = make_settings(previous_labels=(1, 2, 3), mirroring=Mirroring(axes=()))
    samples = [make_sample(step, settings, num_maps=2, is_transformed=False) for step in range(12)]
    batch = Augmenter(settings, CPU, is_augmenting=is_augmenting)(samples)
    assert batch.data.shape == (12, 5, *PATCH) and batch.targets[0].shape == (12, 1, *PATCH)
    same = 0
    for place, sample in enumerate(samples):
        channels = batch.data[place, 2:].numpy()
        assert set(np.unique(channels)) <= {0.0, 1.0}
        assert np.array_equal(batch.targets[0][place].numpy(), np.maximum(sample.labels[:1], 0))
        same += np.array_equal(channels, np.stack([sample.labels[1] == label for label in (1, 2, 3)]))
    assert 2 < same < 12 if is_augmenting else same == 12


def test_the_previous_stage_is_mirrored_and_swapped_with_the_labels():
    settings = make_settings(previous_labels=(1, 2, 3))
    num_undamaged = 0
    for step in range(30):
        sample = make_sample(step, settings, is_transformed=False)
        both = replace(sample, labels=np.repeat(sample.labels, 2, axis=0))
        batch = Augmenter(settings, CPU, is_augmenting=True)([both])
        truth = encode_previous(batch.targets[0][:, 0], (1, 2, 3))
        if draw_mirror_axes(sample.key, settings):
            num_undamaged += torch.equal(batch.data[:, 2:], truth)
    # Nearly half of all predictions are not damaged on purpose; of these labels none would be equal by chance.
    assert num_undamaged >= 8


def test_regions_come_from_the_swapped_labels():
    settings = make_settings(
        regions=((1,), (1, 2, 3)), mirroring=Mirroring(axes=(0, 1, 2), swapping_axes=(1,), pairs=((1, 2),))
    )
    for step in range(8):
        sample = make_sample(step, settings, is_transformed=False)
        (target,) = Augmenter(settings, CPU, is_augmenting=True)([sample]).targets
        axes = draw_mirror_axes(sample.key, settings)
        labels = np.flip(sample.labels[0], axes)
        wanted = 2 if 1 in axes else 1
        assert target.dtype == torch.bool
        assert np.array_equal(target[0, 0].numpy(), labels == wanted)
        assert np.array_equal(target[0, 1].numpy(), labels > 0)


@pytest.mark.parametrize(("patch", "is_dummy_2d"), [((14, 12), False), ((4, 16, 16), True)])
def test_flat_and_slicewise_samples_pass_through(patch, is_dummy_2d):
    initial = (*patch[:-2], patch[-2] + 7, patch[-1] + 8)
    settings = make_settings(
        patch, initial_patch=initial, is_dummy_2d=is_dummy_2d, mirroring=Mirroring(axes=tuple(range(len(patch))))
    )
    samples = [make_sample(step, settings) for step in range(20)]
    assert any(sample.affine is not None for sample in samples)
    batch = Augmenter(settings, CPU, is_augmenting=True)(samples)
    assert batch.data.shape == (20, 2, *patch) and batch.data.isfinite().all()
    assert batch.targets[0].max() <= 3 and batch.targets[0].min() >= 0


def test_an_untransformed_sample_of_another_size_is_refused():
    settings = make_settings()
    sample = make_sample(0, make_settings((1, 12, 8)), is_transformed=False)
    with pytest.raises(ValueError, match=r"case_0.*\(1, 12, 8\)"):
        Augmenter(settings, CPU, is_augmenting=True)([sample])

"""Voxels of validation patches are counted as nnU-Net counts them."""

import pytest
import torch
from nnunetv2.training.loss.dice import get_tp_fp_fn_tn

from stu_pipeline.training.loop.online_scores import count_matches
from tests.device_waits import RefuseWaiting


@pytest.mark.parametrize("spatial", [(5, 6, 7), (8, 9)])
@pytest.mark.parametrize("ignore", [None, 3])
def test_counts_of_labels_equal_the_engines(ignore, spatial):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, *spatial, generator=generator)
    target = torch.randint(0, 3 if ignore is None else 4, (2, 1, *spatial), generator=generator, dtype=torch.int16)
    mask = None if ignore is None else (target != ignore).float()
    cleaned = torch.where(target == ignore, 0, target) if ignore is not None else target
    predicted = torch.nn.functional.one_hot(logits.argmax(1), 3).movedim(-1, 1)
    axes = [0, *range(2, logits.ndim)]
    tp, fp, fn, _ = get_tp_fp_fn_tn(predicted, cleaned.long(), axes=axes, mask=mask)
    counts = count_matches(logits, target, regions=False, ignore_label=ignore)
    assert counts.dtype == torch.float64
    assert counts.tolist() == [values[1:].tolist() for values in (tp, fp, fn)]


@pytest.mark.parametrize("has_ignore", [False, True])
def test_counts_of_regions_equal_the_engines(has_ignore):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 2, 5, 6, 7, generator=generator)
    target = torch.rand(2, 2 + has_ignore, 5, 6, 7, generator=generator) < 0.4
    mask = (~target[:, -1:]).float() if has_ignore else None
    predicted = (torch.sigmoid(logits) > 0.5).long()
    tp, fp, fn, _ = get_tp_fp_fn_tn(predicted, target[:, :2], axes=[0, 2, 3, 4], mask=mask)
    counts = count_matches(logits, target, regions=True, ignore_label=3 if has_ignore else None)
    assert counts.tolist() == [values.tolist() for values in (tp, fp, fn)]


def test_a_patch_without_foreground_counts_only_what_is_false():
    logits = torch.zeros(1, 3, 2, 2)
    logits[:, 1, 0, 0] = 5
    logits[:, 0, 0, 1] = logits[:, 0, 1] = 5
    counts = count_matches(logits, torch.zeros(1, 1, 2, 2), regions=False, ignore_label=None)
    assert counts.tolist() == [[0, 0], [1, 0], [0, 0]]


def test_a_patch_that_is_ignored_counts_nowhere():
    logits = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    counts = count_matches(logits, torch.full((1, 1, 4, 4), 3), regions=False, ignore_label=3)
    assert counts.tolist() == [[0, 0]] * 3


@pytest.mark.parametrize("regions", [False, True])
def test_counting_does_not_wait_for_the_device(regions):
    target = torch.zeros(1, 3 if regions else 1, 4, 4, dtype=torch.bool if regions else torch.int16)
    with RefuseWaiting():
        count_matches(torch.randn(1, 2, 4, 4), target, regions=regions, ignore_label=2)


def make_marks(rows):
    return torch.tensor(rows, dtype=torch.bool)


@pytest.mark.parametrize("ignore", [None, 3])
def test_unmarked_labels_of_a_sample_are_neither_right_nor_wrong(ignore):
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(3, 3, 5, 6, 7, generator=generator)
    target = torch.randint(0, 3 + (ignore is not None), (3, 1, 5, 6, 7), generator=generator, dtype=torch.int16)
    marks = make_marks([(1, 1, 0), (1, 0, 1), (1, 1, 1)])
    found = count_matches(logits, target, regions=False, ignore_label=ignore, marked=marks)
    expected = torch.zeros(3, 2, dtype=torch.float64)
    for sample in range(3):
        alone = count_matches(
            logits[sample : sample + 1], target[sample : sample + 1], regions=False, ignore_label=ignore
        )
        expected += alone * marks[sample, 1:]
    assert torch.equal(found, expected)


def test_a_voxel_lost_to_an_unmarked_label_is_lost():
    logits = torch.zeros(1, 3, 2, 2)
    logits[:, 2] = 5
    counts = count_matches(
        logits, torch.ones(1, 1, 2, 2), regions=False, ignore_label=None, marked=make_marks([(1, 1, 0)])
    )
    assert counts.tolist() == [[0, 0], [0, 0], [4, 0]]


@pytest.mark.parametrize("has_ignore", [False, True])
def test_unmarked_regions_of_a_sample_are_neither_right_nor_wrong(has_ignore):
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 2, 5, 6, 7, generator=generator)
    target = torch.rand(2, 2 + has_ignore, 5, 6, 7, generator=generator) < 0.4
    marks, options = make_marks([(1, 0), (0, 1)]), {"regions": True, "ignore_label": 3 if has_ignore else None}
    found = count_matches(logits, target, marked=marks, **options)
    alone = [count_matches(logits[rows], target[rows], **options) for rows in (slice(0, 1), slice(1, 2))]
    assert torch.equal(found, torch.stack([alone[0][:, 0], alone[1][:, 1]], 1))


@pytest.mark.parametrize("regions", [False, True])
def test_counting_with_marks_does_not_wait_for_the_device(regions):
    target = torch.zeros(1, 3 if regions else 1, 4, 4, dtype=torch.bool if regions else torch.int16)
    with RefuseWaiting():
        count_matches(
            torch.randn(1, 2, 4, 4), target, regions=regions, ignore_label=2, marked=torch.ones(1, 2, dtype=torch.bool)
        )

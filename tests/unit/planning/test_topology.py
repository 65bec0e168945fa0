"""Five poolings, always, and patches that fit them."""

from __future__ import annotations

import pytest

from stu_pipeline.planning.topology import (
    choose_strides,
    fit_strides,
    multiply_strides,
    round_patch_up,
    shrink_patch,
)


def test_shallow_strides_are_padded_with_ones() -> None:
    strides = fit_strides([[1, 1, 1], [2, 2, 2], [1, 2, 2]])
    assert strides == ((1, 1, 1), (2, 2, 2), (1, 2, 2), (1, 1, 1), (1, 1, 1), (1, 1, 1))


def test_deep_strides_are_cut_to_five_poolings() -> None:
    strides = fit_strides([[1, 1], *[[2, 2]] * 7])
    assert strides == ((1, 1), *((2, 2),) * 5)


def test_divisor_of_cut_strides_comes_from_what_is_left() -> None:
    assert multiply_strides(fit_strides([[1, 1], *[[2, 2]] * 7])) == (32, 32)


@pytest.mark.parametrize(
    ("spacing", "patch", "expected"),
    [
        ((1.0, 1.0, 1.0), (128, 128, 128), ((1, 1, 1), *((2, 2, 2),) * 5)),
        ((1.0, 1.0, 1.0), (40, 56, 40), ((1, 1, 1), *((2, 2, 2),) * 3, (1, 1, 1), (1, 1, 1))),
        # The slice axis waits until the others are as coarse.
        ((5.0, 1.5, 1.5), (20, 256, 224), ((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2), (1, 2, 2))),
        # A long axis goes on alone, as in the published pre-training plan.
        ((1.5, 1.5, 1.5), (64, 64, 200), ((1, 1, 1), *((2, 2, 2),) * 4, (1, 1, 2))),
        # A lone axis needs twelve voxels.
        ((1.0, 1.0), (8, 7), ((1, 1),) * 6),
        ((1.0, 1.0), (12, 7), ((1, 1), (2, 1), *((1, 1),) * 4)),
    ],
)
def test_strides_follow_spacing_and_size(spacing: tuple, patch: tuple, expected: tuple) -> None:
    assert choose_strides(spacing, patch) == expected


def test_rounding_up_keeps_a_patch_that_fits() -> None:
    strides = fit_strides([[1, 1, 1], *[[2, 2, 2]] * 5])
    assert round_patch_up((128, 96, 33), strides) == (128, 96, 64)


def test_shrinking_takes_the_axis_that_covers_most_of_the_image() -> None:
    smaller, strides = shrink_patch((64, 128, 128), (1.0, 1.0, 1.0), (64, 512, 512), 32)
    assert smaller == (56, 128, 128)
    assert multiply_strides(strides) == (8, 32, 32)


def test_shrinking_does_not_skip_the_size_that_needs_one_pooling_less() -> None:
    smaller, strides = shrink_patch((256, 256), (1.0, 1.0), (300, 256), 64)
    assert smaller == (256, 224)
    assert multiply_strides(strides) == (32, 32)


def test_shrinking_ends_at_the_smallest_edge() -> None:
    patch = (128, 96, 20)
    while (smaller := shrink_patch(patch, (1.0, 1.0, 4.0), (128, 96, 20), 32)) is not None:
        patch, strides = smaller
        assert all(size % step == 0 for size, step in zip(patch, multiply_strides(strides), strict=True))
    assert patch == (32, 32, 20)

"""Strides that differ from those of the weights are told, as they leave no trace in them."""

from __future__ import annotations

from stu_pipeline.transfer.loading.strides import compare_strides

CUBIC = [[1, 1, 1], *[[2, 2, 2]] * 5]
PUBLISHED = ((1, 1, 1), *[(2, 2, 2)] * 4, (1, 1, 2))


def test_equal_strides_are_not_mentioned():
    assert compare_strides(tuple(map(tuple, CUBIC)), CUBIC, name="w") == ()


def test_other_and_unknown_strides_are_told():
    assert (
        "trained with strides 1x1x1 2x2x2 2x2x2 2x2x2 2x2x2 1x1x2, this plan"
        in compare_strides(PUBLISHED, CUBIC, name="w")[0]
    )
    assert compare_strides(None, CUBIC, name="w")[0].startswith("the strides that 'w' was trained with are not known")
    assert compare_strides(PUBLISHED, None, name="w") == ()


def test_between_dimensions_the_common_axes_count():
    flat = [[1, 1], *[[2, 2]] * 5]
    assert compare_strides(tuple(map(tuple, CUBIC)), flat, name="w") == ()
    assert compare_strides(PUBLISHED, flat, name="w") != ()

"""Streams of slabs with different thickness become one."""

import pytest
import torch

from stu_pipeline.inference.merge import merge_slabs
from stu_pipeline.inference.slabs import Slab
from stu_pipeline.inference.window import slide
from stu_pipeline.inference.window_settings import WindowSettings
from tests.unit.inference.window_networks import build_window_network, collect, make_image, slide_all


def _cut(scores, axis, *thicknesses, log=None, name=""):
    """Yield slabs; their memory is overwritten as soon as the next one is asked for."""
    start = 0
    for thickness in thicknesses:
        part = scores.narrow(1 + axis, start, thickness).clone()
        if log is not None:
            log.append((name, start))
        yield Slab(start=start, axis=axis, scores=part)
        part.fill_(float("nan"))
        start += thickness


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_weighted_mean_is_that_of_whole_volumes(axis):
    one, two, three = (torch.randn(2, 12, 12, 12) for _ in range(3))
    streams = [_cut(one, axis, 12), _cut(two, axis, 5, 1, 6), _cut(three, axis, 4, 4, 4)]
    merged = collect(merge_slabs(streams, [1, 2, 5]))
    torch.testing.assert_close(merged, (one + 2 * two + 5 * three) / 8)


def test_whichever_stream_is_behind_is_asked():
    log = []
    scores = torch.zeros(1, 8, 2, 2)
    streams = [
        _cut(scores, 0, 2, 2, 2, 2, log=log, name="thin"),
        _cut(scores, 0, 6, 2, log=log, name="thick"),
    ]
    collect(merge_slabs(streams, [1, 1]))
    assert log == [("thin", 0), ("thick", 0), ("thin", 2), ("thin", 4), ("thin", 6), ("thick", 6)]


def test_one_stream_passes_through():
    scores = torch.randn(2, 6, 3, 3)
    assert torch.equal(collect(merge_slabs([_cut(scores, 0, 4, 2)], [0.3])), scores)


def test_windows_of_two_patches_are_averaged_on_one_grid():
    image = make_image((23, 15, 19))
    small = [build_window_network(seed=0, mirror_axes=(2,))], WindowSettings(patch_voxels=(8, 8, 8), num_outputs=3)
    large = [build_window_network(seed=1)], WindowSettings(patch_voxels=(16, 8, 12), num_outputs=3)
    expected = (slide_all(small[0], image, small[1]) + 3 * slide_all(large[0], image, large[1])) / 4
    streams = [slide(networks, image, settings) for networks, settings in (small, large)]
    torch.testing.assert_close(collect(merge_slabs(streams, [1, 3])), expected)


@pytest.mark.parametrize(
    "second",
    [
        lambda scores: _cut(scores, 0, 4),
        lambda scores: _cut(scores, 1, 6),
        lambda scores: iter([]),
        lambda scores: iter([Slab(start=1, axis=0, scores=scores)]),
    ],
    ids=["ends early", "other axis", "empty", "starts late"],
)
def test_streams_that_do_not_fit_are_refused(second):
    scores = torch.zeros(1, 6, 6, 6)
    with pytest.raises(ValueError, match="same planes"):
        collect(merge_slabs([_cut(scores, 0, 6), second(scores)], [1, 1]))


@pytest.mark.parametrize("weights", [[1.0], [0.0, 0.0], [1.0, -2.0]])
def test_weights_that_do_not_fit_are_refused(weights):
    with pytest.raises(ValueError, match="weights"):
        collect(merge_slabs([iter([]), iter([])], weights))

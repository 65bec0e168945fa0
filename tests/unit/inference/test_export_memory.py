import numpy as np
import pytest
import torch

from stu_pipeline.inference.case_grid import Decision
from stu_pipeline.inference.export_memory import choose_dense_planes, forecast_export_bytes
from stu_pipeline.inference.mask_exporter import MaskExporter
from stu_pipeline.inference.slabs import Slab
from tests.dense_export import make_grid

LABELS, REGIONS = Decision(num_outputs=24), Decision(num_outputs=12, region_values=tuple(range(1, 13)))
NOISE, SMOOTH = "noise", "smooth"


def make_slabs(kind, decision, shape, axis, planes):
    """Make slabs one by one: noise has undecided cells everywhere, the other a few."""
    generator = torch.Generator().manual_seed(0)
    for start in range(0, shape[axis], planes):
        size = list(shape)
        size[axis] = min(planes, shape[axis] - start)
        if kind == NOISE:
            scores = torch.randn((decision.num_outputs, *size), generator=generator)
        else:
            ramp = torch.linspace(-1, 1, size[2]) * torch.linspace(-1, 1, size[1])[:, None]
            scale = torch.linspace(-2, 2, decision.num_outputs)[:, None, None, None]
            scores = (ramp * scale).expand(-1, *size).contiguous()
        yield Slab(start=start, axis=axis, scores=scores)


def measure_peak(grid, decision, axis, slabs):
    """Return the largest sum of bytes that tensors of the exporter hold at a time, the mask included."""
    exporter = MaskExporter(grid, decision, axis=axis, device=torch.device("cpu"))
    slabs = list(slabs)
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        for slab in slabs:
            exporter.add(slab)
    events = [event for event in profile.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    assert peak > 0
    return peak + exporter.finish().nbytes


@pytest.mark.parametrize("decision", [LABELS, REGIONS], ids=["labels", "regions"])
@pytest.mark.parametrize(
    ("kind", "axis", "shapes", "changes"),
    [
        (NOISE, 0, ((6, 30, 26), (13, 70, 60)), {}),
        (NOISE, 2, ((8, 50, 46), (5, 30, 21)), {}),
        (SMOOTH, 2, ((6, 30, 26), (13, 70, 60)), {}),
        (SMOOTH, 0, ((6, 30, 26), (13, 70, 60)), {"order": 3}),
        (SMOOTH, 0, ((6, 30, 26), (6, 30, 26)), {}),
    ],
    ids=["up", "down", "smooth", "cubic", "same"],
)
def test_the_export_stays_within_its_forecast(kind, axis, shapes, changes, decision):
    grid = make_grid(*shapes, margin=((2, 2), (2, 2), (2, 2)), **changes)
    peak = measure_peak(grid, decision, axis, make_slabs(kind, decision, shapes[0], axis, 4))
    assert peak <= forecast_export_bytes(grid, decision, axis, 4)


def test_pruning_needs_a_small_part_of_what_all_channels_need():
    # The case of nnU-Net's users: 105 labels, 512 x 512 x 600; its own export holds 61 GiB of resampled logits.
    grid, decision = make_grid((400, 240, 240), (600, 512, 512)), Decision(num_outputs=105)
    all_channels = 105 * 600 * 512 * 512 * 4
    assert forecast_export_bytes(grid, decision, 0, 32) < all_channels / 150


def test_a_cubic_spline_along_the_walk_axis_is_forecast_with_all_logits():
    changes = {"order": 3, "separate_axis": 0, "separate_order": 0}
    grid = make_grid((300, 300, 300), (300, 400, 400), **changes)
    logits = 24 * 300**3 * 4
    assert forecast_export_bytes(grid, LABELS, 0, 8) < logits / 3
    assert forecast_export_bytes(grid, LABELS, 1, 8) > logits


def test_dense_slabs_are_as_thick_as_their_share_of_memory():
    grid = make_grid((300, 300, 300), (500, 512, 512), order=3)
    assert choose_dense_planes(grid, Decision(num_outputs=2), 0) == 128
    assert choose_dense_planes(grid, Decision(num_outputs=1000), 0) == 1
    assert choose_dense_planes(make_grid((4, 4, 4), (9, 9, 9)), LABELS, 0) == 9


def test_the_mask_counts_twice_with_large_values():
    grid = make_grid((10, 10, 10), (10, 10, 10))
    small, large = (Decision(num_outputs=1, region_values=(value,)) for value in (255, 256))
    assert forecast_export_bytes(grid, large, 0, 4) - forecast_export_bytes(grid, small, 0, 4) == np.prod((10,) * 3)

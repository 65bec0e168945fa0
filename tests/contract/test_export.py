"""The export gives the masks of nnU-Net's, but for voxels whose two best scores are all but equal."""

import numpy as np
import pytest
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg
from scipy.ndimage import gaussian_filter
from torch.nn import functional

from stu_pipeline.inference.case_grid import Decision
from stu_pipeline.inference.mask_exporter import MaskExporter
from stu_pipeline.inference.resampled_slabs import resample_slabs
from stu_pipeline.preparation.target_grid import find_separate_axis
from tests.dense_export import cut_slabs, make_grid
from tests.stock_export import describe_stock_case

LABELS, REGIONS = Decision(num_outputs=4), Decision(num_outputs=3, region_values=(1, 2, 3))
UP, DOWN, MIXED = ((9, 10, 11), (20, 31, 17)), ((20, 21, 24), (9, 12, 10)), ((12, 7, 14), (5, 19, 14))
THIN, FLAT = ((1, 12, 10), (1, 20, 23)), ((6, 1, 10), (17, 4, 23))


def make_logits(grid, decision, seed=0):
    noise = np.random.default_rng(seed).normal(size=(decision.num_outputs, *grid.network_shape))
    return (10 * gaussian_filter(noise, (0, 0.7, 0.7, 0.7))).astype(np.float32)


def export(logits, grid, decision, axis):
    exporter = MaskExporter(grid, decision, axis=axis, device=torch.device("cpu"))
    for slab in cut_slabs(logits, axis, [3, 1, 4]):
        exporter.add(slab)
    return exporter.finish()


def export_with_stock(logits, grid, decision, **changes):
    return convert_predicted_logits_to_segmentation_with_correct_shape(
        logits.copy(), *describe_stock_case(grid, decision, **changes), num_threads_torch=1
    )


def measure_margins(logits, grid, decision):
    """Return how far the decision of every voxel is from another one, as a share of the range of the scores."""
    scores = torch.cat([slab.scores for slab in resample_slabs(cut_slabs(logits, 0, 5), grid, axis=0)], dim=1).numpy()
    if decision.region_values is None:
        second, best = np.sort(scores, axis=0)[-2:]
        margins = best - second
    else:
        margins = np.abs(scores).min(axis=0)
    full = np.full(grid.full_shape, np.inf)
    full[tuple(slice(*limits) for limits in grid.box)] = margins / np.ptp(scores)
    return full.transpose(grid.transpose_backward)


def check(grid, decision, axis, **changes):
    logits = make_logits(grid, decision)
    ours = export(logits, grid, decision, axis)
    stock = export_with_stock(logits, grid, decision, **changes)
    differs = ours != stock
    assert ours.shape == stock.shape and ours.dtype == stock.dtype
    assert len(np.unique(stock)) > 2
    assert differs.mean() <= 0.001
    assert (measure_margins(logits, grid, decision)[differs] < 1e-4).all()


@pytest.mark.parametrize("decision", [LABELS, REGIONS], ids=["labels", "regions"])
@pytest.mark.parametrize("shapes", [UP, DOWN, MIXED, THIN, FLAT], ids=["up", "down", "mixed", "thin", "flat"])
def test_linear_export_is_stocks(shapes, decision):
    grid = make_grid(*shapes, margin=((1, 2), (0, 3), (2, 0)), backward=(2, 0, 1))
    for axis in range(3):
        check(grid, decision, axis)


@pytest.mark.parametrize("separate_axis", [0, 1, 2])
@pytest.mark.parametrize("orders", [(0, 0), (0, 1), (1, 0), (1, 1), (1, 3), (3, 0), (3, 1), (3, 3)])
def test_a_separate_axis_of_any_order_is_stocks(orders, separate_axis):
    order, separate_order = orders
    for shapes, decision in ((UP, LABELS), (DOWN, REGIONS), (MIXED, LABELS)):
        grid = make_grid(
            *shapes,
            margin=((0, 1), (1, 0), (0, 2)),
            backward=(1, 2, 0),
            order=order,
            separate_axis=separate_axis,
            separate_order=separate_order,
        )
        for axis in range(3):
            check(grid, decision, axis)


@pytest.mark.parametrize("decision", [LABELS, REGIONS], ids=["labels", "regions"])
@pytest.mark.parametrize("order", [0, 3])
def test_nearest_and_cubic_splines_are_stocks(order, decision):
    for shapes in (UP, DOWN, MIXED):
        check(make_grid(*shapes, order=order), decision, axis=1)


def test_a_2d_plan_is_stocks():
    image_mm, network_mm = (5.0, 1.0, 1.0), (0.8, 0.7)
    separate_axis = find_separate_axis((image_mm[0], *network_mm), image_mm)
    assert separate_axis == 0
    grid = make_grid((7, 20, 25), (7, 16, 18), margin=((0, 0), (3, 1), (1, 1)), separate_axis=separate_axis)
    for decision in (LABELS, REGIONS):
        check(grid, decision, 0, network_mm=network_mm, image_mm=image_mm)


def test_grids_that_agree_need_no_resampling():
    check(make_grid((9, 10, 11), (9, 10, 11), margin=((1, 1), (0, 0), (2, 2))), LABELS, axis=2)


@pytest.mark.parametrize("shapes", [UP, DOWN, MIXED])
def test_dense_scores_are_those_of_stock_and_of_torch(shapes):
    grid = make_grid(*shapes)
    logits = make_logits(grid, LABELS)
    ours = torch.cat([slab.scores for slab in resample_slabs(cut_slabs(logits, 1, 2), grid, axis=1)], dim=2)
    stock = resample_data_or_seg(logits.copy(), grid.cropped_shape, order=1)
    assert np.allclose(ours, stock, atol=1e-5 * np.ptp(logits))
    torchs = functional.interpolate(torch.from_numpy(logits)[None], grid.cropped_shape, mode="trilinear")[0]
    assert torch.allclose(ours, torchs, atol=1e-5 * float(np.ptp(logits)))

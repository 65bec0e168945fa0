"""Batch first, then patch, never beyond the smallest."""

from __future__ import annotations

import math

import pytest

from stu_pipeline.planning.fit import Demand, fit_configuration, measure_demand
from stu_pipeline.planning.memory import read_memory_model
from stu_pipeline.planning.topology import choose_strides, multiply_strides

MODEL = read_memory_model()


def make_demand(patch: tuple[int, ...] = (128, 128, 128), batch: int = 2, spacing: float = 1.0) -> Demand:
    spacings = (spacing,) * len(patch)
    return Demand(
        configuration="3d_fullres" if len(patch) == 3 else "2d",
        patch=patch,
        batch=batch,
        strides=choose_strides(spacings, patch),
        spacing_mm=spacings,
        median_shape=tuple(2.0 * size for size in patch),
        num_channels=1,
        num_classes=3,
    )


def test_what_fits_keeps_the_recipe() -> None:
    fit = fit_configuration(MODEL, make_demand(), "B", 11.0)
    assert (fit.patch, fit.batch, fit.fits, fit.is_reduced) == ((128, 128, 128), 2, True, False)


def test_batch_is_reduced_before_the_patch() -> None:
    demand = make_demand((64, 64, 64), batch=20)
    fit = fit_configuration(MODEL, demand, "B", 8.0)
    assert fit.patch == demand.patch
    assert 2 < fit.batch < 20
    assert fit.forecast_gib <= 8.0
    larger = measure_demand(MODEL, make_demand((64, 64, 64), batch=fit.batch + 1), "B")
    assert larger.forecast_gib > 8.0


def test_patch_shrinks_only_at_batch_two() -> None:
    fit = fit_configuration(MODEL, make_demand(batch=4), "B", 7.0)
    assert fit.batch == 2
    assert math.prod(fit.patch) < 128**3
    assert fit.forecast_gib <= 7.0
    assert all(size % step == 0 for size, step in zip(fit.patch, multiply_strides(fit.strides), strict=True))


def test_nothing_fits_returns_the_smallest_patch() -> None:
    fit = fit_configuration(MODEL, make_demand(), "H", 8.0)
    assert not fit.fits
    assert fit.patch == (32, 32, 32)
    assert fit.forecast_gib == pytest.approx(18.2, abs=0.1)


def test_flat_patches_end_at_64() -> None:
    fit = fit_configuration(MODEL, make_demand((512, 512), batch=12), "L", 1.0)
    assert (fit.patch, fit.fits) == ((64, 64), False)


def test_a_short_axis_is_not_grown_or_shrunk() -> None:
    demand = make_demand((16, 256, 256))
    assert fit_configuration(MODEL, demand, "L", 8.0).patch[0] == 16

"""How a batch runs is decided before the patch shrinks; the batch itself stays."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from stu_pipeline.networks.cost import count_parameters
from stu_pipeline.networks.scales import SCALES
from stu_pipeline.plan_execution import Execution
from stu_pipeline.planning.explain import describe_execution, explain_fit
from stu_pipeline.planning.fit import Demand, Fit, fit_configuration, measure_demand
from stu_pipeline.planning.memory import count_elements, read_memory_model
from stu_pipeline.planning.topology import choose_strides, multiply_strides

MODEL = read_memory_model()


def make_demand(
    patch: tuple[int, ...] = (128, 128, 128), batch: int = 2, *, spacing: float = 1.0, batch_dice: bool = False
) -> Demand:
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
        batch_dice=batch_dice,
    )


def measure(demand: Demand, scale: str, micro_batch: int, *, checkpointing: bool = False) -> float:
    """Forecast one way to run the batch, without the search."""
    spec = SCALES[scale]
    return MODEL.forecast_gib(
        num_elements=count_elements(
            scale, demand.patch, demand.strides, num_classes=3, activation_checkpointing=checkpointing
        ),
        num_parameters=count_parameters(1, 3, spec.features_per_stage, spec.n_blocks_per_stage),
        patch_voxels=demand.patch,
        batch=micro_batch,
        num_classes=3,
        is_accumulating=micro_batch < demand.batch,
    )


def test_what_fits_keeps_the_recipe() -> None:
    fit = fit_configuration(MODEL, make_demand(), "B", 11.0)
    assert (fit.patch, fit.batch, fit.execution) == ((128, 128, 128), 2, Execution(micro_batch=2))
    assert fit.fits
    assert fit.keeps_recipe
    assert describe_execution(fit) == ""


def test_the_batch_stays_whatever_the_memory() -> None:
    demand = make_demand((64, 64, 64), batch=20)
    for memory_gib in (3.0, 4.0, 6.0, 24.0):
        assert fit_configuration(MODEL, demand, "B", memory_gib).batch == 20


def test_micro_batches_come_before_checkpointing_and_are_equal_parts() -> None:
    demand = make_demand((64, 64, 64), batch=9)
    whole = measure(demand, "B", 9)
    fit = fit_configuration(MODEL, demand, "B", whole - 0.01)
    # 8 and 1 would be two parts as well, and need more memory.
    assert fit.execution == Execution(micro_batch=5)
    assert fit.execution.count_accumulation_steps(9) == 2
    assert fit.patch == demand.patch
    assert fit.forecast_gib <= whole


def test_a_micro_batch_of_one_comes_before_checkpointing() -> None:
    demand = make_demand()
    one = measure(demand, "B", 1)
    assert fit_configuration(MODEL, demand, "B", one).execution == Execution(micro_batch=1)
    fit = fit_configuration(MODEL, demand, "B", one - 0.01)
    assert fit.execution == Execution(micro_batch=1, activation_checkpointing=True)
    assert fit.patch == demand.patch
    assert fit.keeps_recipe


def test_checkpointing_takes_the_largest_micro_batch_that_fits() -> None:
    demand = make_demand(batch=4)
    limit = measure(demand, "H", 2, checkpointing=True)
    assert limit < measure(demand, "H", 1)
    fit = fit_configuration(MODEL, demand, "H", limit)
    assert fit.execution == Execution(micro_batch=2, activation_checkpointing=True)


def test_the_patch_shrinks_only_when_one_sample_with_checkpointing_is_too_much() -> None:
    demand = make_demand(batch=4)
    limit = measure(demand, "B", 1, checkpointing=True)
    assert fit_configuration(MODEL, demand, "B", limit).patch == demand.patch
    fit = fit_configuration(MODEL, demand, "B", limit - 0.01)
    assert math.prod(fit.patch) < 128**3
    assert fit.batch == 4
    assert fit.is_reduced
    assert not fit.keeps_recipe
    assert all(size % step == 0 for size, step in zip(fit.patch, multiply_strides(fit.strides), strict=True))


def test_batch_dice_prefers_the_whole_batch_with_checkpointing() -> None:
    demand = make_demand(batch_dice=True)
    limit = measure(demand, "B", 2, checkpointing=True)
    assert measure(demand, "B", 1) < limit < measure(demand, "B", 2)
    fit = fit_configuration(MODEL, demand, "B", limit)
    expected = Execution(micro_batch=2, activation_checkpointing=True, batch_dice_scope="effective batch")
    assert fit.execution == expected
    assert fit.keeps_recipe


def test_batch_dice_of_a_batch_in_parts_is_kept_and_its_extra_pass_is_said() -> None:
    demand = make_demand(batch_dice=True)
    fit = fit_configuration(MODEL, demand, "B", measure(demand, "B", 1))
    assert fit.execution == Execution(micro_batch=1, batch_dice_scope="effective batch")
    assert fit.keeps_recipe
    line = "batch Dice: over all 2 samples of a step, as nnU-Net; summed in a forward pass of its own, a step takes"
    assert explain_fit(fit, MODEL, scale_reason="because")[-1] == f"{line} about a third longer"


def test_batch_dice_of_a_whole_batch_needs_no_extra_pass() -> None:
    fit = fit_configuration(MODEL, make_demand(batch_dice=True), "B", 80.0)
    assert fit.execution == Execution(micro_batch=2, batch_dice_scope="effective batch")
    lines = explain_fit(fit, MODEL, scale_reason="because")
    assert lines[-1] == "batch Dice: over all 2 samples of a step, as nnU-Net"


@pytest.mark.parametrize("batch_dice", [False, True])
def test_no_plan_splits_batch_dice_whatever_the_memory(batch_dice: bool) -> None:
    expected = "effective batch" if batch_dice else "sample"
    for memory_gib in (2.0, 4.0, 6.0, 8.0, 12.0, 24.0, 80.0):
        fit = fit_configuration(MODEL, make_demand(batch=5, batch_dice=batch_dice), "B", memory_gib)
        assert fit.execution.batch_dice_scope == expected


def test_nothing_fits_returns_the_smallest_patch() -> None:
    fit = fit_configuration(MODEL, make_demand(), "H", 8.0)
    assert not fit.fits
    assert fit.patch == (32, 32, 32)
    assert fit.execution == Execution(micro_batch=1, activation_checkpointing=True)
    # Weights, momentum, gradients and the optimizer's copy of them: 16 bytes for each of 1457 million, and the rest.
    assert fit.forecast_gib == pytest.approx(23.4, abs=0.1)


def test_flat_patches_end_at_64() -> None:
    fit = fit_configuration(MODEL, make_demand((512, 512), batch=12), "L", 1.0)
    assert (fit.patch, fit.fits) == ((64, 64), False)


def test_a_short_axis_is_not_grown_or_shrunk() -> None:
    assert fit_configuration(MODEL, make_demand((16, 256, 256)), "L", 8.0).patch[0] == 16


def test_a_patch_that_another_configuration_decides_does_not_shrink() -> None:
    demand = replace(make_demand(), has_fixed_patch=True)
    fit = fit_configuration(MODEL, demand, "L", 5.0)
    assert (fit.patch, fit.fits) == ((128, 128, 128), False)


@pytest.mark.parametrize("memory_gib", [9.0, 12.0, 13.0, 15.0, 24.0, 40.0])
@pytest.mark.parametrize("scale", ["S", "B", "L", "H"])
def test_every_fit_is_inside_its_memory_and_every_step_is_explained(scale: str, memory_gib: float) -> None:
    fit = fit_configuration(MODEL, make_demand(), scale, memory_gib)
    assert fit.fits == (fit.forecast_gib <= memory_gib)
    lines = explain_fit(fit, MODEL, scale_reason="scale because")
    assert [line.split(":")[0] for line in lines] == [
        "scale because",
        "patch",
        "batch",
        "checkpointing",
        "accumulation",
    ]


def test_the_explanation_names_what_the_alternatives_would_need() -> None:
    fit = fit_configuration(MODEL, make_demand(), "H", 24.0)
    lines = explain_fit(fit, MODEL, scale_reason="scale H was asked for")
    assert "instead of nnU-Net's 128x128x128, which needs" in lines[1]
    assert "even for one sample with checkpointing" in lines[1]
    assert "without it" in lines[3]
    one = fit_configuration(MODEL, make_demand(), "L", measure(make_demand(), "L", 1))
    assert "1 at a time (16.8 GiB; all at once 24.6 GiB)" in explain_fit(one, MODEL, scale_reason="L")[2]


def test_a_demand_is_measured_with_its_whole_batch() -> None:
    whole: Fit = measure_demand(MODEL, make_demand(batch=3), "S")
    assert (whole.execution.micro_batch, whole.fits) == (3, True)

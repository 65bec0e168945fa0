"""Forecast what a configuration will use: GPU memory, RAM, time and disk, with where every number comes from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stu_pipeline.knowledge import read_knowledge
from stu_pipeline.networks.cost import count_multiply_adds
from stu_pipeline.networks.scales import SCALES
from stu_pipeline.planning.config import ConfigurationForecast
from stu_pipeline.planning.fit import Demand, Fit
from stu_pipeline.planning.host_memory import (
    CaseSizes,
    count_tiles,
    forecast_checkpoints_gib,
    forecast_prediction_ram_gib,
    forecast_training_ram_gib,
)
from stu_pipeline.planning.memory import MemoryModel, Provenance, read_memory_model
from stu_pipeline.planning.step_time import TimeModel, read_time_model
from stu_pipeline.preprocessed_size import count_case_voxels, forecast_preprocessed_gib

_VOLUME = 3
# What was published, and how far from it a number still passes as such: a batch of half to twice its voxels.
_PUBLISHED_SCALES = ("S", "B", "L")
_PUBLISHED_VOXELS = 2 * 128**3
_NEAR = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Coefficients:
    """What the forecasts are computed with."""

    memory: MemoryModel
    time: TimeModel
    host: Mapping[str, Any]


def read_coefficients() -> Coefficients:
    """Read the coefficients from `plans/`."""
    return Coefficients(memory=read_memory_model(), time=read_time_model(), host=read_knowledge("host.json"))


def forecast_configuration(
    fit: Fit,
    known: Coefficients,
    *,
    original_median_shape: Sequence[float],
    num_cases: int,
    data_identifier: str,
    decisions: Sequence[str],
) -> ConfigurationForecast:
    """Forecast one configuration.

    Args:
        fit: what it got.
        known: the coefficients.
        original_median_shape: of the images in voxels, (z, y, x) after transposing.
        num_cases: training cases.
        data_identifier: folder of its preprocessed data.
        decisions: how it came to be, a line each.
    """
    demand, work = fit.demand, count_work(fit)
    sizes = _measure_sizes(demand, original_median_shape)
    epoch_s = known.time.forecast_epoch_s(work, batch=fit.batch, execution=fit.execution)
    disk_gib = forecast_preprocessed_gib(
        voxels_per_case=sizes.resampled_voxels, num_channels=sizes.num_channels, num_cases=num_cases
    )
    return ConfigurationForecast(
        name=demand.configuration,
        patch=fit.patch,
        batch=fit.batch,
        spacing_mm=demand.spacing_mm,
        num_parameters=fit.num_parameters,
        execution=fit.execution,
        vram_gib=round(fit.forecast_gib, 2),
        data_identifier=data_identifier,
        disk_gib=round(disk_gib, 3),
        host_ram_gib=round(_forecast_training_ram(fit, known, sizes), 1),
        seconds_per_epoch=_round(epoch_s),
        hours_total=_round(known.time.count_hours(epoch_s)),
        checkpoint_gib=round(forecast_checkpoints_gib(known.host, fit.num_parameters), 2),
        predict_ram_gib=round(forecast_prediction_ram_gib(known.host, sizes), 1),
        predict_seconds=_round(_count_passes(fit, sizes) * known.time.forecast_forward_s(work)),
        device=known.time.device,
        provenance=_list_provenance(fit, known),
        decisions=tuple(decisions),
    )


def _measure_sizes(demand: Demand, original_median_shape: Sequence[float]) -> CaseSizes:
    return CaseSizes(
        original_voxels=float(math.prod(original_median_shape)),
        resampled_voxels=count_case_voxels(demand.median_shape, original_median_shape),
        num_channels=demand.num_channels - demand.num_mask_channels,
        num_mask_channels=demand.num_mask_channels,
        num_outputs=demand.num_classes,
    )


def _forecast_training_ram(fit: Fit, known: Coefficients, sizes: CaseSizes) -> float:
    return forecast_training_ram_gib(
        known.host,
        patch=fit.patch,
        batch=fit.batch,
        num_channels=sizes.num_channels,
        num_mask_channels=sizes.num_mask_channels,
    )


def _count_passes(fit: Fit, sizes: CaseSizes) -> int:
    """Count the forward passes of a prediction: tiles (in every slice, when flat) times mirrorings."""
    shape = fit.demand.median_shape
    num_slices = round(sizes.resampled_voxels / math.prod(shape))
    num_mirrorings: int = 2 ** len(fit.patch)
    return count_tiles(shape, fit.patch) * num_slices * num_mirrorings


def count_work(fit: Fit) -> int:
    """Count the multiply-adds of one forward pass of one sample."""
    spec = SCALES[fit.scale]
    return count_multiply_adds(
        fit.patch,
        fit.strides,
        spec.features_per_stage,
        spec.n_blocks_per_stage,
        input_channels=fit.demand.num_channels,
        num_classes=fit.demand.num_classes,
    )


def apply_measurement(
    forecast: ConfigurationForecast, time: TimeModel, *, peak_gib: float | None, step_s: float, device: str
) -> ConfigurationForecast:
    """Put a measured training step into a forecast; the time of a prediction moves with that of a step.

    Args:
        forecast: of the configuration that was measured.
        time: how many steps an epoch and a training have.
        peak_gib: the step's peak GPU memory; None where the device has none to measure.
        step_s: seconds of one optimizer step on the whole batch.
        device: its name.
    """
    epoch_s = time.extrapolate_epoch_s(step_s, batch=forecast.batch, execution=forecast.execution)
    provenance: dict[str, Provenance] = {
        **forecast.provenance,
        "seconds_per_epoch": "measured",
        "hours_total": "measured",
        **({} if peak_gib is None else {"vram_gib": "measured"}),
    }
    return replace(
        forecast,
        vram_gib=forecast.vram_gib if peak_gib is None else round(peak_gib, 2),
        seconds_per_epoch=_round(epoch_s),
        hours_total=_round(time.count_hours(epoch_s)),
        predict_seconds=_round(forecast.predict_seconds * epoch_s / forecast.seconds_per_epoch),
        device=device,
        provenance=provenance,
    )


def _list_provenance(fit: Fit, known: Coefficients) -> dict[str, Provenance]:
    # Published and measured numbers are of whole steps of 3D networks; what is built on them further is inferred.
    is_covered = len(fit.patch) == _VOLUME and not fit.execution.activation_checkpointing
    is_covered = is_covered and fit.execution.micro_batch == fit.batch
    has_usual_loss = fit.demand.num_classes <= known.memory.reference_classes and fit.demand.num_channels == 1
    memory: Provenance = known.memory.provenance if is_covered and has_usual_loss else "inferred"
    time: Provenance = known.time.provenance if is_covered else "inferred"
    voxels = fit.batch * math.prod(fit.patch) / _PUBLISHED_VOXELS
    if fit.scale not in _PUBLISHED_SCALES or not 1 / _NEAR <= voxels <= _NEAR:
        memory, time = (("inferred" if value == "published" else value) for value in (memory, time))
    host: Provenance = known.host["provenance"]
    return {
        "vram_gib": memory,
        "seconds_per_epoch": time,
        "hours_total": time,
        "host_ram_gib": host,
        "disk_gib": host,
        "checkpoint_gib": host,
        "predict_ram_gib": host,
        "predict_seconds": "inferred",
    }


def _round(value: float) -> float:
    """Keep three digits: more would pretend to know."""
    return float(f"{value:.3g}")

"""Say in one line per decision what a configuration got and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from stu_pipeline.planning.fit import Demand, Fit, fit_configuration, measure_demand
from stu_pipeline.planning.memory import MemoryModel


def explain_fit(
    fit: Fit, model: MemoryModel, *, scale_reason: str, data_reasons: Sequence[str] = ()
) -> tuple[str, ...]:
    """Explain scale, data, patch, batch, checkpointing, accumulation and batch Dice, in the order they were decided.

    Args:
        fit: what the configuration got.
        model: the memory forecast, for what the alternatives would have needed.
        scale_reason: why the scale, a sentence of its own.
        data_reasons: why a spacing or a normalisation that nnU-Net would not plan, a line each.
    """
    lines = [scale_reason, *data_reasons, _explain_patch(fit, model), _explain_batch(fit, model)]
    lines.append(_explain_checkpointing(fit, model))
    lines.append(_explain_accumulation(fit))
    if fit.demand.batch_dice:
        lines.append(_explain_batch_dice(fit))
    return tuple(lines)


def describe_execution(fit: Fit) -> str:
    """Name how a step runs in few words, empty when the whole batch passes at once: 'micro-batch 1, checkpointing'."""
    execution = fit.execution
    parts = []
    if execution.micro_batch < fit.batch:
        parts.append(f"micro-batch {execution.micro_batch}")
    if execution.activation_checkpointing:
        parts.append("checkpointing")
    return ", ".join(parts)


def by(sizes: Sequence[int]) -> str:
    """Write sizes as '128x128x128'."""
    return "x".join(str(size) for size in sizes)


def _explain_patch(fit: Fit, model: MemoryModel) -> str:
    if fit.patch == fit.demand.patch:
        return f"patch: {by(fit.patch)}, {fit.demand.patch_source}"
    least = fit_configuration(model, replace(fit.demand, has_fixed_patch=True), fit.scale, 0.0)
    return (
        f"patch: {by(fit.patch)} instead of {fit.demand.patch_source} {by(fit.demand.patch)}, which needs "
        f"{least.forecast_gib:.1f} GiB even for one sample with checkpointing"
    )


def _explain_batch(fit: Fit, model: MemoryModel) -> str:
    if fit.execution.micro_batch == fit.batch:
        return f"batch: {fit.batch} at once, {fit.forecast_gib:.1f} GiB"
    whole = measure_demand(model, _at_patch(fit), fit.scale)
    return (
        f"batch: {fit.batch} per optimizer step as nnU-Net planned, {fit.execution.micro_batch} at a time "
        f"({fit.forecast_gib:.1f} GiB; all at once {whole.forecast_gib:.1f} GiB)"
    )


def _explain_checkpointing(fit: Fit, model: MemoryModel) -> str:
    if not fit.execution.activation_checkpointing:
        return "checkpointing: off, not needed"
    demand = replace(_at_patch(fit), batch=fit.execution.micro_batch)
    plain = measure_demand(model, demand, fit.scale)
    count = "one sample" if fit.execution.micro_batch == 1 else f"{fit.execution.micro_batch} samples"
    return f"checkpointing: on, {count} without it: {plain.forecast_gib:.1f} GiB; a step takes about a third longer"


def _explain_accumulation(fit: Fit) -> str:
    steps = fit.execution.count_accumulation_steps(fit.batch)
    if steps == 1:
        return "accumulation: none"
    return (
        f"accumulation: {steps} micro-batches per optimizer step; normalisation is per sample, so it is the same step"
    )


def _explain_batch_dice(fit: Fit) -> str:
    line = f"batch Dice: over all {fit.batch} samples of a step, as nnU-Net"
    if not fit.execution.needs_dice_pass(fit.batch):
        return line
    return f"{line}; summed in a forward pass of its own, a step takes about a third longer"


def _at_patch(fit: Fit) -> Demand:
    return replace(fit.demand, patch=fit.patch, strides=fit.strides)

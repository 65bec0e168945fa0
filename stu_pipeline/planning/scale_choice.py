"""Choose the scale and explain it. The rules and their evidence are data: `plans/scale_choice.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stu_pipeline.errors import MemoryLimitError
from stu_pipeline.networks.scales import SCALES, Scale
from stu_pipeline.plan_execution import Execution
from stu_pipeline.planning.explain import by, describe_execution
from stu_pipeline.planning.fit import Demand, Fit, fit_configuration, measure_demand
from stu_pipeline.planning.memory import BYTES_PER_GIB, MemoryModel


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleRow:
    """One line of the explanation: what a scale would get in the main configuration, and why."""

    scale: Scale
    name: str
    patch: tuple[int, ...]
    batch: int
    execution: Execution
    num_parameters: int
    forecast_gib: float
    fits: bool
    is_chosen: bool
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleChoice:
    """The chosen scale, one sentence why, a row per scale, and what else would do."""

    scale: Scale
    reason: str
    rows: tuple[ScaleRow, ...]
    alternatives: tuple[str, ...]


def choose_scale(
    model: MemoryModel,
    demand: Demand,
    *,
    wanted: Scale | None,
    memory_gib: float,
    is_pretrained: bool,
    rules: Mapping[str, Any],
) -> ScaleChoice:
    """Choose a scale for the main configuration.

    Args:
        model: the memory forecast.
        demand: the main configuration as nnU-Net planned it.
        wanted: the scale asked for; None chooses by the rules.
        memory_gib: GPU memory.
        is_pretrained: whether the training will start from pretrained weights.
        rules: the content of `plans/scale_choice.json`.

    Raises:
        MemoryLimitError: the wanted scale, or every scale, needs more memory than there is even with the
            smallest patch; the message says what is needed.
    """
    fits = {letter: fit_configuration(model, demand, letter, memory_gib) for letter in SCALES}
    if wanted is not None:
        scale, reason = wanted, f"scale {wanted} ({SCALES[wanted].name}) was asked for"
        reason += _explain_reduction(fits[wanted])
    else:
        scale, reason = _choose_by_rules(fits, memory_gib, is_pretrained=is_pretrained, rules=rules)
    require_fit(fits[scale], memory_gib, smallest=fits[_smallest(fits)])
    rows = tuple(
        _describe(fits[letter], measure_demand(model, demand, letter), memory_gib, is_chosen=letter == scale)
        for letter in SCALES
    )
    alternatives = _list_alternatives(rows, memory_gib, is_pretrained=is_pretrained, rules=rules)
    return ScaleChoice(scale=scale, reason=reason, rows=rows, alternatives=alternatives)


def require_fit(fit: Fit, memory_gib: float, *, smallest: Fit) -> None:
    """Refuse a configuration that does not fit.

    Raises:
        MemoryLimitError: naming what the scale and the smallest scale need.
    """
    if fit.fits:
        return
    needed = f"{fit.forecast_gib:.1f} GiB for the smallest patch {by(fit.patch)}"
    if smallest.fits:
        hint = f"--scale {smallest.scale}, which fits, or --gpu-memory {fit.forecast_gib + 0.05:.1f} on a larger GPU"
        raise MemoryLimitError(f"scale {fit.scale} needs {needed}, {memory_gib:.1f} GiB are given", hint=hint)
    raise MemoryLimitError(
        f"no scale fits {memory_gib:.1f} GiB: the smallest, {smallest.scale}, needs {smallest.forecast_gib:.1f} GiB "
        f"for the smallest patch {by(smallest.patch)}",
        hint=f"plan for a larger GPU with --gpu-memory {smallest.forecast_gib + 0.05:.1f}; the CPU has no such limit",
    )


def _choose_by_rules(
    fits: Mapping[Scale, Fit], memory_gib: float, *, is_pretrained: bool, rules: Mapping[str, Any]
) -> tuple[Scale, str]:
    start = "pretrained" if is_pretrained else "from_scratch"
    thresholds: Sequence[Mapping[str, Any]] = rules[start]
    passed_over = []
    for rule in thresholds:
        scale: Scale = rule["scale"]
        least_gib = rule["at_least_bytes"] / BYTES_PER_GIB
        if memory_gib < least_gib:
            passed_over.append(f"{scale} is for {least_gib:.1f} GiB and more")
        elif not fits[scale].keeps_recipe:
            passed_over.append(f"{scale} does not fit {memory_gib:.1f} GiB with nnU-Net's patch")
        else:
            return scale, _explain_choice(scale, rules["reasons"][start], passed_over) + _explain_reduction(fits[scale])
    smallest = _smallest(fits)
    return smallest, f"scale {smallest} is the smallest{_explain_reduction(fits[smallest])}"


def _explain_choice(scale: Scale, evidence: str, passed_over: Sequence[str]) -> str:
    if passed_over:
        return f"scale {scale} ({SCALES[scale].name}): {'; '.join(passed_over)}"
    return f"scale {scale} ({SCALES[scale].name}): {evidence}"


def _explain_reduction(fit: Fit) -> str:
    parts = [f"patch {by(fit.patch)} instead of {by(fit.demand.patch)}"] if fit.is_reduced else []
    execution = describe_execution(fit)
    parts += [execution] if execution else []
    return f", with {' and '.join(parts)} to fit the memory" if parts else ""


def _describe(fit: Fit, full: Fit, memory_gib: float, *, is_chosen: bool) -> ScaleRow:
    if not fit.fits:
        why = f"does not fit: {fit.forecast_gib:.1f} GiB even with patch {by(fit.patch)}"
    elif _explain_reduction(fit):
        why = f"fits{_explain_reduction(fit)} ({full.forecast_gib:.1f} GiB in full)".replace(" to fit the memory", "")
    else:
        why = f"fits with nnU-Net's patch and batch, {memory_gib - fit.forecast_gib:.1f} GiB to spare"
    # What does not fit at all is shown with the full recipe, which is what people compare.
    shown = fit if fit.fits else full
    return ScaleRow(
        scale=fit.scale,
        name=SCALES[fit.scale].name,
        patch=shown.patch,
        batch=shown.batch,
        execution=shown.execution,
        num_parameters=shown.num_parameters,
        forecast_gib=round(shown.forecast_gib, 2),
        fits=fit.fits,
        is_chosen=is_chosen,
        why=why,
    )


def _list_alternatives(
    rows: Sequence[ScaleRow], memory_gib: float, *, is_pretrained: bool, rules: Mapping[str, Any]
) -> tuple[str, ...]:
    others = [row.scale for row in rows if row.fits and not row.is_chosen]
    lines = [f"also fits: scale {', '.join(others)} (choose with --scale)"] if others else []
    if not is_pretrained:
        fitting = [row for row in rules["alternatives"] if memory_gib * BYTES_PER_GIB >= row["at_least_bytes"]]
        if fitting:
            lines.append(
                f"without pretrained weights nnU-Net's own {fitting[-1]['name']} is the honest alternative "
                f"(-pl {fitting[-1]['planner']}); {rules['alternative_evidence']}"
            )
    return tuple(lines)


def _smallest(fits: Mapping[Scale, Fit]) -> Scale:
    return min(fits, key=lambda scale: fits[scale].num_parameters)

"""Choose the scale and explain it. The rules and their evidence are data: `plans/scale_choice.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stu_pipeline.errors import MemoryLimitError
from stu_pipeline.networks.scales import SCALES, Scale
from stu_pipeline.plan_execution import Execution
from stu_pipeline.plan_pretrained import PretrainedStart
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
    start: PretrainedStart | None = None,
    rules: Mapping[str, Any],
) -> ScaleChoice:
    """Choose a scale for the main configuration.

    Args:
        model: the memory forecast.
        demand: the main configuration as nnU-Net planned it.
        wanted: the scale asked for, or that of the weights; None chooses by the rules.
        memory_gib: GPU memory.
        start: the pretrained weights that the training will start from.
        rules: the content of `plans/scale_choice.json`.

    Raises:
        MemoryLimitError: the wanted scale, or every scale, needs more memory than there is even with the
            smallest patch; the message says what is needed.
    """
    fits = {letter: fit_configuration(model, demand, letter, memory_gib) for letter in SCALES}
    if wanted is not None:
        why = "was asked for" if start is None else f"is that of the pretrained weights '{start.file}'"
        scale, reason = wanted, f"scale {wanted} ({SCALES[wanted].name}) {why}"
        reason += _explain_reduction(fits[wanted])
    else:
        scale, reason = _choose_by_rules(fits, memory_gib, rules=rules)
    require_fit(fits[scale], memory_gib, smallest=fits[_smallest(fits)], start=start)
    rows = tuple(
        _describe(fits[letter], measure_demand(model, demand, letter), memory_gib, is_chosen=letter == scale)
        for letter in SCALES
    )
    alternatives = _list_alternatives(rows, memory_gib, start=start, rules=rules)
    return ScaleChoice(scale=scale, reason=reason, rows=rows, alternatives=alternatives)


def require_fit(fit: Fit, memory_gib: float, *, smallest: Fit, start: PretrainedStart | None = None) -> None:
    """Refuse a configuration that does not fit.

    Args:
        fit: what the configuration got.
        memory_gib: GPU memory.
        smallest: what it gets with the smallest scale.
        start: the pretrained weights that decide the scale.

    Raises:
        MemoryLimitError: naming what the scale and the smallest scale need.
    """
    if fit.fits:
        return
    which = "for the patch" if fit.demand.has_fixed_patch else "for the smallest patch"
    needed = f"{fit.forecast_gib:.1f} GiB {which} {by(fit.patch)}"
    if smallest.fits:
        fitting = f"--scale {smallest.scale}, which fits"
        other = fitting if start is None else f"weights of scale {smallest.scale}, which fit"
        hint = f"{other}, or --gpu-memory {fit.forecast_gib + 0.05:.1f} on a larger GPU"
        raise MemoryLimitError(f"scale {fit.scale} needs {needed}, {memory_gib:.1f} GiB are given", hint=hint)
    raise MemoryLimitError(
        f"no scale fits {memory_gib:.1f} GiB: the smallest, {smallest.scale}, needs {smallest.forecast_gib:.1f} GiB "
        f"{which} {by(smallest.patch)}",
        hint=f"plan for a larger GPU with --gpu-memory {smallest.forecast_gib + 0.05:.1f}; the CPU has no such limit",
    )


def _choose_by_rules(fits: Mapping[Scale, Fit], memory_gib: float, *, rules: Mapping[str, Any]) -> tuple[Scale, str]:
    thresholds: Sequence[Mapping[str, Any]] = rules["from_scratch"]
    passed_over = []
    for rule in thresholds:
        scale: Scale = rule["scale"]
        least_gib = rule["at_least_bytes"] / BYTES_PER_GIB
        if memory_gib < least_gib:
            passed_over.append(f"{scale} is for {least_gib:.1f} GiB and more")
        elif not fits[scale].keeps_recipe:
            whose = _name_patch(fits[scale])
            passed_over.append(f"{scale} does not fit {memory_gib:.1f} GiB with {whose}")
        else:
            chosen = _explain_choice(scale, rules["reasons"]["from_scratch"], passed_over)
            return scale, chosen + _explain_reduction(fits[scale])
    smallest = _smallest(fits)
    return smallest, f"scale {smallest} is the smallest{_explain_reduction(fits[smallest])}"


def _explain_choice(scale: Scale, evidence: str, passed_over: Sequence[str]) -> str:
    if passed_over:
        return f"scale {scale} ({SCALES[scale].name}): {'; '.join(passed_over)}"
    return f"scale {scale} ({SCALES[scale].name}): {evidence}"


def _name_patch(fit: Fit) -> str:
    """Say whose patch a demand has: "nnU-Net's patch", or 'this patch' when it was fixed."""
    return f"{fit.demand.patch_source} patch" if fit.demand.patch_source == "nnU-Net's" else "this patch"


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
        why = f"fits with {_name_patch(fit)} and batch, {memory_gib - fit.forecast_gib:.1f} GiB to spare"
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
    rows: Sequence[ScaleRow], memory_gib: float, *, start: PretrainedStart | None, rules: Mapping[str, Any]
) -> tuple[str, ...]:
    others = [row.scale for row in rows if row.fits and not row.is_chosen]
    how = "choose with --scale" if start is None else "with weights of that scale"
    lines = [f"also fits: scale {', '.join(others)} ({how})"] if others else []
    if start is not None:
        return (*lines, *_list_usual_start(start, memory_gib, rules))
    fitting = [row for row in rules["alternatives"] if memory_gib * BYTES_PER_GIB >= row["at_least_bytes"]]
    if fitting:
        lines.append(
            f"without pretrained weights nnU-Net's own {fitting[-1]['name']} is the honest alternative "
            f"(-pl {fitting[-1]['planner']}); {rules['alternative_evidence']}"
        )
    return tuple(lines)


def _list_usual_start(start: PretrainedStart, memory_gib: float, rules: Mapping[str, Any]) -> list[str]:
    """Name the scale whose weights are the usual start with this memory, where these are of another."""
    memory_bytes = memory_gib * BYTES_PER_GIB
    usual: Scale = next(rule["scale"] for rule in rules["pretrained"] if memory_bytes >= rule["at_least_bytes"])
    if usual == start.scale:
        return []
    name = SCALES[usual].name
    return [f"weights of scale {usual} ({name}) are the usual start here: {rules['reasons']['pretrained']}"]


def _smallest(fits: Mapping[Scale, Fit]) -> Scale:
    return min(fits, key=lambda scale: fits[scale].num_parameters)

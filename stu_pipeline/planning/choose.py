"""Put the decisions together: draft, scale, fits, identifiers; the result is a plan nobody has written yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from stu_pipeline.errors import UsageError
from stu_pipeline.knowledge import read_knowledge
from stu_pipeline.networks.scales import SCALES
from stu_pipeline.plan_architecture import resolve_configuration
from stu_pipeline.plan_pretrained import PretrainedStart
from stu_pipeline.planfile import DEFAULT_CONFIGURATIONS, require_plan_name
from stu_pipeline.planning.budget import Budget
from stu_pipeline.planning.config import ConfigurationForecast, PlanConfig
from stu_pipeline.planning.data_identifier import choose_data_identifier
from stu_pipeline.planning.document import (
    add_story,
    build_plan,
    fit_cascades,
    keep_custom_configurations,
    replace_forecasts,
)
from stu_pipeline.planning.draft import Draft, PlanInput, make_draft
from stu_pipeline.planning.explain import describe_execution, explain_fit
from stu_pipeline.planning.fit import Demand, Fit, fit_configuration
from stu_pipeline.planning.forecast import (
    Coefficients,
    apply_measurement,
    forecast_configuration,
    read_coefficients,
)
from stu_pipeline.planning.geometry import warn_of_padding
from stu_pipeline.planning.memory import MemoryModel
from stu_pipeline.planning.pretrained import accept_strides, list_warnings
from stu_pipeline.planning.scale_choice import ScaleChoice, choose_scale, require_fit
from stu_pipeline.planning.step_time import read_time_model
from stu_pipeline.planning.writing import read_existing


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A plan ready to be written, and the story behind it."""

    plan_name: str
    raw: dict[str, Any]
    choice: ScaleChoice
    forecasts: tuple[ConfigurationForecast, ...]
    default_configuration: str
    forecast_status: str
    notices: tuple[str, ...]
    start: PretrainedStart | None = None
    """The weights it was made for."""


def propose(given: PlanInput, *, config: PlanConfig, budget: Budget) -> Proposal:
    """Decide everything a plan says. Reads an existing plan and manifests; writes nothing.

    Raises:
        MemoryLimitError: the scale does not fit.
        UsageError: a configuration that was asked for is not planned for images of this size.
        DataError: nnU-Net cannot plan for this dataset.
    """
    draft = make_draft(given, budget)
    known = read_coefficients()
    main = find_default(draft.demands)
    choice = choose_scale(
        known.memory,
        draft.demands[main],
        wanted=budget.scale,
        memory_gib=budget.memory_gib,
        start=budget.start,
        rules=read_knowledge("scale_choice.json"),
    )
    fits = _fit_all(known.memory, draft.demands, choice, budget)
    raw = _assemble(given, draft, fits, plan_name=budget.plan_name or SCALES[choice.scale].plan_name)
    _require_configurations(raw, config)
    num_labels = len(given.dataset_json.foreground_values)
    cascades = fit_cascades(known.memory, draft.plan, fits, num_labels=num_labels, memory_gib=budget.memory_gib)
    planned = {**fits, **cascades}
    forecasts = _forecast_all(planned, known, raw, choice=choice, num_cases=given.num_cases, reasons=draft.reasons)
    start = None if budget.start is None else accept_strides(budget.start, tuple(fits.values()))
    add_story(raw, choice=choice, budget=budget, start=start, forecasts=forecasts, forecast_status=known.memory.status)
    return Proposal(
        plan_name=raw["plans_name"],
        raw=raw,
        choice=choice,
        forecasts=forecasts,
        default_configuration=main,
        forecast_status=known.memory.status,
        notices=(*_list_notices(main, budget, planned), *_list_start_notices(given, config, raw, fits, start)),
        start=start,
    )


def apply_probe(
    proposal: Proposal, configuration: str, *, peak_gib: float | None, step_s: float, device_name: str
) -> Proposal:
    """Put a measured training step into a proposal: its forecast and the plan's own block. Changes no argument.

    Args:
        proposal: the plan before it is written.
        configuration: which one was measured.
        peak_gib: peak GPU memory of a step; None where the device has none to measure.
        step_s: seconds of one optimizer step on the whole batch.
        device_name: what it was measured on.
    """
    time = read_time_model()
    forecasts = tuple(
        apply_measurement(item, time, peak_gib=peak_gib, step_s=step_s, device=device_name)
        if item.name == configuration
        else item
        for item in proposal.forecasts
    )
    return replace(proposal, forecasts=forecasts, raw=replace_forecasts(proposal.raw, forecasts))


def find_default(demands: Mapping[str, Demand]) -> str:
    """Return the configuration people train first: 3d_fullres, or 2d for flat data."""
    return next(name for name in DEFAULT_CONFIGURATIONS if name in demands)


def _assemble(given: PlanInput, draft: Draft, fits: Mapping[str, Fit], *, plan_name: str) -> dict[str, Any]:
    require_plan_name(plan_name)
    existing = read_existing(given.dataset, plan_name)
    identifiers = {
        name: choose_data_identifier(
            given.dataset,
            draft.plan,
            name,
            plan_name=plan_name,
            existing=existing,
            is_default=draft.default_voxels[name],
        )
        for name in fits
    }
    plan = build_plan(draft.plan, fits, plan_name=plan_name, identifiers=identifiers)
    return keep_custom_configurations(plan, existing)


def _require_configurations(plan: Mapping[str, Any], config: PlanConfig) -> None:
    planned = list(plan["configurations"])
    missing = [name for name in config.configurations if name not in planned]
    if missing:
        low = "; low resolution and cascade are planned for large images only" if missing[0].startswith("3d") else ""
        raise UsageError(
            f"no configuration '{missing[0]}' for '{plan['dataset_name']}', planned: {', '.join(planned)}{low}",
            hint=f"--configuration {planned[-1]}",
        )


def _fit_all(model: MemoryModel, demands: Mapping[str, Demand], choice: ScaleChoice, budget: Budget) -> dict[str, Fit]:
    memory_gib = budget.memory_gib
    fits = {name: fit_configuration(model, demand, choice.scale, memory_gib) for name, demand in demands.items()}
    smallest = next(iter(SCALES))
    for name, fit in fits.items():
        if not fit.fits:
            other = fit_configuration(model, demands[name], smallest, memory_gib)
            require_fit(fit, memory_gib, smallest=other, start=budget.start)
    return fits


def _forecast_all(
    fits: Mapping[str, Fit],
    known: Coefficients,
    plan: Mapping[str, Any],
    *,
    choice: ScaleChoice,
    num_cases: int,
    reasons: Mapping[str, Sequence[str]],
) -> tuple[ConfigurationForecast, ...]:
    return tuple(
        forecast_configuration(
            fit,
            known,
            original_median_shape=plan["original_median_shape_after_transp"],
            num_cases=num_cases,
            data_identifier=resolve_configuration(plan["configurations"], name)["data_identifier"],
            decisions=explain_fit(fit, known.memory, scale_reason=choice.reason, data_reasons=reasons.get(name, ())),
        )
        for name, fit in fits.items()
    )


def _list_notices(main: str, budget: Budget, fits: Mapping[str, Fit]) -> list[str]:
    notices = []
    fit = fits[main]
    if budget.source == "default" and (fit.is_reduced or describe_execution(fit)):
        notices.append(
            f"no GPU found, so scale {fit.scale} was made to fit {budget.memory_gib:.1f} GiB; "
            "--gpu-memory plans for the GPU that will train"
        )
    for name, other in fits.items():
        if not other.fits:
            notices.append(
                f"{name} needs {other.forecast_gib:.1f} GiB even with one sample and checkpointing, "
                f"{budget.memory_gib:.1f} GiB are given; its patch is that of 3d_fullres"
            )
    padding = warn_of_padding({name: other.demand for name, other in fits.items()}, budget.geometry)
    return [*notices, padding] if padding else notices


def _list_start_notices(
    given: PlanInput,
    config: PlanConfig,
    plan: Mapping[str, Any],
    fits: Mapping[str, Fit],
    start: PretrainedStart | None,
) -> list[str]:
    if start is None:
        return []
    return list_warnings(
        start,
        plan,
        fits,
        main=find_default({name: fit.demand for name, fit in fits.items()}),
        wanted=config.configurations,
        num_channels=given.dataset_json.num_channels,
    )

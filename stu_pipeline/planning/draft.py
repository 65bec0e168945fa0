"""Draft a plan: nnU-Net's own for the dataset, with the spacing, the normalisation and the patch that are fixed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stu_pipeline.datasets.dataset_json import DatasetJson
from stu_pipeline.plan_architecture import resolve_configuration
from stu_pipeline.planfile import preprocessing_settings
from stu_pipeline.planning.budget import Budget
from stu_pipeline.planning.carried_normalisation import carry_normalisation, explain_normalisation
from stu_pipeline.planning.document import read_demands
from stu_pipeline.planning.fit import Demand
from stu_pipeline.planning.geometry import complete_spacing, explain_geometry, set_patch
from stu_pipeline.workspace import DatasetPaths


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanInput:
    """What a plan is made from: a checked dataset and its fingerprint."""

    dataset: DatasetPaths
    dataset_json: DatasetJson
    fingerprint: Mapping[str, Any]
    num_cases: int
    reader_name: str
    log_path: Path | None = None
    """Where the engine's words go; None drops them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A plan before the scale is chosen and memory is looked at."""

    plan: dict[str, Any]
    """nnU-Net's, with the spacing and the normalisation that are fixed."""
    demands: dict[str, Demand]
    """What each configuration asks for, with the patch that is fixed; those that inherit are left out."""
    default_voxels: dict[str, bool]
    """By configuration: whether it is preprocessed as nnU-Net's default plan would."""
    reasons: dict[str, list[str]]
    """By configuration: what is not nnU-Net's default and why, a line each."""


def make_draft(given: PlanInput, budget: Budget) -> Draft:
    """Draft a plan for a dataset.

    Raises:
        DataError: nnU-Net cannot plan for this dataset.
        UsageError: a fixed spacing or patch is for other axes.
    """
    from stu_pipeline.nnunet.planner import draft_plan

    spacing_mm = complete_spacing(budget.geometry, given.fingerprint)
    stock = draft_plan(
        given.dataset.name,
        given.dataset_json.raw,
        given.fingerprint,
        num_cases=given.num_cases,
        reader_name=given.reader_name,
        spacing_mm=spacing_mm,
        log_path=given.log_path,
    )
    plan = stock if budget.start is None else carry_normalisation(stock, budget.start)
    num_outputs = count_outputs(given.dataset_json)
    planned = read_demands(plan, num_channels=given.dataset_json.num_channels, num_classes=num_outputs)
    demands = set_patch(planned, budget.geometry, plan["transpose_forward"])
    return Draft(
        plan=plan,
        demands=demands,
        default_voxels={
            name: spacing_mm is None and preprocessing_settings(plan, name) == preprocessing_settings(stock, name)
            for name in demands
        },
        reasons={
            name: [
                *_explain_normalisation(stock, plan, name, budget),
                *explain_geometry(demands[name], planned[name], budget.geometry),
            ]
            for name in demands
        },
    )


def count_outputs(dataset_json: DatasetJson) -> int:
    """Count the network's outputs: regions, or labels with background; the ignore label is none."""
    if dataset_json.has_regions:
        return sum(value not in (0, (0,), dataset_json.ignore_label) for value in dataset_json.labels.values())
    return sum(value != dataset_json.ignore_label for value in dataset_json.labels.values())


def _explain_normalisation(stock: Mapping[str, Any], plan: Mapping[str, Any], name: str, budget: Budget) -> list[str]:
    if budget.start is None:
        return []
    before, after = (resolve_configuration(item["configurations"], name) for item in (stock, plan))
    return explain_normalisation(before, after, budget.start)

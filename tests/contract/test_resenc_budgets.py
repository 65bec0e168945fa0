"""The held-out rows of `plans/memory.json` are what nnU-Net's own planners plan for the benchmark's datasets."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.experiment_planners.residual_unets import residual_encoder_unet_planners as residual
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from stu_pipeline.knowledge import read_knowledge
from stu_pipeline.nnunet.environment import engine_environment
from stu_pipeline.workspace import Workspace

PLANNERS = {
    "nnU-Net default": ExperimentPlanner,
    "ResEnc M": residual.nnUNetPlannerResEncM,
    "ResEnc L": residual.nnUNetPlannerResEncL,
    "ResEnc XL": residual.nnUNetPlannerResEncXL,
}
STATISTICS = ("max", "mean", "median", "min", "percentile_00_5", "percentile_99_5", "std")


def write_description(workspace: Workspace, name: str, facts: dict[str, Any]) -> None:
    channels = range(facts["channels"])
    labels = {"background": 0, **{f"label {value}": value for value in range(1, facts["classes"])}}
    dataset_json = {
        "channel_names": {str(channel): "CT" if len(channels) == 1 else "MR" for channel in channels},
        "labels": labels,
        "file_ending": ".nii.gz",
        "numTraining": facts["cases"],
        "dataset": {"case": {"images": ["image"], "label": "label"}},
        "overwrite_image_reader_writer": "SimpleITKIO",
    }
    fingerprint = {
        "foreground_intensity_properties_per_channel": {str(c): dict.fromkeys(STATISTICS, 1.0) for c in channels},
        "median_relative_size_after_cropping": 1.0,
        "shapes_after_crop": [facts["shape"]],
        "spacings": [facts["spacing"]],
    }
    for root in (workspace.raw, workspace.preprocessed):
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name / "dataset.json").write_text(json.dumps(dataset_json))
    (workspace.preprocessed / name / "dataset_fingerprint.json").write_text(json.dumps(fingerprint))


def plan_full_resolution(planner_class: type[ExperimentPlanner], name: str) -> dict[str, Any]:
    class Planner(planner_class):  # type: ignore[valid-type, misc]
        def static_estimate_VRAM_usage(self, *args: Any, **kwargs: Any) -> Any:
            with torch.device("meta"):
                return planner_class.static_estimate_VRAM_usage(*args, **kwargs)

        def save_plans(self, plans: Any) -> None:
            pass

    planner = Planner(name)
    planner.lowres_creation_threshold = 0.0
    return planner.plan_experiment()["configurations"]["3d_fullres"]


def measure_plan(planned: dict[str, Any], facts: dict[str, Any]) -> tuple[int, int]:
    """Return elements per step (batch included) and parameters."""
    architecture = planned["architecture"]
    with torch.device("meta"):
        network = get_network_from_plans(
            architecture["network_class_name"],
            architecture["arch_kwargs"],
            architecture["_kw_requires_import"],
            facts["channels"],
            facts["classes"],
            deep_supervision=False,
        )
    elements = network.compute_conv_feature_map_size(planned["patch_size"]) * planned["batch_size"]
    return int(elements), sum(weight.numel() for weight in network.parameters())


@pytest.mark.slow
def test_held_out_rows_are_the_mean_of_what_nnunet_plans(tmp_path: Path) -> None:
    workspace = Workspace(raw=tmp_path / "raw", preprocessed=tmp_path / "pre", results=tmp_path / "res")
    datasets = read_knowledge("published/benchmark_datasets.json")["datasets"]
    measured: dict[str, list[tuple[int, int]]] = {name: [] for name in PLANNERS}
    for number, (short, facts) in enumerate(datasets.items(), start=1):
        name = f"Dataset{number:03d}_{short}"
        write_description(workspace, name, facts)
        for planner, planner_class in PLANNERS.items():
            with engine_environment(workspace, num_workers=1), contextlib.redirect_stdout(io.StringIO()):
                planned = plan_full_resolution(planner_class, name)
                measured[planner].append(measure_plan(planned, facts))
            if planner_class is ExperimentPlanner:
                assert [int(size) for size in planned["patch_size"]] == facts["default_patch"], short
    for row in read_knowledge("memory.json")["checked_on"]["rows"]:
        elements, parameters = zip(*measured[row["network"]], strict=True)
        assert row["elements_per_step"] == round(sum(elements) / len(elements))
        assert row["parameters"] == round(sum(parameters) / len(parameters))

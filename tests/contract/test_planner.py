"""What planning assumes about nnU-Net, and what nnU-Net makes of our plans."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from batchgenerators.utilities.file_and_folder_operations import load_json
from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.experiment_planning.experiment_planners.network_topology import get_pool_and_conv_props
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from stu_pipeline.datasets.check import check_dataset
from stu_pipeline.datasets.dataset_json import parse_dataset_json
from stu_pipeline.datasets.statistics import ChannelStatistics
from stu_pipeline.errors import DataError, MemoryLimitError, UsageError
from stu_pipeline.log import Progress
from stu_pipeline.networks.stunet import STUNet
from stu_pipeline.nnunet.environment import engine_environment, set_variables
from stu_pipeline.nnunet.output import engine_output
from stu_pipeline.nnunet.planner import draft_plan
from stu_pipeline.planfile import read_plan_file
from stu_pipeline.planning.config import PlanConfig, PlanResult
from stu_pipeline.planning.draft import count_outputs
from stu_pipeline.planning.fingerprint import build_fingerprint
from stu_pipeline.planning.plan import plan
from stu_pipeline.planning.reference import list_reference_cases, plan_reference_case
from stu_pipeline.planning.topology import choose_strides, fit_strides, round_patch_up
from stu_pipeline.workspace import Workspace
from tests.synthetic import write_tiny_dataset

NAME = "Dataset901_Tiny"
NUM_SAMPLES = 100_000


@pytest.fixture(name="workspace", scope="module")
def make_workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A workspace with one tiny dataset; the variables point at it."""
    root = tmp_path_factory.mktemp("workspace")
    workspace = Workspace(raw=root / "raw", preprocessed=root / "preprocessed", results=root / "results")
    write_tiny_dataset(workspace.raw, num_channels=2)
    with engine_environment(workspace):
        yield workspace


@pytest.fixture(name="planned", scope="module")
def plan_once(workspace: Workspace) -> tuple[PlanResult, list[object], dict[str, bytes]]:
    """One planning of scale S: the result, the events, and the files it left."""
    events: list[object] = []
    result = plan(PlanConfig(dataset=NAME, scale="S", gpu_memory_gib=8.0), listen=events.append)
    files = {path.name: path.read_bytes() for path in result.preprocessed_folder.iterdir() if path.is_file()}
    return result, events, files


def read_inputs(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "input.json").read_text())


@pytest.mark.parametrize("folder", list_reference_cases(), ids=lambda folder: folder.name)
def test_reference_plans_are_regenerated_exactly(folder: Path) -> None:
    # After a wanted change: make plans, and read the diff.
    assert plan_reference_case(folder) == json.loads((folder / "plan.json").read_text())


@pytest.mark.parametrize("folder", list_reference_cases(), ids=lambda folder: folder.name)
def test_nnunet_reads_the_plan_and_builds_every_network(folder: Path) -> None:
    given, raw = read_inputs(folder), json.loads((folder / "plan.json").read_text())
    manager = PlansManager(raw)
    labels = manager.get_label_manager(given["dataset_json"])
    assert manager.experiment_planner_class is ExperimentPlanner
    assert manager.image_reader_writer_class.__name__ == given["reader_name"]
    for name in manager.available_configurations:
        configuration = manager.get_configuration(name)
        assert len(configuration.pool_op_kernel_sizes) == 6
        assert configuration.previous_stage_name == ("3d_lowres" if "cascade" in name else None)
        num_channels = determine_num_input_channels(manager, configuration, given["dataset_json"])
        with torch.device("meta"):
            network = get_network_from_plans(
                configuration.network_arch_class_name,
                configuration.network_arch_init_kwargs,
                configuration.network_arch_init_kwargs_req_import,
                num_channels,
                labels.num_segmentation_heads,
                allow_init=False,
                deep_supervision=True,
            )
            assert isinstance(network, STUNet)
            outputs = network(torch.zeros(1, num_channels, *configuration.patch_size))
        assert outputs[0].shape[2:] == tuple(configuration.patch_size)
        forecast = raw["stu"]["forecast"].get(name)
        if forecast:
            assert forecast["num_parameters"] == sum(weight.numel() for weight in network.parameters())
        # One output per deep supervision scale of the trainer: all strides but the last.
        assert len(outputs) == len(configuration.pool_op_kernel_sizes) - 1


@pytest.mark.parametrize("folder", list_reference_cases(), ids=lambda folder: folder.name)
def test_outputs_are_counted_as_nnunet_counts_heads(folder: Path) -> None:
    given, raw = read_inputs(folder), json.loads((folder / "plan.json").read_text())
    heads = PlansManager(raw).get_label_manager(given["dataset_json"]).num_segmentation_heads
    assert count_outputs(parse_dataset_json(given["dataset_json"], folder)) == heads


def test_strides_and_patches_follow_nnunets_rules() -> None:
    generator = random.Random(3)
    for _ in range(2000):
        num_axes = generator.choice([2, 3])
        spacing = [generator.choice([0.5, 0.8, 1.0, 1.5, 3.0, generator.uniform(0.3, 8)]) for _ in range(num_axes)]
        patch = [generator.randint(1, 300) for _ in range(num_axes)]
        _, strides, _, padded, _ = get_pool_and_conv_props(spacing, patch, 4, 999999)
        ours = choose_strides(spacing, patch)
        assert ours == fit_strides(strides), (spacing, patch)
        if len(strides) <= 6:
            assert round_patch_up(patch, ours) == tuple(int(size) for size in padded)


def test_the_fingerprint_is_within_nnunets_own_sampling_error(workspace: Workspace, tmp_path: Path) -> None:
    reports = check_dataset(workspace.raw / NAME, num_workers=0).cases
    ours = build_fingerprint(reports)
    with engine_environment(replace(workspace, preprocessed=tmp_path)), engine_output(None):
        extractor = DatasetFingerprintExtractor(NAME, num_processes=1)
        extractor.num_foreground_voxels_for_intensitystats = NUM_SAMPLES
        extractor.run()
    stock = load_json(str(tmp_path / NAME / "dataset_fingerprint.json"))
    sampled = stock.pop("foreground_intensity_properties_per_channel")
    exact = ours.pop("foreground_intensity_properties_per_channel")
    assert ours == stock
    assert sampled.keys() == exact.keys()
    for channel, values in exact.items():
        assert values.keys() == sampled[channel].keys()
        require_sampling_error(
            values, sampled[channel], [report.statistics.channels[int(channel)] for report in reports]
        )


def require_sampling_error(exact: dict[str, float], sampled: dict[str, float], cases: list[ChannelStatistics]) -> None:
    """Compare with five standard errors of `NUM_SAMPLES` draws; percentiles in rank."""
    error = 5 * exact["std"] / NUM_SAMPLES**0.5
    assert abs(exact["mean"] - sampled["mean"]) < error
    assert abs(exact["std"] - sampled["std"]) < 2 * error
    assert exact["min"] <= sampled["min"] and sampled["max"] <= exact["max"]
    values = np.concatenate([case.values for case in cases])
    shares = np.concatenate([case.shares for case in cases]) / len(cases)
    for name, rank in (("percentile_00_5", 0.005), ("median", 0.5), ("percentile_99_5", 0.995)):
        allowed = 5 * (rank * (1 - rank) / NUM_SAMPLES) ** 0.5
        below, upto = shares[values < sampled[name]].sum(), shares[values <= sampled[name]].sum()
        assert below - allowed <= rank <= upto + allowed, name


def test_the_draft_equals_nnunets_plan(
    workspace: Workspace, planned: tuple[PlanResult, list[object], dict[str, bytes]], tmp_path: Path
) -> None:
    result, _, files = planned
    folder = tmp_path / NAME
    folder.mkdir()
    (folder / "dataset_fingerprint.json").write_bytes(files["dataset_fingerprint.json"])
    with engine_environment(replace(workspace, preprocessed=tmp_path), num_workers=1), engine_output(None):
        ExperimentPlanner(NAME).plan_experiment()
    stock = json.loads((folder / "nnUNetPlans.json").read_text())
    description = json.loads((result.raw_folder / "dataset.json").read_text())
    # A wrong numTraining and 0 augmentation workers, which nnU-Net's planner cannot bear, do not matter.
    with set_variables({"nnUNet_n_proc_DA": "0"}):
        ours = draft_plan(
            NAME,
            {**description, "numTraining": 99999},
            json.loads(files["dataset_fingerprint.json"]),
            num_cases=result.num_cases,
            reader_name="SimpleITKIO",
        )
    assert ours == stock


def test_an_endless_search_for_a_low_resolution_ends() -> None:
    # Two slices of 20000 x 20000 voxels: nnU-Net raises the spacing for ever (nnUNet#2809).
    description = {"channel_names": {"0": "x"}, "labels": {"background": 0, "a": 1}, "file_ending": ".nii.gz"}
    statistics = dict.fromkeys(("max", "mean", "median", "min", "percentile_00_5", "percentile_99_5", "std"), 1.0)
    fingerprint = {
        "foreground_intensity_properties_per_channel": {"0": statistics},
        "median_relative_size_after_cropping": 1.0,
        "shapes_after_crop": [[2, 20000, 20000]],
        "spacings": [[1.0, 1.0, 1.0]],
    }
    draft = draft_plan("Dataset902_Thin", description, fingerprint, num_cases=3, reader_name="SimpleITKIO")
    assert {"2d", "3d_fullres"} <= set(draft["configurations"])


def test_planning_writes_what_later_stages_need(planned: tuple[PlanResult, list[object], dict[str, bytes]]) -> None:
    result, events, files = planned
    assert set(files) >= {
        "stuSPlans.json",
        "stuSPlans.run.json",
        "dataset.json",
        "dataset_fingerprint.json",
        "splits_final.json",
        "plan.log",
    }
    assert files["dataset.json"] == (result.raw_folder / "dataset.json").read_bytes()
    assert (result.action, result.scale, result.default_configuration) == ("written", "S", "3d_fullres")
    assert {event.step for event in events if isinstance(event, Progress)} == {"check and measure"}
    stored = read_plan_file(result.plan_file)
    assert (stored.name, stored.scale, stored.dataset_name) == ("stuSPlans", "S", NAME)


def test_planning_again_changes_nothing(planned: tuple[PlanResult, list[object], dict[str, bytes]]) -> None:
    result, _, files = planned
    events: list[object] = []
    again = plan(PlanConfig(dataset=NAME, scale="S"), listen=events.append)
    assert (again.action, again.gpu_memory_source) == ("unchanged", "plan")
    assert result.plan_file.read_bytes() == files["stuSPlans.json"]
    assert not any(isinstance(event, Progress) and event.step == "fingerprint" for event in events)


def test_a_dry_run_writes_nothing(planned: tuple[PlanResult, list[object], dict[str, bytes]]) -> None:
    result, _, _ = planned
    before = {path: path.read_bytes() for path in result.preprocessed_folder.iterdir() if path.is_file()}
    dry = plan(PlanConfig(dataset=NAME, scale="L", gpu_memory_gib=80.0, dry_run=True))
    assert (dry.action, dry.scale, dry.plan_name) == ("dry run", "L", "stuLPlans")
    assert {path: path.read_bytes() for path in result.preprocessed_folder.iterdir() if path.is_file()} == before


def test_a_named_plan_keeps_its_scale_when_planned_again(
    planned: tuple[PlanResult, list[object], dict[str, bytes]],
) -> None:
    first = plan(PlanConfig(dataset=NAME, scale="B", gpu_memory_gib=24.0, plan_name="mine"))
    again = plan(PlanConfig(dataset=NAME, plan_name="mine"))
    assert (first.action, again.action, again.scale, again.gpu_memory_gib) == ("written", "unchanged", "B", 24.0)


def test_scales_share_their_preprocessed_data(planned: tuple[PlanResult, list[object], dict[str, bytes]]) -> None:
    small = planned[0]
    base = plan(PlanConfig(dataset=NAME, scale="B", gpu_memory_gib=24.0, dry_run=True))
    assert [item.data_identifier for item in small.configurations] == ["nnUNetPlans_2d", "nnUNetPlans_3d_fullres"]
    assert [item.data_identifier for item in base.configurations] == ["nnUNetPlans_2d", "nnUNetPlans_3d_fullres"]


def test_too_little_memory_leaves_no_plan(planned: tuple[PlanResult, list[object], dict[str, bytes]]) -> None:
    with pytest.raises(MemoryLimitError, match="no scale fits") as caught:
        plan(PlanConfig(dataset=NAME, gpu_memory_gib=0.5, plan_name="toosmall"))
    assert caught.value.exit_code == 6
    assert not (planned[0].preprocessed_folder / "toosmall.json").exists()


def test_a_missing_dataset_names_the_known_ones(workspace: Workspace) -> None:
    with pytest.raises(DataError, match="dataset 'Dataset777_Nope' not found") as caught:
        plan(PlanConfig(dataset="Dataset777_Nope"))
    assert NAME in caught.value.hint


def test_a_stock_plan_is_not_overwritten(planned: tuple[PlanResult, list[object], dict[str, bytes]]) -> None:
    path = planned[0].preprocessed_folder / "nnUNetPlans.json"
    path.write_text("{}")
    try:
        with pytest.raises(UsageError, match="was not made by stu"):
            plan(PlanConfig(dataset=NAME, plan_name="nnUNetPlans", force=True))
        assert path.read_text() == "{}"
    finally:
        path.unlink()


def test_a_configuration_that_is_not_planned_is_refused_before_anything_is_written(workspace: Workspace) -> None:
    with pytest.raises(UsageError, match="no configuration '3d_lowres' for 'Dataset901_Tiny', planned: 2d, 3d_fullres"):
        plan(PlanConfig(dataset=NAME, plan_name="unwritten", configurations=("2d", "3d_lowres")))
    assert not (workspace.preprocessed / NAME / "unwritten.json").exists()


def test_the_command_prints_one_document_and_writes_the_plan(
    planned: tuple[PlanResult, list[object], dict[str, bytes]],
) -> None:
    # A process of its own: nnU-Net prints, and its words must not reach stdout.
    command = [sys.executable, "-m", "stu_pipeline", "plan", NAME, "--scale", "S", "--no-preprocess", "--json", "-q"]
    outcome = subprocess.run(command, capture_output=True, text=True, check=True)
    document = json.loads(outcome.stdout)
    assert outcome.stderr == ""
    assert document["plan"]["plan_file"] == str(planned[0].plan_file)
    assert document["next"] == f"stu train {NAME} --scale S --fold 0"


def test_problems_of_the_data_are_all_named(tmp_path: Path) -> None:
    workspace = Workspace(raw=tmp_path / "raw", preprocessed=tmp_path / "pre", results=tmp_path / "res")
    folder = write_tiny_dataset(workspace.raw, name="Broken")
    for case in ("case_000", "case_003"):
        path = folder / "imagesTr" / f"{case}_0000.nii.gz"
        path.write_bytes(path.read_bytes()[:500])
    with engine_environment(workspace), pytest.raises(DataError, match="2 problems") as caught:
        plan(PlanConfig(dataset="Dataset901_Broken"))
    assert [detail.split("'")[1] for detail in caught.value.details] == ["case_000", "case_003"]

"""`stu plan`: flags, what is shown, what comes next. The whole run is in tests/contract/test_planner.py."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from stu_pipeline.cli.console import Console
from stu_pipeline.cli.plan import name_next_command, plan_command, show_plan
from stu_pipeline.cli.plan_options import parse_axes, parse_patch
from stu_pipeline.errors import ModelError, UsageError
from stu_pipeline.plan_execution import Execution
from stu_pipeline.plan_pretrained import PretrainedStart
from stu_pipeline.planning.config import ConfigurationForecast, PlanConfig, PlanResult
from stu_pipeline.planning.scale_choice import ScaleChoice, ScaleRow

FORECASTS = (
    "vram_gib",
    "seconds_per_epoch",
    "hours_total",
    "host_ram_gib",
    "disk_gib",
    "checkpoint_gib",
    "predict_ram_gib",
    "predict_seconds",
)
RESULT = PlanResult(
    dataset="Dataset901_Tiny",
    num_cases=6,
    num_folds=5,
    splits="nnU-Net's default",
    plan_name="stuSPlans",
    plan_file=Path("/data/preprocessed/Dataset901_Tiny/stuSPlans.json"),
    action="written",
    choice=ScaleChoice(
        scale="S",
        reason="scale S is for a test",
        rows=(
            ScaleRow(
                scale="S",
                name="small",
                patch=(40, 56, 40),
                batch=7,
                execution=Execution(micro_batch=4, activation_checkpointing=True),
                num_parameters=14_545_839,
                forecast_gib=2.36,
                fits=True,
                is_chosen=True,
                why="fits well",
            ),
        ),
        alternatives=("also fits: nothing",),
    ),
    gpu_memory_gib=8.0,
    gpu_memory_source="default",
    configurations=(
        ConfigurationForecast(
            name="3d_fullres",
            patch=(40, 56, 40),
            batch=7,
            spacing_mm=(1.0, 0.75, 0.75),
            num_parameters=14_545_839,
            execution=Execution(micro_batch=4, activation_checkpointing=True),
            decisions=("patch: as small as this test",),
            vram_gib=2.36,
            host_ram_gib=9.9,
            seconds_per_epoch=31.7,
            hours_total=8.81,
            data_identifier="nnUNetPlans_3d_fullres",
            disk_gib=0.05,
            checkpoint_gib=0.43,
            predict_ram_gib=3.0,
            predict_seconds=1.5,
            device="some GPU",
            provenance={**dict.fromkeys(FORECASTS, "inferred"), "vram_gib": "published"},
        ),
    ),
    default_configuration="3d_fullres",
    forecast_status="a guess",
    raw_folder=Path("/data/raw/Dataset901_Tiny"),
    preprocessed_folder=Path("/data/preprocessed/Dataset901_Tiny"),
    results_folder=Path("/data/results/Dataset901_Tiny"),
)


def invoke(*arguments: str) -> object:
    app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command("plan")(plan_command)
    return CliRunner().invoke(app, list(arguments))


def test_a_batch_in_parts_whose_dice_takes_a_pass_of_its_own_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    split = replace(RESULT.configurations[0], execution=Execution(micro_batch=4, batch_dice_scope="effective batch"))
    show_plan(Console(), replace(RESULT, configurations=(split,)))
    assert "4 at a time, 2 times, Dice in a pass of its own" in capsys.readouterr().out


def test_the_output_explains_the_choice_and_says_where_files_go(capsys: pytest.CaptureFixture[str]) -> None:
    show_plan(Console(), RESULT)
    text = capsys.readouterr().out
    for expected in (
        "8.0 GiB GPU memory (no GPU found, --gpu-memory changes it)",
        "* S",
        "40x56x40",
        "14.5 M",
        "fits well",
        "chosen: scale S is for a test",
        "also fits: nothing",
        "1 x 0.75 x 0.75",
        "4 at a time, 2 times, checkpointing",
        "patch: as small as this test",
        "times on some GPU",
        "8.81",
        "3d_fullres, published: VRAM GiB; inferred: s/epoch, hours/fold, RAM GiB",
        "forecast of VRAM: a guess",
        "plan (written): /data/preprocessed/Dataset901_Tiny/stuSPlans.json",
        "workspace: /data",
    ):
        assert expected in text


def test_json_has_the_whole_result_and_the_next_command(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(as_json=True)
    show_plan(console, RESULT)
    console.finish({"plan": RESULT}, next_command="stu train 4")
    document = json.loads(capsys.readouterr().out)
    assert document["plan"]["choice"]["rows"][0]["forecast_gib"] == 2.36
    assert document["next"] == "stu train 4"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (PlanConfig(dataset="4"), "stu train 4 --scale S --fold 0"),
        (PlanConfig(dataset="4", plan_name="mine"), "stu train 4 --plan stuSPlans --fold 0"),
        (PlanConfig(dataset="4", dry_run=True), "stu plan 4 --scale S --gpu-memory 8"),
    ],
)
def test_the_next_command_fits_what_was_done(config: PlanConfig, expected: str) -> None:
    assert name_next_command(config, RESULT) == expected


START = PretrainedStart(
    file="small.model",
    identity="a",
    scale="S",
    num_axes=3,
    num_input_channels=1,
    strides=((1, 1, 1), *((2, 2, 2),) * 4, (1, 1, 2)),
    spacing_mm=(1.5, 1.5, 1.5),
    normalization_schemes=("ZScoreNormalization",),
    source="side-car 'small.model.pkl'",
)


def test_weights_and_what_is_known_of_them_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    show_plan(Console(), replace(RESULT, pretrained=START))
    text = capsys.readouterr().out
    assert "weights: small.model, scale S, known from side-car 'small.model.pkl'" in text
    assert "spacing 1.5 x 1.5 x 1.5 mm, patch unknown, strides 2x2x2 2x2x2 2x2x2 2x2x2 1x1x2" in text
    assert "not taken: planned for this dataset" in text
    show_plan(Console(), replace(RESULT, pretrained=replace(START, takes_geometry=True)))
    assert "their spacing, patch and strides are taken" in capsys.readouterr().out


def test_the_next_command_names_the_weights_and_the_plan_made_for_them(tmp_path: Path) -> None:
    weights = tmp_path / "my weights.model"
    weights.touch()
    result = replace(RESULT, plan_name="stuSPretrainedPlans", pretrained=START)
    config = PlanConfig(dataset="4", pretrained=weights, keep_geometry=True, patch_voxels=())
    chosen = f"--plan stuSPretrainedPlans --pretrained '{weights}'"
    assert name_next_command(config, result) == f"stu train 4 {chosen} --fold 0"
    again = name_next_command(replace(config, dry_run=True), result)
    assert again == f"stu plan 4 --gpu-memory 8 --pretrained '{weights}' --patch auto --pretrained-geometry"
    continued = PlanConfig(dataset="4", plan_name="stuSPretrainedPlans")
    assert name_next_command(continued, result) == (
        "stu train 4 --plan stuSPretrainedPlans --pretrained small.model --fold 0"
    )


def test_the_next_command_names_the_union_and_a_dry_run_names_its_sources() -> None:
    config = PlanConfig(union=("101", "117:0"), dataset_name="Both", spacing_mm=(1.5, 1.5, 1.5))
    assert name_next_command(config, RESULT) == "stu train Dataset901_Tiny --scale S --fold 0"
    assert name_next_command(replace(config, dry_run=True), RESULT) == (
        "stu plan 101 117:0 --scale S --gpu-memory 8 --spacing 1.5,1.5,1.5 --dataset-name Both --union"
    )


def test_several_datasets_without_union_are_a_usage_error() -> None:
    outcome = invoke("4", "9")
    assert isinstance(outcome.exception, UsageError)
    assert "2 datasets are given" in str(outcome.exception) and "--union" in outcome.exception.hint


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("4", "--spacing", "1,a,1"), "--spacing must be numbers"),
        (("4", "--spacing", "1"), "spacing must be two or three positive numbers"),
        (("4", "--patch", "64.5,64,64"), "--patch must be whole voxels"),
        (("4", "--patch", "inf,64,64"), "patch must be two or three positive numbers"),
        (("--union",), "no dataset given"),
        (("4", "--union-labels", "x.json"), "are for a union"),
    ],
)
def test_flags_that_make_no_sense_are_usage_errors(arguments: tuple[str, ...], expected: str) -> None:
    outcome = invoke(*arguments)
    assert isinstance(outcome.exception, UsageError)
    assert expected in str(outcome.exception)


def test_axes_are_read_with_commas_and_auto_is_empty() -> None:
    assert parse_axes("1.5, 1.5,1.5", "--spacing") == (1.5, 1.5, 1.5)
    assert (parse_axes("AUTO", "--spacing"), parse_axes(None, "--spacing")) == ((), None)
    assert (parse_patch("128,96,96"), parse_patch("auto"), parse_patch(None)) == ((128, 96, 96), (), None)


def test_missing_weights_are_a_model_error() -> None:
    outcome = invoke("4", "--pretrained", "nowhere.model")
    assert isinstance(outcome.exception, ModelError)
    assert outcome.exception.exit_code == 4


def test_help_shows_examples() -> None:
    outcome = invoke("--help")
    assert outcome.exit_code == 0
    assert "stu plan 4 --scale L --gpu-memory 24 --dry-run" in outcome.stdout
    assert outcome.stdout.count("\n  stu plan ") == 5


def test_an_unknown_scale_is_a_usage_error() -> None:
    outcome = invoke("4", "--scale", "XL")
    assert isinstance(outcome.exception, UsageError)
    assert "unknown scale 'XL'" in str(outcome.exception)


def test_a_name_with_two_underscores_is_a_usage_error() -> None:
    outcome = invoke("4", "--plan", "a__b")
    assert isinstance(outcome.exception, UsageError)

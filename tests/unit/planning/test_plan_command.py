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
from stu_pipeline.errors import UsageError
from stu_pipeline.plan_execution import Execution
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


def test_help_shows_examples() -> None:
    outcome = invoke("--help")
    assert outcome.exit_code == 0
    assert "stu plan 4 --scale L --gpu-memory 24 --dry-run" in outcome.stdout
    assert outcome.stdout.count("\n  stu plan ") == 3


def test_an_unknown_scale_is_a_usage_error() -> None:
    outcome = invoke("4", "--scale", "XL")
    assert isinstance(outcome.exception, UsageError)
    assert "unknown scale 'XL'" in str(outcome.exception)


def test_a_name_with_two_underscores_is_a_usage_error() -> None:
    outcome = invoke("4", "--plan", "a__b")
    assert isinstance(outcome.exception, UsageError)

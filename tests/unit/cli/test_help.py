"""Every command answers `--help`, and the help says what a reader needs."""

from __future__ import annotations

import re

import pytest
import typer.main

from stu_pipeline.cli import run
from stu_pipeline.cli.app import app


def list_commands():
    """Return every command by its name; those of a group are named `weights inspect`."""
    found = {}
    for name, command in typer.main.get_command(app).commands.items():
        inner = getattr(command, "commands", None)
        found |= {name: command} if inner is None else {f"{name} {verb}": item for verb, item in inner.items()}
    return found


COMMANDS = list_commands()
EXPECTED = {
    "plan", "train", "predict", "calibrate", "evaluate", "compare", "study", "doctor", "demo",
    *(f"weights {verb}" for verb in ("inspect", "convert", "export", "install", "rank", "average")),
}  # fmt: skip
SHARED_FLAGS = {"--json", "--verbose", "--quiet", "--debug", "--workers"}
# Single-dash flags only where the field expects them.
SHORT_FLAGS = {"-h", "-v", "-q", "-i", "-o", "-m", "-d", "-r", "-p"}


def list_flags(command):
    return {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}


def test_the_commands_are_there():
    assert set(COMMANDS) == EXPECTED


@pytest.mark.parametrize("name", sorted(EXPECTED))
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_every_command_answers_help(name, flag, capsys):
    assert run([*name.split(), flag]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"Usage: stu {name}") and err == ""


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_every_help_has_two_examples_of_its_command(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    run([*name.split(), "--help"])
    text = capsys.readouterr().out
    examples = re.findall(rf"^\s+(?:Examples: |For example: )?stu {name}\b", text, re.MULTILINE)
    assert len(examples) >= 2


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_every_option_and_argument_has_help(name):
    silent = [parameter.name for parameter in COMMANDS[name].params if not getattr(parameter, "help", None)]
    assert silent == [] and COMMANDS[name].help


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_every_command_takes_the_shared_flags(name):
    assert list_flags(COMMANDS[name]) >= SHARED_FLAGS


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_flags_are_whole_words(name):
    flags = {flag for flag in list_flags(COMMANDS[name]) if flag.startswith("-")}
    assert {flag for flag in flags if not flag.startswith("--")} <= SHORT_FLAGS
    assert [flag for flag in flags if "_" in flag or flag != flag.lower()] == []


def test_the_defaults_of_a_command_are_those_of_its_config():
    from stu_pipeline.evaluation.comparison.config import CompareConfig
    from stu_pipeline.evaluation.config import EvaluateConfig
    from stu_pipeline.planning.config import PlanConfig
    from stu_pipeline.prediction.calibration.config import CalibrateConfig
    from stu_pipeline.prediction.config import PredictConfig
    from stu_pipeline.training.config import TrainConfig

    for name, config in (
        ("plan", PlanConfig),
        ("train", TrainConfig),
        ("predict", PredictConfig),
        ("calibrate", CalibrateConfig),
        ("evaluate", EvaluateConfig),
        ("compare", CompareConfig),
    ):
        fields = config.__dataclass_fields__
        defaults = {parameter.name: parameter.default for parameter in COMMANDS[name].params}
        # Flags whose text is parsed first (`--fold 0,1`), and the number of workers, which scripts and
        # commands choose differently.
        parsed = {"fold", "num_workers"}
        shared = (set(fields) & set(defaults)) - parsed
        assert shared, name
        wrong = {
            key: (defaults[key], fields[key].default)
            for key in shared
            if not is_missing(fields[key].default) and normalise(defaults[key]) != normalise(fields[key].default)
        }
        assert wrong == {}, name


def is_missing(value):
    return type(value).__name__ == "_MISSING_TYPE"


def normalise(value):
    return None if value in (None, (), []) else value

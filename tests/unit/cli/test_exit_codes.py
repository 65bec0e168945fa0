"""What the command line says and returns when something is wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stu_pipeline import errors
from stu_pipeline.cli import BUG_EXIT_CODE, INTERRUPTED_EXIT_CODE, USAGE_EXIT_CODE, app, run
from stu_pipeline.errors import StoppedError, StuError

REPOSITORY = Path(__file__).resolve().parents[3]
KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, StuError)]


@pytest.fixture(autouse=True)
def empty_workspace(tmp_path, monkeypatch):
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "STU_WORKSPACE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def failing_command():
    """Register a command that raises what it is told to, and take it away again."""
    commands = app.app.registered_commands
    count = len(commands)
    to_raise = []

    def command(json: bool = False, debug: bool = False) -> None:
        raise to_raise[0]

    app.app.command("fail")(command)
    yield to_raise
    del commands[count:]


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_class_becomes_its_exit_code_and_one_clear_message(failing_command, kind, capsys):
    failing_command.append(kind("case 'a' is bad", where=Path("data/a.nii.gz"), hint="mend it"))
    assert run(["fail"]) == kind.exit_code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["error: case 'a' is bad", "   in: data/a.nii.gz", " hint: mend it"]


@pytest.mark.parametrize("number", [2, 15])
def test_a_stopped_run_exits_with_its_signal(failing_command, number):
    failing_command.append(StoppedError("stopped", signal_number=number))
    assert run(["fail"]) == 128 + number


def test_json_errors_are_one_document_on_stdout_too(failing_command, capsys):
    failing_command.append(
        errors.DataError("2 cases are bad", where="data", hint="mend them", details=("a: x", "b: y"))
    )
    assert run(["fail", "--json"]) == 3
    out, err = capsys.readouterr()
    assert json.loads(out) == {
        "error": "2 cases are bad",
        "exit_code": 3,
        "where": "data",
        "hint": "mend them",
        "details": ["a: x", "b: y"],
    }
    assert "error: 2 cases are bad" in err


def test_debug_shows_the_traceback_of_a_user_error(failing_command, capsys):
    failing_command.append(errors.DataError("bad"))
    assert run(["fail"]) == 3
    assert "Traceback" not in capsys.readouterr().err
    assert run(["fail", "--debug"]) == 3
    assert "Traceback" in capsys.readouterr().err


def test_a_bug_is_called_a_bug_and_shows_its_traceback(failing_command, capsys):
    failing_command.append(ZeroDivisionError("1 / 0"))
    assert run(["fail"]) == BUG_EXIT_CODE == 1
    err = capsys.readouterr().err
    assert "ZeroDivisionError: 1 / 0" in err and "error: this is a bug in stu" in err


def test_ctrl_c_before_anything_was_saved_exits_130(failing_command, capsys):
    failing_command.append(KeyboardInterrupt())
    assert run(["fail"]) == INTERRUPTED_EXIT_CODE == 130
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["plan"],
        ["plan", "4", "--nonsense"],
        ["plan", "4", "--workers", "-1"],
        ["plan", "4", "--workers", "many"],
        ["plan", "4", "--gpu-memory", "much"],
        ["predict", "-i", "x"],
        ["predict", "-i", "x", "-o", "y"],
        ["predict", "-i", "x", "-o", "y", "-m", "z", "--tta", "some"],
        ["predict", "-i", "x", "-o", "y", "-m", "z", "--model-weights", "a"],
        ["predict", "-i", "x", "-o", "y", "-m", "z", "--folds", "first"],
        ["plan", "4", "--scale", "XL"],
        ["plan", "4", "--gpu-memory", "0"],
        ["train", "4", "--fold", "first"],
        ["train", "4", "--fold", "0,0"],
        ["train", "4", "--epochs", "0"],
        ["train", "4", "--precision", "fp8"],
        ["evaluate", "-r", "a", "-p", "b", "--tolerance", "-1"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_is_a_usage_error_without_traceback(arguments, capsys):
    assert run(arguments) == USAGE_EXIT_CODE == 2
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err and "bug in stu" not in err
    assert "rror: " in err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["plan", "4"], 3, ["dataset '4' not found", "set nnUNet_raw"]),
        (["train", "Dataset004_Gone"], 3, ["dataset 'Dataset004_Gone' not found"]),
        (["train", "./liver"], 2, ["'liver' is not a dataset name", "Dataset701_Liver"]),
        (["predict", "-i", "x", "-o", "y", "-d", "4"], 3, ["dataset '4' not found"]),
        (["predict", "-i", "x", "-o", "y", "-m", "gone"], 4, ["gone"]),
        (["evaluate", "-r", "gone", "-p", "gone"], 3, ["'gone' not found"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_is_not_there_is_named(arguments, code, words, capsys):
    assert run(arguments) == code
    err = capsys.readouterr().err
    assert err.startswith("error: ") and all(word in err for word in words)


def test_no_arguments_show_the_help(capsys):
    assert run([]) in (0, 2)
    out, err = capsys.readouterr()
    assert "Usage: stu" in out + err and "Traceback" not in err


def test_the_version_is_shown(capsys):
    from stu_pipeline import __version__

    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"stu {__version__}\n"


def test_a_file_name_cannot_drive_the_terminal(failing_command, capsys):
    failing_command.append(errors.DataError("'a\x1b[2Jb' is bad", where="x\ny", hint="\x07"))
    run(["fail"])
    err = capsys.readouterr().err
    assert "\x1b" not in err and "\x07" not in err and len(err.splitlines()) == 3


def test_a_reader_that_goes_away_is_not_a_bug_report():
    command = f"{sys.executable} -m stu_pipeline doctor --help | true"
    outcome = subprocess.run(["bash", "-c", command], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert "Traceback" not in outcome.stderr and "bug in stu" not in outcome.stderr


def test_ctrl_c_in_a_real_process_leaves_no_traceback(tmp_path):
    code = (
        "import signal, sys, time, stu_pipeline.cli.app as a, stu_pipeline.cli as c\n"
        # A shell starts what runs in its background with this signal ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def wait() -> None:\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(30)\n"
        "a.app.command('wait')(wait)\n"
        "sys.exit(c.run(['wait']))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.05)
        os.kill(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 130 and "Traceback" not in err

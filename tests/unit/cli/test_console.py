"""The only printer: results on stdout, talk on stderr."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import pytest

from stu_pipeline.cli.console import escape_controls, format_seconds, print_error
from stu_pipeline.errors import DataError
from stu_pipeline.log import LOGGER_NAME, Notice, Progress


@dataclass(frozen=True)
class Result:
    folder: Path
    dice: float


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 s"),
        (0.4, "0 s"),
        (42, "42 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.4, "59 min 59 s"),
        (7800, "2 h 10 min"),
        (86400 * 3 + 4 * 3600, "3 d 4 h"),
    ],
)
def test_durations_are_written_as_people_say_them(seconds, text):
    assert format_seconds(seconds) == text


def test_results_go_to_stdout_and_talk_to_stderr(capfd, make_console):
    console = make_console()
    console.say("talk")
    console.warn("careful")
    console.show("result")
    console.finish(None, next_command="stu train 4")
    out, err = capfd.readouterr()
    assert out == "result\nnext: stu train 4\n"
    assert err == "talk\nwarning: careful\n"


def test_json_is_the_only_thing_on_stdout(capfd, make_console):
    console = make_console(as_json=True)
    console.show("result")
    console.show_table("title", ["a"], [["1"]])
    console.say("talk")
    console.finish(Result(Path("x"), float("nan")), next_command="stu train 4")
    out, err = capfd.readouterr()
    assert json.loads(out) == {"folder": "x", "dice": None, "next": "stu train 4"}
    assert err == "talk\n"


def test_quiet_means_no_talk_but_results(capfd, make_console):
    console = make_console(verbosity=-1)
    console.say("talk")
    console.listen(Progress(step="check", done=1, total=1))
    console.show("result")
    out, err = capfd.readouterr()
    assert (out, err) == ("result\n", "")


@pytest.mark.parametrize(("verbosity", "expected"), [(0, []), (1, ["INFO"]), (2, ["DEBUG", "INFO"])])
def test_verbose_shows_the_log(capfd, make_console, verbosity, expected):
    make_console(verbosity=verbosity)
    logger = logging.getLogger(f"{LOGGER_NAME}.x")
    logger.debug("detail")
    logger.info("fact")
    assert [line.split()[0] for line in capfd.readouterr().err.splitlines()] == expected


def test_progress_is_plain_lines_when_piped_and_ends_with_the_last_item(capfd, make_console):
    console = make_console()
    for done in range(0, 101):
        console.listen(Progress(step="check", done=done, total=100))
    lines = capfd.readouterr().err.splitlines()
    assert lines[-1] == "check: 100 of 100" and len(lines) <= 3
    assert not any("\x1b" in line or "\r" in line for line in lines)


def test_notices_are_talk(capfd, make_console):
    console = make_console()
    console.listen(Notice(text="reused"))
    console.listen(Notice(text="odd", is_warning=True))
    console.listen(object())  # events of others are not our business
    assert capfd.readouterr().err == "reused\nwarning: odd\n"


def test_a_table_shows_every_cell_and_no_markup(capfd, make_console):
    make_console().show_table("Scores", ["label", "Dice"], [["liver [bold]", "0.95"], ["kidney", "0.9"]])
    out = capfd.readouterr().out
    assert all(text in out for text in ("Scores", "label", "Dice", "liver [bold]", "kidney", "0.95"))


def test_a_wide_table_is_not_cut_when_piped(capfd, make_console):
    name = "a_very_long_case_identifier_" * 3
    make_console().show_table("Cases", ["case", "note"], [[name, "fine"]])
    assert name in capfd.readouterr().out


def test_a_title_is_one_line_however_narrow_the_table(capfd, make_console):
    make_console().show_table("Dice of the final validation", ["a"], [["1"]])
    make_console().show_table("Cases", ["case"], [])
    out = capfd.readouterr().out
    assert "Dice of the final validation\n" in out and "Cases\n" in out


def test_an_error_has_its_parts_in_order(capsys):
    print_error(DataError("2 problems", where=Path("data"), hint="mend them", details=("a", "b")))
    assert capsys.readouterr().err.splitlines() == [
        "error: 2 problems",
        "     - a",
        "     - b",
        "   in: data",
        " hint: mend them",
    ]


def test_an_error_shows_only_what_it_has(capsys):
    print_error(DataError("bad"))
    assert capsys.readouterr().err == "error: bad\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a\x1b[31mb", "a\\x1b[31mb"), ("a\nb", "a\\nb"), ("\u202eabc", "\\u202eabc"), ("Leber \u00e4", "Leber \u00e4")],
)
def test_control_characters_are_shown_not_sent(text, expected):
    assert escape_controls(text) == expected

"""What identifies files, and when a stamp may stand for their content."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from pathlib import Path

import pytest

from stu_pipeline.datasets.cases import Case
from stu_pipeline.errors import DataError
from stu_pipeline.prediction.proof.file_marks import (
    FileClock,
    FileMark,
    check_path,
    find_changed_input,
    mark_inputs,
    mark_path,
    read_file_clock,
)

MINUTE_NS = 60 * 10**9


def make_clock(folder: Path, ahead_ns: int = MINUTE_NS) -> FileClock:
    """A clock by which everything in a folder was written a while ago."""
    return FileClock(device=folder.stat().st_dev, now_ns=time.time_ns() + ahead_ns)


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def change_keeping_size_and_time(path: Path, content: bytes) -> None:
    before = path.stat()
    assert len(content) == before.st_size
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_the_mark_of_a_file_is_its_sha256(tmp_path: Path):
    file = write(tmp_path / "a", b"abc")
    assert mark_path(file) == FileMark(hashlib.sha256(b"abc").hexdigest(), None)


def test_a_file_that_was_just_written_gets_no_stamp(tmp_path: Path):
    clock = read_file_clock(tmp_path)
    file = write(tmp_path / "a", b"abc")
    assert clock is not None and mark_path(file, clock).stamp is None
    assert mark_path(file, make_clock(tmp_path, 1 * 10**9)).stamp is None
    assert mark_path(file, make_clock(tmp_path, 3 * 10**9)).stamp is not None
    assert list(tmp_path.iterdir()) == [file]


def test_an_old_time_that_was_set_does_not_make_a_new_file_old(tmp_path: Path):
    file = write(tmp_path / "a", b"abc")
    os.utime(file, (0, 0))
    assert mark_path(file, read_file_clock(tmp_path)).stamp is None


def test_the_clock_of_another_file_system_is_trusted_for_old_files_only(tmp_path: Path):
    file = write(tmp_path / "a", b"abc")
    now_ns, elsewhere = time.time_ns(), file.stat().st_dev + 1
    assert mark_path(file, FileClock(elsewhere, now_ns + 60 * MINUTE_NS)).stamp is None
    assert mark_path(file, FileClock(elsewhere, now_ns + 25 * 60 * MINUTE_NS)).stamp is not None


def test_an_unchanged_stamp_stands_for_the_content(tmp_path: Path):
    file = write(tmp_path / "a", b"abc")
    mark = mark_path(file, make_clock(tmp_path))
    assert check_path(file, FileMark("not read", mark.stamp), make_clock(tmp_path)).sha256 == "not read"
    found = check_path(file, FileMark("not read", mark.stamp), make_clock(tmp_path), is_thorough=True)
    assert found == mark


def test_a_change_that_keeps_size_and_time_is_seen(tmp_path: Path):
    file = write(tmp_path / "a", b"abc")
    mark = mark_path(file, make_clock(tmp_path))
    time.sleep(0.02)  # longer than a tick
    change_keeping_size_and_time(file, b"xyz")
    assert check_path(file, mark, make_clock(tmp_path)).sha256 == hashlib.sha256(b"xyz").hexdigest()


@pytest.mark.parametrize("change", ["add", "remove", "edit", "rename"])
def test_a_folder_is_marked_with_all_that_is_in_it(tmp_path: Path, change: str):
    for name in ("c_0", "c_1", "meta"):
        write(tmp_path / "labels" / name, name.encode())
    path, clock = tmp_path / "labels", make_clock(tmp_path)
    mark = mark_path(path, clock)
    assert mark.stamp is not None and check_path(path, mark, clock, is_thorough=True) == mark
    time.sleep(0.02)
    if change == "add":
        write(tmp_path / "labels" / "c_2", b"")
    elif change == "remove":
        (tmp_path / "labels" / "c_1").unlink()
    elif change == "edit":
        change_keeping_size_and_time(tmp_path / "labels" / "c_1", b"c_X")
    else:
        (tmp_path / "labels" / "c_1").rename(tmp_path / "labels" / "c_3")
    assert check_path(path, mark, clock).sha256 != mark.sha256


def test_a_copy_has_the_same_content_and_another_stamp(tmp_path: Path):
    file = write(tmp_path / "a", b"abc")
    mark = mark_path(file, make_clock(tmp_path))
    file.rename(tmp_path / "b")
    shutil.copy2(tmp_path / "b", file)
    found = check_path(file, mark, make_clock(tmp_path))
    assert found.sha256 == mark.sha256 and found.stamp != mark.stamp


def test_the_channels_of_a_case_are_marked_one_by_one_and_a_series_as_one(tmp_path: Path):
    channels = Case(id="a", image_files=tuple(write(tmp_path / f"a_000{i}", bytes([i])) for i in range(2)))
    assert list(mark_inputs(channels)) == ["a_0000", "a_0001"]
    for index in range(40):
        write(tmp_path / "scan" / f"{index}.dcm", bytes([index]))
    series = Case(id="scan", image_files=(tmp_path / "scan",))
    marks = mark_inputs(series)
    assert list(marks) == ["scan"]
    assert find_changed_input(series, marks, None, is_thorough=False) == (None, marks)
    write(tmp_path / "scan" / "7.dcm", b"x")
    assert find_changed_input(series, marks, None, is_thorough=False)[0] == "scan"


def test_a_stamp_is_added_once_the_file_is_old_enough(tmp_path: Path):
    case = Case(id="a", image_files=(write(tmp_path / "a", b"abc"),))
    marks = mark_inputs(case)
    changed, found = find_changed_input(case, marks, make_clock(tmp_path), is_thorough=False)
    assert changed is None and marks["a"].stamp is None and found["a"].stamp is not None


def test_other_files_than_before_are_a_change(tmp_path: Path):
    first, second = write(tmp_path / "a_0000", b"a"), write(tmp_path / "a_0001", b"b")
    marks = mark_inputs(Case(id="a", image_files=(first, second)))
    case = Case(id="a", image_files=(first,))
    assert find_changed_input(case, marks, None, is_thorough=False) == ("a_0001", marks)


def test_a_file_that_is_missing_is_named(tmp_path: Path):
    with pytest.raises(DataError, match="'gone' cannot be read"):
        mark_inputs(Case(id="a", image_files=(tmp_path / "gone",)))


@pytest.mark.parametrize("value", [None, 3, [], {}, {"sha256": 3}])
def test_what_is_no_mark_is_none(value: object):
    assert FileMark.parse(value) is None


@pytest.mark.parametrize("mark", [FileMark("ab"), FileMark("ab", "1-2")])
def test_marks_survive_being_written(mark: FileMark):
    assert FileMark.parse(mark.describe()) == mark


def test_a_folder_that_cannot_be_written_has_no_clock(tmp_path: Path):
    assert read_file_clock(tmp_path / "gone") is None

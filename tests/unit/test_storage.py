"""Durable files: what is under its final name is complete, whatever happens in between."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import platform
import re
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path

import pytest

from stu_pipeline.errors import DataError, LockedError, StorageError
from stu_pipeline.storage import (
    TEMPORARY_PREFIX,
    append_line,
    copy_file,
    hash_file,
    hold_lock,
    measure_free_gib,
    move_file,
    previous_path,
    read_json,
    remove_leftovers,
    storage_errors,
    write_atomically,
    write_json,
    write_text,
)

REPOSITORY = Path(__file__).resolve().parents[2]


def list_names(folder):
    return sorted(path.name for path in folder.iterdir())


def run_python(code, *arguments, **options):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        **options,
    )


def test_a_file_is_written_with_its_folder(tmp_path):
    write_text(tmp_path / "new" / "folder" / "a.txt", "hello\n")
    assert (tmp_path / "new" / "folder" / "a.txt").read_text() == "hello\n"
    assert list_names(tmp_path / "new" / "folder") == ["a.txt"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "a.txt"
    write_text(target, "old")

    def fail(temporary):
        temporary.write_text("half of the n")
        raise RuntimeError("the library gave up")

    with pytest.raises(RuntimeError, match="gave up"):
        write_atomically(target, fail)
    assert target.read_text() == "old" and list_names(tmp_path) == ["a.txt"]


def test_a_kill_in_the_middle_of_a_write_leaves_the_old_file(tmp_path):
    target = tmp_path / "a.txt"
    write_text(target, "old")
    outcome = run_python(
        """
        import os, signal, sys
        from pathlib import Path
        from stu_pipeline.storage import write_atomically

        def die(temporary):
            temporary.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)

        write_atomically(Path(sys.argv[1]), die)
        """,
        target,
    )
    assert outcome.returncode == -signal.SIGKILL
    assert target.read_text() == "old"
    left = [name for name in list_names(tmp_path) if name != "a.txt"]
    assert len(left) == 1 and left[0].startswith(TEMPORARY_PREFIX)


def test_the_temporary_file_lies_beside_the_target_and_keeps_its_ending(tmp_path):
    seen = []
    write_atomically(tmp_path / "scan.nii.gz", lambda path: seen.append(path) or path.touch(), suffix=".nii.gz")
    assert seen[0].parent == tmp_path and seen[0].name.startswith(TEMPORARY_PREFIX)
    assert seen[0].name.endswith(".nii.gz")


def test_the_file_has_the_mode_that_open_would_give(tmp_path):
    (tmp_path / "plain").open("w").close()
    write_text(tmp_path / "ours", "")
    modes = {name: stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "ours")}
    assert modes["ours"] == modes["plain"]


@pytest.mark.parametrize(
    ("num_kept", "expected"), [(0, ["three"]), (1, ["three", "two"]), (2, ["three", "two", "one"])]
)
def test_as_many_replaced_files_are_kept_as_asked_for(tmp_path, num_kept, expected):
    target = tmp_path / "checkpoint_latest.pth"
    for content in ("zero", "one", "two", "three"):
        write_atomically(target, lambda path, content=content: path.write_text(content) and None, num_kept=num_kept)
    older = [previous_path(target, age) for age in range(1, num_kept + 1)]
    assert [path.read_text() for path in (target, *older)] == expected
    assert len(list_names(tmp_path)) == 1 + num_kept
    assert [path.name for path in older] == ["checkpoint_latest.previous.pth", "checkpoint_latest.previous2.pth"][
        :num_kept
    ]


def test_json_comes_back_and_is_readable_by_people(tmp_path):
    value = {"a": [1, 2.5, None], "name": "K\u00f6ln"}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert "K\u00f6ln" in text and text.endswith("}\n")


def test_json_refuses_numbers_that_json_does_not_have(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}


def test_json_with_a_byte_order_mark_is_read(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + b'{"a": 1}')
    assert read_json(tmp_path / "a.json") == {"a": 1}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'{"a": ', "'a.json' is not valid JSON"),
        (b"\xff\xfe\x00", "'a.json' is not valid JSON"),
        (b"[" * 200_000, "'a.json' is not valid JSON"),
        (None, "'a.json' not found"),
    ],
)
def test_bad_json_is_a_data_error_that_names_the_file(tmp_path, content, problem):
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError, match=problem):
        read_json(tmp_path / "a.json")


def test_a_folder_in_the_place_of_json_is_a_data_error(tmp_path):
    (tmp_path / "a.json").mkdir()
    with pytest.raises(DataError, match=r"'a\.json' cannot be read"):
        read_json(tmp_path / "a.json")


def test_hash_and_copy_agree(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(os.urandom(3 * 2**20 + 7))
    copy_file(source, tmp_path / "deep" / "copy")
    assert hash_file(tmp_path / "deep" / "copy") == hashlib.sha256(source.read_bytes()).hexdigest()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_no_space_is_a_storage_error_that_says_how_much_is_free(tmp_path, number):
    with (
        pytest.raises(StorageError, match=r"no space left to write 'a\.b' \(\d+\.\d\d GiB free\)") as caught,
        storage_errors(tmp_path / "a.b"),
    ):
        raise OSError(number, os.strerror(number))
    assert caught.value.where == tmp_path and "run the same command again" in caught.value.hint


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR])
def test_what_cannot_be_written_is_a_storage_error(tmp_path, number):
    with pytest.raises(StorageError, match=r"cannot write 'a\.b': "), storage_errors(tmp_path / "a.b"):
        raise OSError(number, os.strerror(number))


def test_other_system_errors_are_not_hidden(tmp_path):
    with pytest.raises(FileNotFoundError), storage_errors(tmp_path / "a.b"):
        raise FileNotFoundError(errno.ENOENT, "gone")


def test_a_file_in_the_place_of_a_folder_is_a_storage_error(tmp_path):
    (tmp_path / "results").write_text("not a folder")
    with pytest.raises(StorageError, match="cannot write"):
        write_text(tmp_path / "results" / "deeper" / "a.txt", "x")
    with pytest.raises(StorageError, match="cannot write"):
        write_text(tmp_path / "results" / "a.txt", "x")


def test_a_folder_in_the_place_of_a_file_is_a_storage_error(tmp_path):
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(StorageError, match=r"cannot write 'a\.txt'"):
        write_text(tmp_path / "a.txt", "x")
    assert list_names(tmp_path) == ["a.txt"]


def test_a_name_that_the_disk_does_not_take_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError, match="cannot write"):
        write_text(tmp_path / ("long" * 100) / "a.txt", "x")


def test_a_disk_that_fills_up_leaves_the_old_file_and_nothing_else(tmp_path):
    # A limit on file size is the full disk that needs no rights: write() fails half-way through.
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    outcome = run_python(
        """
        import resource, sys
        from pathlib import Path
        from stu_pipeline.errors import StorageError
        from stu_pipeline.storage import write_bytes

        resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
        try:
            write_bytes(Path(sys.argv[1]), b"x" * 1_000_000)
        except StorageError as error:
            sys.stdout.write(str(error))
            sys.exit(error.exit_code)
        """,
        target,
    )
    assert outcome.returncode == 5 and "no space left to write 'a.bin'" in outcome.stdout
    assert target.read_bytes() == b"old" and list_names(tmp_path) == ["a.bin"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_a_storage_error(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StorageError, match=r"cannot write 'a\.txt': Permission denied"):
            write_text(tmp_path / "a.txt", "x")
    finally:
        tmp_path.chmod(0o700)


def test_free_space_of_a_folder_that_is_not_there_yet_is_its_parents(tmp_path):
    assert measure_free_gib(tmp_path / "not" / "yet") == pytest.approx(measure_free_gib(tmp_path), rel=0.05)


def test_a_lock_is_held_by_one_process_and_names_it(tmp_path):
    path = tmp_path / "folder" / ".lock"
    code = """
        import sys
        from pathlib import Path
        from stu_pipeline.errors import LockedError
        from stu_pipeline.storage import hold_lock

        try:
            with hold_lock(Path(sys.argv[1]), what="fold 0"):
                sys.exit(0)
        except LockedError as error:
            sys.stdout.write(str(error))
            sys.exit(error.exit_code)
        """
    with hold_lock(path, what="fold 0"):
        refused = run_python(code, path)
        # It was only looked at: the holder still stands in it.
        holder = path.read_text()
    assert re.fullmatch(rf"{os.getpid()} on {re.escape(platform.node())} since \d{{4}}-\d\d-\d\d [\d:]+ UTC", holder)
    assert refused.returncode == 7 and refused.stdout == f"fold 0 is in use by process {holder}"
    assert run_python(code, path).returncode == 0


def test_a_lock_is_refused_within_one_process_too(tmp_path):
    with (
        hold_lock(tmp_path / ".lock", what="the plan"),
        pytest.raises(LockedError, match="the plan is in use"),
        hold_lock(tmp_path / ".lock", what="the plan"),
    ):
        pass


def test_a_lock_ends_with_the_block_even_when_it_fails(tmp_path):
    with pytest.raises(RuntimeError), hold_lock(tmp_path / ".lock", what="x"):
        raise RuntimeError
    with hold_lock(tmp_path / ".lock", what="x"):
        pass


def test_a_killed_holder_does_not_block_the_next_run(tmp_path):
    path = tmp_path / ".lock"
    code = """
        import sys, time
        from pathlib import Path
        from stu_pipeline.storage import hold_lock

        with hold_lock(Path(sys.argv[1]), what="x"):
            sys.stdout.write("held")
            sys.stdout.flush()
            time.sleep(60)
        """
    holder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(path)], cwd=REPOSITORY, stdout=subprocess.PIPE
    )
    with holder:
        assert holder.stdout.read(4) == b"held"
        with pytest.raises(LockedError, match=f"process {holder.pid}"), hold_lock(path, what="x"):
            pass
        holder.kill()
        holder.wait(timeout=10)
    deadline = time.monotonic() + 10
    while True:
        try:
            with hold_lock(path, what="x"):
                break
        except LockedError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_lock_leaves_no_file(tmp_path):
    with hold_lock(tmp_path / ".lock", what="x"):
        assert list_names(tmp_path) == [".lock"]
    with pytest.raises(RuntimeError), hold_lock(tmp_path / ".lock", what="x"):
        raise RuntimeError
    assert list_names(tmp_path) == []


def test_a_stale_lock_file_does_not_block(tmp_path):
    for content in ("", "1 on otherhost since 2020-01-01 00:00:00 UTC", "garbage"):
        (tmp_path / ".lock").write_text(content)
        with hold_lock(tmp_path / ".lock", what="x"):
            assert (tmp_path / ".lock").read_text().startswith(f"{os.getpid()} on ")


RACE = """
    import sys, time
    from pathlib import Path
    from stu_pipeline.errors import LockedError
    from stu_pipeline.storage import hold_lock

    folder, turns = Path(sys.argv[1]), 0
    deadline = time.monotonic() + 20
    while turns < 150 and time.monotonic() < deadline:
        try:
            with hold_lock(folder / ".lock", what="x"):
                (folder / "inside").touch(exist_ok=False)
                (folder / "inside").unlink()
                turns += 1
        except LockedError:
            pass
    sys.exit(0 if turns == 150 else 3)
    """


def test_two_processes_are_never_inside_at_once_although_the_file_comes_and_goes(tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(RACE), str(tmp_path)]
    racers = [subprocess.Popen(command, cwd=REPOSITORY) for _ in range(3)]
    assert [racer.wait(timeout=60) for racer in racers] == [0, 0, 0]
    assert list_names(tmp_path) == []


def test_a_line_is_appended(tmp_path):
    append_line(tmp_path / "a.jsonl", "one")
    append_line(tmp_path / "a.jsonl", "two")
    assert (tmp_path / "a.jsonl").read_text() == "one\ntwo\n"


def test_a_line_for_which_there_is_no_folder_is_a_storage_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"cannot write 'a\.jsonl'"):
        append_line(tmp_path / "file" / "a.jsonl", "one")


def test_a_moved_file_replaces_the_old_one(tmp_path):
    (tmp_path / "new").write_text("new")
    (tmp_path / "old").write_text("old")
    move_file(tmp_path / "new", tmp_path / "old")
    assert list_names(tmp_path) == ["old"] and (tmp_path / "old").read_text() == "new"


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="needs a second file system at /dev/shm")
def test_a_file_is_moved_to_another_disk_too(tmp_path):
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        source = Path(other) / "a"
        source.write_text("content")
        if source.stat().st_dev == tmp_path.stat().st_dev:
            pytest.skip("/dev/shm is on the same file system")
        move_file(source, tmp_path / "a")
        assert not source.exists()
    assert (tmp_path / "a").read_text() == "content" and list_names(tmp_path) == ["a"]


def test_leftovers_are_removed_of_one_file_or_of_a_whole_folder(tmp_path):
    for name in ("a.json", "b.json"):
        killed = run_python(
            """
            import os, signal, sys
            from pathlib import Path
            from stu_pipeline.storage import write_atomically

            write_atomically(Path(sys.argv[1]), lambda temporary: os.kill(os.getpid(), signal.SIGKILL))
            """,
            tmp_path / name,
        )
        assert killed.returncode == -signal.SIGKILL
    (tmp_path / "mine.json").touch()
    left = [name for name in list_names(tmp_path) if name.startswith(TEMPORARY_PREFIX)]
    assert len(left) == 2
    remove_leftovers(tmp_path / "a.json")
    assert [name for name in left if "b.json" in name] == [name for name in list_names(tmp_path) if name in left]
    remove_leftovers(tmp_path)
    assert list_names(tmp_path) == ["mine.json"]
    remove_leftovers(tmp_path / "gone" / "a.json")


def test_a_very_long_name_is_written(tmp_path):
    write_text(tmp_path / ("n" * 250 + ".txt"), "x")
    assert len(list_names(tmp_path)) == 1


def test_a_holder_that_has_not_put_its_name_down_yet_is_waited_for(tmp_path):
    path = tmp_path / ".lock"
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        writer = threading.Timer(0.2, lambda: path.write_text("77 on elsewhere"))
        writer.start()
        with pytest.raises(LockedError, match="in use by process 77 on elsewhere"), hold_lock(path, what="x"):
            pass
        writer.join()

"""The journal: lines that are whole or not there, from several processes, however one of them ends."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stu_pipeline.errors import StorageError
from stu_pipeline.prediction.proof.journal import Journal

REPOSITORY = Path(__file__).resolve().parents[3]
WRITER = """
import sys
from pathlib import Path
from stu_pipeline.prediction.proof.journal import Journal
journal = Journal(Path(sys.argv[1]))
for index in range(int(sys.argv[3])):
    journal.append(f"case_{sys.argv[2]}_{index}", {"text": sys.argv[2] * 20_000})
"""


def test_lines_come_back_in_order(tmp_path: Path):
    journal = Journal(tmp_path / "j")
    assert journal.read() == []
    for case, number in (("a", 1), ("b", 2), ("a", 3)):
        journal.append(case, {"number": number})
    assert journal.read() == [("a", {"number": 1}), ("b", {"number": 2}), ("a", {"number": 3})]
    with journal.fold() as announced:
        assert len(announced) == 3
    assert journal.read() == [] and not journal.path.exists()


def test_a_report_that_could_not_be_written_keeps_the_journal(tmp_path: Path):
    journal = Journal(tmp_path / "j")
    journal.append("a", {"number": 1})
    with pytest.raises(StorageError), journal.fold():
        raise StorageError("full")
    assert journal.read() == [("a", {"number": 1})]


def test_what_is_added_while_the_journal_is_folded_is_not_lost(tmp_path: Path):
    journal = Journal(tmp_path / "j")
    journal.append("a", {"number": 1})
    with ThreadPoolExecutor(1) as pool:
        with journal.fold() as announced:
            adding = pool.submit(journal.append, "b", {"number": 2})
            time.sleep(0.1)
            assert not adding.done()
        adding.result(timeout=10)
    assert [case for case, _ in announced] == ["a"]
    assert journal.read() == [("b", {"number": 2})]


@pytest.mark.parametrize("torn", [b'{"b": {"num', b"\xff\xfe", b"[1]", b"null", b"3", b'{"b": 3}', b"[" * 100_000])
def test_a_torn_line_costs_itself_alone(tmp_path: Path, torn: bytes):
    journal = Journal(tmp_path / "j")
    journal.append("a", {"number": 1})
    with journal.path.open("ab") as stream:
        stream.write(torn)
    journal.append("c", {"number": 3})
    assert journal.read() == [("a", {"number": 1}), ("c", {"number": 3})]


def test_no_character_in_a_message_ends_a_line(tmp_path: Path):
    journal = Journal(tmp_path / "j")
    entry = {"error": "a\nb\u2028c\x85d\x1ee \udcff"}
    journal.append("a", entry)
    assert journal.read() == [("a", entry)]


def test_a_full_disk_leaves_the_journal_as_it_was(tmp_path: Path):
    journal = Journal(tmp_path / "j")
    journal.append("a", {"number": 1})
    before = journal.path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 5, limits[1]))
        with pytest.raises(StorageError, match="no space left"):
            journal.append("b", {"number": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert journal.path.read_bytes() == before
    journal.append("b", {"number": 2})
    assert [case for case, _ in journal.read()] == ["a", "b"]


def test_several_processes_write_whole_lines(tmp_path: Path):
    path, num_lines, names = tmp_path / "j", 20, "xyz"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), name, str(num_lines)], cwd=REPOSITORY)
        for name in names
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    for line in path.read_bytes().splitlines():
        json.loads(line)
    found = Journal(path).read()
    assert len(found) == num_lines * len(names)
    assert {case for case, _ in found} == {f"case_{name}_{index}" for name in names for index in range(num_lines)}

"""Manifest and journal: what is written comes back, what is torn or foreign does not count."""

from __future__ import annotations

import json

import pytest

from stu_pipeline.preprocessing.manifest import (
    CommittedCase,
    FileMark,
    Manifest,
    Stamp,
    append_case,
    read_journal,
    read_manifest,
    write_manifest,
)

STAMP = Stamp(settings={"spacing": [1.0, 2.0]}, engine=1, labels={"classes": [[0], [1]], "ignore": None})
OTHER = Stamp(settings={"spacing": [1.0, 3.0]}, engine=1, labels=STAMP.labels)


CURRENT = '{"schema": 2, "settings": {}, "engine": 1, "labels": {}, "cases": %s}'


def make_case(case_id, sha256="ab"):
    files = {f"{case_id}{ending}": FileMark(10, sha256) for ending in (".b2nd", "_seg.b2nd", ".pkl")}
    return CommittedCase(case_id=case_id, source="5:cd", files=files)


def write_journal(path, *case_ids, stamp=STAMP):
    for case_id in case_ids:
        append_case(path, stamp, make_case(case_id))
    return path


def test_a_manifest_comes_back(tmp_path):
    cases = {name: make_case(name) for name in ("a", "b")}
    write_manifest(tmp_path / "m.json", STAMP, cases)
    assert read_manifest(tmp_path / "m.json") == Manifest(stamp=STAMP, cases=cases)


def test_the_order_of_the_cases_does_not_change_the_bytes(tmp_path):
    for name, order in (("one", "abc"), ("two", "cab")):
        write_manifest(tmp_path / name, STAMP, {case_id: make_case(case_id) for case_id in order})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_no_manifest_is_none(tmp_path):
    assert read_manifest(tmp_path / "m.json") is None


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "null",
        '{"schema": 1, "settings": {}, "cases": {"a": {"sha256": "ab"}}}',
        CURRENT % '{"a": {"source": "", "files": {}}}',
        CURRENT % '{"a": {"source": "", "files": {"../b": [1, ""]}}}',
        CURRENT % '["a"]',
    ],
)
def test_a_damaged_or_old_manifest_proves_nothing_but_is_one(tmp_path, content):
    (tmp_path / "m.json").write_text(content)
    assert read_manifest(tmp_path / "m.json") == Manifest(stamp=None, cases={})


def test_a_journal_comes_back_line_by_line(tmp_path):
    journal = write_journal(tmp_path / "m.jsonl", "b", "a")
    assert len(journal.read_text().splitlines()) == 2
    assert read_journal(journal, STAMP) == {"a": make_case("a"), "b": make_case("b")}
    assert read_journal(tmp_path / "gone.jsonl", STAMP) == {}


def test_a_torn_last_line_is_skipped_wherever_it_is_torn(tmp_path):
    journal = write_journal(tmp_path / "m.jsonl", "a", "b")
    content = journal.read_bytes()
    first_line = content.index(b"\n") + 1
    for length in range(first_line, len(content) - 1):
        journal.write_bytes(content[:length])
        assert read_journal(journal, STAMP) == {"a": make_case("a")}


def test_garbage_between_lines_is_skipped(tmp_path):
    journal = write_journal(tmp_path / "m.jsonl", "a")
    journal.write_bytes(b"\x00\xff\n[1]\nnull\n" + journal.read_bytes() + b'{"stamp": 3}\n')
    assert read_journal(journal, STAMP) == {"a": make_case("a")}


def test_the_later_of_two_lines_wins(tmp_path):
    journal = tmp_path / "m.jsonl"
    for sha256 in ("old", "new"):
        append_case(journal, STAMP, make_case("a", sha256))
    assert read_journal(journal, STAMP) == {"a": make_case("a", "new")}


def test_lines_of_other_settings_do_not_count(tmp_path):
    journal = write_journal(tmp_path / "m.jsonl", "a")
    write_journal(journal, "b", stamp=OTHER)
    assert set(read_journal(journal, STAMP)) == {"a"} and set(read_journal(journal, OTHER)) == {"b"}


def test_the_hash_of_a_stamp_depends_on_each_of_its_parts():
    changed = [OTHER, Stamp(settings=STAMP.settings, engine=2, labels=STAMP.labels),
               Stamp(settings=STAMP.settings, engine=1, labels={})]  # fmt: skip
    assert len({stamp.sha256 for stamp in (STAMP, *changed)}) == 4


def test_a_stamp_that_was_written_is_equal_to_the_one_in_memory(tmp_path):
    stamp = Stamp(settings={"a": 0.1 + 0.2, "b": [1.0, 2]}, engine=3, labels={"ignore": 4})
    write_manifest(tmp_path / "m.json", stamp, {})
    assert read_manifest(tmp_path / "m.json").stamp == stamp
    assert json.loads((tmp_path / "m.json").read_text())["settings"] == stamp.settings

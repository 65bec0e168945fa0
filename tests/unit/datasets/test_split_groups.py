"""Groups of cases: by a pattern, by a table, and what is wrong with either."""

from __future__ import annotations

import pytest

from stu_pipeline.datasets.splits.groups import read_groups
from stu_pipeline.errors import DataError, UsageError

CASES = ["anna_1", "anna_2", "ben_1", "cleo_1"]


def write_table(folder, text):
    path = folder / "groups.csv"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_the_first_capture_group_names_the_patient():
    assert list(read_groups(r"^([a-z]+)_(\d)", CASES).values()) == ["anna", "anna", "ben", "cleo"]


def test_without_a_capture_group_the_whole_match_counts():
    assert list(read_groups("[a-z]+", CASES).values()) == ["anna", "anna", "ben", "cleo"]


def test_cases_that_do_not_match_are_listed():
    with pytest.raises(UsageError, match="no group in 2 of 4 cases: ben_1, cleo_1"):
        read_groups("(anna)", CASES)
    # A group that takes no part in the match, or is empty, is no patient.
    with pytest.raises(UsageError, match="no group in 3 of 4 cases: anna_1, anna_2, cleo_1"):
        read_groups("anna|(ben)|(x*)", CASES)


def test_many_cases_that_do_not_match_are_all_in_the_details():
    names = [f"case_{index}" for index in range(40)]
    with pytest.raises(UsageError, match=r"case_7, \.\.\.") as caught:
        read_groups("x", names)
    assert caught.value.details == tuple(names)


def test_a_broken_pattern_is_explained():
    with pytest.raises(UsageError, match="not a regular expression") as caught:
        read_groups("(anna", CASES)
    assert "--group-by" in caught.value.hint


def test_a_table_gives_the_groups_in_the_order_of_the_cases(tmp_path):
    text = '\ufeffgroup,age, case \nP2,7,ben_1\n\nP1,5,anna_2\n"P1",5,anna_1\nP3,,cleo_1\n'
    assert read_groups(write_table(tmp_path, text), CASES) == {
        "anna_1": "P1",
        "anna_2": "P1",
        "ben_1": "P2",
        "cleo_1": "P3",
    }


def test_every_problem_of_a_table_is_listed(tmp_path):
    text = "case,group\nanna_1,P1\nanna_1,P2\nzoe_1,P9\nben_1,\n"
    with pytest.raises(DataError, match="and 3 more") as caught:
        read_groups(write_table(tmp_path, text), CASES)
    assert caught.value.details == (
        "line 3 names case 'anna_1' again",
        "line 4 names case 'zoe_1', which the dataset does not have",
        "line 5 has no group",
        "3 of 4 cases are not in the table: anna_2, ben_1, cleo_1",
    )


@pytest.mark.parametrize("text", ["", "anna_1,P1\n", "case;group\nanna_1;P1\n", "case,group,case\n"])
def test_a_table_without_its_header_is_refused(tmp_path, text):
    with pytest.raises(DataError, match="needs the columns case,group"):
        read_groups(write_table(tmp_path, text), CASES)


def test_a_table_that_is_not_there_or_not_text_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"'nothing\.csv' not found"):
        read_groups(str(tmp_path / "nothing.csv"), CASES)
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(DataError, match=r"'binary\.csv' cannot be read as CSV"):
        read_groups(str(tmp_path / "binary.csv"), CASES)

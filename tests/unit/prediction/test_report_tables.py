"""The report as tables for programs and for people."""

from __future__ import annotations

import csv
import io
from typing import Any

from stu_pipeline.prediction.report.document import build_document, is_ours
from stu_pipeline.prediction.report.tables import CSV_COLUMNS, format_csv, format_page, rank_entries


def make_quality(priority: float, *reasons: str, **expected: float) -> dict[str, Any]:
    labels = [{"name": name, "expected_dice": dice, "reasons": []} for name, dice in expected.items()]
    labels[0]["reasons"] = list(reasons)
    return {"labels": labels, "priority": priority, "is_accepted": True}


DONE = {"status": "done", "seconds": 61.0, "peak_memory_gib": 1.5, "forward_passes": 8, "error": None}
ENTRIES: dict[str, dict[str, Any]] = {
    "b": DONE | {"volumes_ml": {"liver": 1503.26, "spleen": 0.25}, "warnings": ["a", "b"]},
    "a": DONE | {"volumes_ml": {}, "warnings": [], "peak_memory_gib": 0.5},
    "c": {"status": "failed", "seconds": 0.5, "error": "case 'c' is\ndamaged | cut", "volumes_ml": {}, "warnings": []},
}


def make_document(entries=None, wanted=("a", "b", "c", "d")) -> dict[str, Any]:
    recipe = {"models": [{"folder": "m__p__3d", "folds": {"0": "x", "1": "y"}, "checkpoint": "final"}]}
    return build_document(
        recipe=recipe, recipe_sha256="r", entries=entries or ENTRIES, wanted=wanted, versions={"torch": "1"}
    )


def read_rows(document: dict[str, Any]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(format_csv(document))))


def test_sums_count_every_case_once():
    assert make_document()["totals"] == {
        "num_cases": 4, "num_done": 2, "num_failed": 1, "num_open": 1, "num_with_warnings": 1, "seconds": 122.5,
        "peak_memory_gib": 1.5, "forward_passes": 16,
    }  # fmt: skip
    assert make_document({"x": {}}, ())["totals"]["peak_memory_gib"] is None


def test_cases_are_sorted_whatever_their_order():
    turned = dict(reversed(ENTRIES.items()))
    assert list(make_document()["cases"]) == ["a", "b", "c"]
    assert format_csv(make_document(turned)) == format_csv(make_document())
    assert format_page(make_document(turned)) == format_page(make_document())


def test_a_report_is_told_from_other_files():
    assert is_ours(make_document()) and is_ours({"schema": 1, "cases": {}})
    assert not any(map(is_ours, (None, [], {}, {"schema": 3, "cases": {}}, {"schema": 2, "cases": []})))


def test_the_csv_has_a_row_per_case_and_label():
    rows = read_rows(make_document())
    assert format_csv(make_document()).splitlines()[0] == ",".join(CSV_COLUMNS)
    assert [(row["case"], row["label"], row["volume_ml"]) for row in rows] == [
        ("a", "", ""), ("b", "liver", "1503.26"), ("b", "spleen", "0.25"), ("c", "", ""),
    ]  # fmt: skip
    assert rows[1]["warnings"] == "a; b" and rows[3]["error"] == ENTRIES["c"]["error"]


def test_a_label_cannot_be_a_formula_of_a_spreadsheet():
    entry = DONE | {"volumes_ml": {"=cmd()": 1.0}, "warnings": []}
    assert read_rows(make_document({"a": entry}))[0]["label"] == "'=cmd()"


def test_the_expected_dice_stands_beside_its_label():
    entry = ENTRIES["b"] | {"quality": make_quality(0.1, liver=0.9312)}
    rows = read_rows(make_document({"b": entry}))
    assert [row["expected_dice"] for row in rows] == ["0.9312", ""]


def test_the_page_starts_with_what_failed_and_breaks_no_row():
    lines = format_page(make_document()).splitlines()
    assert lines[2] == "2 of 4 cases done, 1 failed, 1 open, 1 with warnings, 2 min 02 s in all, peak 1.50 GiB."
    assert lines[4] == "- model: m__p__3d, folds 0, 1 (final)"
    table = lines[6:]
    assert table[0] == "| case | status | time | volume in ml (largest 4) | look at |"
    assert table[2] == "| c | failed | 0.5 s | - | case 'c' is damaged \\| cut |"
    assert table[3] == "| b | done | 1 min 01 s | liver 1503, spleen 0.25 | a; b |"
    assert table[4] == "| a | done | 1 min 01 s | - | - |"
    assert len(table) == 5


def test_cases_to_look_at_first_come_first():
    entries = {
        "usual": DONE | {"quality": make_quality(0.01, liver=0.95)},
        "doubtful": DONE | {"quality": make_quality(0.3, liver=0.7)},
        "odd": DONE | {"quality": make_quality(0.0, "larger than all others", liver=0.9)},
        "warned": DONE | {"warnings": ["the mask is empty"]},
        "failed": {"status": "failed"},
        "bare": {},
    }
    assert rank_entries(entries) == ["failed", "odd", "warned", "doubtful", "usual", "bare"]
    page = format_page(make_document(entries))
    assert "| expected Dice |" in page and "| liver: larger than all others |" in page
    assert "0.950" in page


def test_the_largest_labels_are_named_and_the_lowest_expected_dice():
    entry = DONE | {
        "volumes_ml": {f"l{index}": float(index) for index in range(7)},
        "quality": make_quality(0.0, l1=0.9, l2=0.8),
        "warnings": [],
    }
    page = format_page(make_document({"a": entry}))
    assert "l6 6, l5 5, l4 4, l3 3 and 3 more" in page and "0.850 (lowest: l2 0.800)" in page


def test_entries_of_schema_1_and_broken_ones_are_shown_as_far_as_they_go():
    entries = {"a": {"status": "done", "volumes_ml": None, "warnings": None, "quality": {"labels": 3}, "seconds": "x"}}
    document = make_document(entries)
    assert read_rows(document)[0]["case"] == "a"
    assert "| a | done | - | - | - | - |" in format_page(document)


def test_a_case_that_is_not_accepted_says_so_and_comes_before_those_that_are():
    quality = {"priority": 0.0, "labels": []}
    cases = {
        "a": {"status": "done", "quality": {**quality, "is_accepted": True}},
        "b": {"status": "done", "quality": {**quality, "is_accepted": False}},
    }
    assert rank_entries(cases) == ["b", "a"]
    document = make_document(cases)
    rows = [line for line in format_page(document).splitlines() if line.startswith(("| a ", "| b "))]
    assert ["not accepted" in row for row in rows] == [True, False]
    assert [row.split(",")[5] for row in format_csv(document).splitlines()[1:]] == ["yes", "no"]

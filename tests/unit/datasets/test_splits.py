"""Splits: the default one, few cases, and the file."""

from __future__ import annotations

import pytest

from stu_pipeline.datasets.splits.files import make_splits, read_fold, read_splits, write_splits
from stu_pipeline.errors import DataError, StorageError

NAMES = [f"case_{index:02d}" for index in range(12)]


def test_every_case_validates_exactly_once():
    splits = make_splits(NAMES)
    assert len(splits) == 5
    assert sorted(name for split in splits for name in split["val"]) == NAMES
    assert all(sorted(split["train"] + split["val"]) == NAMES for split in splits)


def test_the_order_of_the_cases_does_not_matter():
    assert make_splits(NAMES[::-1]) == make_splits(NAMES)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_few_cases_leave_one_out_each(count):
    splits = make_splits(NAMES[:count])
    assert len(splits) == count and all(len(split["val"]) == 1 for split in splits)


def test_one_case_trains_and_validates(tmp_path):
    splits = make_splits(["only"])
    assert splits == [{"train": ["only"], "val": ["only"]}]
    write_splits(tmp_path / "splits.json", splits)
    assert read_fold(tmp_path / "splits.json", 0) == splits[0]


def test_no_cases_and_double_cases_are_refused():
    with pytest.raises(DataError, match="no cases"):
        make_splits([])
    with pytest.raises(DataError, match="'b' is listed twice"):
        make_splits(["a", "b", "b"])


def test_a_file_is_replaced_on_request_only_and_the_old_one_stays_beside_it(tmp_path):
    path = tmp_path / "sub" / "splits_final.json"
    splits = make_splits(NAMES)
    write_splits(path, splits)
    assert splits == read_splits(path)
    before = path.read_bytes()
    write_splits(path, splits)
    with pytest.raises(StorageError, match="never replaced"):
        write_splits(path, splits[:-1])
    assert path.read_bytes() == before
    write_splits(path, splits[:-1], replace=True)
    assert read_splits(path) == splits[:-1]
    assert path.with_name("splits_final.previous.json").read_bytes() == before


def test_a_fold_is_read_by_number_or_all(tmp_path):
    path = tmp_path / "splits_final.json"
    splits = make_splits(NAMES)
    write_splits(path, splits)
    assert read_fold(path, 3) == splits[3]
    assert read_fold(path, "all") == {"train": NAMES, "val": NAMES}
    for fold in (5, -1, "x"):
        with pytest.raises(DataError, match=f"fold '{fold}' is not in .*found 0 to 4"):
            read_fold(path, fold)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"train": ["a"]', "not valid JSON"),
        ("{}", "list of folds"),
        ("[]", "list of folds"),
        ('[{"train": ["a"], "val": []}]', "fold 0 of"),
        ('[{"train": ["a"], "val": [1]}]', "fold 0 of"),
        ("[5]", "fold 0 of"),
        ('[{"train": ["a", "b"], "val": ["b"]}]', "1 cases in both parts: b"),
    ],
)
def test_broken_files_are_named(tmp_path, text, message):
    path = tmp_path / "splits_final.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_splits(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="not found"):
        read_splits(tmp_path / "splits_final.json")

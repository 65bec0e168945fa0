"""Choosing folds: the default, their number, groups that stay together, labels that are spread."""

from __future__ import annotations

import random

import pytest

from stu_pipeline.datasets.splits.check import check_coverage, check_leaks
from stu_pipeline.datasets.splits.choice import SplitRequest, choose_splits
from stu_pipeline.datasets.splits.files import make_splits
from stu_pipeline.errors import DataError, UsageError

NAMES = [f"case_{index:02d}" for index in range(24)]
PATIENTS = {name: f"p{index // 3}" for index, name in enumerate(NAMES)}
# Label 1 everywhere, label 2 in six cases of five patients, label 3 in one case.
LABELS = {name: {1} | ({2} if index % 4 == 0 else set()) | ({3} if index == 7 else set())
          for index, name in enumerate(NAMES)}  # fmt: skip


def choose(names=NAMES, *, groups=None, labels=None, **request):
    return choose_splits(names, SplitRequest(**request), groups=groups, labels=labels)


def require_partition(splits, names):
    assert sorted(name for split in splits for name in split["val"]) == sorted(names)
    assert all(sorted(split["train"] + split["val"]) == sorted(names) for split in splits)
    assert all(split["train"] == sorted(split["train"]) and split["val"] == sorted(split["val"]) for split in splits)


def test_nothing_asked_for_is_nnunets_split():
    choice = choose()
    assert choice.splits == make_splits(NAMES) and choice.notes == ()
    assert choice.method == "5 folds of 24 cases, nnU-Net's default"
    assert SplitRequest().is_default and not SplitRequest(stratify=True).is_default


@pytest.mark.parametrize("num_folds", [2, 5, 7, 24])
def test_as_many_folds_as_asked_for(num_folds):
    splits = choose(num_folds=num_folds).splits
    assert len(splits) == num_folds
    require_partition(splits, NAMES)


def test_five_folds_asked_for_are_the_default_ones():
    assert choose(num_folds=5).splits == choose().splits


def test_a_patient_per_case_gives_the_default_folds():
    assert choose(groups={name: name for name in NAMES}, group_by="x").splits == make_splits(NAMES)


@pytest.mark.parametrize("request_", [{}, {"stratify": True}, {"num_folds": 3}, {"num_folds": 8, "stratify": True}])
def test_patients_stay_together(request_):
    choice = choose(groups=PATIENTS, labels=LABELS, group_by="^(p)", **request_)
    require_partition(choice.splits, NAMES)
    assert check_leaks(choice.splits, PATIENTS) == []
    assert len(choice.splits) == request_.get("num_folds", 5)
    assert "8 groups kept together (^(p))" in choice.method


def test_without_grouping_patients_are_torn_apart():
    # The proof that the test above can fail.
    assert check_leaks(choose().splits, PATIENTS)


def test_rare_labels_are_spread_when_asked_for():
    choice = choose(stratify=True, labels=LABELS)
    require_partition(choice.splits, NAMES)
    assert {len(split["val"]) for split in choice.splits} == {4, 5}
    for split in choice.splits:
        assert {label for name in split["val"] for label in LABELS[name]} >= {1, 2}
    assert choice.notes == ()
    plain = [{label for name in split["val"] for label in LABELS[name]} for split in choose().splits]
    assert any(2 not in labels for labels in plain)


def test_nothing_depends_on_an_order():
    names = random.Random(2).sample(NAMES, len(NAMES))
    groups = {name: PATIENTS[name] for name in names}
    labels = {name: sorted(LABELS[name], reverse=True) for name in names}
    shuffled = choose(names, groups=groups, labels=labels, group_by="x", stratify=True)
    assert shuffled == choose(groups=PATIENTS, labels=LABELS, group_by="x", stratify=True)


def test_labels_that_cannot_be_spread_are_named():
    labels = {"a": {1, 2}, "b": {2, 3}, "c": {1, 3}}
    assert choose(sorted(labels), labels=labels, stratify=True, num_folds=2).notes[0].startswith("no deal was found")


@pytest.mark.parametrize(("groups", "unit"), [(None, "case"), ({"a": "x", "b": "y", "c": "z", "d": "z"}, "group")])
def test_few_cases_or_groups_leave_one_out_and_say_so(groups, unit):
    names = sorted(groups) if groups else ["a", "b", "c"]
    choice = choose(names, groups=groups, group_by="x" if groups else None)
    assert len(choice.splits) == 3
    assert choice.notes == (f"only 3 {unit}s, so there are 3 folds, each leaving one {unit} out",)


def test_a_single_case_is_both_parts_and_said():
    choice = choose(["only"])
    assert choice.splits == [{"train": ["only"], "val": ["only"]}]
    assert choice.notes[0].startswith("only one case, 'only'")


@pytest.mark.parametrize(
    ("names", "groups", "num_folds", "message"),
    [
        (NAMES, None, 25, "25 folds cannot be made of 24 cases, expected from 2 to 24 folds"),
        (NAMES, PATIENTS, 9, "9 folds cannot be made of 8 groups, expected from 2 to 8 folds"),
        (["only"], None, 2, "2 folds cannot be made of 1 case, expected at least 2 cases"),
    ],
)
def test_more_folds_than_cases_or_groups_are_refused(names, groups, num_folds, message):
    with pytest.raises(UsageError, match=message):
        choose(names, groups=groups, num_folds=num_folds, group_by="x" if groups else None)


def test_one_group_of_everything_is_refused():
    with pytest.raises(UsageError, match="all 24 cases are of one group, 'p'"):
        choose(groups=dict.fromkeys(NAMES, "p"), group_by="^(p)")


def test_no_cases_and_double_cases_are_refused():
    with pytest.raises(DataError, match="no cases"):
        choose([])
    with pytest.raises(DataError, match="'a' is listed twice"):
        choose(["a", "a", "b"], groups={"a": "x", "b": "y"}, group_by="x")


@pytest.mark.parametrize("request_", [{"num_folds": 1}, {"num_folds": -3}, {"group_by": " "}])
def test_senseless_requests_are_refused(request_):
    with pytest.raises(UsageError, match=r"folds must be at least 2|--group-by is empty"):
        SplitRequest(**request_)


def test_a_request_is_told_as_flags():
    assert (
        SplitRequest(num_folds=3, group_by="^(p)", stratify=True).describe() == "--folds 3 --group-by '^(p)' --stratify"
    )
    assert SplitRequest().describe() == ""


def test_a_leak_is_found_in_folds_of_any_origin():
    splits = [{"train": ["a1", "b1"], "val": ["a2"]}, {"train": ["a1", "a2", "b1"], "val": ["b1"]}]
    assert check_leaks(splits, {"a1": "a", "a2": "a"}) == [
        "fold 0 has group 'a' in both parts: a1, a2",
        "fold 1 has 1 cases in both parts: b1",
    ]
    everything = [{"train": ["a1", "a2"], "val": ["a1", "a2"]}]
    assert check_leaks(everything, {"a1": "a", "a2": "a"}) == []


def test_labels_that_a_fold_cannot_learn_or_no_fold_measures_are_named():
    splits = [{"train": ["a", "c"], "val": ["b"]}, {"train": ["b", "c"], "val": ["a"]}]
    labels = {"a": {1}, "b": {1, 2}, "c": {3}, "left_out": {1}}
    assert check_coverage(splits, labels, {2: "cyst"}) == [
        "fold 0 has no training case with label 2 'cyst'",
        "no fold validates label 3",
    ]
    assert check_coverage(splits, {}) == []

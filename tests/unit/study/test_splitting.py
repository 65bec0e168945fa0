"""Subsets are nested, validation cases are fixed, and a split that trainings depend on never changes."""

from __future__ import annotations

import itertools
import json

import pytest

from stu_pipeline.datasets.splits.files import make_splits, read_splits
from stu_pipeline.errors import DataError, UsageError
from stu_pipeline.study.cells import SplitKey
from stu_pipeline.study.folders import StudyFolder
from stu_pipeline.study.manifest import LearningCurve, StudyDataset
from stu_pipeline.study.splitting import (
    choose_subset,
    choose_validation,
    make_study_splits,
    write_study_splits,
)
from stu_pipeline.workspace import find_dataset, use_workspace
from tests.study_files import write_listed_dataset

CASES = [f"case_{index:02d}" for index in range(30)]


@pytest.fixture
def paths(tmp_path):
    raw = write_listed_dataset(tmp_path)
    with use_workspace(tmp_path / "study"):
        yield find_dataset(str(raw))


def make_dataset(paths, **changes):
    facts = {
        "name": paths.name, "raw": paths.raw, "case_ids": tuple(CASES), "label_names": ("a",), "modality": "",
        "region": "", "size": "S", "targets": {"a": "structure"}, "seen": {}, **changes,
    }  # fmt: skip
    return StudyDataset(**facts)


def test_smaller_subsets_are_inside_larger_ones():
    for seed in range(5):
        sizes = [choose_subset(CASES, number, seed=seed) for number in (1, 5, 10, 30, 99)]
        assert [len(subset) for subset in sizes] == [1, 5, 10, 30, 30]
        assert all(set(small) < set(large) for small, large in itertools.pairwise(sizes[:4]))


def test_seeds_choose_other_cases_and_the_same_seed_the_same():
    chosen = {seed: choose_subset(CASES, 10, seed=seed) for seed in range(6)}
    assert len({tuple(subset) for subset in chosen.values()}) == 6
    assert choose_subset(list(reversed(CASES)), 10, seed=3) == chosen[3]


def test_validation_holds_whole_groups():
    groups = {case: case[:-1] for case in CASES}  # patients of ten cases each
    validation = choose_validation(CASES, 4, seed=1, groups=groups)
    assert len(validation) == 10 and len({groups[case] for case in validation}) == 1
    assert len(choose_validation(CASES, 4, seed=1)) == 4


def test_the_splits_of_a_curve_share_their_validation_cases(paths):
    curve = LearningCurve(num_training_cases=(2, 5), num_validation_cases=6)
    keys = [SplitKey(seed=seed, num_training_cases=number) for number in (2, 5) for seed in (0, 1)]
    splits = make_study_splits(make_dataset(paths), keys, curve, provided=paths)
    assert set(splits) == {"n2.s0", "n2.s1", "n5.s0", "n5.s1"}
    assert len({tuple(split["val"]) for split in splits.values()}) == 1
    for split in splits.values():
        assert not set(split["train"]) & set(split["val"])
    assert set(splits["n2.s1"]["train"]) < set(splits["n5.s1"]["train"])


def test_too_few_cases_beside_whole_patients_are_refused(paths):
    curve = LearningCurve(num_training_cases=(21,), num_validation_cases=5)
    dataset = make_dataset(paths, group_by=r"case_\d")
    with pytest.raises(DataError, match="has 20 cases beside the 10 that are validated on, 21 are wanted"):
        make_study_splits(dataset, [SplitKey(seed=0, num_training_cases=21)], curve, provided=paths)


def test_folds_are_the_datasets_own_before_nnunets(paths, tmp_path):
    keys = [SplitKey(seed=0, fold=1), SplitKey(seed=7, fold=1)]
    default = make_study_splits(make_dataset(paths), keys, None, provided=paths)
    assert default == {"f1.s0": make_splits(CASES)[1], "f1.s7": make_splits(CASES)[1]}
    own = [{"train": CASES[:9], "val": CASES[9:]}, {"train": CASES[9:], "val": CASES[:9]}]
    paths.provided_splits.write_text(json.dumps(own))
    assert make_study_splits(make_dataset(paths), keys, None, provided=paths)["f1.s0"] == own[1]
    named = tmp_path / "named.json"
    named.write_text(json.dumps(own[::-1]))
    assert make_study_splits(make_dataset(paths, splits=named), keys, None, provided=paths)["f1.s0"] == own[0]
    with pytest.raises(UsageError, match="fold 4 does not exist"):
        make_study_splits(make_dataset(paths), [SplitKey(seed=0, fold=4)], None, provided=paths)


def test_new_splits_come_after_those_that_are_there(paths, tmp_path):
    folder = StudyFolder(tmp_path / "study")
    first = {"n2.s0": {"train": ["a"], "val": ["z"]}, "n2.s1": {"train": ["b"], "val": ["z"]}}
    assert write_study_splits(folder, paths, first) == {"n2.s0": 0, "n2.s1": 1}
    # The manifest now has a smaller number first; the folds that were trained keep theirs.
    more = {"n1.s0": {"train": ["c"], "val": ["z"]}, **first}
    assert write_study_splits(folder, paths, more) == {"n2.s0": 0, "n2.s1": 1, "n1.s0": 2}
    assert [split["train"] for split in read_splits(paths.splits)] == [["a"], ["b"], ["c"]]
    assert write_study_splits(folder, paths, {"n2.s1": first["n2.s1"]})["n2.s1"] == 1


def test_a_split_never_changes(paths, tmp_path):
    folder = StudyFolder(tmp_path / "study")
    write_study_splits(folder, paths, {"n2.s0": {"train": ["a"], "val": ["z"]}})
    with pytest.raises(UsageError, match=r"split 'n2\.s0' of 'Dataset901_Listed' would change"):
        write_study_splits(folder, paths, {"n2.s0": {"train": ["b"], "val": ["z"]}})
    assert read_splits(paths.splits)[0]["train"] == ["a"]

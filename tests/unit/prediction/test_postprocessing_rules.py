"""`postprocessing.json`: applied to masks, written, read, and not used where it does not fit."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stu_pipeline.datasets.dataset_json import parse_dataset_json
from stu_pipeline.datasets.volume import Grid
from stu_pipeline.errors import DataError
from stu_pipeline.prediction.postprocessing.rules import (
    RULES_FILE,
    LabelRule,
    PostprocessingRules,
    apply_rules,
    choose_spacing,
    find_rules,
    read_rules,
    write_rules,
)
from stu_pipeline.prediction.postprocessing.targets import list_targets, make_foreground

PLAIN = {"background": 0, "liver": 1, "tumour": 2}
REGIONS = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}
LARGEST = LabelRule(label="liver", values=(1,), keep_largest=1)
CHECKPOINTS = {"0": "aa", "1": "bb"}


def describe_dataset(labels: dict, **more):
    content = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz", **more}
    return parse_dataset_json(content, Path("dataset.json"))


def make_rules(*rules: LabelRule) -> PostprocessingRules:
    return PostprocessingRules(checkpoints=CHECKPOINTS, rules=rules, evidence={"num_cases": 3})


def test_rules_clean_a_mask_in_place_and_say_what_they_did():
    mask = np.zeros((1, 4, 8), dtype=np.uint8)
    mask[0, :, :3] = 1
    mask[0, 1, 1] = 0
    mask[0, 0, 6] = mask[0, 3, 6] = 1
    mask[0, 2, 5] = 2
    rules = make_rules(replace(LARGEST, fill_value=1), LabelRule(label="tumour", values=(2,), min_size_mm3=5))
    cleaned, changes = apply_rules(mask, rules, (1.0, 2.0, 3.0))
    assert cleaned is mask
    assert np.argwhere(mask[0] == 1).tolist() == [[y, x] for y in range(4) for x in range(3)]
    assert (mask == 2).sum() == 1
    assert [str(change) for change in changes] == ["liver: 2 components removed (0.012 ml), holes filled (0.006 ml)"]


def test_a_mask_that_needs_nothing_is_left_alone():
    mask = np.zeros((2, 3, 3), dtype=np.uint8)
    assert apply_rules(mask, make_rules(LARGEST), (1, 1, 1))[1] == ()
    mask[1, 1] = 1
    before = mask.copy()
    assert apply_rules(mask, make_rules(LARGEST), (1, 1, 1))[1] == ()
    assert np.array_equal(mask, before)


def test_the_foreground_is_cleaned_as_one():
    targets, _ = list_targets(describe_dataset(PLAIN))
    whole = make_foreground(targets)
    mask = np.array([[[1, 2, 2, 0, 1, 0, 2]]], dtype=np.uint8)
    rule = LabelRule(label=whole.name, values=whole.values, keep_largest=1)
    apply_rules(mask, make_rules(rule), (1, 1, 1))
    assert mask.tolist() == [[[1, 2, 2, 0, 0, 0, 0]]]


@pytest.mark.parametrize("seed", range(4))
def test_rules_of_many_labels_do_what_each_does_alone(seed):
    generator = np.random.default_rng(seed)
    mask = np.where(generator.random((6, 14, 15)) < 0.6, generator.integers(1, 5, (6, 14, 15)), 0).astype(np.uint8)
    rules = [
        LabelRule(label="1", values=(1,), keep_largest=2),
        LabelRule(label="3", values=(3,), min_size_mm3=12.0),
        LabelRule(label="4", values=(4,), keep_largest=1, min_size_mm3=4.0),
        LabelRule(label="9", values=(9,), keep_largest=1),
    ]
    one_by_one = mask.copy()
    told = [change for rule in rules for change in apply_rules(one_by_one, make_rules(rule), (2.0, 1.0, 1.0))[1]]
    together, changes = apply_rules(mask.copy(), make_rules(*rules), (2.0, 1.0, 1.0))
    assert np.array_equal(together, one_by_one)
    assert list(changes) == told and len(told) == 3
    assert (together == 2).sum() == (mask == 2).sum()


def test_what_a_removal_leaves_in_a_hole_is_filled():
    mask = np.ones((5, 5, 5), dtype=np.uint8)
    mask[1:4, 1:4, 1:4] = 0
    mask[2, 2, 2] = 2
    rules = make_rules(
        LabelRule(label="liver", values=(1,), fill_value=1), LabelRule(label="tumour", values=(2,), min_size_mm3=5.0)
    )
    cleaned, changes = apply_rules(mask, rules, (1, 1, 1))
    assert (cleaned == 1).all()
    assert [(change.label, change.num_removed, change.filled_ml) for change in changes] == [
        ("liver", 0, 0.027), ("tumour", 1, 0.0),
    ]  # fmt: skip


def test_a_region_that_is_taken_out_uncovers_the_region_around_it():
    dataset = describe_dataset(REGIONS, regions_class_order=[1, 2, 3])
    targets, refused = list_targets(dataset)
    assert refused == ()
    assert [(t.name, t.values, t.removed_value, t.fill_value) for t in targets] == [
        ("whole", (1, 2, 3), 0, 1),
        ("core", (2, 3), 1, 2),
        ("enhancing", (3,), 2, 3),
    ]
    mask = np.array([[[1, 2, 3, 3, 2, 1, 1, 3, 1]]], dtype=np.uint8)
    core = LabelRule(label="core", values=targets[1].values, removed_value=targets[1].removed_value, keep_largest=1)
    apply_rules(mask, make_rules(core), (1, 1, 1))
    assert mask.tolist() == [[[1, 2, 3, 3, 2, 1, 1, 1, 1]]]


def test_a_label_grows_where_a_later_rule_looks_for_it():
    # What leaves the core becomes edema, outside of the box that edema had.
    mask = np.zeros((1, 1, 9), dtype=np.uint8)
    mask[0, 0, 0:3] = [1, 1, 2]
    mask[0, 0, 5:7] = 3
    core = LabelRule(label="core", values=(2, 3), removed_value=1, min_size_mm3=9)
    edema = LabelRule(label="edema", values=(1,), keep_largest=1)
    apply_rules(mask, make_rules(core, edema), (1, 1, 1))
    assert mask[0, 0].tolist() == [1, 1, 1, 0, 0, 0, 0, 0, 0]


def test_regions_that_overlap_without_being_nested_are_refused():
    labels = {"background": 0, "a": [1, 2], "b": [2, 3], "c": 4}
    targets, refused = list_targets(describe_dataset(labels, regions_class_order=[1, 3, 4]))
    assert [target.name for target in targets] == ["c"]
    assert refused == ("a", "b")


def test_the_ignore_label_is_no_target():
    targets, _ = list_targets(describe_dataset({**PLAIN, "ignore": 3}))
    assert [target.name for target in targets] == ["liver", "tumour"]


def test_written_rules_are_read_again(tmp_path):
    rules = make_rules(LARGEST, LabelRule(label="tumour", values=(2,), min_size_mm3=30.0, fill_value=2))
    content = write_rules(tmp_path / RULES_FILE, rules)
    assert read_rules(tmp_path / RULES_FILE) == rules
    assert content == json.loads((tmp_path / RULES_FILE).read_text())
    assert find_rules(tmp_path, {"1": "bb"}, describe_dataset(PLAIN)) == (rules, ())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("values", []), ("values", [0]), ("values", "1"), ("removed_value", -1), ("removed_value", 0.5),
        ("fill_value", 70000), ("keep_largest", 0), ("keep_largest", True), ("min_size_mm3", -1), ("min_size_mm3", "3"),
    ],
)  # fmt: skip
def test_rules_with_nonsense_are_not_used(tmp_path, key, value):
    write_rules(tmp_path / RULES_FILE, make_rules(LARGEST))
    content = json.loads((tmp_path / RULES_FILE).read_text())
    content["rules"][0][key] = value
    (tmp_path / RULES_FILE).write_text(json.dumps(content))
    with pytest.raises(DataError, match="damaged"):
        read_rules(tmp_path / RULES_FILE)
    rules, notices = find_rules(tmp_path, CHECKPOINTS, describe_dataset(PLAIN))
    assert rules is None
    assert "is not used: 'postprocessing.json' is damaged" in notices[0]


@pytest.mark.parametrize("text", ["[]", "{}", '{"schema": 2}', '{"schema": 1}', "nothing"])
def test_a_file_that_holds_no_rules_is_not_used(tmp_path, text):
    (tmp_path / RULES_FILE).write_text(text)
    rules, notices = find_rules(tmp_path, CHECKPOINTS, describe_dataset(PLAIN))
    assert rules is None
    assert len(notices) == 1


def test_rules_of_other_checkpoints_are_not_used(tmp_path):
    write_rules(tmp_path / RULES_FILE, make_rules(LARGEST))
    for checkpoints in ({"0": "aa", "1": "cc"}, {"all": "aa"}):
        rules, notices = find_rules(tmp_path, checkpoints, describe_dataset(PLAIN))
        assert rules is None
        assert "another checkpoint since; run stu calibrate again" in notices[0]


def test_rules_for_a_label_that_the_model_lacks_are_not_used(tmp_path):
    write_rules(tmp_path / RULES_FILE, make_rules(replace(LARGEST, fill_value=9)))
    rules, notices = find_rules(tmp_path, CHECKPOINTS, describe_dataset(PLAIN))
    assert rules is None
    assert "has no label 9" in notices[0]


def test_no_rules_are_nothing_to_apply(tmp_path):
    assert find_rules(tmp_path, CHECKPOINTS, describe_dataset(PLAIN)) == (None, ())
    write_rules(tmp_path / RULES_FILE, make_rules())
    assert find_rules(tmp_path, CHECKPOINTS, describe_dataset(PLAIN)) == (None, ())


@pytest.mark.parametrize("place", ["", "crossval_results_folds_0_1_2_3_4"])
def test_the_pickle_of_nnunet_is_named_and_not_opened(tmp_path, place):
    folder = tmp_path / place
    folder.mkdir(exist_ok=True)
    trap = tmp_path / "opened"
    (folder / "postprocessing.pkl").write_bytes(pickle.dumps(_Trap(str(trap))))
    rules, notices = find_rules(tmp_path, CHECKPOINTS, describe_dataset(PLAIN))
    assert rules is None
    assert "is not used: a pickle is a program" in notices[0]
    assert not trap.exists()


class _Trap:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_flat_image_is_measured_as_a_slice_of_a_millimetre():
    flat = Grid(shape=(1, 4, 5), spacing_mm=(999.0, 0.5, 0.4), num_dimensions=2)
    assert choose_spacing(flat) == (1.0, 0.5, 0.4)
    assert choose_spacing(replace(flat, num_dimensions=3)) == (999.0, 0.5, 0.4)

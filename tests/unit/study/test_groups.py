"""Groups are SegBook's: modality x target with seen and unseen labels, size, region."""

from __future__ import annotations

import dataclasses

import pytest

from stu_pipeline.study.cells import list_cells
from stu_pipeline.study.groups import find_pretraining_labels, group_scores, make_comparable, name_target
from stu_pipeline.study.manifest import read_manifest
from stu_pipeline.study.pooling import pool_rows
from stu_pipeline.study.rows import ScoreRow
from tests.study_files import (
    ARMS,
    BUDGET,
    CURVE,
    HEAD,
    describe_dataset,
    write_listed_dataset,
    write_manifest,
    write_usual_manifest,
)


def make_rows(manifest, dice):
    return [
        ScoreRow(cell=cell, case="one", label=label, dice=dice(cell, label), nsd=0.5, num_reference=1)
        for cell in list_cells(manifest)
        for label in manifest.find_dataset(cell.dataset).label_names
    ]


def test_spelling_does_not_decide_what_was_seen():
    assert make_comparable("Kidney Left ") == make_comparable("kidney_left") != make_comparable("kidney_right")


def test_targets_are_lesions_or_seen_or_unseen_structures(tmp_path):
    facts = {"target": "structure", "seen": ["part 1"]}
    dataset = read_manifest(write_usual_manifest(tmp_path, **facts)).datasets[0]
    assert name_target(dataset, "part 1", frozenset()) == "seen structure"
    assert name_target(dataset, "part 2", frozenset()) == "structure"
    assert name_target(dataset, "part 2", frozenset({"liver"})) == "unseen structure"
    assert name_target(dataset, "part 2", frozenset({"part_2"})) == "seen structure"
    lesion = dataclasses.replace(dataset, targets={"part 1": "lesion", "part 2": "lesion"})
    assert name_target(lesion, "part 1", frozenset({"part_1"})) == "lesion"


def test_the_manifests_list_is_what_was_seen(tmp_path):
    path = write_usual_manifest(tmp_path)
    assert find_pretraining_labels(read_manifest(path)) == frozenset()
    path.write_text(path.read_text() + '[pretraining]\nlabels = ["background", "Part 2"]\n', encoding="utf-8")
    assert find_pretraining_labels(read_manifest(path)) == {"part_2"}


def test_both_macro_averages_are_over_the_datasets_that_every_arm_has(tmp_path):
    parts = [
        describe_dataset(write_listed_dataset(tmp_path, number, labels=labels), modality=modality)
        for number, labels, modality in ((901, 1, "CT"), (902, 3, "CT"), (903, 1, "MRI"))
    ]
    manifest = read_manifest(write_manifest(tmp_path / "a.toml", HEAD, CURVE, BUDGET, ARMS, *parts))
    scores = {"Dataset901_Listed": 1.0, "Dataset902_Listed": 0.5, "Dataset903_Listed": 0.1}
    rows = [
        row
        for row in make_rows(manifest, lambda cell, label: scores[cell.dataset])
        if not (row.cell.arm == "tuned" and row.cell.dataset == "Dataset903_Listed")
    ]
    groups = group_scores(manifest, pool_rows(rows), frozenset())
    found = {
        (item.grouping, item.group): item
        for item in groups
        if item.column == "tuned S" and item.num_training_cases == 2
    }
    every = found["all", "all datasets"]
    assert (every.num_datasets, every.num_labels) == (2, 4)
    assert every.dataset_macro == pytest.approx(0.75) and every.class_macro == pytest.approx((1.0 + 3 * 0.5) / 4)
    assert ("modality x target", "CT, structure") in found and ("region", "not given") in found
    assert not any("MRI" in group for _, group in found)

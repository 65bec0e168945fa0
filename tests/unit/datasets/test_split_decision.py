"""What becomes of folds that are there: made, kept, or replaced when asked for and nothing depends on them."""

from __future__ import annotations

import json

import pytest

from stu_pipeline.datasets.splits.choice import SplitRequest
from stu_pipeline.datasets.splits.decision import decide_splits, write_decision
from stu_pipeline.datasets.splits.files import make_splits, read_splits
from stu_pipeline.datasets.splits.record import find_split_record
from stu_pipeline.errors import DataError, UsageError
from stu_pipeline.workspace import DatasetPaths, Workspace

NAMES = [f"{patient}_{index}" for patient in ("anna", "ben", "cleo", "dora", "emil", "fay") for index in (1, 2)]
BY_PATIENT = SplitRequest(group_by="^([a-z]+)_")


@pytest.fixture(name="dataset")
def make_dataset(tmp_path):
    roots = {name: tmp_path / name for name in ("raw", "preprocessed", "results")}
    for root in roots.values():
        (root / "Dataset901_Tiny").mkdir(parents=True)
    workspace = Workspace(**roots)
    folders = {name: root / "Dataset901_Tiny" for name, root in roots.items()}
    return DatasetPaths(name="Dataset901_Tiny", workspace=workspace, **folders)


def settle(dataset, names=NAMES, request=None, **options):
    """Decide and write, as one `stu plan` does."""
    decision = decide_splits(dataset, names, request, **options)
    write_decision(dataset, decision)
    return decision


def train_a_fold(dataset):
    (dataset.model_folder("stuBPlans", "3d_fullres") / "fold_0").mkdir(parents=True)


def read_files(dataset):
    return {path.name: path.read_bytes() for path in dataset.preprocessed.iterdir()}


def test_new_folds_are_written_with_their_record(dataset):
    decision = settle(dataset, request=BY_PATIENT)
    assert (decision.action, decision.notes) == ("made", ())
    assert read_splits(dataset.splits) == decision.splits
    record = find_split_record(dataset)
    assert record.request == BY_PATIENT and record.groups["fay_2"] == "fay" and record.method == decision.method


def test_deciding_writes_nothing(dataset):
    decide_splits(dataset, NAMES, BY_PATIENT)
    assert read_files(dataset) == {}


@pytest.mark.parametrize("request_", [None, BY_PATIENT, SplitRequest(num_folds=3, stratify=True)])
def test_the_same_again_keeps_every_byte(dataset, request_):
    labels = {name: {1} for name in NAMES}
    settle(dataset, request=request_, labels=labels)
    before = read_files(dataset)
    assert settle(dataset, request=request_, labels=labels).action == "kept"
    assert settle(dataset, labels=labels).action == "kept"
    assert settle(dataset, labels=labels, force=True).action == "kept"
    assert read_files(dataset) == before


def test_a_later_plan_without_flags_keeps_the_folds_and_tells_how_they_were_made(dataset):
    settle(dataset, request=BY_PATIENT)
    assert settle(dataset).method == "5 folds of 12 cases, 6 groups kept together (^([a-z]+)_)"


def test_other_folds_are_never_made_silently(dataset):
    settle(dataset)
    before = read_files(dataset)
    with pytest.raises(UsageError, match=r"other folds than --group-by .* makes: 5 folds of 12 cases") as caught:
        settle(dataset, request=BY_PATIENT)
    assert caught.value.hint == "--force replaces them: no fold is trained yet"
    assert read_files(dataset) == before


def test_force_replaces_folds_that_nothing_depends_on_and_keeps_the_old_file(dataset):
    settle(dataset)
    assert settle(dataset, request=BY_PATIENT, force=True).action == "replaced"
    assert read_splits(dataset.splits) != make_splits(NAMES)
    assert read_splits(dataset.preprocessed / "splits_final.previous.json") == make_splits(NAMES)
    assert find_split_record(dataset).request == BY_PATIENT


def test_folds_of_a_training_stay_even_with_force(dataset):
    settle(dataset)
    train_a_fold(dataset)
    with pytest.raises(UsageError, match="other folds") as caught:
        settle(dataset, request=BY_PATIENT, force=True)
    assert "nnUNetTrainer__stuBPlans__3d_fullres/fold_0 was trained with them" in caught.value.hint


def test_cases_added_later_are_counted_with_the_command_that_takes_them_in(dataset):
    settle(dataset, request=BY_PATIENT)
    decision = settle(dataset, [*NAMES, "gus_1", "gus_2"], BY_PATIENT)
    assert decision.action == "kept"
    assert decision.notes == (
        "2 of 14 cases are in no fold of 'splits_final.json' and take no part in training or validation: "
        "gus_1, gus_2; new folds: stu plan Dataset901_Tiny --force",
    )


def test_force_takes_added_and_removed_cases_in_with_the_request_of_the_first_time(dataset):
    settle(dataset, request=BY_PATIENT)
    names = [*NAMES[2:], "gus_1", "gus_2"]
    with pytest.raises(DataError, match="names 2 cases that the dataset does not have: anna_1, anna_2") as caught:
        settle(dataset, names)
    assert caught.value.hint == "stu plan Dataset901_Tiny --force makes new folds"
    decision = settle(dataset, names, force=True)
    assert decision.action == "replaced" and "6 groups" in decision.method
    assert sorted(name for split in decision.splits for name in split["val"]) == sorted(names)


def test_cases_added_after_a_training_stay_outside(dataset):
    settle(dataset)
    train_a_fold(dataset)
    decision = settle(dataset, [*NAMES, "gus_1"], force=True)
    assert decision.action == "kept" and decision.splits == make_splits(NAMES)
    assert decision.notes[0].endswith("nnUNetTrainer__stuBPlans__3d_fullres/fold_0 was trained with them")


def test_stocks_default_folds_without_a_record_can_be_made_again(dataset):
    dataset.splits.write_text(json.dumps(make_splits(NAMES)))
    assert settle(dataset).record is None
    assert settle(dataset, [*NAMES, "gus_1"], force=True).action == "replaced"


def test_own_folds_are_not_made_again(dataset):
    own = [{"train": NAMES[1:], "val": NAMES[:1]}]
    dataset.splits.write_text(json.dumps(own))
    decision = settle(dataset, [*NAMES, "gus_1"], force=True)
    assert (decision.action, decision.splits) == ("kept", own)
    assert decision.notes[0].endswith("gus_1; the folds stay, they are your own")


def test_an_edited_file_is_no_longer_ours(dataset):
    settle(dataset, request=BY_PATIENT)
    dataset.splits.write_text(json.dumps(read_splits(dataset.splits)[:2]))
    assert find_split_record(dataset) is None and settle(dataset).method == "2 folds of your own"


def test_a_leak_in_existing_folds_is_refused(dataset):
    own = [{"train": NAMES[1:], "val": NAMES[:1]}, {"train": NAMES[2:], "val": NAMES[:2]}]
    dataset.provided_splits.write_text(json.dumps(own))
    with pytest.raises(DataError, match="fold 0 has group 'anna' in both parts: anna_1, anna_2"):
        settle(dataset, request=BY_PATIENT)
    assert not dataset.splits.exists()


def test_folds_beside_the_raw_data_are_taken_and_no_flag_overrules_them(dataset):
    own = [{"train": NAMES[2:], "val": NAMES[:2]}]
    dataset.provided_splits.write_text(json.dumps(own))
    decision = settle(dataset, request=BY_PATIENT)
    assert (decision.action, decision.splits) == ("made", own) and read_splits(dataset.splits) == own
    assert settle(dataset).action == "kept"
    for request in (SplitRequest(num_folds=5), SplitRequest(stratify=True)):
        with pytest.raises(UsageError, match=r"has 1 folds of its own, so --(folds 5|stratify) cannot be followed"):
            settle(dataset, request=request)


def test_folds_beside_the_raw_data_do_not_replace_those_in_use(dataset):
    settle(dataset)
    dataset.provided_splits.write_text(json.dumps([{"train": NAMES[2:], "val": NAMES[:2]}]))
    decision = settle(dataset)
    assert decision.splits == make_splits(NAMES)
    assert decision.notes == ("'splits_final.json' beside the raw data differs from the one in use, which stays",)
    assert decide_splits(dataset, NAMES, force=True).action == "replaced"
    train_a_fold(dataset)
    assert decide_splits(dataset, NAMES, force=True).action == "kept"
    (dataset.model_folder("stuBPlans", "3d_fullres") / "fold_0").rmdir()
    assert settle(dataset, force=True).action == "replaced"
    assert len(read_splits(dataset.splits)) == 1


def test_unknown_cases_of_own_folds_are_named(dataset):
    dataset.provided_splits.write_text(json.dumps([{"train": NAMES[2:], "val": ["zoe_1"]}]))
    with pytest.raises(DataError, match="names 1 cases that the dataset does not have: zoe_1") as caught:
        settle(dataset)
    assert caught.value.hint == "add the cases back, or take them out of the file"


def test_labels_that_a_fold_cannot_learn_are_noted(dataset):
    labels = {name: {1, 2} if name == "anna_1" else {1} for name in NAMES}
    decision = settle(dataset, labels=labels, label_names={2: "cyst"})
    fold = next(index for index, split in enumerate(decision.splits) if "anna_1" in split["val"])
    assert decision.notes == (f"fold {fold} has no training case with label 2 'cyst'",)


def test_cases_outside_of_own_folds_are_counted(dataset):
    dataset.provided_splits.write_text(json.dumps([{"train": NAMES[2:], "val": NAMES[1:2]}]))
    assert "1 of 12 cases are in no fold" in settle(dataset).notes[0]

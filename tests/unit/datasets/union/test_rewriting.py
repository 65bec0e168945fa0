"""Label maps of the sources become label maps of the union, and finished ones are not written again."""

from __future__ import annotations

import numpy as np
import pytest

from stu_pipeline.datasets.reading import check_same_grid, read_label_map
from stu_pipeline.datasets.union.record import read_marks, union_journal
from stu_pipeline.datasets.union.rewriting import LabelTask, find_finished, rewrite_label, rewrite_labels, translate
from stu_pipeline.errors import DataError
from stu_pipeline.log import ignore_events
from tests.synthetic import make_label_map, write_volume

TABLE = ((0, 0), (1, 2), (2, 300))


def make_task(folder, name="case", ending=".nii.gz", table=TABLE):
    source = folder / "source" / f"{name}{ending}"
    if not source.exists():
        write_volume(source, make_label_map((5, 6, 7)), spacing_mm=(3.0, 1.5, 0.5), origin=(1.0, 2.0, 3.0))
    return LabelTask(
        case_id=f"A__{name}", source=source, target=folder / "union" / "labelsTr" / f"A__{name}.nii.gz", table=table
    )


def rewrite(folder, tasks):
    return rewrite_labels(folder / "union", tasks, num_workers=0, listen=ignore_events)


def test_values_are_translated_and_the_smallest_type_is_taken():
    labels = np.array([[[0, 1, 7]]], dtype=np.uint8)
    small = translate(labels, {0: 0, 1: 3, 7: 0})
    assert small.tolist() == [[[0, 3, 0]]] and small.dtype == np.uint8
    assert translate(labels, {0: 0, 1: 256, 7: 1}).dtype == np.uint16
    highest = translate(np.array([[[65535]]], dtype=np.uint16), {0: 0, 65535: 1})
    assert highest.tolist() == [[[1]]]


def test_values_that_the_source_does_not_name_are_refused():
    with pytest.raises(DataError, match=r"has 2 voxels of label 5, 1 voxels of label 9, which dataset\.json"):
        translate(np.array([[[5, 5, 9, 1]]], dtype=np.uint8), {0: 0, 1: 1})


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_a_label_map_of_any_format_keeps_its_grid(tmp_path, ending):
    task = make_task(tmp_path, ending=ending)
    mark = rewrite_label(task)
    before, after = read_label_map(task.source), read_label_map(task.target)
    assert check_same_grid(before, after) == []
    assert np.array_equal(after.array, np.array([0, 2, 300])[before.array])
    assert rewrite_label(task) == mark


def test_a_second_run_writes_what_is_missing_changed_or_damaged_only(tmp_path):
    tasks = [make_task(tmp_path, name) for name in "abcd"]
    first = rewrite(tmp_path, tasks)
    assert list(first) == [task.case_id for task in tasks] and read_marks(tmp_path / "union") == first
    times = [task.target.stat().st_ino for task in tasks]
    tasks[0].target.unlink()
    tasks[1].target.write_bytes(tasks[1].target.read_bytes()[:-3])
    write_volume(tasks[2].source, make_label_map((5, 6, 7), num_labels=1), spacing_mm=(3.0, 1.5, 0.5))
    assert list(find_finished(tmp_path / "union", tasks)) == ["A__d"]
    second = rewrite(tmp_path, tasks)
    assert tasks[3].target.stat().st_ino == times[3]
    assert [second[case] == first[case] for case in first] == [True, True, False, True]
    assert find_finished(tmp_path / "union", [make_task(tmp_path, "d", table=((0, 0), (1, 1), (2, 2)))]) == {}


def test_bad_label_maps_are_named_together_and_the_good_ones_stay(tmp_path):
    tasks = [make_task(tmp_path, name) for name in "abc"]
    tasks[0].source.write_bytes(b"nothing")
    tasks[2].source.unlink()
    with pytest.raises(DataError, match="2 label maps cannot be used") as caught:
        rewrite(tmp_path, tasks)
    assert [text.split(":")[0] for text in caught.value.details] == ["case 'A__a'", "case 'A__c'"]
    assert list(find_finished(tmp_path / "union", tasks)) == ["A__b"]


def test_a_torn_line_of_the_journal_costs_its_case_only(tmp_path):
    tasks = [make_task(tmp_path, name) for name in "ab"]
    rewrite(tmp_path, tasks)
    journal = union_journal(tmp_path / "union")
    journal.write_text(journal.read_text()[:-20] + "\n[1]\n")
    assert list(find_finished(tmp_path / "union", tasks)) == ["A__a"]

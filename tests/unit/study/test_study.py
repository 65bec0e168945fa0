"""A study knows what is done, sums it up, and neither runs nor changes what it need not."""

from __future__ import annotations

import csv
import json

import pytest

import stu_pipeline
from stu_pipeline.errors import UsageError
from stu_pipeline.study.cell_record import CellRecord, find_cell_record, write_cell_record
from stu_pipeline.study.cells import list_cells
from stu_pipeline.study.config import StudyConfig
from stu_pipeline.study.folders import StudyFolder
from stu_pipeline.study.manifest import read_manifest
from stu_pipeline.study.study import describe_cells, run_study
from tests.study_files import finish_study, write_usual_manifest

BONUS = {"scratch": 0.0, "tuned": 0.05}


def describe(path):
    manifest = read_manifest(path)
    return {status.name.partition(".")[2]: status for status in describe_cells(manifest, list_cells(manifest))}


def edit(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture
def path(tmp_path):
    return write_usual_manifest(tmp_path, modality="CT", region="abdominal", seen=["part 1"], unseen=["part 2"])


@pytest.fixture
def finished(path):
    finish_study(path, bonus=BONUS)
    return path


def read_document(path):
    return json.loads((path.parent / "mine.study" / "results" / "study.json").read_text())


def test_it_is_a_public_name():
    assert stu_pipeline.run_study is run_study and stu_pipeline.StudyConfig is StudyConfig


def test_nothing_is_done_before_anything_ran(path):
    assert {status.state for status in describe(path).values()} == {"todo"}


def test_finished_cells_are_recognised_by_record_and_scores(finished):
    assert {status.state for status in describe(finished).values()} == {"done"}
    summary = StudyFolder(finished.parent / "mine.study").cell_summary("Dataset901_Listed.tuned.S.n2.s0")
    summary.write_text(summary.read_text() + " ")
    states = {name: status.state for name, status in describe(finished).items()}
    assert states.pop("tuned.S.n2.s0") == "started" and set(states.values()) == {"done"}


def test_other_settings_make_a_changed_cell(finished):
    edit(finished, "learning_rate = 0.003", "learning_rate = 0.004")
    states = {name: status.state for name, status in describe(finished).items()}
    assert {name.split(".")[0]: state for name, state in states.items()} == {"scratch": "done", "tuned": "changed"}
    with pytest.raises(UsageError, match="4 cells were made with other settings") as caught:
        run_study(StudyConfig(manifest=finished))
    assert "--force" in caught.value.hint


def test_what_decides_no_result_changes_no_cell(finished):
    edit(finished, "workers = 0", "workers = 3")
    edit(finished, 'modality = "CT"', 'modality = "MRI"')
    assert {status.state for status in describe(finished).values()} == {"done"}


def test_a_new_seed_leaves_finished_cells_alone(finished):
    edit(finished, "seeds = [0, 1]", "seeds = [2, 0, 1]")
    states = [status.state for status in describe(finished).values()]
    assert states.count("done") == 8 and states.count("todo") == 4


def test_a_damaged_record_is_no_record(tmp_path):
    path = tmp_path / "record.json"
    path.write_text('{"state": "done"')
    assert find_cell_record(path) is None and find_cell_record(tmp_path / "none.json") is None
    record = CellRecord(state="failed", digest="d", asked={}, error="no", flags=("a",))
    write_cell_record(path, record)
    assert find_cell_record(path) == record


def test_a_finished_study_is_only_summed_up(finished):
    result = run_study(StudyConfig(manifest=finished))
    assert result.count("done") == 8 and result.failed == () and result.missing == ()
    assert result.summaries[0] == "tuned S against scratch with 2 training cases: +0.0500 Dice on one dataset"
    assert len(result.compare_commands) == 4 and all(file.is_file() for file in result.files)
    document = read_document(finished)
    first = document["datasets"][0]
    assert (first["arm"], first["num_training_cases"]) == ("scratch", 2)
    # 0.4 + 0.02 x 2 cases + 0.01 x mean seed + 0.005 x mean case + 0.1 x mean label
    assert first["dice"] == pytest.approx(0.4 + 0.04 + 0.005 + 0.0075 + 0.05)
    assert first["dice_per_seed"]["1"] - first["dice_per_seed"]["0"] == pytest.approx(0.01)
    assert [item["mean"] for item in document["overall"]] == pytest.approx([0.05] * 4)
    groups = {item["group"] for item in document["groups"] if item["grouping"] == "modality x target"}
    assert groups == {"CT, seen structure", "CT, unseen structure"}


def test_the_rows_hold_every_case_and_label(finished):
    run_study(StudyConfig(manifest=finished))
    results = finished.parent / "mine.study" / "results"
    rows = [json.loads(line) for line in (results / "scores.jsonl").read_text().splitlines()]
    assert len(rows) == 8 * 4 * 2
    assert rows[0] == {
        "cell": "Dataset901_Listed.scratch.S.n2.s0", "dataset": "Dataset901_Listed", "arm": "scratch", "scale": "S",
        "num_training_cases": 2, "fold": None, "seed": 0, "case": "case_0", "label": "part 1",
        "Dice": pytest.approx(0.44), "NSD": pytest.approx(0.44), "n_ref": 10,
    }  # fmt: skip
    with (results / "gains.csv").open() as stream:
        gains = list(csv.DictReader(stream))
    assert [float(row["difference"]) for row in gains] == pytest.approx([0.05, 0.05])
    assert gains[0]["num_seeds"] == "2" and gains[0]["wins"] == "4"


def test_the_page_stands_alone_and_shows_the_curves(finished):
    run_study(StudyConfig(manifest=finished))
    page = (finished.parent / "mine.study" / "results" / "study.html").read_text(encoding="utf-8")
    assert "<script" not in page and "http://" not in page and "https://" not in page
    for part in (
        "Learning curves",
        "tuned S, 3 cases, seed 1",
        "Dataset-macro is the mean",
        "stu compare",
        "abdominal",
    ):
        assert part in page, part
    text = (finished.parent / "mine.study" / "results" / "study.md").read_text(encoding="utf-8")
    assert "| Dataset901_Listed | tuned S | 3 | 2 | 4 |" in text


def test_runs_that_look_failed_are_no_gain(path):
    flags = {"Dataset901_Listed.scratch.S.n2.s0": ("loss never fell",)}
    finish_study(path, bonus={"scratch": -0.3, "tuned": 0.05}, flags=flags)
    run_study(StudyConfig(manifest=path))
    overall = {
        (item["num_training_cases"], item["has_failed_runs"]): item["num_datasets"]
        for item in read_document(path)["overall"]
    }
    assert overall == {(2, True): 1, (2, False): 0, (3, True): 1, (3, False): 1}


def test_what_is_not_complete_is_said(finished):
    edit(finished, "num_training_cases = [2, 3]", "num_training_cases = [2, 3, 4]")
    result = run_study(StudyConfig(manifest=finished, dry_run=False, cells=("*.n2.*",)))
    assert "Dataset901_Listed tuned S with 4 training cases: 0 of 2 cells are done" in result.missing
    assert result.count("todo") == 4 and result.count("done") == 8


def test_a_dry_run_writes_nothing(finished):
    before = sorted(finished.parent.rglob("*"))
    result = run_study(StudyConfig(manifest=finished, dry_run=True))
    assert result.count("done") == 8 and result.forecasts == ()
    assert sorted(finished.parent.rglob("*")) == before


def test_scripts_run_one_cell_each(path, tmp_path):
    result = run_study(StudyConfig(manifest=path, export_jobs=tmp_path / "jobs", cells=("*.s1",), jobs=3))
    names = [file.name for file in result.files]
    assert len(names) == 4 + 2 and names[-2:] == ["cells.txt", "study.sbatch"]
    script = result.files[0]
    assert script.stat().st_mode & 0o111
    assert f"stu study {path} --cell Dataset901_Listed.scratch.S.n2.s1" in script.read_text()
    array = result.files[-1].read_text()
    assert "#SBATCH --array=0-3%3" in array and "--gres" not in array and "--signal=B:TERM@300" in array
    assert not (path.parent / "mine.study").exists()


@pytest.mark.parametrize(
    "wrong",
    [{"jobs": 0}, {"cell": "a", "cells": ("b",)}, {"cell": "a", "jobs": 2}, {"num_workers": -1},
     {"export_jobs": "x", "dry_run": True}],
)  # fmt: skip
def test_a_config_that_makes_no_sense_is_refused(wrong, path):
    with pytest.raises(UsageError):
        StudyConfig(manifest=path, **wrong)


def test_an_unknown_cell_is_refused(path):
    with pytest.raises(UsageError, match="no cell is named 'nothing'"):
        run_study(StudyConfig(manifest=path, cell="nothing"))

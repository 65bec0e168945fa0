"""`stu study`: what it prints, and what it exits with."""

from __future__ import annotations

import json

import pytest

from stu_pipeline.cli import run
from tests.study_files import finish_study, write_usual_manifest


@pytest.fixture
def manifest(tmp_path):
    path = write_usual_manifest(tmp_path)
    finish_study(path, bonus={"scratch": 0.0, "tuned": 0.05}, flags={"Dataset901_Listed.tuned.S.n3.s1": ("odd",)})
    return path


def test_a_finished_study_shows_its_cells_and_what_it_came_to(manifest, capsys):
    assert run(["study", str(manifest)]) == 0
    out = capsys.readouterr().out
    assert "8 cells: 8 done" in out and "odd" in out
    assert "tuned S against scratch with 3 training cases: +0.0500 Dice on one dataset" in out
    assert "one pair: stu compare" in out and "and 1 more pairs, on the page" in out
    assert out.splitlines()[-1].startswith("next: stu compare ")


def test_json_is_one_document(manifest, capsys):
    assert run(["study", str(manifest), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["name"] == "mine" and len(document["cells"]) == 8
    assert document["cells"][0]["state"] == "done" and document["files"][-1].endswith("study.html")


def test_scripts_are_named_next(manifest, tmp_path, capsys):
    assert run(["study", str(manifest), "--export-jobs", str(tmp_path / "jobs")]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"next: sbatch {tmp_path / 'jobs' / 'study.sbatch'}"


def test_a_bad_manifest_exits_2_and_lists_everything(tmp_path, capsys):
    path = tmp_path / "a.toml"
    path.write_text("speed = 1\n")
    assert run(["study", str(path)]) == 2
    error = capsys.readouterr().err
    assert "problems, the first:" in error and "'speed' is not known" in error and "'arms' is missing" in error


def test_a_missing_dataset_exits_3(manifest, capsys):
    text = manifest.read_text().replace("Dataset901_Listed", "Dataset902_Gone")
    manifest.write_text(text)
    assert run(["study", str(manifest)]) == 3
    assert "Dataset902_Gone" in capsys.readouterr().err

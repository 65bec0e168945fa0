"""A whole study on two small real datasets: scratch, fine-tuned and stock, from the manifest to the page."""

from __future__ import annotations

import csv
import json

import pytest

from stu_pipeline import StudyConfig, run_study
from tests.published_files import write_published_model
from tests.real_data import require
from tests.study_files import describe_dataset, write_manifest

pytestmark = [pytest.mark.real, pytest.mark.slow]

_HEAD = 'name = "two"\nscales = ["S"]\nseeds = [0]\n'
_CURVE = "[learning_curve]\nnum_training_cases = [2, 4]\nnum_validation_cases = 2\n"
_BUDGET = '[budget]\nepochs = 2\niterations = 3\ndevice = "cpu"\nworkers = 0\n'
_ARMS = """
[[arms]]
name = "scratch"
kind = "scratch"
[[arms]]
name = "finetuned"
kind = "pretrained"
recipe = "paper"
weights = {{ S = "{weights}" }}
[[arms]]
name = "nnunet"
kind = "stock"
[[comparisons]]
arm = "finetuned"
baseline = "scratch"
[[comparisons]]
arm = "scratch"
baseline = "nnunet"
"""


def test_a_study_of_two_real_datasets_runs_to_its_page(tmp_path):
    weights = tmp_path / "small_ep4k.model"
    write_published_model(weights)
    facts = {"modality": "MRI", "target": "structure"}
    parts = [
        describe_dataset(require("Dataset004_Hippocampus"), region="brain", **facts),
        describe_dataset(require("Dataset113_SpinalCordTiny"), region="spine", **facts),
    ]
    manifest = write_manifest(tmp_path / "two.toml", _HEAD, _CURVE, _BUDGET, *parts, _ARMS.format(weights=weights))
    result = run_study(StudyConfig(manifest=manifest))
    assert result.failed == () and result.missing == () and result.count("done") == 2 * 2 * 3
    assert len(result.summaries) == 4 and len(result.compare_commands) == 2 * 2 * 2

    results = result.folder / "results"
    with (results / "gains.csv").open() as stream:
        gains = list(csv.DictReader(stream))
    pairs = {(row["dataset"], row["arm"], row["num_training_cases"]) for row in gains}
    assert len(pairs) == 2 * 2 * 2 and {row["num_cases"] for row in gains} == {"2"}
    rows = [json.loads(line) for line in (results / "scores.jsonl").read_text().splitlines()]
    for dataset in ("Dataset004_Hippocampus", "Dataset113_SpinalCordTiny"):
        cases = {row["cell"]: set() for row in rows if row["dataset"] == dataset}
        for row in rows:
            if row["dataset"] == dataset:
                cases[row["cell"]].add(row["case"])
        assert len(cases) == 6 and len({frozenset(own) for own in cases.values()}) == 1  # the same two in every cell
    page = (results / "study.html").read_text(encoding="utf-8")
    assert page.count("learning curves of") == 2
    stamps = {path: path.stat().st_mtime_ns for path in (result.folder / "cells").glob("*.json")}
    again = run_study(StudyConfig(manifest=manifest))
    assert again.count("done") == 12
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps

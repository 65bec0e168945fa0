"""A7: 200 fuzzed NIfTI files through `stu predict`: exit 0, 3 or 10, and a mask exactly where the report says so."""

from __future__ import annotations

import json

import numpy as np
import pytest

from stu_pipeline.datasets.endings import split_ending
from stu_pipeline.datasets.reading import check_same_grid, read_header, read_label_map
from stu_pipeline.storage import hash_file
from tests.acceptance.in_process import hash_tree
from tests.acceptance.nifti_mutants import make_mutant
from tests.integration.commands import make_workspace, run_stu
from tests.model_folders import write_model_folder

DONE, DATA_PROBLEM, PARTIAL = 0, 3, 10
NUM_FOLDER_RUNS, CASES_PER_RUN, NUM_SINGLE_RUNS = 9, 20, 20
NUM_CASES = NUM_FOLDER_RUNS * CASES_PER_RUN + NUM_SINGLE_RUNS
FAST_FOLDER_RUNS, FAST_SINGLE_RUNS = 1, 4
# Huge voxels that a z-score turned into nothing, and images without a voxel at the model's spacing.
FOUND_FAULTS = (495, 538, 665, 679, 1197)
# What lies beside the masks in an output folder.
COMPANIONS = {
    "predictions.json",
    "predictions.csv",
    "predictions.md",
    "plans.json",
    "dataset.json",
    "run.json",
    ".lock",
}
LABELS = {0, 1, 2}


def mark_slow(values, num_fast):
    return [pytest.param(value, marks=() if index < num_fast else pytest.mark.slow)
            for index, value in enumerate(values)]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model with spacing beyond that of most mutants, so that none becomes large."""
    return write_model_folder(
        tmp_path_factory.mktemp("models"), network="PlainConvUNet", spacing_mm=(4.0, 3.0, 3.0), patch=(16, 16, 16)
    )


@pytest.fixture
def predict(tmp_path, monkeypatch, capfd, model):
    """Predict into `masks`, with home, working and temporary folder under watch.

    Returns the exit code and the cases of the report. Nothing else may change.
    """
    away = tmp_path / "away"
    for name in ("home", "work", "temporary"):
        (away / name).mkdir(parents=True)
    monkeypatch.setenv("HOME", str(away / "home"))
    monkeypatch.setenv("TMPDIR", str(away / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.chdir(away / "work")
    workspace, report, output = make_workspace(away), tmp_path / "report.json", tmp_path / "masks"

    def run(source, target, workers):
        before, model_before = hash_tree(tmp_path), hash_tree(model)
        code = run_stu(workspace, "predict", "-i", source, "-o", target, "-m", model, "--report", report,
                       "--device", "cpu", "--tta", "none", "--workers", workers)  # fmt: skip
        out, err = capfd.readouterr()
        assert code in (DONE, DATA_PROBLEM, PARTIAL), err
        assert "Traceback" not in out + err
        assert all(char.isprintable() or char in "\n\r" for char in out + err), "the output drives the terminal"
        after = {name: entry for name, entry in hash_tree(tmp_path).items() if name not in ("masks", "report.json")}
        assert {name: entry for name, entry in after.items() if not name.startswith("masks/")} == before
        assert hash_tree(model) == model_before
        return code, json.loads(report.read_text())["cases"]

    return run, output


def write_mutants(folder, seeds):
    """Write the mutants; return their files by case, and which cases are sound."""
    folder.mkdir()
    files, sound = {}, set()
    for seed in seeds:
        ending, content, faults = make_mutant(seed)
        case = f"case_{seed:03d}"
        files[case] = folder / f"{case}_0000{ending}"
        files[case].write_bytes(content)
        sound |= set() if faults else {case}
    return files, sound


def check_report(cases, files, masks):
    """The report names every case; a mask is there exactly when it says done, and is what it says."""
    assert set(cases) == set(files)
    done = {case for case, entry in cases.items() if entry["status"] == "done"}
    assert {case for case, path in masks.items() if path.exists()} == done
    for case, entry in cases.items():
        if case not in done:
            assert entry["status"] == "failed" and entry["error"] and "\n" not in entry["error"], entry
            continue
        found = read_label_map(masks[case])
        assert check_same_grid(read_header(files[case]), found) == []
        assert set(np.unique(found.array).tolist()) <= LABELS
        assert entry["output"] == masks[case].name and entry["output_sha256"] == hash_file(masks[case])
        marks = {name: mark["sha256"] for name, mark in entry["inputs"].items()}
        assert marks == {files[case].name: hash_file(files[case])}
    return done


@pytest.mark.parametrize("number", mark_slow(range(NUM_FOLDER_RUNS), FAST_FOLDER_RUNS))
def test_20_mutants_in_a_folder_end_in_a_mask_or_in_a_reason(tmp_path, predict, number):
    files, sound = write_mutants(tmp_path / "images", range(number * CASES_PER_RUN, (number + 1) * CASES_PER_RUN))
    run, output = predict
    code, cases = run(tmp_path / "images", output, workers=number % 2)
    masks = {case: output / f"{case}{split_ending(path.name)[1]}" for case, path in files.items()}
    done = check_report(cases, files, masks)
    assert sound <= done < set(files) and code == PARTIAL, "sound ones fail, or nothing does"
    assert {path.name for path in output.iterdir()} - COMPANIONS == {masks[case].name for case in done}


@pytest.mark.parametrize(
    "seed", [*mark_slow(range(NUM_FOLDER_RUNS * CASES_PER_RUN, NUM_CASES), FAST_SINGLE_RUNS), *FOUND_FAULTS]
)
def test_a_mutant_alone_ends_in_a_mask_or_in_a_reason(tmp_path, predict, seed):
    files, sound = write_mutants(tmp_path / "images", [seed])
    ((case, path),) = files.items()
    run, output = predict
    mask = output / f"mask{split_ending(path.name)[1]}"
    code, cases = run(path, mask, workers=0)
    done = check_report(cases, files, {case: mask})
    assert code == (DONE if done else DATA_PROBLEM) and sound <= done
    assert {entry.name for entry in output.iterdir()} == ({mask.name} if done else set())

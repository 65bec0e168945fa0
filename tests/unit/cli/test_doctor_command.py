"""`stu doctor` on the command line: a readable table, JSON, exit codes, the page and the copy."""

from __future__ import annotations

import json

import numpy as np
import pytest

from stu_pipeline.cli import run
from stu_pipeline.doctor.finding import Finding
from stu_pipeline.workspace import use_workspace
from tests.synthetic import make_label_map, write_dataset_json, write_tiny_dataset, write_volume


@pytest.fixture
def folder(tmp_path):
    with use_workspace(tmp_path):
        yield write_tiny_dataset(tmp_path / "nnUNet_raw", num_cases=3)


def spoil(folder, number):
    path = folder / "imagesTr" / f"case_{number:03d}_0000.nii.gz"
    path.write_bytes(path.read_bytes()[:400])


def test_a_machine_alone_is_checked(folder, capsys):
    assert run(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "this machine" in out and "nnUNet_raw" in out and "0 problems" in out


def test_a_sound_dataset_ends_with_the_next_command(folder, capsys):
    assert run(["doctor", "901", "--workers", "0"]) == 0
    out = capsys.readouterr().out
    assert "Dataset901_Tiny: 3 cases, usually 20x24x28 voxels" in out
    assert "PROBLEM" not in out and out.endswith("next: stu plan 901\n")


def test_problems_exit_with_3_and_name_action_and_file(folder, capsys):
    spoil(folder, 1)
    assert run(["doctor", str(folder), "--workers", "0"]) == 3
    out = capsys.readouterr().out
    assert "PROBLEM: export or copy these files again (damaged)" in out and "'case_001_0000.nii.gz'" in out
    assert "next:" not in out and "1 problems" in out


def test_warnings_alone_exit_with_0(folder, capsys):
    write_volume(folder / "labelsTr" / "case_001.nii.gz", make_label_map() * 0, spacing_mm=(2, 1, 1))
    assert run(["doctor", str(folder), "--workers", "0"]) == 0
    assert "WARNING: cases without foreground" in capsys.readouterr().out


def test_json_holds_the_same_by_action(folder, capsys):
    spoil(folder, 1)
    assert run(["doctor", str(folder), "--workers", "0", "--json"]) == 3
    document = json.loads(capsys.readouterr().out)
    (action,) = [item for item in document["dataset"]["actions"] if item["severity"] == "problem"]
    assert action["action"] == "export" and action["cases"] == ["case_001"]
    assert set(action["findings"][0]) == set(Finding.__dataclass_fields__)
    assert [row["is_sound"] for row in document["dataset"]["cases"]] == [True, False, True]
    assert document["num_problems"] >= 1 and document["machine"]


def test_lines_fit_a_narrow_terminal_and_long_lists_are_cut(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with use_workspace(tmp_path):
        folder = write_tiny_dataset(tmp_path / "nnUNet_raw", num_cases=12)
        for number in range(11):
            spoil(folder, number)
        run(["doctor", str(folder), "--workers", "0"])
    out = capsys.readouterr().out
    block = out[out.index("Dataset901_Tiny") :]
    assert max(map(len, block.splitlines())) <= 80
    assert "(11 cases)" in block and "and 3 more, all in --json and --html" in block


def test_the_page_and_the_copy_are_written(folder, tmp_path, capsys):
    path = folder / "labelsTr" / "case_001.nii.gz"
    write_volume(path, make_label_map().astype(np.float32), spacing_mm=(2, 1, 1))
    page, copy = tmp_path / "page.html", tmp_path / "Dataset902_Fixed"
    assert run(["doctor", str(folder), "--workers", "0", "--html", str(page), "--fix", str(copy)]) == 0
    out = capsys.readouterr().out
    assert "mended: whole numbers stored as floats, saved as uint8: labelsTr/case_001.nii.gz" in out
    assert page.read_text().startswith("<!DOCTYPE html>") and (copy / "dataset.json").is_file()
    assert out.endswith(f"next: stu doctor {copy}\n")
    assert run(["doctor", str(copy), "--workers", "0"]) == 0


def test_a_mended_problem_is_no_failure_of_the_copy(folder, tmp_path, capsys):
    # Labels the wrong way round in an otherwise new description: no form that could be imported.
    content = {
        "channel_names": {"0": "CT"},
        "labels": {"0": "background", "1": "a", "2": "b"},
        "file_ending": ".nii.gz",
    }
    write_dataset_json(folder, **content)
    copy = tmp_path / "Dataset902_Fixed"
    assert run(["doctor", str(folder), "--workers", "0", "--fix", str(copy), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["num_problems"] == 1
    assert [item for item in document["fix"]["undecided"] if item["severity"] == "problem"] == []
    assert "dataset.json" in document["fix"]["mended"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--html", "page.html"], "--html shows a dataset, and none was given"),
        (["--fix", "copy"], "--fix copies a dataset, and none was given"),
    ],
)
def test_flags_about_a_dataset_need_one(folder, arguments, message, capsys):
    assert run(["doctor", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_dataset_that_is_not_there_is_an_error_with_its_name(folder, capsys):
    assert run(["doctor", "Dataset999_Nowhere", "--workers", "0"]) == 3
    assert "Dataset999_Nowhere" in capsys.readouterr().err

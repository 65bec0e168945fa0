"""`stu predict` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stu_pipeline.cli import run
from tests.model_folders import write_model_folder
from tests.synthetic import make_image, make_label_map, write_volume


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    (tmp_path / "raw" / "Dataset901_Tiny").mkdir(parents=True)
    for index in range(2):
        write_volume(tmp_path / "in" / f"case_{index}.nii.gz", make_image(make_label_map((8, 16, 16))))
    write_model_folder(tmp_path / "results", network="PlainConvUNet", mirror_axes=(2,))
    return tmp_path


def test_a_folder_is_predicted_with_the_model_of_a_dataset(place: Path, capsys: pytest.CaptureFixture[str]):
    code = run(["predict", "-i", str(place / "in"), "-o", str(place / "out"), "-d", "901", "--scale", "S"])
    output = capsys.readouterr()
    assert code == 0
    assert (place / "out" / "case_1.nii.gz").is_file()
    assert "case_0" in output.out
    assert output.out.splitlines()[-1] == f"next: stu evaluate -r REFERENCE -p {place / 'out'}"


def test_json_is_one_document(place: Path, capsys: pytest.CaptureFixture[str]):
    model = next((place / "results" / "Dataset901_Tiny").iterdir())
    arguments = [
        "predict",
        "-i",
        str(place / "in"),
        "-o",
        str(place / "out"),
        "-m",
        str(model),
        "--json",
        "--tta",
        "none",
    ]
    assert run(arguments) == 0
    document = json.loads(capsys.readouterr().out)
    assert [case["status"] for case in document["cases"]] == ["done", "done"]


def test_a_bad_case_is_exit_10_with_the_table_and_a_hint(place: Path, capsys: pytest.CaptureFixture[str]):
    bad = place / "in" / "case_0.nii.gz"
    bad.write_bytes(bad.read_bytes()[:100])
    code = run(["predict", "-i", str(place / "in"), "-o", str(place / "out"), "-d", "901"])
    output = capsys.readouterr()
    assert code == 10
    assert "failed" in output.out
    assert "error: 1 of 2 cases failed: case_0" in output.err
    assert "next:" not in output.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-d", "901", "-m", "x"], "either -m MODEL_FOLDER or -d DATASET"),
        ([], "either -m MODEL_FOLDER or -d DATASET"),
        (["-m", "x", "--scale", "B"], "belong to -d"),
        (["-d", "901", "--scale", "XL"], "unknown scale 'XL'"),
        (["-d", "901", "--folds", "one"], "folds are 'auto', 'all' or numbers"),
        (["-d", "901", "--model-weights", "a,b"], "model weights are numbers"),
        (["-d", "901", "--model-weights", "1,2"], "2 model weights for 1 models"),
        (["-d", "901", "--step", "2"], "step must be above 0"),
    ],
)
def test_flags_that_make_no_sense_are_exit_2(place: Path, capsys, arguments: list[str], message: str):
    assert run(["predict", "-i", str(place / "in"), "-o", str(place / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_scale_that_is_not_trained_is_exit_4(place: Path, capsys: pytest.CaptureFixture[str]):
    assert run(["predict", "-i", str(place / "in"), "-o", str(place / "out"), "-d", "901", "--scale", "B"]) == 4
    assert "hint: stu train Dataset901_Tiny --scale B --fold 0" in capsys.readouterr().err


def test_help_ends_with_examples(capsys: pytest.CaptureFixture[str]):
    assert run(["predict", "--help"]) == 0
    text = capsys.readouterr().out
    for flag in ("--tta", "--folds", "--checkpoint", "--model-weights", "--probabilities", "--overwrite", "--report"):
        assert flag in text
    assert "stu predict -i scan.nii.gz" in text

"""`stu weights convert`, `export` and `install` as they are typed."""

from __future__ import annotations

import json

import pytest

from stu_pipeline.cli import run
from stu_pipeline.cli.weights_options import parse_folds, parse_strides
from stu_pipeline.errors import UsageError
from tests.model_folders import write_model_folder
from tests.packages import DATASET, MODEL
from tests.published_files import write_published_model


@pytest.fixture(autouse=True)
def workspace(tmp_path, monkeypatch):
    monkeypatch.setenv("STU_WORKSPACE", str(tmp_path / "workspace"))


def test_a_model_goes_out_and_in_again(tmp_path, capfd):
    model = write_model_folder(tmp_path / "here")
    package = tmp_path / "tiny.zip"
    assert run(["weights", "export", str(model), "-o", str(package)]) == 0
    out = capfd.readouterr().out.splitlines()
    assert out[0].endswith(str(package)) and len(out[0].split()[0]) == 64
    assert out[-1] == f"next: stu weights install {package}"

    assert run(["weights", "install", str(package)]) == 0
    out = capfd.readouterr().out
    installed = tmp_path / "workspace" / "nnUNet_results" / DATASET / MODEL
    assert f"model: {installed}" in out and "1 checkpoint" in out and "its own hashes fit" in out
    assert f"next: stu predict -i IMAGES -o MASKS -m {installed}" in out
    assert (installed / "fold_0" / "checkpoint_final.pth").is_file()


def test_the_results_may_be_elsewhere_and_json_says_where(tmp_path, capfd):
    model = write_model_folder(tmp_path / "here")
    assert run(["weights", "export", str(model), "-o", str(tmp_path / "tiny.zip"), "--json"]) == 0
    exported = json.loads(capfd.readouterr().out)
    assert exported["form"] == "nnunet-zip" and exported["folds"] == [0] and list(exported["sha256"]) == ["tiny.zip"]
    assert run(["weights", "install", str(tmp_path / "tiny.zip"), "--results", str(tmp_path / "there"), "--json"]) == 0
    installed = json.loads(capfd.readouterr().out)
    assert installed["models"] == [str(tmp_path / "there" / DATASET / MODEL)] and installed["is_proven"]


def test_installing_twice_needs_a_flag(tmp_path, capfd):
    model = write_model_folder(tmp_path / "here")
    assert run(["weights", "export", str(model), "-o", str(tmp_path / "tiny.zip")]) == 0
    assert run(["weights", "install", str(tmp_path / "tiny.zip")]) == 0
    assert run(["weights", "install", str(tmp_path / "tiny.zip")]) == 2
    assert "--overwrite" in capfd.readouterr().err
    assert run(["weights", "install", str(tmp_path / "tiny.zip"), "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["convert", "gone.model"], 4),
        (["convert", "gone.model", "--strides", "2x2"], 2),
        (["convert", "gone.model", "--strides", "a"], 2),
        (["convert", "gone.model", "--dataset-name", "Liver"], 2),
        (["convert", "gone.model", "--labels", "gone.json"], 3),
        (["export", "gone", "-o", "m.zip"], 4),
        (["export", "gone", "-o", "m.zip", "--folds", "x"], 2),
        (["export", "gone", "-o", "m.tar"], 2),
        (["install", "gone.zip"], 4),
        (["install", "gone.safetensors"], 4),
    ],
)
def test_what_is_wrong_is_said_with_its_exit_code(tmp_path, monkeypatch, capfd, arguments, code):
    monkeypatch.chdir(tmp_path)
    assert run(["weights", *arguments]) == code
    error = capfd.readouterr().err
    assert error.startswith("error: ") and "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_unknown_strides_are_refused_with_the_flag_that_declares_them(tmp_path, capfd):
    file = tmp_path / "weights.model"
    write_published_model(file, num_classes=3, momentum=False, sidecar=False)
    assert run(["weights", "convert", str(file), "-o", str(tmp_path / "model")]) == 4
    error = capfd.readouterr().err
    assert "strides of 'weights.model' are unknown" in error and "--published" in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["weights.model"]
    # Declared strides alone do not tell at which voxel size the network sees.
    strides = "2x2x2,2x2x2,2x2x2,2x2x2,1x1x2"
    assert run(["weights", "convert", str(file), "-o", str(tmp_path / "model"), "--strides", strides]) == 4
    assert "voxel spacing: --sidecar FILE" in capfd.readouterr().err


def test_strides_and_folds_are_read_from_text():
    assert parse_strides("2x2x2,1x2x2") == ((2, 2, 2), (1, 2, 2)) and parse_strides(None) is None
    assert parse_folds("0, 2,all") == (0, 2, "all") and parse_folds(None) is None
    for text in ("", "1;2", "-1"):
        with pytest.raises(UsageError):
            parse_folds(text)

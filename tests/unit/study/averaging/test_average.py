"""Averaging the folds of a model: what is refused, what is written, and that the weights are the mean."""

from __future__ import annotations

import json

import pytest
import torch

from stu_pipeline.cli import run
from stu_pipeline.nnunet.checkpoint import read_checkpoint, write_checkpoint
from stu_pipeline.study.averaging.average import RECORD
from stu_pipeline.study.averaging.blending import blend_checkpoints, find_start
from tests.model_folders import write_model_folder
from tests.synthetic import write_tiny_dataset

START = {"kind": "pretrained", "identity": "0" * 64}


@pytest.fixture
def model(tmp_path):
    folder = write_model_folder(tmp_path / "results", folds=(0, 1))
    for fold in (0, 1):
        name_start(folder, fold, START)
    return folder


@pytest.fixture
def held_out(tmp_path):
    return write_tiny_dataset(tmp_path / "raw", num_cases=3)


def name_start(folder, fold, start):
    path = folder / f"fold_{fold}" / "checkpoint_final.pth"
    checkpoint = read_checkpoint(path)
    write_checkpoint(path, {**checkpoint, "stu": {**(checkpoint.get("stu") or {}), "start": start}})


def read_weights(path):
    return read_checkpoint(path)["network_weights"]


def command(model, held_out, output, *more):
    images, labels = str(held_out / "imagesTr"), str(held_out / "labelsTr")
    words = ["weights", "average", "-m", str(model), "-i", images, "-r", labels, "-o", str(output), "--tta", "none"]
    return [*words, "--device", "cpu", *more]


def test_the_average_is_the_mean_of_the_weights(model):
    paths = [model / f"fold_{fold}" / "checkpoint_final.pth" for fold in (0, 1)]
    first, second = map(read_weights, paths)
    assert any(not torch.equal(first[name], second[name]) for name in first)
    blended = blend_checkpoints(paths)
    for name, tensor in blended["network_weights"].items():
        assert torch.equal(tensor, ((first[name].double() + second[name].double()) / 2).to(tensor.dtype))
    assert blended["optimizer_state"]["state"] == {} and find_start(paths[0]) == START["identity"]


def test_equal_folds_average_to_themselves(model):
    path = model / "fold_0" / "checkpoint_final.pth"
    blended = blend_checkpoints([path, path, path])["network_weights"]
    assert all(torch.equal(tensor, read_weights(path)[name]) for name, tensor in blended.items())


def test_folds_of_different_starts_are_refused(model, held_out, tmp_path, capsys):
    name_start(model, 1, {**START, "identity": "1" * 64})
    assert run(command(model, held_out, tmp_path / "out")) == 4
    assert "did not begin with the same pretrained weights" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_folds_that_began_with_noise_are_refused(model, held_out, tmp_path, capsys):
    name_start(model, 0, {"kind": "scratch"})
    assert run(command(model, held_out, tmp_path / "out")) == 4
    assert "fold 0: untrained" in capsys.readouterr().err


def test_cases_that_were_trained_on_are_refused(model, held_out, tmp_path, capsys):
    summary = model / "fold_1" / "validation" / "summary.json"
    summary.parent.mkdir()
    summary.write_text(json.dumps({"metric_per_case": [{"prediction_file": "/elsewhere/case_001.nii.gz"}]}))
    assert run(command(model, held_out, tmp_path / "out")) == 3
    assert "case_001" in capsys.readouterr().err


def test_a_case_name_with_dots_is_compared_as_a_whole(model, held_out, tmp_path, capsys):
    summary = model / "fold_1" / "validation" / "summary.json"
    summary.parent.mkdir()
    # Another case, whose name begins like a held-out one.
    summary.write_text(json.dumps({"metric_per_case": [{"prediction_file": "/elsewhere/case_001.early.nii.gz"}]}))
    assert run(command(model, held_out, tmp_path / "out", "-q")) == 0


def test_a_fold_that_is_not_there_is_refused(model, held_out, tmp_path, capsys):
    assert run(command(model, held_out, tmp_path / "out", "--folds", "0,7")) == 4
    assert "fold 7 is not trained" in capsys.readouterr().err


def test_one_fold_without_a_moving_average_is_refused(model, held_out, tmp_path, capsys):
    assert run(command(model, held_out, tmp_path / "out", "--folds", "0")) == 4
    assert "nothing to average" in capsys.readouterr().err


def test_an_average_that_equals_its_folds_is_not_kept(model, held_out, tmp_path, capsys):
    output, source = tmp_path / "out", model / "fold_0" / "checkpoint_final.pth"
    write_checkpoint(model / "fold_1" / "checkpoint_final.pth", read_checkpoint(source))
    assert run(command(model, held_out, output, "--json")) == 0
    document = json.loads(capsys.readouterr().out)
    assert [member["name"] for member in document["members"]] == ["fold 0", "fold 1", "average of folds"]
    assert len(document["cases"]) == 3 and document["kept"] is None and "not kept" in document["verdict"]
    assert not output.exists() and [path for path in tmp_path.iterdir() if path.name.startswith(".out")] == []


def test_an_average_that_is_kept_is_a_model_that_predicts(model, held_out, tmp_path, capsys):
    # The references are what one set of weights says. Both folds are off it, in opposite directions.
    images, right, output = held_out / "imagesTr", tmp_path / "right", tmp_path / "out"
    predict = ["predict", "-i", str(images), "--tta", "none", "--device", "cpu", "--precision", "fp32", "-q"]
    assert run([*predict, "-m", str(model), "--folds", "0", "-o", str(right)]) == 0
    checkpoint = read_checkpoint(model / "fold_0" / "checkpoint_final.pth")
    wanted = checkpoint["network_weights"]
    for fold, offset in enumerate(([0.0, 50.0, -50.0], [0.0, -50.0, 50.0])):
        bias = wanted["decoder.seg_layers.4.bias"] + torch.tensor(offset)
        moved = {**checkpoint, "network_weights": {**wanted, "decoder.seg_layers.4.bias": bias}}
        write_checkpoint(model / f"fold_{fold}" / "checkpoint_final.pth", moved)
    labels = tmp_path / "labels"
    labels.mkdir()
    for mask in right.glob("case_*.nii.gz"):
        (labels / mask.name).write_bytes(mask.read_bytes())
    words = command(model, held_out, output, "--json")
    words[words.index("-r") + 1] = str(labels)
    capsys.readouterr()
    assert run(words) == 0
    document = json.loads(capsys.readouterr().out)
    record = json.loads((output / RECORD).read_text(encoding="utf-8"))
    assert document["kept"] == record["kept"] == "average of folds" and set(record["sources"]) == {"0", "1"}
    assert document["members"][2]["mean_dice"] > 0.9
    found = read_weights(output / "fold_all" / "checkpoint_final.pth")
    assert all(torch.allclose(tensor, wanted[name], atol=1e-5) for name, tensor in found.items())
    assert run([*predict, "-m", str(output), "-o", str(tmp_path / "masks")]) == 0
    assert len(list((tmp_path / "masks").glob("*.nii.gz"))) == 3
    assert run([*words, "--overwrite"]) == 0


def test_an_output_that_averaging_did_not_write_is_never_replaced(model, held_out, tmp_path, capsys):
    output = tmp_path / "out"
    output.mkdir()
    assert run(command(model, held_out, output)) == 2
    assert run(command(model, held_out, output, "--overwrite")) == 2
    assert "never replaced" in capsys.readouterr().err and not (output / RECORD).exists()

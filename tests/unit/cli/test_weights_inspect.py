"""`stu weights inspect`: tables for people, a document for programs, exit codes."""

from __future__ import annotations

import json

import pytest

from stu_pipeline.cli import run
from tests.published_files import shrink_scale, write_fork_checkpoint, write_published_model, write_published_sidecar


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Let files of scale S be small."""
    shrink_scale(monkeypatch)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "small ep4k.model"


def test_a_released_file_is_shown_and_the_next_command_named(path, capsys):
    write_published_model(path)
    assert run(["weights", "inspect", str(path)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "STU-Net S, 3D, 1 input channel, 105 outputs" in out and "encoder stage 5" in out
    assert out.splitlines()[-2:] == ["can be used", f"next: stu weights convert '{path}'"]


def test_a_checkpoint_leads_to_planning(path, capsys):
    write_fork_checkpoint(path)
    assert run(["weights", "inspect", str(path), "--layers"]) == 0
    out = capsys.readouterr().out
    assert "conv_blocks_context.0.0.conv1.weight" in out
    assert out.splitlines()[-1] == f"next: stu plan DATASET --pretrained '{path}'"


def test_a_file_that_cannot_be_used_is_shown_without_a_next_command(path, capsys):
    def spoil(state):
        state["seg_outputs.0.bias"][0] = float("nan")

    write_published_model(path, change_state=spoil)
    assert run(["weights", "inspect", str(path)]) == 0
    out = capsys.readouterr().out
    assert "cannot be used: 'seg_outputs.0.bias' holds 1 values" in out and "next:" not in out


def test_programs_get_one_document(path, capsys):
    write_published_model(path)
    assert run(["weights", "inspect", str(path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["network"] == ["S", 1, 105] and document["form"] == "published"
    assert document["facts"]["strides"][-1] == [1, 1, 2] and len(document["layers"]) == 65
    assert document["problems"] == [] and document["next"].startswith("stu weights convert")


def test_the_side_car_can_be_given(path, tmp_path, capsys):
    write_published_model(path, sidecar=False)
    write_published_sidecar(tmp_path / "plans.pkl")
    assert run(["weights", "inspect", str(path), "--sidecar", str(tmp_path / "plans.pkl")]) == 0
    assert "1x1x1 2x2x2 2x2x2 2x2x2 2x2x2 1x1x2" in capsys.readouterr().out


@pytest.mark.parametrize("data", [b"", b"<html>", b"PK\x03\x04" * 10, b"\x80\x04N."])
def test_a_file_that_cannot_be_read_is_exit_4(path, capsys, data):
    path.write_bytes(data)
    assert run(["weights", "inspect", str(path)]) == 4
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: 'small ep4k.model'") and "Traceback" not in err


def test_a_missing_file_is_exit_4(path, capsys):
    assert run(["weights", "inspect", str(path)]) == 4
    assert "not found" in capsys.readouterr().err

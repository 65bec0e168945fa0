"""Block L1, prediction: a model folder is data. Whatever code is put into one of its files, none of it runs."""

from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from stu_pipeline.cli import run
from tests.model_folders import write_model_folder
from tests.synthetic import make_image, make_label_map, write_volume

MODEL_PROBLEM = 4


class Call:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def make_payload(name: str, canary: Path) -> Call:
    """Return what would make the canary, were it ever unpickled."""
    program = f"open({str(canary)!r}, 'w').close()"
    calls = {
        "os.system": (os.system, f"touch {canary}"),
        "os.mkdir": (os.mkdir, str(canary)),
        "builtins.exec": (exec, program),
        "builtins.eval": (eval, f"__import__('os').mkdir({str(canary)!r})"),
        "builtins.open": (open, str(canary), "w"),
        "pickle.loads": (pickle.loads, pickle.dumps(Call(os.mkdir, str(canary)))),
        "Path.touch": (Path.touch, canary),
        "numpy.save": (np.save, str(canary), 0),
        "torch.save": (torch.save, 0, str(canary)),
    }
    function, *arguments = calls[name]
    return Call(function, *arguments)


PAYLOADS = ["os.system", "os.mkdir", "builtins.exec", "builtins.eval", "builtins.open", "pickle.loads", "Path.touch",
            "numpy.save", "torch.save"]  # fmt: skip


def put_into(checkpoint, payload, place):
    if place == "weights":
        checkpoint["network_weights"] = {**checkpoint["network_weights"], "more": payload}
    elif place == "numpy":
        checkpoint["logging"] = np.array([payload], dtype=object)
    elif place == "settings":
        checkpoint["init_args"] = {**checkpoint["init_args"], "plans": payload}
    else:
        checkpoint[place] = payload


def spoil_with_value(path, payload, place):
    checkpoint = torch.load(path, weights_only=True)
    put_into(checkpoint, payload, place)
    torch.save(checkpoint, path)


def spoil_container(path, payload, kind):
    """Write the payload in a container of another kind than checkpoints are."""
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"network_weights": payload}))
    elif kind == "legacy":
        torch.save({"network_weights": payload}, path, _use_new_zipfile_serialization=False)
    elif kind == "tar":
        data = pickle.dumps(payload)
        with tarfile.open(path, "w") as archive:
            for name in ("sys_info", "pickle", "storages", "tensors"):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    elif kind == "second data.pkl":
        with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
            name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
            archive.writestr(name, pickle.dumps(payload, 2))
    else:  # cut after the payload, so that loading fails only later
        torch.save({"a": payload, "b": torch.zeros(5000)}, path)
        path.write_bytes(path.read_bytes()[:-3000])


@pytest.fixture
def place(tmp_path):
    model = write_model_folder(tmp_path / "results", network="PlainConvUNet", mirror_axes=(), folds=(0, 1))
    image = make_image(make_label_map((8, 18, 20)), generator=np.random.default_rng(0))
    write_volume(tmp_path / "images" / "case_0000.nii.gz", image)
    return model


def predict(model: Path, *options: str) -> int:
    root = model.parents[2]
    arguments = ["-i", str(root / "images"), "-o", str(root / "out"), "-m", str(model), "--device", "cpu", *options]
    return run(["predict", *arguments])


def require_refused(model, canary, capfd, *options):
    assert predict(model, *options) == MODEL_PROBLEM
    error = capfd.readouterr().err
    assert not canary.exists(), "code of the model folder was run"
    assert "fold_1" in error and "Traceback" not in error, error
    assert not (model.parents[2] / "out").exists()


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("where", ["weights", "settings", "logging", "numpy", "optimizer_state", "more"])
def test_code_in_a_checkpoint_is_refused_and_not_run(place, tmp_path, capfd, payload, where):
    canary = tmp_path / "canary"
    spoil_with_value(place / "fold_1" / "checkpoint_final.pth", make_payload(payload, canary), where)
    require_refused(place, canary, capfd)


@pytest.mark.parametrize("payload", ["os.mkdir", "builtins.exec"])
@pytest.mark.parametrize("kind", ["pickle", "legacy", "tar", "second data.pkl", "cut"])
def test_code_in_another_container_is_refused_and_not_run(place, tmp_path, capfd, payload, kind):
    canary = tmp_path / "canary"
    spoil_container(place / "fold_1" / "checkpoint_final.pth", make_payload(payload, canary), kind)
    require_refused(place, canary, capfd)


@pytest.mark.parametrize("checkpoint", ["best", "latest"])
def test_code_in_a_checkpoint_that_is_asked_for_is_not_run(place, tmp_path, capfd, checkpoint):
    canary = tmp_path / "canary"
    for fold in (0, 1):
        source = place / f"fold_{fold}" / "checkpoint_final.pth"
        (source.parent / f"checkpoint_{checkpoint}.pth").write_bytes(source.read_bytes())
        source.unlink()
    spoil_with_value(place / "fold_1" / f"checkpoint_{checkpoint}.pth", make_payload("os.mkdir", canary), "weights")
    require_refused(place, canary, capfd, "--checkpoint", checkpoint)


def test_programs_beside_the_model_are_not_run(place, tmp_path, capfd):
    # What nnU-Net or Python would open if it were asked to.
    canary = tmp_path / "canary"
    data = pickle.dumps(make_payload("os.mkdir", canary))
    (place / "postprocessing.pkl").write_bytes(data)
    (place / "fold_0" / "debug.pkl").write_bytes(data)
    (place / "nnUNetTrainer.py").write_text(f"import os; os.mkdir({str(canary)!r})")
    assert predict(place) == 0
    assert "postprocessing.pkl" in capfd.readouterr().err
    assert not canary.exists()


@pytest.mark.parametrize(("key", "value"), [
    ("image_reader_writer", "os.system"),
    ("image_reader_writer", "../../canary"),
    ("label_manager", "subprocess.Popen"),
    ("network", "torch.hub.load"),
    ("network", "builtins.exec"),
    ("imports", ["conv_op"]),
    ("preprocessor_name", "os.system"),
    ("resampling_fn_probabilities", "os.system"),
    ("normalization_schemes", ["os.system"]),
])  # fmt: skip
def test_names_of_other_code_in_a_plan_are_refused(place, tmp_path, capfd, key, value):
    path = place / "plans.json"
    plan = json.loads(path.read_text())
    configuration = plan["configurations"]["3d_fullres"]
    if key == "network":
        configuration["architecture"]["network_class_name"] = value
    elif key == "imports":
        configuration["architecture"]["arch_kwargs"]["conv_op"] = "os.system"
    elif key in configuration:
        configuration[key] = value
    else:
        plan[key] = value
    path.write_text(json.dumps(plan))
    assert predict(place) == MODEL_PROBLEM
    error = capfd.readouterr().err
    assert "Traceback" not in error and "error: " in error
    assert [*tmp_path.glob("out/*.nii.gz")] == []


@pytest.mark.parametrize("name", ["postprocessing.json", "quality.json", "dataset_fingerprint.json"])
@pytest.mark.parametrize("text", ["", "[]", "null", "[" * 50_000, '{"schema": 1, "rules": 7}', "\x00", "1" * 5000])
def test_a_damaged_companion_of_a_model_costs_no_mask(place, tmp_path, capfd, name, text):
    (place / name).write_text(text)
    assert predict(place, "--tta", "none") == 0, capfd.readouterr().err
    assert (tmp_path / "out" / "case.nii.gz").is_file()
    assert "Traceback" not in capfd.readouterr().err

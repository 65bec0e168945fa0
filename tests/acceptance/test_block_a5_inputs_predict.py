"""Blocks A5 and C2, prediction: an image that cannot be one is refused by name, and costs no other case."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest

from stu_pipeline.cli import run
from tests.acceptance.in_process import DATA_PROBLEM, hash_tree
from tests.model_folders import write_model_folder
from tests.synthetic import make_image, make_label_map, write_volume

SHAPE = (8, 18, 20)
PARTIAL = 10


def write_non_finite(value):
    def write(path: Path) -> None:
        image = make_image(make_label_map(SHAPE)).astype(np.float32)
        image[2, 3, 4] = value
        write_volume(path, image)

    return write


def write_shape(*shape):
    return lambda path: nibabel.save(nibabel.Nifti1Image(np.zeros(shape, dtype=np.float32), np.eye(4)), path)


def write_bytes(data):
    return lambda path: path.write_bytes(data)


# What is wrong: how it is written, and the words that say so.
FAULTS = {
    "NaN": (write_non_finite(np.nan), "NaN or infinite, first at (z, y, x) = (2, 3, 4)"),
    "infinite": (write_non_finite(-np.inf), "NaN or infinite, first at (z, y, x) = (2, 3, 4): -inf"),
    "no image": (write_bytes(b"<html>404</html>"), ""),
    "no byte": (write_bytes(b""), "empty"),
    "a page": (write_bytes(b"\x1f\x8b" + b"\0" * 40), ""),
    "four dimensions": (write_shape(20, 18, 8, 2), "4D and holds 2 volumes"),
    "five dimensions": (write_shape(20, 18, 8, 1, 3), "5D and holds 3 volumes"),
}


@pytest.fixture
def model(tmp_path):
    return write_model_folder(tmp_path / "results", network="PlainConvUNet", mirror_axes=())


def predict(*arguments: object) -> int:
    return run(["predict", "--device", "cpu", *(str(argument) for argument in arguments)])


def write_sound(folder: Path, count: int = 2) -> None:
    for index in range(count):
        generator = np.random.default_rng(index)
        image = make_image(make_label_map(SHAPE, generator=generator), generator=generator)
        write_volume(folder / f"sound_{index}_0000.nii.gz", image)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_image_alone_is_refused_by_name_and_leaves_no_mask(tmp_path, model, capfd, fault):
    write, words = FAULTS[fault]
    (tmp_path / "images").mkdir()
    write(tmp_path / "images" / "bad_0000.nii.gz")
    assert predict("-i", tmp_path / "images", "-o", tmp_path / "out", "-m", model) == DATA_PROBLEM
    error = " ".join(capfd.readouterr().err.split())
    assert "bad_0000.nii.gz" in error and words in error and "Traceback" not in error, error
    assert not list((tmp_path / "out").glob("*.nii.gz"))


def test_bad_images_among_sound_ones_cost_nothing_but_themselves(tmp_path, model, capfd):
    write_sound(tmp_path / "sound")
    write_sound(tmp_path / "mixed")
    assert predict("-i", tmp_path / "sound", "-o", tmp_path / "expected", "-m", model) == 0
    for index, (write, _) in enumerate(FAULTS.values()):
        write(tmp_path / "mixed" / f"bad_{index}_0000.nii.gz")
    images = hash_tree(tmp_path / "mixed")
    assert predict("-i", tmp_path / "mixed", "-o", tmp_path / "out", "-m", model) == PARTIAL
    assert "Traceback" not in capfd.readouterr().err
    cases = json.loads((tmp_path / "out" / "predictions.json").read_text())["cases"]
    assert {name: case["status"] for name, case in cases.items()} == {
        **{f"bad_{index}": "failed" for index in range(len(FAULTS))},
        "sound_0": "done",
        "sound_1": "done",
    }
    masks = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*.nii.gz")}
    assert masks == {path.name: path.read_bytes() for path in (tmp_path / "expected").glob("*.nii.gz")}
    assert hash_tree(tmp_path / "mixed") == images


@pytest.mark.parametrize(("channels", "given"), [(2, ["0000"]), (1, ["0000", "0001"]), (3, ["0000", "0002"])])
def test_a_wrong_number_of_channels_is_refused_before_any_work(tmp_path, capfd, channels, given):
    model = write_model_folder(tmp_path / "results", network="PlainConvUNet", num_channels=channels)
    for channel in given:
        write_volume(tmp_path / "images" / f"scan_{channel}.nii.gz", np.zeros(SHAPE, dtype=np.float32))
    assert predict("-i", tmp_path / "images", "-o", tmp_path / "out", "-m", model) == DATA_PROBLEM
    error = capfd.readouterr().err
    assert "scan" in error and "channel" in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["scan_0000.xyz", "scan_0000.nii.gz.part", "scan.jpg", "scan_0000"])
def test_files_of_an_unknown_ending_are_no_cases_and_zero_cases_are_an_error(tmp_path, model, capfd, name):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / name).write_bytes(b"something")
    assert predict("-i", tmp_path / "images", "-o", tmp_path / "out", "-m", model) == DATA_PROBLEM
    error = capfd.readouterr().err
    assert "no cases found" in error and "hint: " in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["scan_0000.xyz", "scan_0000", "scan.jpg"])
def test_one_file_of_an_unknown_ending_is_refused(tmp_path, model, capfd, name):
    (tmp_path / name).write_bytes(b"something")
    assert predict("-i", tmp_path / name, "-o", tmp_path / "out", "-m", model) == DATA_PROBLEM
    assert name in capfd.readouterr().err
    assert not (tmp_path / "out").exists()

"""A1 to A5 and B1 on the command line: exit 3, every damaged file named in one run, nothing left behind."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest

from tests.image_files import make_affine, make_header, write_nifti
from tests.integration.commands import hash_tree, make_workspace, run_stu
from tests.model_folders import write_model_folder
from tests.synthetic import make_label_map, write_tiny_dataset, write_volume

pytestmark = pytest.mark.integration

SHAPE = (8, 16, 16)
SPACING = (2, 1, 1)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(bytes(data))


def write_4d(path):
    write_nifti(path, make_header((16, 16, 8, 2), np.int16, sform=make_affine(np.eye(3)), codes=(1, 0)))


def write_nan(path):
    array = np.zeros(SHAPE, np.float32)
    array[1, 2, 3] = np.nan
    write_volume(path, array, spacing_mm=SPACING)


def shear(path):
    lean = np.array([[1, 0.3, 0], [0, 1, 0], [0, 0, 1]])
    affine = make_affine(lean, SPACING[::-1])
    write_nifti(path, make_header(SHAPE[::-1], np.int16, sform=affine, codes=(1, 0), spacing=SPACING[::-1]))


def lie(path):
    header = make_header(SHAPE[::-1], np.int16, sform=make_affine(np.eye(3)), codes=(1, 0))
    header["dim"][1:4] = 8192
    path.write_bytes(gzip.compress(header.binaryblock + bytes(4)))


DAMAGE = {
    cut: "cut short",
    flip: "gzip",
    write_4d: "4D and holds 2 volumes",
    write_nan: "1 voxels that are NaN or infinite, first at (z, y, x) = (1, 2, 3)",
    shear: "not at right angles",
    lie: "the limit is 2147483648",
}


def test_planning_names_every_damaged_file_in_one_run(tmp_path, capfd):
    workspace = make_workspace(tmp_path)
    raw = write_tiny_dataset(workspace.raw, 905, name="Damaged", num_cases=9, shape=SHAPE)
    for index, damage in enumerate(DAMAGE):
        damage(raw / "imagesTr" / f"case_{index:03d}_0000.nii.gz")
    cut(raw / "labelsTr" / "case_006.nii.gz")
    write_volume(raw / "labelsTr" / "case_007.nii.gz", make_label_map(SHAPE), spacing_mm=SPACING, origin=(9, 0, 0))
    before = hash_tree(workspace.raw)
    code = run_stu(workspace, "plan", 905, "--scale", "S", "--gpu-memory", 8, "--workers", 0, "-q")
    talk = capfd.readouterr().err
    assert code == 3 and "Traceback" not in talk
    for index, reason in enumerate(DAMAGE.values()):
        assert f"case_{index:03d}_0000.nii.gz" in talk and reason in talk
    assert "'case_006.nii.gz' is cut short" in talk and "case_007" in talk and "origin" in talk
    assert "case_008" not in talk
    assert hash_tree(workspace.raw) == before
    assert not list(workspace.preprocessed.rglob("*.b2nd"))


def test_predicting_names_every_damaged_file_and_predicts_the_others(tmp_path, capfd):
    workspace = make_workspace(tmp_path / "workspace")
    model = write_model_folder(tmp_path / "models", network="PlainConvUNet")
    images = write_tiny_dataset(tmp_path / "images", 904, num_cases=7, shape=SHAPE) / "imagesTr"
    for index, damage in enumerate(DAMAGE):
        damage(images / f"case_{index:03d}_0000.nii.gz")
    masks = tmp_path / "masks"
    code = run_stu(workspace, "predict", "-i", images, "-o", masks, "-m", model, "--device", "cpu", "--tta", "none")
    talk = capfd.readouterr().err
    assert code == 10 and "Traceback" not in talk
    assert [path.name for path in masks.glob("*.nii.gz")] == ["case_006.nii.gz"]
    cases = json.loads((masks / "predictions.json").read_text())["cases"]
    assert {name for name, case in cases.items() if case["status"] == "failed"} == {f"case_{i:03d}" for i in range(6)}
    for index, reason in enumerate(DAMAGE.values()):
        assert f"case_{index:03d}" in talk and reason in talk

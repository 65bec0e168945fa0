"""Where masks go, and the names that are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from stu_pipeline.datasets.cases import Case
from stu_pipeline.errors import UsageError
from stu_pipeline.prediction.outputs import choose_outputs


def make_cases(folder: Path, *names: str) -> list[Case]:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).touch()
    return [Case(id=name.split(".")[0].removesuffix("_0000"), image_files=(folder / name,)) for name in names]


def test_masks_are_named_after_their_images(tmp_path: Path):
    cases = make_cases(tmp_path / "in", "a_0000.nii.gz", "b.NRRD")
    outputs = choose_outputs(tmp_path / "in", tmp_path / "out", cases)
    assert outputs.masks == {"a": tmp_path / "out" / "a.nii.gz", "b": tmp_path / "out" / "b.nrrd"}
    assert outputs.probabilities("a") == tmp_path / "out" / "a.npz"
    assert outputs.report == tmp_path / "out" / "predictions.json"
    assert outputs.tables == (tmp_path / "out" / "predictions.csv", tmp_path / "out" / "predictions.md")


def test_one_file_may_be_named(tmp_path: Path):
    cases = make_cases(tmp_path / "in", "a_0000.nii.gz")
    outputs = choose_outputs(tmp_path / "in" / "a_0000.nii.gz", tmp_path / "x.nii.gz", cases)
    assert outputs.masks == {"a": tmp_path / "x.nii.gz"}
    assert outputs.report is None


def make_series(folder: Path) -> Case:
    folder.mkdir()
    for index in range(3):
        (folder / f"{index}.dcm").touch()
    return Case(id="scan", image_files=(folder,))


def test_a_series_becomes_a_nifti_mask(tmp_path: Path):
    case = make_series(tmp_path / "in")
    outputs = choose_outputs(tmp_path / "in", tmp_path / "out", [case])
    assert outputs.masks == {"scan": tmp_path / "out" / "scan.nii.gz"}
    outputs = choose_outputs(tmp_path / "in", tmp_path / "mask.nii.gz", [case])
    assert outputs.masks == {"scan": tmp_path / "mask.nii.gz"} and outputs.tables is None
    with pytest.raises(UsageError, match=r"output ends in \.nrrd, the mask of a DICOM series in \.nii\.gz"):
        choose_outputs(tmp_path / "in", tmp_path / "mask.nrrd", [case])
    for output in ("in/mask.nii.gz", "in/out"):
        with pytest.raises(UsageError, match="lies in the folder of an input"):
            choose_outputs(tmp_path / "in", tmp_path / output, [case])


@pytest.mark.parametrize(
    ("source", "output", "message"),
    [
        ("in", "x.nii.gz", "is a file name, but the input is a folder"),
        ("in/a.nii.gz", "x.nrrd", r"output ends in \.nrrd, the input in \.nii\.gz"),
        ("in", "in", "output is the input folder"),
        ("in", "in/../in", "output is the input folder"),
        ("in", "note.txt", "is a file, expected a folder"),
        ("in/a.nii.gz", "in/a.nii.gz", "would replace an input"),
    ],
)
def test_outputs_that_cannot_be_meant_are_refused(tmp_path: Path, source: str, output: str, message: str):
    cases = make_cases(tmp_path / "in", "a.nii.gz")
    (tmp_path / "note.txt").touch()
    with pytest.raises(UsageError, match=message):
        choose_outputs(tmp_path / source, tmp_path / output, cases)


@pytest.mark.parametrize("name", ["plans", "predictions", "run", "Dataset"])
def test_names_of_the_report_are_reserved(tmp_path: Path, name: str):
    cases = make_cases(tmp_path / "in", f"{name}.nii.gz")
    with pytest.raises(UsageError, match="belongs to the report"):
        choose_outputs(tmp_path / "in", tmp_path / "out", cases)

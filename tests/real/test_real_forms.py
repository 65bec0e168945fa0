"""Real volumes in other forms: they become the dataset that they are in nnU-Net's form."""

from __future__ import annotations

import json

import nibabel
import numpy as np
import pytest

from stu_pipeline.datasets.cases import list_training_cases
from stu_pipeline.datasets.check import check_dataset
from stu_pipeline.datasets.dataset_json import read_dataset_json
from stu_pipeline.datasets.forms.folder_pair import FolderPair
from stu_pipeline.datasets.forms.importing import import_dataset
from stu_pipeline.datasets.reading import read_channels
from stu_pipeline.errors import DataError
from stu_pipeline.workspace import Workspace
from tests.real_data import require

pytestmark = pytest.mark.real


@pytest.fixture
def workspace(tmp_path):
    root = tmp_path / "workspace"
    return Workspace(raw=root / "raw", preprocessed=root / "preprocessed", results=root / "results")


def write_task(folder, names, modality, labels):
    content = {
        "modality": modality,
        "labels": {str(value): name for name, value in labels.items()},
        "training": [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names],
    }
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(content))


def test_hippocampus_as_the_decathlon_gives_it_passes_the_check(tmp_path, workspace):
    source = require("Dataset004_Hippocampus")
    names = [path.name.removesuffix(".nii.gz") for path in sorted((source / "labelsTr").iterdir())[:20]]
    task = tmp_path / "Task04_Hippocampus"
    write_task(task, names, {"0": "MRI"}, {"background": 0, "Anterior": 1, "Posterior": 2})
    for name in names:
        (task / "imagesTr" / f"{name}.nii.gz").symlink_to(source / "imagesTr" / f"{name}_0000.nii.gz")
        (task / "labelsTr" / f"{name}.nii.gz").symlink_to(source / "labelsTr" / f"{name}.nii.gz")
    folder = import_dataset(task, workspace=workspace)
    report = check_dataset(folder, num_workers=0)
    assert folder.name == "Dataset004_Hippocampus" and report.num_cases == 20 and report.problems == ()


def test_four_channels_in_one_file_come_apart_exactly(tmp_path, workspace):
    source = require("Dataset107_MSlesion4ch")
    (case,) = list_training_cases(source, read_dataset_json(source))
    images = [nibabel.load(path) for path in case.image_files]
    task = tmp_path / "Task01_Lesions"
    write_task(task, [case.id], {str(i): name for i, name in enumerate("abcd")}, {"background": 0, "lesion": 1})
    series = np.stack([np.asarray(image.dataobj) for image in images], axis=-1)
    nibabel.save(nibabel.Nifti1Image(series, images[0].affine), task / "imagesTr" / f"{case.id}.nii.gz")
    (task / "labelsTr" / f"{case.id}.nii.gz").symlink_to(case.label_file)
    folder = import_dataset(task, workspace=workspace)
    (found,) = list_training_cases(folder, read_dataset_json(folder))
    assert np.array_equal(read_channels(found.image_files).array, read_channels(case.image_files).array)
    assert check_dataset(folder, num_workers=0).problems == ()


@pytest.mark.parametrize(
    "name",
    ["Dataset108_MouseBrain", "Dataset113_SpinalCordTiny", "Dataset115_PyRadiomicsNRRD", "Dataset117_SpleenCrop"],
)
def test_a_folder_pair_finds_the_labels_of_the_dataset(workspace, name):
    source = require(name)
    pair = FolderPair(images=source / "imagesTr", labels=source / "labelsTr")
    found = read_dataset_json(import_dataset(pair, workspace=workspace, name="Pair"))
    original = read_dataset_json(source)
    assert found.label_values == original.label_values and found.file_ending == original.file_ending
    assert list(found.listed_cases) == [case.id for case in list_training_cases(source, original)]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fmri_fmri.nii.gz", "4D and holds 30 volumes"),
        ("rgb_dtype.nii.gz", "RGB"),
        ("mt_mtr.nii.gz", "633 voxels that are NaN or infinite"),
        ("t2_t2.nii.gz", "1210 distinct values, which look like images"),
    ],
)
def test_odd_files_are_refused_with_the_reason(tmp_path, workspace, name, message):
    source = require("edge_cases") / name
    for part in ("A", "B"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "x.nii.gz").symlink_to(source)
    with pytest.raises(DataError, match=message):
        import_dataset(FolderPair(images=tmp_path / "A", labels=tmp_path / "B"), workspace=workspace, name="Odd")

"""What nnU-Net must accept: datasets that list their files, and consecutive labels with a table of ids."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

from stu_pipeline.datasets.cases import list_training_cases
from stu_pipeline.datasets.dataset_json import parse_dataset_json, read_dataset_json
from stu_pipeline.datasets.forms.folder_pair import FolderPair
from stu_pipeline.datasets.forms.importing import import_dataset
from stu_pipeline.datasets.reading import read_channels, read_label_map
from stu_pipeline.workspace import Workspace
from tests.foreign_forms import write_pair, write_task

TWO = {"0": "CT", "1": "PET"}


def import_all(tmp_path):
    """Import a dataset of each form, and return their folders."""
    root = tmp_path / "workspace"
    workspace = Workspace(raw=root / "raw", preprocessed=root / "pre", results=root / "results")
    pair = FolderPair(images=tmp_path / "A", labels=tmp_path / "B")
    write_pair(tmp_path, ("a", "b"), ending=".nrrd")
    return [
        import_dataset(write_task(tmp_path / "Task01_Split", modality=TWO), workspace=workspace),
        import_dataset(write_task(tmp_path / "Task02_Plain"), workspace=workspace),
        import_dataset(write_task(tmp_path / "Task003_Old", modality=TWO, is_v1=True), workspace=workspace),
        import_dataset(pair, workspace=workspace, name="Pair"),
    ]


def test_listed_files_are_found_by_nnunet_as_by_us_and_read_alike(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # relative paths must not depend on where the command runs
    for folder in import_all(tmp_path):
        raw = json.loads((folder / "dataset.json").read_text())
        theirs = get_filenames_of_train_images_and_targets(str(folder), copy.deepcopy(raw))
        ours = list_training_cases(folder, read_dataset_json(folder))
        assert theirs == {
            case.id: {"images": [str(path) for path in case.image_files], "label": str(case.label_file)}
            for case in ours
        }
        case = ours[0]
        reader = determine_reader_writer_from_dataset_json(raw, str(case.image_files[0]), verbose=False)()
        images, _ = reader.read_images([str(path) for path in case.image_files])
        assert np.array_equal(images, read_channels(case.image_files).array)
        assert np.array_equal(reader.read_seg(str(case.label_file))[0][0], read_label_map(case.label_file).array)


@pytest.mark.parametrize(
    ("labels", "order"),
    [
        ({"background": 0, "a": 3, "b": 300, "ignore": 65535}, None),
        ({"background": 0, "whole": [7, 9], "core": 9, "ignore": 11}, [7, 9]),
    ],
)
def test_labels_with_gaps_reach_nnunet_without(tmp_path, labels, order):
    raw = {"channel_names": {"0": "CT"}, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz"}
    if order:
        raw["regions_class_order"] = order
    description = parse_dataset_json(raw, tmp_path / "dataset.json").engine_description
    manager = LabelManager(description["labels"], description.get("regions_class_order"))
    assert manager.has_ignore_label and manager.ignore_label == 3
    assert manager.all_labels == [0, 1, 2]
    assert manager.num_segmentation_heads == (2 if order else 3)

"""The doctor on real volumes: no false alarm about mirrored labels, and mirrored ones are found."""

from __future__ import annotations

import functools
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from stu_pipeline.doctor.examine import examine_dataset
from stu_pipeline.doctor.screening.alignment import FLIPS
from stu_pipeline.doctor.screening.mirrored import find_mirrored
from tests.real_data import DATASETS, require

pytestmark = pytest.mark.real

ABOUT_ALIGNMENT = {"mirrored", "sides", "shifted"}


@functools.cache
def examine(name):
    return examine_dataset(require(name))


def mirror(alignment, flip):
    """Return what would have been measured, had the label map been mirrored."""
    order = [FLIPS.index(tuple(a ^ b for a, b in zip(flip, other, strict=True))) for other in FLIPS]
    axes = tuple(axis for axis in range(3) if flip[axis])
    return replace(
        alignment,
        edge_contrast=alignment.edge_contrast[order],
        spread=alignment.spread[order],
        centres=alignment.centres * np.where(flip, -1, 1),
        occupancy=np.flip(alignment.occupancy, axes),
    )


@pytest.mark.parametrize("name", DATASETS)
def test_sound_real_labels_raise_no_alarm(name):
    examination = examine(name)
    assert examination.num_problems == 0
    assert [finding.what for finding in examination.findings if finding.action in ABOUT_ALIGNMENT] == []
    assert [finding.what for finding in examination.findings if finding.action == "duplicates"] == []


# Shares of cases found when one at a time is mirrored along one axis; measured, see docs/how-to/check-a-dataset.md.
@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("Dataset004_Hippocampus", {(1, 0, 0): 1.0, (0, 1, 0): 1.0, (0, 0, 1): 1.0}),
        ("Dataset101_OpenKBP", {(1, 0, 0): 1.0, (0, 1, 0): 1.0, (0, 0, 1): 0.95}),
        ("Dataset108_MouseBrain", {(1, 0, 0): 1.0, (0, 1, 0): 1.0, (0, 0, 1): 1.0}),
        ("Dataset117_SpleenCrop", {(1, 0, 0): 1.0, (0, 1, 0): 1.0, (0, 0, 1): 1.0}),
    ],
)
def test_real_labels_mirrored_one_at_a_time_are_found(name, least):
    alignments = [case.observation.alignment for case in examine(name).cases]
    for flip, share in least.items():
        found = 0
        for index, alignment in enumerate(alignments[:20]):
            spoiled = [*alignments[:index], mirror(alignment, flip), *alignments[index + 1 :]]
            suspicions = find_mirrored(spoiled)
            assert {item.index for item in suspicions} <= {index}
            found += bool(suspicions)
        assert found >= share * min(20, len(alignments)), (flip, found)


def test_a_mirrored_hippocampus_file_is_found(tmp_path):
    source, folder = require("Dataset004_Hippocampus"), tmp_path / "Dataset004_Hippocampus"
    names = sorted(path.name for path in (source / "labelsTr").glob("*.nii.gz"))[:20]
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for name in names:
        image = name.replace(".nii.gz", "_0000.nii.gz")
        shutil.copy(source / "imagesTr" / image, folder / "imagesTr" / image)
        shutil.copy(source / "labelsTr" / name, folder / "labelsTr" / name)
    description = json.loads((source / "dataset.json").read_text(encoding="utf-8"))
    (folder / "dataset.json").write_text(json.dumps({**description, "numTraining": len(names)}), encoding="utf-8")
    label = sitk.ReadImage(str(folder / "labelsTr" / names[7]))
    mirrored = sitk.GetImageFromArray(np.ascontiguousarray(sitk.GetArrayFromImage(label)[:, :, ::-1]))
    mirrored.CopyInformation(label)
    sitk.WriteImage(mirrored, str(folder / "labelsTr" / names[7]))
    found = [finding for finding in examine_dataset(folder).findings if finding.action in ABOUT_ALIGNMENT]
    assert [finding.cases for finding in found] == [(names[7].removesuffix(".nii.gz"),)]
    assert found[0].action == "mirrored" and "left-right" in found[0].what

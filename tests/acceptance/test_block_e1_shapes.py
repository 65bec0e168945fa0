"""Block E1: images of odd shapes are planned and preprocessed, and keep their grid."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from tests.integration.commands import make_workspace, run_stu
from tests.synthetic import write_dataset_json, write_volume

NUM_CASES = 3
# (z, y, x) voxels of the cases, one shape per case where there are several, and (z, y, x) spacing in mm.
ISOTROPIC = (1.0, 1.0, 1.0)
SHAPES = {
    "one voxel": ([(1, 1, 1)], ISOTROPIC),
    "a slice along z": ([(1, 64, 48)], ISOTROPIC),
    "thin along x": ([(48, 40, 3)], ISOTROPIC),
    "a rod": ([(700, 5, 5)], ISOTROPIC),
    "prime sizes": ([(31, 37, 41)], ISOTROPIC),
    "all different": ([(1, 64, 48), (700, 5, 5), (31, 37, 41)], (2.0, 1.0, 0.7)),
    "eight voxels": ([(2, 2, 2)], ISOTROPIC),
    "a slice along y": ([(64, 1, 48)], ISOTROPIC),
    "a slice along x": ([(64, 48, 1)], ISOTROPIC),
    "a line along z": ([(200, 1, 1)], ISOTROPIC),
    "a line along x": ([(1, 1, 200)], ISOTROPIC),
    "two slices": ([(2, 64, 48)], (5.0, 1.0, 1.0)),
    "thin along z": ([(3, 48, 40)], ISOTROPIC),
    "thin along y": ([(48, 3, 40)], ISOTROPIC),
    "a rod along y": ([(5, 700, 5)], ISOTROPIC),
    "a rod along x": ([(5, 5, 700)], ISOTROPIC),
    "smaller than any patch": ([(7, 5, 3)], ISOTROPIC),
    "large prime sizes": ([(61, 113, 97)], ISOTROPIC),
    "thick slices": ([(6, 96, 80)], (8.0, 0.9, 0.9)),
    "one voxel among others": ([(1, 1, 1), (24, 28, 32), (9, 90, 9)], ISOTROPIC),
}
NUM_FAST = 7
PARAMETERS = [
    pytest.param(name, marks=[] if index < NUM_FAST else pytest.mark.slow) for index, name in enumerate(SHAPES)
]


def write_dataset(raw: Path, name: str) -> Path:
    """Write a dataset of these shapes; every case has foreground, where there is room for it both labels."""
    shapes, spacing = SHAPES[name]
    folder = raw / "Dataset901_Odd"
    for index in range(NUM_CASES):
        shape = shapes[index % len(shapes)]
        generator = np.random.default_rng(index)
        labels = np.zeros(shape, dtype=np.uint8)
        middle = tuple(slice(size // 4, max(size // 4 + 1, size - size // 4)) for size in shape)
        labels[middle] = 1
        labels[middle].flat[: labels[middle].size // 2] = 2
        image = labels * 100 + generator.normal(0, 10, shape) + 50
        write_volume(
            folder / "imagesTr" / f"c{index}_0000.nii.gz",
            image.astype(np.float32),
            spacing_mm=spacing,
            origin=(3, -7, 11),
        )
        write_volume(folder / "labelsTr" / f"c{index}.nii.gz", labels, spacing_mm=spacing, origin=(3, -7, 11))
    write_dataset_json(
        folder,
        channel_names={"0": "MR"},
        labels={"background": 0, "a": 1, "b": 2},
        numTraining=NUM_CASES,
        file_ending=".nii.gz",
    )
    return folder


@pytest.mark.parametrize("name", PARAMETERS)
def test_odd_shapes_are_planned_and_preprocessed(name: str, tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path)
    raw = write_dataset(workspace.raw, name)
    assert run_stu(workspace, "plan", 901, "--scale", "S", "--gpu-memory", 24, "--workers", 0, "-q") == 0

    folder = workspace.preprocessed / raw.name
    plan = json.loads((folder / "stuSPlans.json").read_text())
    configuration = "3d_fullres" if "3d_fullres" in plan["configurations"] else "2d"
    data = folder / plan["configurations"][configuration]["data_identifier"]
    for index in range(NUM_CASES):
        image, label = read_preprocessed(data, f"c{index}")
        assert image.ndim == 4 and image.shape == label.shape
        assert np.isfinite(image).all() and image.dtype == np.float32
        assert label.max() > 0, "the foreground is lost"
        require_same_grid(folder / "gt_segmentations" / f"c{index}.nii.gz", raw / "labelsTr" / f"c{index}.nii.gz")
    require_expected_shapes(data, raw, plan, configuration)


def read_preprocessed(folder: Path, case: str) -> tuple[np.ndarray, np.ndarray]:
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

    image, label, _, _ = nnUNetDatasetBlosc2(str(folder), [case]).load_case(case)
    return np.asarray(image[:]), np.asarray(label[:])


def require_same_grid(path: Path, reference: Path) -> None:
    found, expected = sitk.ReadImage(str(path)), sitk.ReadImage(str(reference))
    assert found.GetSize() == expected.GetSize()
    assert found.GetSpacing() == expected.GetSpacing() and found.GetOrigin() == expected.GetOrigin()
    assert (sitk.GetArrayFromImage(found) == sitk.GetArrayFromImage(expected)).all()


def require_expected_shapes(data: Path, raw: Path, plan: dict, configuration: str) -> None:
    """The whole image is kept (nothing is zero, so nothing is cropped), at the target spacing."""
    target = plan["configurations"][configuration]["spacing"]
    order = plan["transpose_forward"]
    for index in range(NUM_CASES):
        original = sitk.ReadImage(str(raw / "imagesTr" / f"c{index}_0000.nii.gz"))
        sizes = [original.GetSize()[::-1][axis] for axis in order]
        spacings = [original.GetSpacing()[::-1][axis] for axis in order]
        # 2D resamples within slices.
        wanted = list(target) if len(target) == 3 else [spacings[0], *target]
        expected = tuple(round(size * step / to) for size, step, to in zip(sizes, spacings, wanted, strict=True))
        assert read_preprocessed(data, f"c{index}")[0].shape[1:] == expected

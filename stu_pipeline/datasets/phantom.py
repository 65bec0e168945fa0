"""A phantom dataset for the demo and for tests: abdomens that never were, with perfect labels.

Writes: a complete nnU-Net v2 dataset (`imagesTr`, `labelsTr`, `imagesTs`, `labelsTs`, `dataset.json`).
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stu_pipeline.datasets.anatomy import LABELS, paint_case
from stu_pipeline.datasets.volume import Spacing
from stu_pipeline.errors import StorageError, UsageError
from stu_pipeline.storage import read_json, write_bytes, write_json

DEFAULT_NAME = "Dataset999_StuPhantom"
DEFAULT_SHAPE = (48, 64, 64)
DEFAULT_SPACING_MM = (2.5, 1.4, 1.4)
# Each case differs from the nominal size and spacing by up to this share.
_SIZE_SPREAD = 0.1
_SPACING_SPREAD = 0.05
_MIN_SIZE = 16


@dataclass(frozen=True, slots=True)
class _Recipe:
    """Everything that decides the voxels; kept in dataset.json, so that another recipe is noticed."""

    num_cases: int
    num_test: int
    seed: int
    shape: tuple[int, int, int]
    spacing_mm: Spacing


def write_phantom_dataset(
    raw_root: Path,
    *,
    name: str = DEFAULT_NAME,
    num_cases: int = 10,
    num_test: int = 2,
    seed: int = 0,
    shape: tuple[int, int, int] = DEFAULT_SHAPE,
    spacing_mm: Spacing = DEFAULT_SPACING_MM,
) -> Path:
    """Write a phantom dataset below `raw_root` and return its folder.

    One MR-like channel; liver, two kidneys, spine and aorta, with a body around them. Anatomy, size, spacing,
    contrast, noise and bias field vary from case to case; the same arguments write the same bytes.
    `dataset.json` is written last, so an interrupted call is completed by the next one.

    Args:
        raw_root: the folder that plays `nnUNet_raw`.
        name: `DatasetNNN_Name`.
        num_cases: training cases, at least 1.
        num_test: further cases in `imagesTs`, with their labels in `labelsTs`.
        seed: another seed, other patients.
        shape: nominal `(z, y, x)` voxels, at least 16 each; cases vary by 10 %.
        spacing_mm: nominal `(z, y, x)` spacing; cases vary by 5 %.

    Raises:
        UsageError: arguments out of range.
        StorageError: not writable, or another dataset has that name already.
    """
    if num_cases < 1 or num_test < 0 or min(shape) < _MIN_SIZE or min(spacing_mm) <= 0:
        raise UsageError(f"a phantom needs 1 case or more of at least {_MIN_SIZE} voxels per axis, got {shape}")
    recipe = _Recipe(num_cases=num_cases, num_test=num_test, seed=seed, shape=shape, spacing_mm=spacing_mm)
    folder = raw_root / name
    description = _describe(name, recipe)
    if _is_finished(folder, description):
        return folder
    for index in range(num_cases + num_test):
        _write_case(folder, recipe, index)
    write_json(folder / "dataset.json", description)
    return folder


def _describe(name: str, recipe: _Recipe) -> dict[str, Any]:
    return {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, **{label: index for index, label in enumerate(LABELS, start=1)}},
        "numTraining": recipe.num_cases,
        "file_ending": ".nii.gz",
        "name": name,
        "description": "computed phantom, no patient data",
        "phantom": {
            "num_test": recipe.num_test,
            "seed": recipe.seed,
            "shape": list(recipe.shape),
            "spacing_mm": list(recipe.spacing_mm),
        },
    }


def _is_finished(folder: Path, description: dict[str, Any]) -> bool:
    if not (folder / "dataset.json").exists():
        return False
    if read_json(folder / "dataset.json") == description:
        return True
    raise StorageError(
        f"'{folder.name}' exists and was made otherwise, so it is not replaced",
        where=folder.parent,
        hint="remove it, or choose another name",
    )


def _write_case(folder: Path, recipe: _Recipe, index: int) -> None:
    # Numbered seeds: a case does not depend on how many there are.
    is_test = index >= recipe.num_cases
    number = index - recipe.num_cases if is_test else index
    generator = np.random.default_rng([recipe.seed, int(is_test), number])
    sizes = [round(size * _vary(generator, _SIZE_SPREAD)) for size in recipe.shape]
    across, in_plane = _vary(generator, _SPACING_SPREAD), _vary(generator, _SPACING_SPREAD)
    z_mm, y_mm, x_mm = recipe.spacing_mm
    spacing = [z_mm * across, y_mm * in_plane, x_mm * in_plane]
    half_extent = [size * step / 2 for size, step in zip(recipe.shape, recipe.spacing_mm, strict=True)]
    axes = [
        (np.arange(size, dtype=np.float64) - (size - 1) / 2) * step / half
        for size, step, half in zip(sizes, spacing, half_extent, strict=True)
    ]
    image, labels = paint_case(axes, generator)
    part, case_id = ("Ts", f"phantom_test_{number:03d}") if is_test else ("Tr", f"phantom_{number:03d}")
    write_bytes(folder / f"images{part}" / f"{case_id}_0000.nii.gz", _pack(image, spacing))
    write_bytes(folder / f"labels{part}" / f"{case_id}.nii.gz", _pack(labels, spacing))


def _vary(generator: np.random.Generator, spread: float) -> float:
    return float(generator.uniform(1 - spread, 1 + spread))


def _pack(array: npt.NDArray[np.generic], spacing_mm: list[float]) -> bytes:
    """Encode `(z, y, x)` voxels as NIfTI, x towards the left and y towards the back of the patient."""
    import nibabel

    z_mm, y_mm, x_mm = spacing_mm
    affine = np.diag([-x_mm, -y_mm, z_mm, 1.0])
    affine[:3, 3] = [x_mm * array.shape[2] / 2, y_mm * array.shape[1] / 2, -z_mm * array.shape[0] / 2]
    image = nibabel.Nifti1Image(array.transpose(2, 1, 0), affine)
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), compresslevel=6, mtime=0)

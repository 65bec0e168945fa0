"""Datasets in other forms than nnU-Net v2's, made on the spot: Decathlon tasks, nnU-Net v1 tasks, folder pairs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from tests.synthetic import make_image, make_label_map, write_volume

SHAPE = (6, 8, 12)
SPACING_MM = (2.0, 1.0, 1.0)


def write_task(
    folder: Path,
    *,
    num_cases: int = 3,
    modality: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    is_v1: bool = False,
    num_test: int = 0,
    raw: Mapping[str, Any] | None = None,
) -> Path:
    """Write a Decathlon task, or an nnU-Net v1 task: same `dataset.json`, one file per channel.

    `raw` replaces keys of `dataset.json`; `...` leaves a key out.
    """
    modality = modality or {"0": "MRI"}
    names = [f"case_{index:03d}" for index in range(num_cases)]
    for index, name in enumerate(names):
        label_map = make_label_map(SHAPE, generator=np.random.default_rng(index))
        write_volume(folder / "labelsTr" / f"{name}.nii.gz", label_map.astype(np.uint8), spacing_mm=SPACING_MM)
        channels = [
            make_image(label_map, generator=np.random.default_rng(index), gain=1 + channel)
            for channel in range(len(modality))
        ]
        write_channels(folder / "imagesTr", name, channels, is_v1=is_v1)
    for index in range(num_test):
        write_channels(folder / "imagesTs", f"test_{index}", [np.zeros(SHAPE, np.float32)] * len(modality), is_v1=is_v1)
    content = {
        "name": "Phantom",
        "description": "made on the spot",
        "licence": "none",
        "modality": dict(modality),
        "labels": dict(labels or {"0": "background", "1": "Anterior", "2": "Posterior"}),
        "numTraining": num_cases,
        "numTest": num_test,
        "training": [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names],
        "test": [f"./imagesTs/test_{index}.nii.gz" for index in range(num_test)],
    } | dict(raw or {})
    description = {key: value for key, value in content.items() if value is not ...}
    (folder / "dataset.json").write_text(json.dumps(description), encoding="utf-8")
    return folder


def write_channels(folder: Path, name: str, channels: Sequence[np.ndarray], *, is_v1: bool) -> None:
    """Write `(z, y, x)` channels: numbered files, one 3D file, or one 4D file."""
    if is_v1 or len(channels) == 1:
        for index, channel in enumerate(channels):
            ending = f"_{index:04d}.nii.gz" if is_v1 else ".nii.gz"
            write_volume(folder / f"{name}{ending}", channel, spacing_mm=SPACING_MM)
        return
    write_series(folder / f"{name}.nii.gz", channels)


def write_series(path: Path, channels: Sequence[np.ndarray], *, dtype: str = "<f4", slope: float = 1.0) -> Path:
    """Write a 4D NIfTI file with `(z, y, x)` channels along its fourth axis; values are stored divided by `slope`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.stack([channel.transpose(2, 1, 0) for channel in channels], axis=-1)
    image = nibabel.Nifti1Image((array / slope).astype(dtype), np.diag([-1.0, -1.0, 2.0, 1.0]))
    image.header.set_slope_inter(slope, 0.0)
    image.header.set_data_dtype(dtype)
    image.dataobj  # noqa: B018 - the header above goes with the array as it is
    nibabel.save(image, path)
    return path


def write_pair(
    root: Path,
    names: Sequence[str] = ("a", "b", "c"),
    *,
    image_suffix: str = "",
    label_suffix: str = "",
    ending: str = ".nii.gz",
    values: Sequence[int] = (0, 1, 2),
    num_channels: int = 1,
) -> tuple[Path, Path]:
    """Write `<root>/A` with images and `<root>/B` with label maps that hold `values`; return both folders."""
    for index, name in enumerate(names):
        label_map = np.array(values, dtype=np.uint16)[make_label_map(SHAPE) % len(values)]
        write_volume(root / "B" / f"{name}{label_suffix}{ending}", label_map, spacing_mm=SPACING_MM)
        for channel in range(num_channels):
            suffix = f"_{channel:04d}" if num_channels > 1 else image_suffix
            image = make_image(make_label_map(SHAPE), generator=np.random.default_rng(index + channel))
            write_volume(root / "A" / f"{name}{suffix}{ending}", image, spacing_mm=SPACING_MM)
    return root / "A", root / "B"

"""Small datasets, volumes and label maps made on the spot, for every test.

The shapes are boxes and spheres with known volume; one label is brighter than the next, so that a tiny
training can learn them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813

TINY_SHAPE = (20, 24, 28)
TINY_SPACING_MM = (2.0, 1.0, 1.0)


def write_tiny_dataset(
    raw_root: Path,
    dataset_id: int = 901,
    *,
    name: str = "Tiny",
    num_cases: int = 6,
    num_test: int = 0,
    shape: Sequence[int] = TINY_SHAPE,
    spacing_mm: Sequence[float] = TINY_SPACING_MM,
    num_channels: int = 1,
    num_labels: int = 2,
    regions: bool = False,
    ignore_label: bool = False,
    file_ending: str = ".nii.gz",
    seed: int = 0,
) -> Path:
    """Write a valid nnU-Net v2 dataset `DatasetNNN_<name>` below `raw_root` and return its folder.

    Args:
        raw_root: plays the part of `nnUNet_raw`.
        dataset_id: the number in the folder name.
        name: the word in the folder name.
        num_cases: training cases `case_000`, `case_001`, ...
        num_test: further cases in `imagesTs` and `labelsTs`, named `test_000`, ...
        shape: `(z, y, x)`, or `(y, x)` for flat images (use `file_ending=".png"` or a NIfTI ending).
        spacing_mm: `(z, y, x)` (or `(y, x)`); ignored for pictures.
        num_channels: channel files per case.
        num_labels: foreground labels, each a box of its own.
        regions: declare nested regions instead of plain labels (`whole` = all labels, ..., `core` = the last).
        ignore_label: declare an ignore label and mark a corner with it.
        file_ending: any supported ending.
        seed: noise and positions; the same seed writes the same files.
    """
    folder = raw_root / f"Dataset{dataset_id:03d}_{name}"
    generator = np.random.default_rng(seed)
    for index in range(num_cases + num_test):
        is_test = index >= num_cases
        case_id = f"test_{index - num_cases:03d}" if is_test else f"case_{index:03d}"
        part = "Ts" if is_test else "Tr"
        labels = make_label_map(shape, num_labels=num_labels, generator=generator)
        if ignore_label and not is_test:
            labels[..., -3:] = num_labels + 1
        for channel in range(num_channels):
            image = make_image(labels, generator=generator, gain=1 + channel)
            path = folder / f"images{part}" / f"{case_id}_{channel:04d}{file_ending}"
            write_volume(path, image, spacing_mm=spacing_mm)
        write_volume(folder / f"labels{part}" / f"{case_id}{file_ending}", labels, spacing_mm=spacing_mm)
    names, order = _describe_labels(num_labels, regions=regions, ignore_label=ignore_label)
    write_dataset_json(
        folder,
        channel_names={str(channel): f"channel{channel}" for channel in range(num_channels)},
        labels=names,
        numTraining=num_cases,
        file_ending=file_ending,
        **({"regions_class_order": order} if regions else {}),
    )
    return folder


def write_dataset_json(folder: Path, **content: object) -> Path:
    """Write `dataset.json` with exactly this content."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "dataset.json"
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
    return path


def make_label_map(
    shape: Sequence[int] = TINY_SHAPE, *, num_labels: int = 2, generator: np.random.Generator | None = None
) -> np.ndarray:
    """Make a label map uint16 of `shape`: one box per label, side by side along the last axis, jittered by a voxel."""
    generator = generator or np.random.default_rng(0)
    labels = np.zeros(tuple(shape), dtype=np.uint16)
    width = shape[-1] // (num_labels + 1)
    for label in range(1, num_labels + 1):
        shift = int(generator.integers(0, 2))
        start = (label - 1) * width + width // 2 + shift
        inside = [slice(size // 4 + shift * (size > 4), max(size // 4 + 1, size - size // 4)) for size in shape[:-1]]
        labels[(*inside, slice(start, start + max(1, width - 1)))] = label
    return labels


def make_image(labels: np.ndarray, *, generator: np.random.Generator | None = None, gain: float = 1.0) -> np.ndarray:
    """Make an image float32 in which label `k` has intensity `100 * k * gain` plus noise of 10."""
    generator = generator or np.random.default_rng(0)
    return (labels * 100.0 * gain + generator.normal(0, 10, labels.shape)).astype(np.float32)


def make_sphere(shape: Sequence[int], radius: float, *, centre: Sequence[float] | None = None) -> np.ndarray:
    """Make a boolean sphere of `radius` voxels, centred in `shape` unless told otherwise."""
    middle = [(size - 1) / 2 for size in shape] if centre is None else centre
    axes = np.meshgrid(*[np.arange(size) - c for size, c in zip(shape, middle, strict=True)], indexing="ij")
    return sum(axis**2 for axis in axes) <= radius**2


def write_volume(
    path: Path,
    array: np.ndarray,
    *,
    spacing_mm: Sequence[float] | None = None,
    origin: Sequence[float] | None = None,
    direction: Sequence[float] | None = None,
) -> Path:
    """Write `(z, y, x)` or `(y, x)` voxels with spacing in array order; origin and direction as SimpleITK's.

    Pictures (`.png`, `.bmp`) are scaled into bytes unless they are integers already.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".png", ".bmp"):
        import imageio.v3

        flat = array[0] if array.ndim == 3 else array
        if flat.dtype.kind == "f":
            flat = np.clip(flat / 4 + 64, 0, 255)
        imageio.v3.imwrite(path, flat.astype(np.uint8))
        return path
    if path.suffix in (".tif", ".tiff"):
        import tifffile

        tifffile.imwrite(path, array, photometric="minisblack")
        return path
    image = sitk.GetImageFromArray(array)
    if spacing_mm is not None:
        image.SetSpacing([float(value) for value in reversed(spacing_mm[-array.ndim :])])
    if origin is not None:
        image.SetOrigin([float(value) for value in origin])
    if direction is not None:
        image.SetDirection([float(value) for value in direction])
    sitk.WriteImage(image, str(path), useCompression=True)
    return path


def _describe_labels(
    num_labels: int, *, regions: bool, ignore_label: bool
) -> tuple[dict[str, int | list[int]], list[int]]:
    values = list(range(1, num_labels + 1))
    names: dict[str, int | list[int]] = {"background": 0}
    if regions:
        for first in values:
            names[f"region{first}" if first < num_labels else "core"] = values[first - 1 :]
    else:
        names |= {f"label{value}": value for value in values}
    if ignore_label:
        names["ignore"] = num_labels + 1
    return names, values

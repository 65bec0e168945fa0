"""Small preprocessed cases, and the source of their samples."""

from __future__ import annotations

import numpy as np

from stu_pipeline.datasets.laterality import Mirroring
from stu_pipeline.preprocessing.case_files import write_case_files
from stu_pipeline.preprocessing.class_locations import sample_class_locations
from stu_pipeline.training.augmentation.settings import AugmentationSettings
from stu_pipeline.training.sampling.crop import CropRule
from stu_pipeline.training.sampling.source import SampleSource

PATCH = (6, 8, 8)
INITIAL_PATCH = (9, 12, 13)
SHAPE = (14, 20, 17)


def write_case(folder, name, *, shape=SHAPE, num_channels=1, keys=(1, 2), seed=0, labels=None):
    """Write one case; every voxel of the image has a value of its own. Return image and labels."""
    image = np.arange(1, num_channels * np.prod(shape) + 1, dtype=np.float32).reshape(num_channels, *shape) + 1e6 * seed
    if labels is None:
        labels = np.zeros(shape, np.int16)
        labels[tuple(slice(size // 4, size // 2 + 1) for size in shape)] = 1
        labels[tuple(slice(size // 2 + 1, None) for size in shape)] = 2
    properties = {"class_locations": sample_class_locations(labels, keys), "spacing": (1.0, 1.0, 1.0)}
    write_case_files(folder, name, image=image, labels=labels, properties=properties, patch_size=PATCH)
    return image, labels[None]


def write_cases(folder, num_cases=3, **choices):
    """Write cases `case_0`...; return their names."""
    names = tuple(f"case_{index}" for index in range(num_cases))
    for seed, name in enumerate(names):
        write_case(folder, name, seed=seed, **choices)
    return names


def make_settings(patch=PATCH, initial_patch=INITIAL_PATCH, **choices):
    standard = {
        "rotation_rad": (-0.5, 0.5),
        "is_dummy_2d": False,
        "mirroring": Mirroring(axes=tuple(range(len(patch)))),
    }
    return AugmentationSettings(patch=patch, initial_patch=initial_patch, **{**standard, **choices})


def make_source(folder, cases, *, settings=None, batch=2, num_channels=1, **choices):
    rule = choices.pop("rule", None) or CropRule(batch=batch)
    return SampleSource(
        folder=folder,
        cases=cases,
        num_channels=num_channels,
        settings=settings or make_settings(),
        rule=rule,
        **choices,
    )


def describe(sample):
    """Return everything a sample is, comparable."""
    affine = None if sample.affine is None else sample.affine.tobytes()
    parts = (sample.data.shape, sample.data.tobytes(), sample.labels.shape, sample.labels.tobytes())
    return sample.key, sample.case_id, affine, sample.center, *parts

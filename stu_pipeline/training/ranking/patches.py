"""Patches of the target's own training cases, and the voxels in them that candidates are asked about."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from stu_pipeline.datasets.laterality import Mirroring
from stu_pipeline.training.augmentation.settings import AugmentationSettings
from stu_pipeline.training.sampling.crop import CropRule
from stu_pipeline.training.sampling.sample import SampleKey
from stu_pipeline.training.sampling.source import SampleSource

_MAX_VOXELS_PER_LABEL = 150


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ProbePatch:
    """One patch, with a few voxels of every label in it."""

    data: torch.Tensor
    """`(1, channel, *spatial)`, float32."""
    voxels: NDArray[np.int64]
    """`(n, axes)`: where the chosen voxels are."""
    labels: NDArray[np.int64]
    """`(n,)`: their labels, background included."""


def read_patches(
    folder: Path,
    case_id: str,
    *,
    patch: tuple[int, ...],
    num_channels: int,
    num_patches: int,
    left_out: frozenset[int],
    seed: int,
) -> list[ProbePatch]:
    """Read patches around labels of one preprocessed case, the same for every candidate.

    Args:
        folder: the preprocessed cases.
        case_id: which.
        patch: size in voxels.
        num_channels: of the image.
        num_patches: how many; they may overlap.
        left_out: labels that are not asked about, for example the ignore label.
        seed: of the places and the voxels.

    Returns:
        Patches with at least two labels; fewer than asked for where a case has nothing to tell apart.

    Raises:
        DataError: a file is missing or damaged.
    """
    settings = AugmentationSettings(
        patch=patch,
        initial_patch=patch,
        rotation_rad=(0.0, 0.0),
        is_dummy_2d=False,
        mirroring=Mirroring(axes=()),
    )
    source = SampleSource(
        folder=folder,
        cases=(case_id,),
        num_channels=num_channels,
        settings=settings,
        rule=CropRule(batch=1, foreground_share=1.0),
        is_augmenting=False,
    )
    generator = np.random.default_rng([seed, zlib.crc32(case_id.encode())])
    patches = []
    for step in range(num_patches):
        sample = source.make_sample(SampleKey(seed=seed, phase="validation", step=step, slot=0))
        voxels, labels = _choose_voxels(sample.labels[0].astype(np.int64), left_out, generator)
        if len(np.unique(labels)) > 1:
            patches.append(ProbePatch(data=torch.from_numpy(sample.data)[None], voxels=voxels, labels=labels))
    return patches


def _choose_voxels(
    labels: NDArray[np.int64], left_out: frozenset[int], generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose as many voxels of each label, so that the background does not drown the rest."""
    places, values = [], []
    for label in np.unique(labels):
        if label < 0 or int(label) in left_out:  # -1 lies outside the image
            continue
        found = np.argwhere(labels == label)
        kept = found[generator.permutation(len(found))[:_MAX_VOXELS_PER_LABEL]]
        places.append(kept)
        values.append(np.full(len(kept), label, dtype=np.int64))
    if not places:
        return np.empty((0, labels.ndim), dtype=np.int64), np.empty(0, dtype=np.int64)
    return np.concatenate(places), np.concatenate(values)

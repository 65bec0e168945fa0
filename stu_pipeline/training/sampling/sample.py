"""What a sample is: its key, from which everything random about it follows, and its voxels. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Phase = Literal["train", "validation"]
_PHASES: tuple[Phase, ...] = ("train", "validation")


class Purpose(IntEnum):
    """What a stream of random numbers is for: one more draw in one stream changes no other."""

    CROP = 0
    SPATIAL = 1
    INTENSITY = 2
    MIRROR = 3
    CASCADE = 4
    NOISE = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleKey:
    """Names one sample of a training. Everything random about the sample is a pure function of it.

    `step` counts optimizer steps (or validation batches) from the start of the training, never from a resume;
    `slot` is the place in the batch of all ranks together.
    """

    seed: int
    phase: Phase
    step: int
    slot: int

    def open_generator(self, purpose: Purpose) -> np.random.Generator:
        """Return a fresh stream of random numbers, always the same for this key and purpose."""
        return np.random.default_rng(self.entropy(purpose))

    def entropy(self, purpose: Purpose) -> list[int]:
        """Return the whole numbers that seed a stream."""
        return [self.seed, _PHASES.index(self.phase), self.step, self.slot, int(purpose)]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Sample:
    """The voxels of one sample, as read and cropped.

    Without `affine` the crop is the patch itself. With it the crop covers what the transformed patch needs, and
    output voxel `o` of the patch looks at crop position `center + affine @ (o - (patch - 1) / 2)`; whatever lies
    outside the crop counts as 0 in `data` and -1 in `labels`.
    """

    key: SampleKey
    case_id: str
    data: NDArray[np.float32]
    """`(channel, *spatial)`; 0 outside the image."""
    labels: NDArray[np.int16]
    """`(1, *spatial)`, or `(2, *spatial)` with the previous stage's prediction second; -1 outside the image."""
    affine: NDArray[np.float64] | None = None
    """`(d, d)` for d spatial axes, in the order of `spatial`; None where neither rotated nor scaled."""
    center: tuple[float, ...] = ()
    """Position of the patch's centre in the crop; voxel centres are whole numbers."""

"""How the previous stage's prediction of one sample is damaged: nnU-Net's probabilities and ranges. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stu_pipeline.training.sampling.sample import Purpose, SampleKey

P_MORPHOLOGY = 0.4
RADIUS = (1.0, 8.0)
P_REMOVAL = 0.2
P_PER_LABEL = 0.5
OPERATORS = ("dilate", "erode", "close", "open")


@dataclass(frozen=True, slots=True, kw_only=True)
class Morphing:
    """One operator on one label."""

    channel: int
    operator: str
    """One of `OPERATORS`."""
    radius: float
    """Of the ball, in voxels; not a whole number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """One label loses one of its connected components."""

    channel: int
    choice: float
    """From 0 to below 1: which one of those that may go. How many there are is only known from the image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CascadeDraws:
    """What happens to a sample, in this order."""

    morphings: tuple[Morphing, ...] = ()
    removals: tuple[Removal, ...] = ()


def draw_cascade(key: SampleKey, *, num_labels: int) -> CascadeDraws:
    """Draw what happens to the previous prediction of one sample, a pure function of the key."""
    rng = key.open_generator(Purpose.CASCADE)
    morphed = _draw_labels(rng, num_labels) if rng.random() < P_MORPHOLOGY else []
    morphings = tuple(
        Morphing(
            channel=channel,
            operator=OPERATORS[int(rng.integers(len(OPERATORS)))],
            radius=float(rng.uniform(*RADIUS)),
        )
        for channel in morphed
    )
    reduced = _draw_labels(rng, num_labels) if rng.random() < P_REMOVAL else []
    removals = tuple(Removal(channel=channel, choice=float(rng.random())) for channel in reduced)
    return CascadeDraws(morphings=morphings, removals=removals)


def _draw_labels(rng: np.random.Generator, num_labels: int) -> list[int]:
    """Draw the labels something happens to, in random order."""
    order = rng.permutation(num_labels)
    return [int(channel) for channel in order[rng.random(num_labels) < P_PER_LABEL]]

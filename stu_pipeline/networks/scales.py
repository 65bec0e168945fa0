"""The one table of STU-Net scales: names, widths and depths. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from stu_pipeline.errors import UsageError

Scale = Literal["S", "B", "L", "H"]

NUM_STAGES = 6
_WIDTH_FACTORS = (1, 2, 4, 8, 16, 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleSpec:
    """What makes one scale: `width` features in the first stage, `num_blocks` residual blocks in every stage."""

    letter: Scale
    name: str
    width: int
    num_blocks: int

    @property
    def features_per_stage(self) -> list[int]:
        """List the features of the six stages, full resolution first, as a fresh plain-JSON list."""
        return [self.width * factor for factor in _WIDTH_FACTORS]

    @property
    def n_blocks_per_stage(self) -> list[int]:
        """List the residual blocks of the six stages as a fresh plain-JSON list."""
        return [self.num_blocks] * NUM_STAGES

    @property
    def plan_name(self) -> str:
        """Name the plan of this scale, for example 'stuBPlans'."""
        return f"stu{self.letter}Plans"


SCALES: dict[Scale, ScaleSpec] = {
    "S": ScaleSpec(letter="S", name="small", width=16, num_blocks=1),
    "B": ScaleSpec(letter="B", name="base", width=32, num_blocks=1),
    "L": ScaleSpec(letter="L", name="large", width=64, num_blocks=2),
    "H": ScaleSpec(letter="H", name="huge", width=96, num_blocks=3),
}


def parse_scale(text: str) -> Scale:
    """Read a scale from its letter or its long name, in any case: 'B', 'b', 'base'.

    Raises:
        UsageError: the text names no scale; the message lists the known ones.
    """
    wanted = text.strip().lower()
    for letter, spec in SCALES.items():
        if wanted in (letter.lower(), spec.name):
            return letter
    known = ", ".join(f"{letter} ({spec.name})" for letter, spec in SCALES.items())
    raise UsageError(f"unknown scale '{text}', known: {known}", hint="--scale B")

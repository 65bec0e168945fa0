"""What slides over an image and how: networks, tiles, devices, and the rules that save passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch

from stu_pipeline.datasets.laterality import SideSwap
from stu_pipeline.inference.mirroring import MirroredAxes

TtaMode = Literal["full", "none", "auto"]
EffortMode = Literal["full", "elastic"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WindowNetwork:
    """One network of a window: one fold of one model."""

    run: Callable[[torch.Tensor], torch.Tensor]
    """Maps `(b, c, *patch)` float32 to logits `(b, outputs, *patch)`, on the device of the window. A `nn.Module` in
    evaluation mode can be kept on the CPU while others run; anything else cannot."""
    mirrorings: tuple[MirroredAxes, ...] = ((),)
    """The copies whose mean is the network's answer, as it was trained; the plain one first."""
    side_swap: SideSwap | None = None
    """Channels that change places in a copy whose left and right are exchanged."""
    weight: float = 1.0
    """Share in the mean of logits, relative to the other networks."""
    level: int = 0
    """With `effort="elastic"`, networks above the lowest level see only the tiles where those below are unsure."""
    autocast: torch.dtype | None = None
    """Computing type; None is the network's own."""
    name: str = "the network"
    """For messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertaintySettings:
    """When a tile is sure enough to be left with fewer passes.

    The margin of a voxel is the distance of its two highest softmax probabilities, or `2 * |p - 0.5|` of its least
    decided region: 0 is a tie, 1 is sure.
    """

    margin: float = 0.8
    """A voxel up to this margin is unsure."""
    share: float = 0.0
    """A tile with more than this share of unsure voxels is unsure."""
    audit_share: float = 0.05
    """The chance of a sure tile to get all passes anyway, to measure what the rule changes."""
    seed: int = 0
    """Decides with the number of the tile which ones are audited; give every case another one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowSettings:
    """How the window slides."""

    patch_voxels: tuple[int, ...]
    """A tile; two entries slide in the plane, slice by slice along axis 0."""
    num_outputs: int
    has_regions: bool = False
    """Whether outputs are independent regions, for the margin: sigmoid instead of softmax."""
    step: float = 0.5
    """Distance of two tiles, at most, as a share of the patch."""
    axis: int = 0
    """The walk axis, see `choose_walk_axis`."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    results_device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Where logits are added up, and slabs lie."""
    max_tiles: int | None = None
    """Tiles in one forward pass, at most; each mirrored copy counts. None: chosen by memory."""
    tta: TtaMode = "full"
    """`auto` runs the mirrored copies only on tiles where the plain ones are unsure."""
    effort: EffortMode = "full"
    """`elastic` runs networks of higher levels only on tiles where the lower ones are unsure."""
    certainty: CertaintySettings = field(default_factory=CertaintySettings)

"""The order of passes: what runs on every tile, and what only on those that are unsure after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stu_pipeline.inference.mirroring import MirroredAxes
from stu_pipeline.inference.window_settings import EffortMode, TtaMode, WindowNetwork


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkPasses:
    """The copies of a tile that one network sees in one stage."""

    network: int
    """Its place among the networks."""
    mirrorings: tuple[MirroredAxes, ...]
    slot: int
    """Which sum its outputs are added to."""
    factor: float
    """What its outputs are multiplied by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Passes that run together on a tile; tiles that are sure after it are left."""

    name: str
    passes: tuple[NetworkPasses, ...]
    copies: dict[int, int]
    """By slot: what its sum is divided by after this stage, for the slots it adds to."""

    @property
    def num_passes(self) -> int:
        """Passes on one tile."""
        return sum(len(item.mirrorings) for item in self.passes)


@dataclass(frozen=True, slots=True, kw_only=True)
class StagePlan:
    """All stages, and the sums they need.

    Networks are kept in one sum as long as the same number of their copies is in it: the mean over the networks stays
    what the weights say, however many copies each of them has seen.
    """

    stages: tuple[Stage, ...]
    slot_weights: tuple[float, ...]
    """Sum of the weights of the networks of each slot."""

    @property
    def num_passes(self) -> int:
        """Passes on a tile that runs through all stages."""
        return sum(stage.num_passes for stage in self.stages)

    @property
    def max_copies(self) -> int:
        """Copies of a tile that a network sees in one stage, at most."""
        return max(len(passes.mirrorings) for stage in self.stages for passes in stage.passes)


def plan_stages(networks: Sequence[WindowNetwork], tta: TtaMode, effort: EffortMode) -> StagePlan:
    """Decide the stages of a window.

    With `tta="auto"` the plain copies of a level come before its mirrored ones; with `effort="elastic"` the levels come
    one after another. Everything else is one stage.

    Args:
        networks: at least one, of positive weight.
        tta: which copies run.
        effort: which levels run.
    """
    levels = sorted({network.level for network in networks}) if effort == "elastic" else [None]
    slots: dict[tuple[int | None, int], int] = {}
    weights: list[float] = []
    stages: list[Stage] = []
    for level in levels:
        members = [index for index, network in enumerate(networks) if level in {None, network.level}]
        plain, mirrored, copies = [], [], {}
        for index in members:
            network = networks[index]
            chosen = network.mirrorings[:1] if tta == "none" else network.mirrorings
            key = (level, len(chosen) if tta == "auto" else 0)
            slot = slots.setdefault(key, len(slots))
            weights += [0.0] * (slot == len(weights))
            weights[slot] += network.weight
            if tta == "auto":
                copies[slot] = len(chosen)
                plain.append(_pass(index, chosen[:1], slot, network.weight))
                mirrored += [_pass(index, chosen[1:], slot, network.weight)] if chosen[1:] else []
            else:
                copies[slot] = 1
                plain.append(_pass(index, chosen, slot, network.weight / len(chosen)))
        suffix = "" if level is None or len(levels) == 1 else f" of level {level}"
        first = "plain copies" if tta == "auto" else "all passes"
        stages.append(Stage(name=first + suffix, passes=tuple(plain), copies=dict.fromkeys(copies, 1)))
        if mirrored:
            stages.append(Stage(name="mirrored copies" + suffix, passes=tuple(mirrored), copies=copies))
    return StagePlan(stages=tuple(stages), slot_weights=tuple(weights))


def _pass(network: int, mirrorings: tuple[MirroredAxes, ...], slot: int, factor: float) -> NetworkPasses:
    return NetworkPasses(network=network, mirrorings=mirrorings, slot=slot, factor=factor)

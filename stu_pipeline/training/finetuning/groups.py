"""Which weights move how: the parameter groups of a recipe, from the names of the weights alone. No torch here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from stu_pipeline.networks.scales import NUM_STAGES
from stu_pipeline.training.finetuning.recipes import Recipe

ENCODER = "conv_blocks_context."
HEADS = "decoder.seg_layers."
LOADED, ADAPTED, INITIALISED = "loaded", "adapted", "initialised"
_LEVEL = re.compile(r"(conv_blocks_context|upsample_layers|conv_blocks_localization)\.(\d+)\.")
_NUM_LEVELS = NUM_STAGES - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterGroup:
    """Weights that share a learning rate, a weight decay and a pull to where they began."""

    parameters: tuple[str, ...]
    rate_factor: float
    weight_decay: float
    start_pull: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """How the weights of a training move; what a checkpoint keeps, so that it goes on in the same way."""

    groups: tuple[ParameterGroup, ...]
    """Every weight of the network once. One group is stock nnU-Net's optimizer."""
    frozen: tuple[str, ...] = ()
    """Weights that do not move in the first epochs."""
    frozen_epochs: float = 0.0
    kept_rows: Mapping[str, tuple[int, ...]] | None = None
    """By head: the outputs that were kept, where they are protected one by one."""
    kept_factor: float = 1.0
    """Learning rate of kept outputs relative to their group's."""

    @property
    def is_plain(self) -> bool:
        """Tell whether this is nnU-Net's optimizer, in which all weights move alike in every step."""
        return len(self.groups) == 1 and not self.frozen and not self.pulls

    @property
    def pulls(self) -> bool:
        """Tell whether steps need the starting weights."""
        return any(group.start_pull for group in self.groups)

    def list_optimizer_groups(self, weight_decay: float) -> list[tuple[tuple[str, ...], float]]:
        """List names and weight decay for `build_optimizer`; nothing where it is nnU-Net's own optimizer."""
        groups = [(group.parameters, group.weight_decay) for group in self.groups]
        return [] if len(groups) == 1 and groups[0][1] == weight_decay else groups

    def to_json(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Tuning:
        """Read what `to_json` gave.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        rows = content["kept_rows"]
        return cls(
            groups=tuple(
                ParameterGroup(
                    parameters=tuple(map(str, group["parameters"])),
                    rate_factor=float(group["rate_factor"]),
                    weight_decay=float(group["weight_decay"]),
                    start_pull=float(group["start_pull"]),
                )
                for group in content["groups"]
            ),
            frozen=tuple(map(str, content["frozen"])),
            frozen_epochs=float(content["frozen_epochs"]),
            kept_rows=None if rows is None else {str(name): tuple(map(int, row)) for name, row in rows.items()},
            kept_factor=float(content["kept_factor"]),
        )


def plan_tuning(
    recipe: Recipe,
    origins: Mapping[str, str],
    *,
    num_epochs: int,
    weight_decay: float,
    kept_rows: Mapping[str, Sequence[int]] | None = None,
) -> Tuning:
    """Put every weight into the group where a recipe wants it.

    Args:
        recipe: the recipe.
        origins: by name of each weight, in the network's order: `loaded`, `adapted` or `initialised`.
        num_epochs: of the whole training.
        weight_decay: of weights that are not pulled.
        kept_rows: by head, the outputs that came with the weights; needed where the recipe keeps heads.

    >>> tuning = plan_tuning(RECIPES["paper"], {"a": "loaded"}, num_epochs=10, weight_decay=3e-5)
    >>> tuning.is_plain, tuning.groups[0].parameters
    (True, ('a',))
    """
    kept = {name: tuple(rows) for name, rows in (kept_rows or {}).items() if rows} if recipe.keeps_heads else None
    groups: dict[tuple[float, float, float], list[str]] = {}
    for name, origin in origins.items():
        groups.setdefault(_choose_group(recipe, name, origin, weight_decay, is_kept=name in (kept or ())), []).append(
            name
        )
    return Tuning(
        groups=tuple(
            ParameterGroup(parameters=tuple(names), rate_factor=rate, weight_decay=decay, start_pull=pull)
            for (rate, decay, pull), names in groups.items()
        ),
        frozen=tuple(_list_frozen(origins)) if recipe.frozen_share else (),
        frozen_epochs=recipe.frozen_share * num_epochs,
        kept_rows=kept,
        kept_factor=recipe.body_factor if kept else 1.0,
    )


def measure_depth(name: str) -> int:
    """Return how many levels lie between a weight and the output: 0 for heads, 11 for the stem.

    Decoder levels are counted from full resolution (1) to the coarsest (5), encoder stages from the deepest (6) to
    the first (11).
    """
    found = _LEVEL.match(name)
    if found is None:
        return 0
    level = int(found.group(2))
    if found.group(1) == ENCODER.rstrip("."):
        return _NUM_LEVELS + NUM_STAGES - level
    return _NUM_LEVELS - level


def _choose_group(
    recipe: Recipe, name: str, origin: str, weight_decay: float, *, is_kept: bool
) -> tuple[float, float, float]:
    """Return learning rate factor, weight decay and pull."""
    if is_kept:
        # Kept and new outputs share a tensor: the steering tells them apart, weight decay of the new ones included.
        return 1.0, 0.0, recipe.start_pull
    if origin == INITIALISED or (name.startswith(HEADS) and origin != LOADED):
        return 1.0, weight_decay, 0.0
    rate = recipe.body_factor * recipe.depth_decay ** measure_depth(name)
    return rate, 0.0 if recipe.start_pull else weight_decay, recipe.start_pull


def _list_frozen(origins: Mapping[str, str]) -> Iterable[str]:
    # A stem that was adapted to other channels has something to learn, and stays free.
    return (name for name, origin in origins.items() if name.startswith(ENCODER) and origin == LOADED)

"""Left and right: which labels are a pair, and which axis of the array swaps them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stu_pipeline.datasets.dataset_fields import BACKGROUND, IGNORE, Label, show_value, values_of
from stu_pipeline.datasets.dataset_json import DatasetJson
from stu_pipeline.datasets.side_names import PairedNames, pair_names
from stu_pipeline.errors import DataError, ModelError

PAIRS_KEY = "left_right_pairs"
"""In `dataset.json`: `[["kidney_left", "kidney_right"], ...]` instead of what the names tell; `[]` for no pairs."""
_PAIR = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirroring:
    """Along which axes of a patch an image may be mirrored, and what changes its name by it.

    Axes count from 0 in the order of the network's spatial axes, `(z, y, x)` or `(y, x)`.
    """

    axes: tuple[int, ...]
    """All axes that may be mirrored."""
    swapping_axes: tuple[int, ...] = ()
    """Those of `axes` along which left becomes right."""
    pairs: tuple[tuple[int, int], ...] = ()
    """Label ids, as the network sees them, that change places along a swapping axis."""

    @property
    def plain_axes(self) -> tuple[int, ...]:
        """The axes that need no swap: all that stock nnU-Net may mirror. It takes None where there are none, not ()."""
        return tuple(axis for axis in self.axes if axis not in self.swapping_axes)

    def swaps_sides(self, mirrored_axes: Iterable[int]) -> bool:
        """Tell whether left becomes right when exactly these axes are mirrored."""
        return sum(axis in self.swapping_axes for axis in mirrored_axes) % 2 == 1

    def without_swaps(self) -> Mirroring:
        """Return what is left for a loader or a predictor that cannot swap labels."""
        return Mirroring(axes=self.plain_axes)

    def to_json(self) -> dict[str, Any]:
        """Return plain lists for a checkpoint or `run.json`."""
        return {
            "axes": list(self.axes),
            "swapping_axes": list(self.swapping_axes),
            "pairs": [list(pair) for pair in self.pairs],
        }

    @classmethod
    def from_json(cls, content: object, *, where: Path | None = None) -> Mirroring:
        """Read back what `to_json` wrote.

        Raises:
            ModelError: it is something else, an axis swaps that is not mirrored, or a label is in two pairs.
        """
        found = content if isinstance(content, dict) else {}
        axes, swapping = found.get("axes"), found.get("swapping_axes", [])
        pairs = found.get("pairs", [])
        is_sound = _are_counts(axes) and _are_counts(swapping) and isinstance(pairs, (list, tuple))
        is_sound = is_sound and all(_are_counts(pair) and len(pair) == _PAIR for pair in pairs)
        if not is_sound or not set(swapping) <= set(axes or ()) or not _are_counts([i for pair in pairs for i in pair]):
            raise ModelError(f"checkpoint holds no usable mirroring: {show_value(content)}", where=where)
        return cls(
            axes=tuple(axes or ()),
            swapping_axes=tuple(swapping),
            pairs=tuple((first, second) for first, second in pairs),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SideLabels:
    """The labels of a dataset that come in left and right."""

    names: tuple[tuple[str, str], ...] = ()
    """`(left, right)`; names of regions where the dataset has regions."""
    pairs: tuple[tuple[int, int], ...] = ()
    """Label ids that change places in a mirrored patient, each pair ascending."""
    lone: tuple[str, ...] = ()
    """Names of one side whose partner is missing: mirrored, their structure would have a wrong name."""

    @property
    def has_sides(self) -> bool:
        """Whether any label tells left from right."""
        return bool(self.pairs or self.lone)


@dataclass(frozen=True, slots=True, kw_only=True)
class SideSwap:
    """The channels of a network that change places in a mirrored copy."""

    axes: tuple[int, ...]
    """Spatial axes of the patch that swap sides."""
    inputs: tuple[int, ...]
    """Channel `i` of the mirrored input is channel `inputs[i]` of the image."""
    outputs: tuple[int, ...]
    """Channel `i` of the result is channel `outputs[i]` of what the network says of the mirrored copy."""

    def applies_to(self, mirrored_axes: Iterable[int]) -> bool:
        """Tell whether left becomes right when exactly these axes are mirrored."""
        return sum(axis in self.axes for axis in mirrored_axes) % 2 == 1


def find_side_labels(dataset: DatasetJson, *, where: Path | None = None) -> SideLabels:
    """Find the labels that come in left and right: as `left_right_pairs` says, else by their names.

    A label is one of a pair when only the side in its name differs. A dataset without such names gives empty
    tuples. With regions, the pairs of label ids are those that turn every region into its partner; where none
    do, the regions count as lone.

    Raises:
        DataError: `left_right_pairs` is no list of pairs, or names what is not there, twice, or cannot be swapped.
    """
    labels = {name: label for name, label in dataset.labels.items() if name not in (BACKGROUND, IGNORE)}
    if PAIRS_KEY in dataset.raw:
        given = _parse_pairs(dataset.raw[PAIRS_KEY], labels, where)
        pairs, broken = _pair_values(labels, given)
        if broken:
            names = " and ".join(f"'{name}'" for name in sorted(broken)[:_PAIR])
            raise DataError(f"{PAIRS_KEY} cannot be used: {names} hold labels that have no partner", where=where)
        return SideLabels(names=given, pairs=pairs)
    found: PairedNames = pair_names(labels)
    pairs, broken = _pair_values(labels, found.pairs)
    if broken:
        return SideLabels(lone=(*found.lone, *sorted(broken)))
    return SideLabels(names=found.pairs, pairs=pairs, lone=found.lone)


def find_side_swap(
    mirroring: Mirroring,
    *,
    outputs: Sequence[Label],
    num_image_channels: int,
    previous_labels: Sequence[int] = (),
    where: Path | None = None,
) -> SideSwap | None:
    """Find the channels that a mirrored copy swaps; None where mirroring swaps nothing.

    Args:
        mirroring: of a training.
        outputs: the label or region of every output channel, background included where it has one.
        num_image_channels: input channels that stay where they are.
        previous_labels: label of every further input channel, as a cascade has them.
        where: for messages.

    Raises:
        ModelError: a label or region lacks its partner among the channels.
    """
    if not mirroring.swapping_axes or not mirroring.pairs:
        return None
    partner = {a: b for pair in mirroring.pairs for a, b in (pair, pair[::-1])}
    added = _order_channels(previous_labels, partner, where)
    return SideSwap(
        axes=mirroring.swapping_axes,
        inputs=(*range(num_image_channels), *(num_image_channels + place for place in added)),
        outputs=_order_channels(outputs, partner, where),
    )


def _order_channels(channels: Sequence[Label], partner: Mapping[int, int], where: Path | None) -> tuple[int, ...]:
    held = [frozenset(values_of(label)) for label in channels]
    order = []
    for values in held:
        swapped = frozenset(partner.get(value, value) for value in values)
        if swapped not in held:
            shown = ", ".join(map(str, sorted(values)))
            raise ModelError(f"mirroring does not fit the labels: label {shown} has no partner", where=where)
        order.append(held.index(swapped))
    return tuple(order)


def _parse_pairs(value: Any, labels: Mapping[str, Label], where: Path | None) -> tuple[tuple[str, str], ...]:
    problem = ""
    is_list = isinstance(value, list) and all(
        isinstance(pair, list) and len(pair) == _PAIR and all(isinstance(name, str) for name in pair) for pair in value
    )
    names = [name for pair in value for name in pair] if is_list else []
    if not is_list:
        problem = f'expected a list like [["kidney_left", "kidney_right"]], found {show_value(value)}'
    elif unknown := [name for name in names if name not in labels]:
        problem = f"{show_value(unknown[0])} is not a label"
    elif twice := [name for name in names if names.count(name) > 1]:
        problem = f"{show_value(twice[0])} is there twice"
    if problem:
        raise DataError(
            f"{PAIRS_KEY} cannot be used: {problem}", where=where, hint=f"correct {PAIRS_KEY}, or remove it"
        )
    return tuple((pair[0], pair[1]) for pair in value)


def _pair_values(
    labels: Mapping[str, Label], names: Sequence[tuple[str, str]]
) -> tuple[tuple[tuple[int, int], ...], set[str]]:
    """Return the label ids that turn every name into its partner, and the names for which there are none.

    Ids in the same regions cannot be told apart by a network of regions, so any order among them will do.
    """
    partner = {a: b for pair in names for a, b in (pair, pair[::-1])}
    holders: dict[int, set[str]] = {}
    for name, label in labels.items():
        for value in values_of(label):
            holders.setdefault(value, set()).add(name)
    alike: dict[frozenset[str], list[int]] = {}
    for value in sorted(holders):
        alike.setdefault(frozenset(holders[value]), []).append(value)
    pairs: set[tuple[int, int]] = set()
    broken: set[str] = set()
    for own, values in alike.items():
        swapped = frozenset(partner.get(name, name) for name in own)
        others = alike.get(swapped, [])
        if swapped == own:
            continue
        if len(others) != len(values):
            broken |= {name for name in own if name in partner}
            continue
        pairs |= {(min(pair), max(pair)) for pair in zip(values, others, strict=True)}
    return tuple(sorted(pairs)), broken


def _are_counts(values: Any) -> bool:
    """Tell whether this is a list of different whole numbers from 0."""
    is_list = isinstance(values, (list, tuple)) and all(type(value) is int and value >= 0 for value in values)
    return is_list and len(set(values)) == len(values)

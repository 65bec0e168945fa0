"""`postprocessing.json`: the learned rules of a model folder, and applying them to a mask.

Reads and writes: `postprocessing.json` in a model folder. nnU-Net's `postprocessing.pkl` is never opened: a pickle is
a program.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stu_pipeline.datasets.dataset_json import DatasetJson
from stu_pipeline.datasets.volume import Grid, Spacing
from stu_pipeline.errors import DataError
from stu_pipeline.prediction.models.model_json import RULES_FILE
from stu_pipeline.prediction.postprocessing.operations import (
    Counts,
    LabelMap,
    choose_kept,
    fill_holes,
    find_all_components,
    find_boxes,
    find_components,
    join_boxes,
    remove_components,
)
from stu_pipeline.records import describe, read_versions
from stu_pipeline.storage import read_json, write_json

SCHEMA = 1
_STOCK_FILE = "postprocessing.pkl"
_HINT = "run stu calibrate again"
_SHAPE_ERRORS = (AttributeError, KeyError, TypeError, ValueError)
_MAX_VALUE = 65535


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelRule:
    """What is done to one label, region, or the whole foreground."""

    label: str
    values: tuple[int, ...]
    """Its label values as the network counts them."""
    removed_value: int = 0
    """What voxels of removed components become."""
    fill_value: int | None = None
    """What filled holes become; None where holes are left alone."""
    keep_largest: int | None = None
    """How many of the largest components stay; None for all."""
    min_size_mm3: float | None = None
    """Smaller components go; None for none."""

    @property
    def removes(self) -> bool:
        """Whether components are taken out."""
        return self.keep_largest is not None or self.min_size_mm3 is not None

    @property
    def is_plain(self) -> bool:
        """Whether it is about a single label value."""
        return len(self.values) == 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PostprocessingRules:
    """The content of `postprocessing.json`; no rules when nothing helped."""

    checkpoints: Mapping[str, str]
    """Identity of the checkpoint of every fold it was learned from."""
    rules: tuple[LabelRule, ...]
    """In the order they are applied."""
    evidence: Mapping[str, Any] = field(default_factory=dict)
    """JSON values: what was tried on how many cases, and what it gained."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a rule did to one mask."""

    label: str
    removed_ml: float
    num_removed: int
    """Components."""
    filled_ml: float

    def __str__(self) -> str:
        """Say it in a few words."""
        parts = []
        if self.num_removed:
            noun = "component" if self.num_removed == 1 else "components"
            parts.append(f"{self.num_removed} {noun} removed ({self.removed_ml:.3g} ml)")
        if self.filled_ml:
            parts.append(f"holes filled ({self.filled_ml:.3g} ml)")
        return f"{self.label}: {', '.join(parts)}"


def apply_rules(
    mask: LabelMap, rules: PostprocessingRules, spacing_mm: Sequence[float]
) -> tuple[LabelMap, tuple[Change, ...]]:
    """Clean up a mask in place: all components that go are taken out first, then holes are filled.

    Beside the mask it takes at most 6 bytes per voxel of the box around the labels of the rules. Many labels take not
    much longer than one.

    Args:
        mask: label values as the network counts them, `(z, y, x)`; it is changed.
        rules: applied in their order, the foreground first.
        spacing_mm: `(z, y, x)`, see `choose_spacing`.

    Returns:
        The same array, and what each rule changed; rules that changed nothing are left out.
    """
    voxel_ml = math.prod(spacing_mm) / 1000
    removed = {rule: (0, 0) for rule in rules.rules}
    removed |= _remove(mask, [rule for rule in rules.rules if rule.removes], voxel_ml * 1000)
    filled = _fill(mask, [rule for rule in rules.rules if rule.fill_value is not None])
    changes = [
        Change(
            label=rule.label,
            num_removed=removed[rule][0],
            removed_ml=removed[rule][1] * voxel_ml,
            filled_ml=filled.get(rule, 0) * voxel_ml,
        )
        for rule in rules.rules
    ]
    return mask, tuple(change for change in changes if change.num_removed or change.filled_ml)


def choose_spacing(grid: Grid) -> Spacing:
    """Return the spacing that sizes are measured with: a flat image counts as a slice 1 mm thick."""
    return (1.0, *grid.spacing_mm[1:]) if grid.num_dimensions == 2 else grid.spacing_mm


def find_rules(
    model_folder: Path, checkpoints: Mapping[str, str], dataset: DatasetJson
) -> tuple[PostprocessingRules | None, tuple[str, ...]]:
    """Read the rules of a model folder, if there are some and they are for these checkpoints.

    Args:
        model_folder: the folder.
        checkpoints: identity of the checkpoint of every fold that will be used, by name of the fold.
        dataset: the model's own; rules that write a value it does not have are not used.

    Returns:
        The rules, None where there are none to apply; and what the user should know about it.
    """
    notices = _explain_stock_file(model_folder)
    path = model_folder / RULES_FILE
    if not path.is_file():
        return None, notices
    try:
        rules = read_rules(path)
    except DataError as error:
        return None, (*notices, f"'{RULES_FILE}' is not used: {error.problem}")
    changed = [fold for fold, identity in checkpoints.items() if rules.checkpoints.get(fold) != identity]
    if changed:
        listed = ", ".join(changed)
        return None, (*notices, f"'{RULES_FILE}' is not used: fold {listed} has another checkpoint since; {_HINT}")
    written = {value for rule in rules.rules for value in (*rule.values, rule.removed_value, rule.fill_value or 0)}
    if unknown := sorted(written - set(dataset.label_values)):
        return None, (*notices, f"'{RULES_FILE}' is not used: the model has no label {unknown[0]}; {_HINT}")
    return (rules if rules.rules else None), notices


def write_rules(path: Path, rules: PostprocessingRules) -> dict[str, Any]:
    """Write a `postprocessing.json` atomically and return its content.

    Raises:
        StorageError: it cannot be written.
    """
    content = {"schema": SCHEMA, **describe(rules), "versions": read_versions()}
    write_json(path, content)
    return content


def read_rules(path: Path) -> PostprocessingRules:
    """Read a `postprocessing.json`.

    Raises:
        DataError: missing, damaged, or of another schema.
    """
    content = read_json(path)
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        found = content.get("schema") if isinstance(content, dict) else None
        raise DataError(f"has schema '{found}', expected '{SCHEMA}'", where=path, hint=_HINT)
    try:
        return PostprocessingRules(
            checkpoints={str(fold): str(identity) for fold, identity in content["checkpoints"].items()},
            rules=tuple(_read_rule(rule) for rule in content["rules"]),
            evidence=dict(content["evidence"]),
        )
    except _SHAPE_ERRORS as error:
        raise DataError(f"'{path.name}' is damaged: {type(error).__name__} {error}", where=path, hint=_HINT) from error


def _remove(mask: LabelMap, rules: Sequence[LabelRule], voxel_mm3: float) -> dict[LabelRule, tuple[int, int]]:
    """Take components out, and return by rule how many, and of how many voxels."""
    found = {}
    # What is taken out of a region goes to the region around it, so one rule waits for another.
    together = [rule for rule in rules if rule.is_plain] if not any(rule.removed_value for rule in rules) else []
    boxes = find_boxes(mask) if rules else {}
    for rule in rules:
        box = join_boxes(boxes, rule.values)
        if box is None or rule in together:
            continue
        components = find_components(mask, rule.values, box)
        kept = _choose(rule, components.sizes, voxel_mm3)
        remove_components(mask, components, kept, rule.removed_value)
        found[rule] = (int((~kept).sum()), int(components.sizes[~kept].sum()))
        if rule.removed_value:
            boxes = find_boxes(mask)  # a label around it may have grown
    box = join_boxes(boxes, [rule.values[0] for rule in together])
    if box is not None:
        components, values = find_all_components(mask, box)
        kept = np.ones(len(values), dtype=bool)
        for rule in together:
            own = np.flatnonzero(values == rule.values[0])
            kept[own] = _choose(rule, components.sizes[own], voxel_mm3)
            gone = own[~kept[own]]
            found[rule] = (len(gone), int(components.sizes[gone].sum()))
        remove_components(mask, components, kept, 0)
    return found


def _choose(rule: LabelRule, sizes: Counts, voxel_mm3: float) -> npt.NDArray[np.bool_]:
    return choose_kept(sizes, keep_largest=rule.keep_largest, min_size_mm3=rule.min_size_mm3, voxel_mm3=voxel_mm3)


def _fill(mask: LabelMap, rules: Sequence[LabelRule]) -> dict[LabelRule, int]:
    """Fill holes, those in single labels first, and return by rule how many voxels."""
    found = {}
    boxes = find_boxes(mask) if rules else {}
    plain = [rule for rule in rules if rule.is_plain]
    box = join_boxes(boxes, [rule.values[0] for rule in plain])
    if box is not None:
        components, values = find_all_components(mask, box)
        table = np.zeros(int(values.max()) + 1, dtype=np.int64)
        for rule in plain:
            table[rule.values[0] : rule.values[0] + 1] = rule.fill_value or 0
        filled = fill_holes(mask, components, table[values])
        found = {rule: int(filled[values == rule.values[0]].sum()) for rule in plain}
    for rule in rules:
        box = join_boxes(boxes, rule.values)
        if box is not None and not rule.is_plain:
            components = find_components(mask, rule.values, box)
            filled = fill_holes(mask, components, np.full(len(components.sizes), rule.fill_value))
            found[rule] = int(filled.sum())
    return found


def _explain_stock_file(model_folder: Path) -> tuple[str, ...]:
    places = [model_folder / _STOCK_FILE, *sorted(model_folder.glob(f"crossval_results_folds_*/{_STOCK_FILE}"))]
    if not any(place.is_file() for place in places):
        return ()
    return (
        f"nnU-Net's '{_STOCK_FILE}' is not used: a pickle is a program, and is not run; "
        "stu calibrate learns how to clean up masks from the same cross-validation",
    )


def _read_rule(content: Mapping[str, Any]) -> LabelRule:
    values = tuple(_read_whole(value, 1) for value in content["values"])
    if not values:
        raise ValueError("a rule has no label value")
    fill, keep, size = content["fill_value"], content["keep_largest"], content["min_size_mm3"]
    if size is not None and (isinstance(size, bool) or not (isinstance(size, (int, float)) and 0 <= size < math.inf)):
        raise ValueError(f"'{size}' is no size")
    return LabelRule(
        label=str(content["label"]),
        values=values,
        removed_value=_read_whole(content["removed_value"], 0),
        fill_value=None if fill is None else _read_whole(fill, 1),
        keep_largest=None if keep is None else _read_whole(keep, 1),
        min_size_mm3=None if size is None else float(size),
    )


def _read_whole(value: Any, lowest: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= _MAX_VALUE:
        raise ValueError(f"'{value}' is no whole number from {lowest} to {_MAX_VALUE}")
    return value

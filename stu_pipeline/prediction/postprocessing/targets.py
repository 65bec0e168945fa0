"""What post-processing works on: each label or region of a dataset, and everything that is not background."""

from __future__ import annotations

from dataclasses import dataclass

from stu_pipeline.datasets.dataset_fields import BACKGROUND, IGNORE, values_of
from stu_pipeline.datasets.dataset_json import DatasetJson

FOREGROUND = "foreground"
"""Names the target of all labels taken together; no label: a dataset's labels are listed beside it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A label, a region, or the whole foreground, with consecutive label values."""

    name: str
    values: tuple[int, ...]
    removed_value: int = 0
    """What a voxel becomes when it is taken out: background, or for a region the region around it."""
    fill_value: int | None = None
    """What a filled hole becomes; None where holes are not filled: nobody knows with which label."""


def list_targets(dataset: DatasetJson) -> tuple[tuple[Target, ...], tuple[str, ...]]:
    """List the labels or regions of a model that can be cleaned up, and name the regions that cannot.

    Regions are painted over each other, so taking a voxel out of one uncovers the smallest region around it. That
    has an answer where regions are nested or apart. One that overlaps another without either holding the other
    cannot be cleaned up.
    """
    named = {name: label for name, label in dataset.labels.items() if name not in (IGNORE, BACKGROUND)}
    if not dataset.has_regions:
        plain = sorted((values_of(label)[0], name) for name, label in named.items())
        return tuple(Target(name=name, values=(value,), fill_value=value) for value, name in plain), ()
    values = {name: frozenset(values_of(label)) - {0} for name, label in named.items()}
    painted = dict(zip(named, dataset.regions_class_order or (), strict=True))
    targets, refused = [], []
    for name, own in values.items():
        around = {other: found for other, found in values.items() if own < found}
        is_nested = all(own <= found or found <= own or not own & found for found in values.values())
        parent = min(around, key=lambda other: len(around[other]), default=None)
        becomes = 0 if parent is None else painted[parent]
        if not is_nested or painted[name] not in own or becomes in own:
            refused.append(name)
            continue
        targets.append(Target(name=name, values=tuple(sorted(own)), removed_value=becomes, fill_value=painted[name]))
    return tuple(targets), tuple(refused)


def make_foreground(targets: tuple[Target, ...]) -> Target:
    """Return the target of every label taken together."""
    return Target(name=FOREGROUND, values=tuple(sorted({value for target in targets for value in target.values})))

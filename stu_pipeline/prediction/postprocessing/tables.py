"""What a case tells about every operation at once: its components and holes, counted against the reference.

One pass over a case per label gives the Dice after each candidate without touching a voxel again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from stu_pipeline.prediction.postprocessing.operations import (
    Box,
    Components,
    Counts,
    LabelMap,
    add_counts,
    choose_kept,
    count_values,
    find_all_components,
    find_boxes,
    find_components,
    find_holes,
    find_members,
    join_boxes,
)
from stu_pipeline.prediction.postprocessing.targets import Target, make_foreground

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """One way to choose the components that stay; both None keeps all."""

    keep_largest: int | None = None
    min_size_mm3: float | None = None

    @property
    def does_nothing(self) -> bool:
        """Whether every component stays."""
        return self.keep_largest is None and self.min_size_mm3 is None


NOTHING = Removal()


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class TargetTable:
    """The components of one label in one case. Voxels that the reference ignores count in `sizes` only."""

    num_reference: int
    """Voxels of the label in the reference."""
    sizes: Counts
    """Voxels of each component, in the order they are met."""
    scored: Counts
    """Those of them that are scored."""
    hits: Counts
    """Those of them that are right."""
    places: Counts
    """The component of the whole foreground that each lies in, from 0."""
    hole_scored: int = 0
    """Scored voxels that filling holes would add."""
    hole_hits: int = 0
    """Those of them that would be right."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class CaseTable:
    """All targets of one case."""

    voxel_mm3: float
    foreground_sizes: Counts
    """Voxels of each component of the whole foreground."""
    targets: tuple[TargetTable, ...]
    """In the order of the targets."""

    def keep_foreground(self, removal: Removal) -> Mask:
        """Return which components of the foreground a removal keeps."""
        return self._choose(self.foreground_sizes, removal)

    def measure_dice(self, index: int, foreground: Mask, removal: Removal, *, fills_holes: bool = False) -> float:
        """Return the Dice of a target after an operation; 1 where neither mask nor reference has it.

        Args:
            index: of the target.
            foreground: which components of the foreground are there.
            removal: done to the target afterwards.
            fills_holes: whether the holes of the mask, as it was, are filled at last.
        """
        table = self.targets[index]
        kept = foreground[table.places]
        kept[kept] = self._choose(table.sizes[kept], removal)
        hits, scored = int(table.hits[kept].sum()), int(table.scored[kept].sum())
        if fills_holes:
            hits, scored = hits + table.hole_hits, scored + table.hole_scored
        total = table.num_reference + scored
        return 2 * hits / total if total else 1.0

    def _choose(self, sizes: Counts, removal: Removal) -> Mask:
        return choose_kept(
            sizes,
            keep_largest=removal.keep_largest,
            min_size_mm3=removal.min_size_mm3,
            voxel_mm3=self.voxel_mm3,
        )


def tabulate_case(
    prediction: LabelMap,
    reference: LabelMap,
    targets: Sequence[Target],
    *,
    voxel_mm3: float,
    ignore: int | None = None,
) -> CaseTable:
    """Count the components and holes of every target in one case.

    Args:
        prediction: label values `(z, y, x)`.
        reference: label values, same shape.
        targets: labels or regions.
        voxel_mm3: volume of a voxel.
        ignore: voxels with this value in the reference are not scored.
    """
    scene = _Scene(prediction, reference, make_foreground(tuple(targets)).values, ignore)
    there = count_values(reference)
    boxes = find_boxes(prediction)
    tables: dict[Target, _Counted] = {}
    foreground = scene.number(boxes, scene.values)
    if foreground is not None:
        plain = [target for target in targets if len(target.values) == 1]
        found, values = find_all_components(prediction, foreground.box)
        counted = scene.count(found, foreground, [(int(value),) for value in values], _choose_filled(values, plain))
        tables = {target: counted.take(np.flatnonzero(values == target.values[0])) for target in plain}
    for target in targets:
        own = scene.number(boxes, target.values) if target not in tables else None
        if own is not None and foreground is not None:
            wanted = np.full(len(own.sizes), target.fill_value is not None)
            tables[target] = scene.count(own, foreground, [target.values] * len(own.sizes), wanted)
    return CaseTable(
        voxel_mm3=voxel_mm3,
        foreground_sizes=_NONE if foreground is None else foreground.sizes,
        targets=tuple(tables.get(t, _NOTHING_COUNTED).tabulate(add_counts(there, t.values)) for t in targets),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Counted:
    """Counts per component, see `TargetTable`."""

    sizes: Counts
    scored: Counts
    hits: Counts
    places: Counts
    hole_scored: Counts
    hole_hits: Counts

    def take(self, chosen: npt.NDArray[np.intp]) -> _Counted:
        return _Counted(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def tabulate(self, num_reference: int) -> TargetTable:
        return TargetTable(
            num_reference=num_reference,
            sizes=self.sizes,
            scored=self.scored,
            hits=self.hits,
            places=self.places,
            hole_scored=int(self.hole_scored.sum()),
            hole_hits=int(self.hole_hits.sum()),
        )


_NONE: Counts = np.zeros(0, dtype=np.int64)
_NOTHING_COUNTED = _Counted(_NONE, _NONE, _NONE, _NONE, _NONE, _NONE)


@dataclass(frozen=True, slots=True, eq=False)
class _Scene:
    """A case: prediction and reference, and what is scored."""

    prediction: LabelMap
    reference: LabelMap
    values: tuple[int, ...]
    ignore: int | None

    def number(self, boxes: Mapping[int, Box], values: tuple[int, ...]) -> Components | None:
        box = join_boxes(boxes, values)
        return None if box is None else find_components(self.prediction, values, box)

    def count(
        self, found: Components, foreground: Components, values: Sequence[tuple[int, ...]], wanted: Mask
    ) -> _Counted:
        """Count components of which each has its values; holes where they are wanted."""
        predicted, true = self.prediction[found.box], self.reference[found.box]
        is_region = bool(values) and len(values[0]) > 1
        is_right = find_members(true, values[0]) if is_region else predicted == true
        is_scored = np.ones_like(is_right) if self.ignore is None else true != self.ignore
        hole_scored, hole_hits = np.zeros((2, len(found.sizes)), dtype=np.int64)
        # A component may lie in a hole of its own label: what was counted for the label is not counted again.
        counted = np.zeros_like(self.prediction)
        for index, box, holes in find_holes(self.prediction, found, wanted):
            is_new = holes & (counted[box] != values[index][0])
            counted[box][is_new] = values[index][0]
            below = self.reference[box][is_new]
            hole_scored[index] = below.size if self.ignore is None else np.count_nonzero(below != self.ignore)
            hole_hits[index] = np.count_nonzero(np.isin(below, values[index]))
        return _Counted(
            sizes=found.sizes,
            scored=_count(found, is_scored),
            hits=_count(found, is_right),
            places=_find_places(found, foreground),
            hole_scored=hole_scored,
            hole_hits=hole_hits,
        )


def _choose_filled(values: Counts, targets: Sequence[Target]) -> Mask:
    """Return the components of labels that holes are filled in."""
    return np.isin(values, [target.values[0] for target in targets if target.fill_value is not None])


def _count(found: Components, chosen: Mask) -> Counts:
    counts = np.zeros(len(found.sizes) + 1, dtype=np.int64)
    for ids, own in zip(found.ids, chosen, strict=True):
        counts += np.bincount(ids[own], minlength=len(counts))
    return counts[1:]


def _find_places(found: Components, foreground: Components) -> Counts:
    """Return the component of the foreground that holds each component: all its voxels lie in one."""
    inner = tuple(
        slice(own.start - outer.start, own.stop - outer.start)
        for own, outer in zip(found.box, foreground.box, strict=True)
    )
    places = np.zeros(len(found.sizes) + 1, dtype=np.int64)
    for own, outer in zip(found.ids, foreground.ids[inner], strict=True):
        places[own] = outer
    found_places: Counts = places[1:] - 1
    return found_places

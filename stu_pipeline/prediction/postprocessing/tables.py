"""What a case tells about every operation at once: its components and holes, counted against the reference.

One pass over a case per label gives the Dice after each candidate without touching a voxel again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
    find_boxes,
    find_components,
    find_holes,
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
    num_reference = count_values(reference)
    boxes = find_boxes(prediction)
    whole = make_foreground(tuple(targets))
    box = join_boxes(boxes, whole.values)
    foreground = None if box is None else find_components(prediction, whole.values, box)
    return CaseTable(
        voxel_mm3=voxel_mm3,
        foreground_sizes=np.zeros(0, dtype=np.int64) if foreground is None else foreground.sizes,
        targets=tuple(
            _tabulate_target(
                prediction,
                reference,
                target,
                num_reference=add_counts(num_reference, target.values),
                box=join_boxes(boxes, target.values),
                foreground=foreground,
                ignore=ignore,
            )
            for target in targets
        ),
    )


def _tabulate_target(
    prediction: LabelMap,
    reference: LabelMap,
    target: Target,
    *,
    num_reference: int,
    box: Box | None,
    foreground: Components | None,
    ignore: int | None,
) -> TargetTable:
    none = np.zeros(0, dtype=np.int64)
    if box is None or foreground is None:
        return TargetTable(num_reference=num_reference, sizes=none, scored=none, hits=none, places=none)
    found = find_components(prediction, target.values, box)
    is_right = np.isin(reference[box], target.values)
    is_scored = np.ones_like(is_right) if ignore is None else reference[box] != ignore
    holes = find_holes(prediction, target.values, box) if target.fill_value is not None else np.zeros_like(is_right)
    return TargetTable(
        num_reference=num_reference,
        sizes=found.sizes,
        scored=_count(found, is_scored),
        hits=_count(found, is_right),
        places=_find_places(found, foreground),
        hole_scored=int(np.count_nonzero(holes & is_scored)),
        hole_hits=int(np.count_nonzero(holes & is_right)),
    )


def _count(found: Components, chosen: Mask) -> Counts:
    return np.bincount(found.ids[chosen], minlength=len(found.sizes) + 1)[1:].astype(np.int64)


def _find_places(found: Components, foreground: Components) -> Counts:
    """Return the component of the foreground that holds each component: all its voxels lie in one."""
    inner = tuple(
        slice(own.start - outer.start, own.stop - outer.start)
        for own, outer in zip(found.box, foreground.box, strict=True)
    )
    places = np.zeros(len(found.sizes) + 1, dtype=np.int64)
    places[found.ids.ravel()] = foreground.ids[inner].ravel()
    return places[1:] - 1

"""Whether a prediction has left and right exchanged: what happens to images stored in another orientation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stu_pipeline.datasets.side_names import pair_names
from stu_pipeline.evaluation.labels import Label
from stu_pipeline.evaluation.metrics import count_pairs

_MAX_NAMED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class SideOverlap:
    """Voxels of labels that come in left and right which reference and prediction both have, by side."""

    same: int = 0
    """Left in both, or right in both."""
    other: int = 0
    """Left in one and right in the other."""

    @property
    def is_exchanged(self) -> bool:
        """Whether more voxels agree with the other side than with their own."""
        return self.other > self.same


NO_OVERLAP = SideOverlap()


def measure_side_overlap(
    reference: npt.NDArray[np.uint16], prediction: npt.NDArray[np.uint16], labels: Sequence[Label]
) -> SideOverlap:
    """Count the voxels of paired labels that lie on the same and on the other side; nothing without pairs.

    Args:
        reference: label values `(z, y, x)`.
        prediction: label values, same shape.
        labels: the labels of both; which are a pair, their names say.
    """
    by_name = {label.name: label for label in labels}
    pairs = pair_names(by_name).pairs
    if not pairs:
        return NO_OVERLAP
    num_values = 1 + max(int(reference.max()), int(prediction.max()), *(max(label.values) for label in labels))
    counts = count_pairs(reference, prediction, num_values=num_values)
    same = other = 0
    for left, right in ((list(by_name[name].values) for name in pair) for pair in pairs):
        same += int(counts[np.ix_(left, left)].sum() + counts[np.ix_(right, right)].sum())
        other += int(counts[np.ix_(left, right)].sum() + counts[np.ix_(right, left)].sum())
    return SideOverlap(same=same, other=other)


def warn_of_exchanged_sides(cases: Iterable[tuple[str, SideOverlap]]) -> tuple[str, ...]:
    """Say in which cases left and right look exchanged; empty where in none."""
    known = list(cases)
    exchanged = [(case, found) for case, found in known if found.is_exchanged]
    if not exchanged:
        return ()
    named = ", ".join(
        f"'{case}' ({found.other / (found.same + found.other):.0%} of the common voxels)"
        for case, found in exchanged[:_MAX_NAMED]
    )
    more = f" and {len(exchanged) - _MAX_NAMED} more" if len(exchanged) > _MAX_NAMED else ""
    return (
        f"left and right look exchanged in {len(exchanged)} of {len(known)} cases: {named}{more}; are their images "
        "stored in another orientation than those of the training?",
    )

"""How far two folders of masks agree: voxels and Dice per label."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


@dataclass(slots=True)
class Agreement:
    """Counts over all cases."""

    num_voxels: int = 0
    num_equal: int = 0
    dice: dict[int, list[float]] = field(default_factory=dict)
    """By label, one number per case where either mask has it."""
    sizes: dict[int, list[int]] = field(default_factory=dict)
    """Voxels in the first mask, beside `dice`."""


def compare_masks(first: Path, second: Path) -> Agreement:
    """Compare the `.nii.gz` masks of two folders, which must hold the same names.

    Raises:
        RuntimeError: the folders hold other names, or none.
    """
    import SimpleITK  # here: the process that measures stays small until it is done

    names = sorted(path.name for path in first.glob("*.nii.gz"))
    if not names or names != sorted(path.name for path in second.glob("*.nii.gz")):
        raise RuntimeError(f"'{first}' and '{second}' do not hold masks of the same cases")
    result = Agreement()
    for name in names:
        a, b = (SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(folder / name))) for folder in (first, second))
        result.num_voxels += a.size
        result.num_equal += int((a == b).sum())
        for label in sorted({*np.unique(a), *np.unique(b)} - {0}):
            inside, other = a == label, b == label
            result.dice.setdefault(int(label), []).append(
                2 * float((inside & other).sum()) / (inside.sum() + other.sum())
            )
            result.sizes.setdefault(int(label), []).append(int(inside.sum()))
    return result

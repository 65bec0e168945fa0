"""Which labels the label maps of a folder hold, when nothing says so.

Reads: every label map, verified, to its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stu_pipeline.datasets.dataset_fields import BACKGROUND
from stu_pipeline.datasets.forms.inventory import SourceCase
from stu_pipeline.datasets.listing import raise_problems
from stu_pipeline.datasets.reading import read_image, read_label_map
from stu_pipeline.errors import DataError
from stu_pipeline.log import Listener, Progress
from stu_pipeline.workers import run_in_workers

# More distinct values than any atlas has: an image was given for a label map.
MAX_FOUND_LABELS = 1000
# Air is about -1000 HU and bone goes beyond 300; few other images have values on both sides.
_AIR_HU = -800.0
_DENSE_HU = 300.0
_LIMITS_HU = (-4096.0, 32767.0)


def find_labels(cases: Sequence[SourceCase], *, num_workers: int, listen: Listener) -> dict[str, int]:
    """Read all label maps and name every value found: `background`, `label_1`, `label_3`, ...

    Raises:
        DataError: label maps that cannot be read or hold no labels; all of them are in `details`.
    """
    found: set[int] = {0}
    problems: list[str] = []
    paths = [case.label for case in cases]
    outcomes = run_in_workers(list_label_values, paths, num_workers=num_workers, name_of=lambda path: path.name)
    for done, outcome in enumerate(outcomes, start=1):
        if outcome.error is not None:
            problems.append(str(outcome.error))
        found.update(outcome.result or ())
        listen(Progress(step="read label maps", done=done, total=len(paths), item=outcome.item.name))
    raise_problems(sorted(problems), "the label maps", paths[0].parent, "correct or remove them")
    if len(found) == 1:
        raise DataError(
            f"none of the {len(paths)} label maps has any foreground, they hold only 0",
            where=paths[0].parent,
            hint="check that --labels names the folder of the label maps",
        )
    if len(found) > MAX_FOUND_LABELS:
        raise _too_many(paths[0].parent, f"the label maps hold {len(found)} distinct values")
    return {BACKGROUND: 0, **{f"label_{value}": value for value in sorted(found) if value}}


def list_label_values(path: Path) -> tuple[int, ...]:
    """List the values in a label map, ascending.

    Raises:
        DataError: it cannot be read, or has more values than label maps have.
    """
    counts = np.bincount(read_label_map(path).array.ravel())
    values = tuple(int(value) for value in np.flatnonzero(counts))
    if len(values) > MAX_FOUND_LABELS:
        raise _too_many(path.parent, f"'{path.name}' holds {len(values)} distinct values")
    return values


def look_like_hounsfield(path: Path) -> str:
    """Return a sentence when the values of an image look like Hounsfield units, else an empty string.

    Only for saying so: how a channel is normalised is for the user to decide. An image that cannot be read looks
    like nothing; its fault is found with all others when the dataset is checked.
    """
    try:
        array = read_image(path).array
    except DataError:
        return ""
    lowest, highest = float(array.min()), float(array.max())
    if not (_LIMITS_HU[0] <= lowest <= _AIR_HU and _DENSE_HU <= highest <= _LIMITS_HU[1]):
        return ""
    return f"the values of '{path.name}' ({lowest:g} to {highest:g}) look like Hounsfield units"


def _too_many(where: Path, problem: str) -> DataError:
    return DataError(f"{problem}, which look like images, not label maps", where=where, hint="check --labels")

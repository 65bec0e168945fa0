"""Cross-validation splits: nnU-Net's shuffled folds, and the file that keeps them.

Reads and writes: `splits_final.json`, a list of `{"train": [...], "val": [...]}`, one entry per fold.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

from stu_pipeline.errors import DataError, StorageError
from stu_pipeline.storage import copy_file, previous_path, read_json, write_json

NUM_FOLDS = 5
# nnU-Net's seed: the same cases give the same folds there and here.
SEED = 12345


class Split(TypedDict):
    """The case ids of one fold."""

    train: list[str]
    val: list[str]


def make_splits(case_ids: Sequence[str], num_folds: int = NUM_FOLDS) -> list[Split]:
    """Make nnU-Net's default split: folds shuffled with its seed over the sorted ids.

    With fewer cases than folds there are as many folds as cases, each leaving one out. A single case is both
    training and validation case of one fold.

    Raises:
        DataError: no case, or an id twice.
    """
    names = sorted(case_ids)
    if not names:
        raise DataError("no cases to split")
    if len(set(names)) < len(names):
        twice = next(name for name, following in itertools.pairwise(names) if name == following)
        raise DataError(f"case '{twice}' is listed twice")
    if len(names) == 1:
        return [Split(train=names, val=list(names))]
    from sklearn.model_selection import KFold

    folds = KFold(n_splits=min(num_folds, len(names)), shuffle=True, random_state=SEED)
    return [
        Split(train=[names[index] for index in train], val=[names[index] for index in val])
        for train, val in folds.split(names)
    ]


def read_splits(path: Path) -> list[Split]:
    """Read a splits file.

    Raises:
        DataError: missing, not JSON, not a list of folds, a fold without cases, or a case in both parts.
    """
    content = read_json(path)
    if not isinstance(content, list) or not content:
        raise DataError(f"'{path.name}' must hold a list of folds", where=path)
    return [_parse_fold(fold, index, path) for index, fold in enumerate(content)]


def write_splits(path: Path, splits: Sequence[Split], *, replace: bool = False) -> None:
    """Write a splits file. Writing what is there already does nothing.

    Args:
        path: the file.
        splits: the folds.
        replace: put them in the place of others, which are kept beside them as `previous_path` names it.

    Raises:
        StorageError: the file exists with other folds and `replace` is not set.
    """
    if path.exists():
        if not replace:
            if read_splits(path) == list(splits):
                return
            raise StorageError(
                f"'{path.name}' exists with other folds and is never replaced",
                where=path.parent,
                hint="remove it yourself if no training depends on it",
            )
        copy_file(path, previous_path(path))
    write_json(path, list(splits))


def read_fold(path: Path, fold: int | str) -> Split:
    """Read one fold. Fold `all` trains and validates on every case of the file.

    Raises:
        DataError: as `read_splits`, or there is no such fold.
    """
    splits = read_splits(path)
    if fold == "all":
        names = sorted({name for split in splits for name in (*split["train"], *split["val"])})
        return Split(train=names, val=list(names))
    if not isinstance(fold, int) or not 0 <= fold < len(splits):
        known = "only 0" if len(splits) == 1 else f"0 to {len(splits) - 1}"
        raise DataError(
            f"fold '{fold}' is not in '{path.name}', found {known}",
            where=path.parent,
            hint="choose one of them, or all",
        )
    return splits[fold]


def _parse_fold(fold: Any, index: int, path: Path) -> Split:
    parts = [fold.get(part) if isinstance(fold, dict) else None for part in ("train", "val")]
    for part in parts:
        if not isinstance(part, list) or not part or not all(isinstance(name, str) and name for name in part):
            raise DataError(f"fold {index} of '{path.name}' must have 'train' and 'val' lists of case ids", where=path)
    train, val = [str(name) for name in parts[0] or []], [str(name) for name in parts[1] or []]
    both = sorted(set(train) & set(val))
    if both and train != val:  # one case for both, or fold 'all' written out, is deliberate
        raise DataError(
            f"fold {index} of '{path.name}' has {len(both)} cases in both parts: {', '.join(both[:5])}",
            where=path,
            hint="a case may train or validate a fold, not both",
        )
    return Split(train=train, val=val)

"""The splits of a study: fixed validation cases, nested subsets of the others, or the folds of a dataset.

Choices are by hash, not by shuffling: they need no order of cases, and a new case moves no other one.
Reads and writes: `splits/<dataset>.json` of the study, `splits_final.json` beside its preprocessed data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from stu_pipeline.datasets.splits.files import Split, make_splits, read_splits, write_splits
from stu_pipeline.datasets.splits.groups import read_groups
from stu_pipeline.errors import DataError, UsageError
from stu_pipeline.storage import read_json, write_json
from stu_pipeline.study.cells import SplitKey
from stu_pipeline.study.folders import StudyFolder
from stu_pipeline.study.manifest import LearningCurve, StudyDataset
from stu_pipeline.workspace import DatasetPaths


def choose_validation(
    case_ids: Sequence[str], num_wanted: int, *, seed: int, groups: Mapping[str, str] | None = None
) -> list[str]:
    """Choose the cases that every cell is scored on; whole groups (patients), so maybe a few more than wanted.

    Args:
        case_ids: all cases.
        num_wanted: at least 1.
        seed: another one chooses other cases.
        groups: group by case; a case that is not in it stands alone.

    Returns:
        Case ids, sorted.
    """
    owners = {case: (groups or {}).get(case, case) for case in case_ids}
    chosen: set[str] = set()
    for group in sorted(set(owners.values()), key=lambda name: _hash("validation", seed, name)):
        if len(chosen) >= num_wanted:
            break
        chosen |= {case for case in case_ids if owners[case] == group}
    return sorted(chosen)


def choose_subset(case_ids: Sequence[str], num_wanted: int, *, seed: int) -> list[str]:
    """Choose training cases; those of a smaller number with the same seed are among them.

    Args:
        case_ids: the cases that are not validated on.
        num_wanted: how many; all when there are fewer.
        seed: another one chooses other cases.

    Returns:
        Case ids, sorted.
    """
    return sorted(sorted(case_ids, key=lambda case: _hash("training", seed, case))[:num_wanted])


def make_study_splits(
    dataset: StudyDataset, keys: Sequence[SplitKey], curve: LearningCurve | None, *, provided: DatasetPaths
) -> dict[str, Split]:
    """Make every split of a dataset, by its name.

    Args:
        dataset: with its cases.
        keys: the splits that are wanted.
        curve: None: the dataset's own folds, those of the manifest first, then those beside its raw data.
        provided: where the own ones may be.

    Raises:
        DataError: own splits are damaged, or too few cases are left to train on.
        UsageError: there is no such fold.
    """
    if curve is None:
        return _take_folds(dataset, keys, provided)
    groups = read_groups(dataset.group_by, dataset.case_ids) if dataset.group_by else {}
    validation = choose_validation(dataset.case_ids, curve.num_validation_cases, seed=curve.seed, groups=groups)
    left = sorted(set(dataset.case_ids) - set(validation))
    if len(left) < curve.num_training_cases[-1]:
        raise DataError(
            f"dataset '{dataset.name}' has {len(left)} cases beside the {len(validation)} that are validated on, "
            f"{curve.num_training_cases[-1]} are wanted",
            where=dataset.raw,
        )
    return {
        key.name: Split(train=choose_subset(left, key.num_training_cases or 0, seed=key.seed), val=validation)
        for key in keys
    }


def write_study_splits(folder: StudyFolder, paths: DatasetPaths, wanted: Mapping[str, Split]) -> dict[str, int]:
    """Write the splits where trainings find them; splits that are there keep their number, new ones come after.

    Args:
        folder: of the study.
        paths: of the dataset, in the study's workspace.
        wanted: by name.

    Returns:
        Per name the number of the fold in `splits_final.json`.

    Raises:
        UsageError: a split of the study would change; trainings may depend on it.
    """
    path = folder.splits(paths.name)
    known: dict[str, Any] = read_json(path) if path.is_file() else {}
    changed = sorted(name for name, split in wanted.items() if known.get(name, split) != split)
    if changed:
        raise UsageError(
            f"split '{changed[0]}' of '{paths.name}' would change: cases were added or removed, or the manifest asks "
            "for other validation cases",
            where=path,
            hint="give the study another 'folder', or remove this one",
            details=tuple(changed[1:]),
        )
    every = {**known, **wanted}
    if not path.is_file() or every != known:
        write_json(path, every)
    splits = list(every.values())
    if not paths.splits.is_file() or read_splits(paths.splits) != splits:
        write_splits(paths.splits, splits, replace=True)
    return {name: number for number, name in enumerate(every)}


def _take_folds(dataset: StudyDataset, keys: Sequence[SplitKey], provided: DatasetPaths) -> dict[str, Split]:
    own = dataset.splits or (provided.provided_splits if provided.provided_splits.is_file() else None)
    folds = read_splits(own) if own is not None else make_splits(dataset.case_ids)
    missing = sorted({key.fold or 0 for key in keys if (key.fold or 0) >= len(folds)})
    if missing:
        raise UsageError(
            f"fold {missing[0]} does not exist, '{dataset.name}' has folds 0 to {len(folds) - 1}",
            where=own or dataset.raw,
            hint="choose others under 'folds' in the manifest",
        )
    return {key.name: folds[key.fold or 0] for key in keys}


def _hash(purpose: str, seed: int, name: str) -> str:
    return hashlib.sha256(f"{purpose}/{seed}/{name}".encode()).hexdigest()

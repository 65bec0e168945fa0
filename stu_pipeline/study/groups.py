"""The groups of SegBook's tables: modality x target, size, region; and what the pre-training has seen."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from stu_pipeline.study.manifest import Manifest, StudyDataset
from stu_pipeline.study.pooling import ArmKey, ArmScores, macro_average, score_labels

UNKNOWN = "not given"


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupScore:
    """One group of one kind of grouping, for one arm."""

    grouping: str
    group: str
    column: str
    """The arm, with its scale."""
    num_training_cases: int
    num_datasets: int
    num_labels: int
    dataset_macro: float | None
    class_macro: float | None


def find_pretraining_labels(manifest: Manifest) -> frozenset[str]:
    """Find what the pre-training has seen, as comparable names; empty when nobody says.

    Reads: the first file of weights, unless the manifest has a list.

    Raises:
        ModelError: the weights cannot be read.
    """
    names = manifest.pretraining_labels
    weights = next((path for arm in manifest.arms for path in arm.weights.values()), None)
    if not names and weights is not None:
        from stu_pipeline.transfer.files.reading import read_weight_file

        names = read_weight_file(weights).facts.label_names or ()
    return frozenset(make_comparable(name) for name in names if name != "background")


def make_comparable(name: str) -> str:
    """Return a label's name without its spelling: `Kidney Left` and `kidney_left` are one."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def is_seen(dataset: StudyDataset, label: str, pretraining_labels: frozenset[str]) -> bool | None:
    """Tell whether the pre-training has seen a label; None when nobody says."""
    if label in dataset.seen:
        return dataset.seen[label]
    return make_comparable(label) in pretraining_labels if pretraining_labels else None


def name_target(dataset: StudyDataset, label: str, pretraining_labels: frozenset[str]) -> str:
    """Name SegBook's target of a label: `lesion`, `seen structure`, `unseen structure`, or `structure`."""
    if dataset.targets[label] == "lesion":
        return "lesion"
    seen = is_seen(dataset, label, pretraining_labels)
    return "structure" if seen is None else "seen structure" if seen else "unseen structure"


def group_scores(
    manifest: Manifest, pools: Mapping[ArmKey, ArmScores], pretraining_labels: frozenset[str]
) -> list[GroupScore]:
    """Average every arm over the datasets and labels of every group.

    A label belongs to its modality and target; all labels of a dataset share its size and region. Only datasets that
    every arm has are in it, so that no arm gains by lacking a hard one.
    """
    groupings: dict[str, Callable[[StudyDataset, str], str]] = {
        "all": lambda dataset, label: "all datasets",
        "modality x target": lambda dataset, label: (
            f"{dataset.modality or UNKNOWN}, {name_target(dataset, label, pretraining_labels)}"
        ),
        "size": lambda dataset, label: dataset.size,
        "region": lambda dataset, label: dataset.region or UNKNOWN,
    }
    found: list[GroupScore] = []
    for number in sorted({key.num_training_cases for key in pools}):
        own = {key: scores for key, scores in pools.items() if key.num_training_cases == number}
        shared = _find_shared(own)
        for grouping, name_group in groupings.items():
            found += _group(manifest, own, shared, (grouping, name_group, number))
    return found


def _group(
    manifest: Manifest,
    pools: Mapping[ArmKey, ArmScores],
    shared: frozenset[str],
    how: tuple[str, Callable[[StudyDataset, str], str], int],
) -> list[GroupScore]:
    grouping, name_group, number = how
    scores: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for key, arm_scores in pools.items():
        if key.dataset not in shared:
            continue
        dataset = manifest.find_dataset(key.dataset)
        for label, value in score_labels(arm_scores).items():
            place = scores.setdefault((name_group(dataset, label), key.column), {})
            place.setdefault(key.dataset, {})[label] = value
    return [
        GroupScore(
            grouping=grouping,
            group=group,
            column=column,
            num_training_cases=number,
            num_datasets=len(own),
            num_labels=sum(map(len, own.values())),
            dataset_macro=macro_average(own)[0],
            class_macro=macro_average(own)[1],
        )
        for (group, column), own in sorted(scores.items(), key=lambda item: item[0][0])  # arms in the manifest's order
    ]


def _find_shared(keys: Iterable[ArmKey]) -> frozenset[str]:
    columns: dict[str, set[str]] = {}
    for key in keys:
        columns.setdefault(key.column, set()).add(key.dataset)
    return frozenset(set.intersection(*columns.values())) if columns else frozenset()

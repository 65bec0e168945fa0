"""Labels that nobody marked in a case of a union: they have no score there, whatever was predicted.

Reads: `stu_partial_labels` in the `dataset.json` of the references.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from stu_pipeline.datasets.partial_labels import PartialLabels, find_partial_labels
from stu_pipeline.errors import DataError
from stu_pipeline.evaluation.common_labels import CommonLabels
from stu_pipeline.evaluation.labels import LabelSet
from stu_pipeline.evaluation.scoring import ScoredCase
from stu_pipeline.storage import read_json


def read_partial_table(dataset_json: Path | None) -> PartialLabels | None:
    """Read the table of a union; None where every label is marked in every case.

    Raises:
        DataError: the table is malformed.
    """
    content = read_json(dataset_json) if dataset_json is not None else None
    return find_partial_labels(content) if isinstance(content, Mapping) else None


def drop_unmarked(
    cases: Sequence[ScoredCase], table: PartialLabels, reference: LabelSet, common: CommonLabels | None
) -> tuple[ScoredCase, ...]:
    """Take scores out of cases in which their label is not marked; they then count as for a label that is nowhere.

    A region, or a label that is mapped from several, is marked where all its values are.

    Raises:
        DataError: a case is not in the table.
    """
    unknown = [case.pair.case for case in cases if case.pair.case not in table.cases]
    if unknown:
        raise DataError(
            f"{len(unknown)} cases are not in the table of marked labels, for example '{unknown[0]}'",
            hint="score cases of the union, or name their labels with --labels",
        )
    values = {label.name: set(label.values) for label in reference.labels}
    by_key = {label.key: values[label.name] for label in reference.labels}
    if common is not None:
        sources = {label.name: set().union(*(values[name] for name in label.reference)) for label in common.mapped}
        by_key = {label.key: sources[label.name] for label in common.labels.labels}
    kept = []
    for case in cases:
        marked = set(table.list_marked(case.pair.case))
        scores = {key: score for key, score in case.scores.items() if by_key[key] <= marked}
        kept.append(replace(case, scores=scores))
    return tuple(kept)

"""What the table of partial labels means for a network: which of its outputs are marked in which case."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stu_pipeline.datasets.dataset_fields import Label, values_of
from stu_pipeline.datasets.partial_labels import PARTIAL_LABELS_KEY, PartialLabels, find_partial_labels
from stu_pipeline.errors import DataError

_BACKGROUND = 0
_MAX_DETAILS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkedOutputs:
    """The outputs of a network that are marked in the cases of each source."""

    sources: dict[str, tuple[bool, ...]]
    """Name of a source: a flag per output. The background is always marked, a region where all its labels are."""
    cases: dict[str, str]
    """Case id: the source it comes from."""

    def list_flags(self, case_id: str) -> tuple[bool, ...]:
        """Return a flag per output for a case that was asked for in `find_marked_outputs`."""
        return self.sources[self.cases[case_id]]


def find_marked_outputs(
    dataset_json: Mapping[str, Any],
    outputs: Sequence[Label],
    *,
    case_ids: Iterable[str],
    pairs: Iterable[tuple[int, int]] = (),
    where: Path | None = None,
) -> MarkedOutputs | None:
    """Find the marked outputs of each case; None where the dataset has no table, so that all are.

    Args:
        dataset_json: of the preprocessed dataset, with consecutive labels.
        outputs: label or region of every output, background included where it has one.
        case_ids: the cases that are trained on or scored.
        pairs: labels that change places when a case is mirrored.
        where: for messages.

    Raises:
        DataError: the table is malformed, lacks a case, names a label that no output has, marks nothing for a
            source, or only one label of a pair.
    """
    table = find_partial_labels(dataset_json)
    if table is None:
        return None
    problems = [
        *_check_cases(table, case_ids),
        *(line for name in table.sources for line in _check_source(table, name, outputs, tuple(pairs))),
    ]
    if problems:
        raise DataError(
            f"'{PARTIAL_LABELS_KEY}' of dataset.json cannot be used: {problems[0]}",
            where=where,
            details=tuple(problems[1 : 1 + _MAX_DETAILS]),
            hint="make the union anew with 'stu plan A B --union'",
        )
    return MarkedOutputs(
        sources={name: _mark(labels, outputs) for name, labels in table.sources.items()}, cases=dict(table.cases)
    )


def _check_cases(table: PartialLabels, case_ids: Iterable[str]) -> list[str]:
    return [f"case '{case_id}' is not in it" for case_id in sorted(case_ids) if case_id not in table.cases]


def _check_source(
    table: PartialLabels, name: str, outputs: Sequence[Label], pairs: Sequence[tuple[int, int]]
) -> list[str]:
    labels = set(table.sources[name])
    known = {value for output in outputs for value in values_of(output)}
    if unknown := sorted(labels - known):
        return [f"source '{name}' marks label {unknown[0]}, which the network does not know"]
    background = tuple(output == _BACKGROUND for output in outputs)
    if _mark(table.sources[name], outputs) == background:
        return [f"source '{name}' marks no label or region as a whole, so nothing can be learned from it"]
    return [
        f"source '{name}' marks only one of labels {first} and {second}, which change places when mirrored; "
        "train with --mirror and the axes that do not swap them"
        for first, second in pairs
        if (first in labels) != (second in labels)
    ]


def _mark(labels: Iterable[int], outputs: Sequence[Label]) -> tuple[bool, ...]:
    marked = {_BACKGROUND, *labels}
    return tuple(marked.issuperset(values_of(output)) for output in outputs)

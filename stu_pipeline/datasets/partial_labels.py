"""Which labels were looked for in which case: a union of datasets knows some labels in some cases only.

The table travels in `dataset.json` under `stu_partial_labels`. A label that is not listed for a case may be there,
unmarked: it enters neither loss nor score of that case.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stu_pipeline.datasets.dataset_fields import IGNORE
from stu_pipeline.errors import DataError

PARTIAL_LABELS_KEY = "stu_partial_labels"


@dataclass(frozen=True, slots=True, kw_only=True)
class PartialLabels:
    """The labels, by their consecutive values, that are marked in the cases of each source."""

    sources: dict[str, tuple[int, ...]]
    """Name of a source, for example 'Dataset101_OpenKBP': the foreground labels marked in its cases, ascending."""
    cases: dict[str, str]
    """Case id: the source it comes from."""

    def list_marked(self, case_id: str) -> tuple[int, ...]:
        """Return the foreground labels that are marked in a case.

        Raises:
            DataError: the case is not in the table.
        """
        if case_id not in self.cases:
            raise DataError(f"case '{case_id}' is not in '{PARTIAL_LABELS_KEY}' of dataset.json")
        return self.sources[self.cases[case_id]]

    def to_json(self) -> dict[str, Any]:
        """Return what `dataset.json` holds."""
        return {"sources": {name: list(labels) for name, labels in self.sources.items()}, "cases": dict(self.cases)}


def find_partial_labels(dataset_json: Mapping[str, Any]) -> PartialLabels | None:
    """Read the table from the content of a `dataset.json`; None where every label is marked in every case.

    Raises:
        DataError: the table is malformed, or lists labels that the dataset does not have.
    """
    content = dataset_json.get(PARTIAL_LABELS_KEY)
    if content is None:
        return None
    problem = DataError(f"'{PARTIAL_LABELS_KEY}' of dataset.json is not a table of sources and cases")
    if not isinstance(content, Mapping):
        raise problem
    sources, cases = content.get("sources"), content.get("cases")
    if not isinstance(sources, Mapping) or not isinstance(cases, Mapping):
        raise problem
    are_labels = all(
        isinstance(labels, list) and all(type(label) is int and label > 0 for label in labels)
        for labels in sources.values()
    )
    # The check of the type comes first: a list as the name of a source has no hash.
    if not are_labels or not all(isinstance(source, str) and source in sources for source in cases.values()):
        raise problem
    _require_known({label for labels in sources.values() for label in labels}, dataset_json.get("labels"))
    return PartialLabels(
        sources={str(name): tuple(sorted(set(labels))) for name, labels in sources.items()},
        cases={str(case): str(source) for case, source in cases.items()},
    )


def _require_known(listed: set[int], labels: Any) -> None:
    if not isinstance(labels, Mapping):
        return
    values = {
        v for name, value in labels.items() if name != IGNORE for v in (value if isinstance(value, list) else [value])
    }
    # Labels with gaps are listed by their consecutive values, so only their number counts.
    if wrong := sorted(label for label in listed if label >= len(values)):
        raise DataError(
            f"'{PARTIAL_LABELS_KEY}' of dataset.json lists label {wrong[0]}, the highest is {len(values) - 1}"
        )

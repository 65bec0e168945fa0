"""Reference and prediction with label lists of their own: which labels are scored, and both maps in one numbering.

Reads: a label mapping, where one is given.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stu_pipeline.datasets.label_mapping import MappedLabel, read_label_mapping
from stu_pipeline.datasets.label_names import find_nearest_names, match_names
from stu_pipeline.errors import DataError
from stu_pipeline.evaluation.labels import Label, LabelSet

BY_NAME = "names"
"""Stands for a file where labels were matched by their names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommonLabels:
    """What two label lists have in common, and how each one's values become codes of it."""

    labels: LabelSet
    """Named and keyed as in the reference (or after the mapping); their values are codes."""
    reference_codes: Mapping[int, int]
    """Every value that the references may hold, and its code; 0 where it belongs to no common label."""
    prediction_codes: Mapping[int, int]
    mapped: tuple[MappedLabel, ...]
    reference_left_out: tuple[str, ...]
    """Labels of the reference that are in no common label: they are not scored."""
    prediction_left_out: tuple[str, ...]
    source: str
    """The mapping file, or `BY_NAME`."""

    def encode_reference(self, array: npt.NDArray[Any]) -> npt.NDArray[np.uint16]:
        """Return codes for the values of a reference; all of them must be known."""
        return _encode(array, self.reference_codes)

    def encode_prediction(self, array: npt.NDArray[Any]) -> npt.NDArray[np.uint16]:
        """Return codes for the values of a prediction; all of them must be known."""
        return _encode(array, self.prediction_codes)


def choose_common_labels(
    reference: LabelSet, prediction: LabelSet, mapping: Path | None = None, *, where: Path | None = None
) -> CommonLabels | None:
    """Decide which labels of two lists are compared.

    A mapping decides alone. Without one, labels of the same name are compared (`datasets/label_names.py`), whatever
    their values; None where the two lists are the same and nothing has to be mapped.

    Args:
        reference: the labels of the references.
        prediction: those of the predictions.
        mapping: a label mapping.
        where: the file that names the predicted labels, for messages.

    Raises:
        DataError: the mapping does not fit the lists, or without one a reference label is not among the predicted ones.
    """
    marked, predicted = (_list_values(labels) for labels in (reference, prediction))
    if mapping is not None:
        mapped = read_label_mapping(mapping, prediction=predicted, reference=marked)
        return _make_common(reference, prediction, mapped, source=str(mapping))
    names = match_names(list(marked), list(predicted))
    unknown = [name for name in marked if name not in names]
    if unknown:
        raise _refuse_unknown(unknown, list(predicted), where)
    if len(marked) == len(predicted) and all(marked[name] == predicted[names[name]] for name in marked):
        return None
    mapped = tuple(MappedLabel(name=name, prediction=(names[name],), reference=(name,)) for name in marked)
    return _make_common(reference, prediction, mapped, source=BY_NAME)


def _make_common(
    reference: LabelSet, prediction: LabelSet, mapped: Sequence[MappedLabel], *, source: str
) -> CommonLabels:
    marked, predicted = (_list_values(labels) for labels in (reference, prediction))
    codes: dict[frozenset[int], int] = {frozenset(): 0}
    reference_codes = _number(reference, [_join(label.reference, marked) for label in mapped], codes)
    prediction_codes = _number(prediction, [_join(label.prediction, predicted) for label in mapped], codes)
    ignore = None
    if reference.ignore is not None:
        ignore = reference_codes[reference.ignore] = len(codes)
    labels = [
        Label(
            key=_find_key(label, reference, marked),
            name=label.name,
            values=tuple(code for members, code in codes.items() if place in members),
        )
        for place, label in enumerate(mapped)
    ]
    used_marked = {name for label in mapped for name in label.reference}
    used_predicted = {name for label in mapped for name in label.prediction}
    return CommonLabels(
        labels=LabelSet(labels=tuple(labels), ignore=ignore),
        reference_codes=reference_codes,
        prediction_codes=prediction_codes,
        mapped=tuple(mapped),
        reference_left_out=tuple(name for name in marked if name not in used_marked),
        prediction_left_out=tuple(name for name in predicted if name not in used_predicted),
        source=source,
    )


def _number(labels: LabelSet, members: Sequence[set[int]], codes: dict[frozenset[int], int]) -> dict[int, int]:
    """Give each value the code of the set of common labels it belongs to, and new sets a new code in `codes`."""
    numbered = {}
    for value in sorted(labels.known_values):
        belongs = frozenset(place for place, values in enumerate(members) if value in values)
        numbered[value] = codes.setdefault(belongs, len(codes))
    return numbered


def _find_key(label: MappedLabel, reference: LabelSet, marked: Mapping[str, tuple[int, ...]]) -> str:
    """Return the reference's own key where one label of it is meant, else that of a region of its values."""
    if len(label.reference) == 1:
        return next(item.key for item in reference.labels if item.name == label.reference[0])
    return str(tuple(sorted(_join(label.reference, marked))))


def _list_values(labels: LabelSet) -> dict[str, tuple[int, ...]]:
    return {label.name: tuple(sorted(label.values)) for label in labels.labels}


def _join(names: Iterable[str], values: Mapping[str, tuple[int, ...]]) -> set[int]:
    return {value for name in names for value in values[name]}


def _encode(array: npt.NDArray[Any], codes: Mapping[int, int]) -> npt.NDArray[np.uint16]:
    table = np.zeros(max(codes) + 1, dtype=np.uint16)
    table[list(codes)] = list(codes.values())
    encoded: npt.NDArray[np.uint16] = table[array]
    return encoded


def _refuse_unknown(unknown: Sequence[str], predicted: Sequence[str], where: Path | None) -> DataError:
    lines = []
    for name in unknown:
        nearest = ", ".join(f"'{item}'" for item in find_nearest_names(name, predicted))
        lines.append(f"reference label '{name}' is not predicted" + (f", nearest: {nearest}" if nearest else ""))
    more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
    return DataError(
        f"the labels have other names on both sides: {lines[0]}{more}",
        where=where,
        hint="say which label is which: --mapping FILE (docs/reference/label-mapping.md)",
        details=tuple(lines) if len(lines) > 1 else (),
    )

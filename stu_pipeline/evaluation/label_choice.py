"""Which files name the labels of an evaluation, and what follows: one label list, or two that are matched.

Reads: `dataset.json` of either side, a label mapping.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stu_pipeline.errors import UsageError
from stu_pipeline.evaluation.common_labels import BY_NAME, CommonLabels, choose_common_labels
from stu_pipeline.evaluation.config import EvaluateConfig, LabelMatching, MatchedLabel
from stu_pipeline.evaluation.labels import LabelSet, find_prediction_labels, find_reference_labels, read_labels
from stu_pipeline.storage import read_json

VALUES_FOUND = "values found"
_MAX_NAMED = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenLabels:
    """The labels of an evaluation and where they come from."""

    reference: LabelSet | None
    """None: the values found are the labels."""
    prediction: LabelSet | None
    """None where it is the reference's, or nothing names it."""
    common: CommonLabels | None
    """What is scored, where the two differ."""
    source: str
    reference_file: Path | None
    """The `dataset.json` that names the labels of the references; None where nothing does."""
    file_ending: str | None
    """Of label maps, as the `dataset.json` beside the predictions says, or that of the reference."""

    @property
    def scored(self) -> LabelSet | None:
        """The labels that are scored; None where the values found are."""
        return self.reference if self.common is None else self.common.labels


def choose_labels(config: EvaluateConfig) -> ChosenLabels:
    """Read the label lists of both sides and match them.

    Where only one side has a list it holds for both. Two lists are compared by their names, never by values alone.

    Raises:
        DataError: a list is broken, the lists do not fit each other, or the mapping does not fit them.
        UsageError: a mapping needs the list of a side that has none.
    """
    prediction_file = config.prediction_labels or find_prediction_labels(config.prediction)
    reference_file = config.dataset_json or find_reference_labels(config.reference)
    if config.mapping is not None:
        _require_both(config, reference_file, prediction_file)
    ending = _read_file_ending(prediction_file or reference_file)
    named_by = reference_file or prediction_file
    if named_by is None:
        return ChosenLabels(
            reference=None, prediction=None, common=None, source=VALUES_FOUND, reference_file=None, file_ending=None
        )
    reference = read_labels(named_by)
    if reference_file is None or prediction_file is None:
        return ChosenLabels(
            reference=reference,
            prediction=None,
            common=None,
            source=str(named_by),
            reference_file=named_by,
            file_ending=ending,
        )
    prediction = read_labels(prediction_file)
    common = choose_common_labels(reference, prediction, config.mapping, where=prediction_file)
    return ChosenLabels(
        reference=reference,
        prediction=prediction,
        common=common,
        source=str(reference_file) if common is None else f"{reference_file} and {prediction_file}",
        reference_file=reference_file,
        file_ending=ending,
    )


def describe_matching(common: CommonLabels | None) -> LabelMatching | None:
    """Return what the result of an evaluation says about matched labels."""
    if common is None:
        return None
    return LabelMatching(
        source=common.source,
        labels=tuple(
            MatchedLabel(name=label.name, prediction=label.prediction, reference=label.reference)
            for label in common.mapped
        ),
        reference_left_out=common.reference_left_out,
        prediction_left_out=common.prediction_left_out,
    )


def explain_matching(matching: LabelMatching) -> list[tuple[str, str]]:
    """Return rows for people: how labels were matched, and which are not scored."""
    pairs = [
        f"{label.name}: {' + '.join(label.prediction)} as {' + '.join(label.reference)}"
        for label in matching.labels
        if {*label.prediction, *label.reference} != {label.name}
    ]
    how = "by name" if matching.source == BY_NAME else f"by {matching.source}"
    rows = [("labels matched", f"{len(matching.labels)} {how}" + (f"; {'; '.join(pairs)}" if pairs else ""))]
    for names, side in ((matching.reference_left_out, "reference"), (matching.prediction_left_out, "prediction")):
        if names:
            more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
            rows.append((f"not scored, of the {side}", ", ".join(names[:_MAX_NAMED]) + more))
    return rows


def _require_both(config: EvaluateConfig, reference_file: Path | None, prediction_file: Path | None) -> None:
    for file, side, flag, place in (
        (reference_file, "reference", "--labels", config.reference),
        (prediction_file, "predicted", "--prediction-labels", config.prediction),
    ):
        if file is None:
            raise UsageError(
                f"a mapping needs the names of the {side} labels, and no dataset.json is beside '{place.name}'",
                where=place,
                hint=f"{flag} DATASET_JSON",
            )


def _read_file_ending(dataset_json: Path | None) -> str | None:
    content = read_json(dataset_json) if dataset_json else None
    ending = content.get("file_ending") if isinstance(content, dict) else None
    return ending if isinstance(ending, str) else None

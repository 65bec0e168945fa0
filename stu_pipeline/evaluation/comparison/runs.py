"""Read evaluated runs: a summary, a folder that holds one, or a model folder with its validated folds.

Reads: `summary.json` (ours or nnU-Net's), `dataset.json` for names that a summary lacks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stu_pipeline.datasets.endings import split_ending
from stu_pipeline.datasets.label_ids import LabelIds
from stu_pipeline.errors import DataError
from stu_pipeline.evaluation.comparison.config import METRICS
from stu_pipeline.evaluation.labels import Label, find_stored_ids, read_labels
from stu_pipeline.storage import read_json
from stu_pipeline.workspace import RunPaths

_SUMMARY = "summary.json"
# From a fold's validation folder, the model folder with its dataset.json is two levels up.
_LEVELS_UP = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelScore:
    """One label of one case in one run."""

    value: float
    """NaN where there is nothing to measure, infinite where exactly one of the two maps is empty (distances)."""
    num_reference: int | None
    """Voxels of the label in the reference; None when the summary does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatedRun:
    """The scores of one run: by case name, then by label key."""

    path: Path
    scores: dict[str, dict[str, LabelScore]]
    label_names: dict[str, str] | None
    """Label key to name; None when nothing names the labels."""
    tolerance_mm: float | None
    """Of NSD; None when the summary does not say."""

    @property
    def label_keys(self) -> tuple[str, ...]:
        """Every label key, in the order of the first case that has it."""
        return tuple(dict.fromkeys(key for labels in self.scores.values() for key in labels))


def read_run(path: Path, metric: str) -> EvaluatedRun:
    """Read the scores of one metric of an evaluated run.

    Args:
        path: a summary, a folder with one, or a model folder, whose folds are joined to one cross-validation.
        metric: name in the summary.

    Raises:
        DataError: there is no summary, it is broken, lacks the metric, or folds share a case.
    """
    summaries = find_summaries(path)
    scores: dict[str, dict[str, LabelScore]] = {}
    tolerances = set()
    for file in summaries:
        content = _read_summary(file)
        tolerances.add(_find_tolerance(content))
        for case, labels in _read_cases(content, metric, file).items():
            if case in scores:
                raise DataError(f"case '{case}' is there twice", where=file, hint="compare one summary.json at a time")
            scores[case] = labels
    if len(tolerances) > 1:
        raise DataError("the folds were scored with different tolerances", where=path, hint="stu evaluate them again")
    names = _find_label_names(_read_summary(summaries[0]), summaries[0])
    return EvaluatedRun(path=path, scores=scores, label_names=names, tolerance_mm=tolerances.pop())


def find_summaries(path: Path) -> tuple[Path, ...]:
    """Find the summary of a run, or those of the validated folds of a model folder.

    Raises:
        DataError: there is none.
    """
    if path.is_file():
        return (path,)
    for candidate in (path / _SUMMARY, RunPaths(path).validation_summary):
        if candidate.is_file():
            return (candidate,)
    folds = sorted(folder for folder in path.glob("fold_*") if folder.name.removeprefix("fold_").isdigit())
    found = tuple(file for file in (RunPaths(fold).validation_summary for fold in folds) if file.is_file())
    if not found:
        raise DataError(
            f"no summary.json in '{path.name}', nor of a validated fold" if path.is_dir() else f"'{path}' not found",
            where=path if path.is_dir() else path.parent,
            hint="stu evaluate -r REFERENCE -p PREDICTION",
        )
    return found


def name_runs(paths: Sequence[Path]) -> tuple[str, ...]:
    """Name runs after their folders, with as many parents as it takes to tell them apart."""
    folders = [_name_folder(path) for path in paths]
    for depth in range(1, max(len(parts) for parts in folders) + 1):
        names = tuple("/".join(parts[-depth:]) for parts in folders)
        if len(set(names)) == len(names):
            return names
    return tuple(f"{'/'.join(parts[-1:])} ({place})" for place, parts in enumerate(folders, start=1))


def _name_folder(path: Path) -> tuple[str, ...]:
    path = path.absolute()
    # `summary.json` says nothing, `scores_b.json` does.
    path = path.parent if path.name == _SUMMARY else path.with_suffix("") if path.is_file() else path
    return path.parts[1:] or (path.name,)


def _read_summary(file: Path) -> dict[str, Any]:
    content = read_json(file)
    if not isinstance(content, dict) or not isinstance(content.get("metric_per_case"), list):
        raise DataError(f"'{file.name}' is not the summary of an evaluation", where=file.parent)
    return content


def _read_cases(content: dict[str, Any], metric: str, file: Path) -> dict[str, dict[str, LabelScore]]:
    cases: dict[str, dict[str, LabelScore]] = {}
    for place, entry in enumerate(content["metric_per_case"]):
        case = _read_case_name(entry, place, file)
        if case in cases:
            raise DataError(f"case '{case}' is there twice", where=file)
        try:
            cases[case] = {str(key): _read_score(scores, metric) for key, scores in entry["metrics"].items()}
        except KeyError as error:
            raise _missing_metric(error, metric, entry, file) from error
        except (AttributeError, TypeError, ValueError) as error:
            raise DataError(f"'{file.name}' has no usable scores for case '{case}'", where=file.parent) from error
    if not cases:
        raise DataError(f"'{file.name}' has no cases", where=file.parent)
    return cases


def _read_case_name(entry: Any, place: int, file: Path) -> str:
    # nnU-Net's paths may come from another system.
    path = entry.get("prediction_file") or entry.get("reference_file") if isinstance(entry, dict) else None
    if not isinstance(path, str):
        raise DataError(f"'{file.name}' does not name the files of entry {place} of 'metric_per_case'", where=file)
    return split_ending(path.replace("\\", "/").rpartition("/")[2])[0]


def _read_score(scores: dict[str, Any], metric: str) -> LabelScore:
    raw = scores[metric]
    value = math.nan if raw is None else float(raw)
    num_reference, num_predicted = scores.get("n_ref"), scores.get("n_pred")
    if metric.startswith("volume_error"):
        value = abs(value)
    is_one_empty = (
        num_reference is not None and num_predicted is not None and bool(num_reference) != bool(num_predicted)
    )
    if math.isnan(value) and is_one_empty and not METRICS[metric]:
        value = math.inf
    return LabelScore(value=value, num_reference=None if num_reference is None else int(num_reference))


def _missing_metric(error: KeyError, metric: str, entry: dict[str, Any], file: Path) -> DataError:
    if error.args != (metric,):
        return DataError(f"'{file.name}' has an entry without {error}", where=file.parent)
    known = sorted({name for scores in entry["metrics"].values() for name in scores} & set(METRICS))
    return DataError(
        f"'{file.name}' has no '{metric}', only {', '.join(known) or 'nothing that can be compared'}",
        where=file.parent,
        hint="stu evaluate -r REFERENCE -p PREDICTION",
    )


def _find_tolerance(content: dict[str, Any]) -> float | None:
    ours = content.get("stu")
    config = ours.get("config") if isinstance(ours, dict) else None
    tolerance = config.get("tolerance_mm") if isinstance(config, dict) else None
    return float(tolerance) if isinstance(tolerance, (int, float)) else None


def _find_label_names(content: dict[str, Any], file: Path) -> dict[str, str] | None:
    ours = content.get("stu")
    described = ours.get("labels") if isinstance(ours, dict) else None
    if isinstance(ours, dict) and isinstance(described, dict) and described:
        if ours.get("labels_from") == "values found":
            return None
        return {str(key): str(label["name"]) for key, label in described.items()}
    for folder in file.absolute().parents[:_LEVELS_UP]:
        if (folder / "dataset.json").is_file():
            ids = find_stored_ids(file.parent)
            return {_find_key(label, ids): label.name for label in read_labels(folder / "dataset.json").labels}
    return None


def _find_key(label: Label, ids: LabelIds | None) -> str:
    """Return the key of a label in a summary of maps that hold consecutive ids, as a training leaves it."""
    if ids is None:
        return label.key
    own = tuple(ids.original.index(value) for value in label.values)
    return str(own) if label.key.startswith("(") else str(own[0])

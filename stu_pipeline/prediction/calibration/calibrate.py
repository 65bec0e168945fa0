"""Learn from a model's own cross-validation what to expect of its masks, and how to clean them up.

Reads: the folds of a model folder, their validation scores and masks, the training images and labels.
Writes: `quality.json`, `postprocessing.json` and `fold_N/quality_features.json` in the model folder.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stu_pipeline.errors import ModelError
from stu_pipeline.log import Listener, Notice, ignore_events
from stu_pipeline.prediction.calibration.cases import ValidatedFold, find_cases, list_validated_folds
from stu_pipeline.prediction.calibration.config import CalibrateConfig, CalibrateResult
from stu_pipeline.prediction.calibration.measure import CaseFeatures, measure_fold
from stu_pipeline.prediction.device import choose_autocast, choose_device
from stu_pipeline.prediction.models.model_folder import ModelFolder, open_model_folder
from stu_pipeline.prediction.models.model_json import RULES_FILE
from stu_pipeline.prediction.models.networks import InferenceSettings
from stu_pipeline.prediction.postprocessing.learning import learn_postprocessing
from stu_pipeline.prediction.postprocessing.rules import write_rules
from stu_pipeline.prediction.quality.conformal import compute_proven_rate
from stu_pipeline.prediction.quality.document import QUALITY_FILE, Calibration, write_quality
from stu_pipeline.prediction.quality.estimator import NUM_GROUPS, fit_estimator
from stu_pipeline.prediction.quality.evaluation import evaluate_estimates
from stu_pipeline.prediction.quality.features import ScoredLabel, list_scored_labels
from stu_pipeline.prediction.quality.regression import Observation
from stu_pipeline.storage import hold_lock

_LOCK_FILE = ".calibrate.lock"
_MIN_FOLDS = 3
_MAX_LISTED = 5


@dataclass(frozen=True, slots=True)
class _Measured:
    """All folds: what was measured, what it scored, with which weights."""

    features: Mapping[int, CaseFeatures]
    checkpoints: Mapping[str, str]
    labels: tuple[ScoredLabel, ...]
    skipped: tuple[str, ...]


def calibrate(config: CalibrateConfig, *, listen: Listener = ignore_events) -> CalibrateResult:
    """Predict the validation cases of every finished fold with that fold's own weights, and learn from their scores.

    Cases that were measured before with the same weights and settings are not predicted again.

    Args:
        config: which model, and how it will be used.
        listen: receives `Progress` and `Notice`.

    Raises:
        ModelError: no fold is finished and validated, or the model cannot be opened.
        DataError: the dataset or its cases are not there, or they are too few.
        StorageError: the model folder cannot be written to.
        LockedError: another calibration writes to the same folder.
    """
    start = time.monotonic()
    folds = _find_folds(config, listen)
    with hold_lock(config.model / _LOCK_FILE, what="the model folder"):
        quality, skipped = _learn_quality(config, folds, listen) if config.quality else (None, ())
        rules = _learn_postprocessing(config, folds, listen) if config.postprocessing else None
    return CalibrateResult(
        model=config.model,
        folds=tuple(fold.fold for fold in folds),
        num_cases=len({name for fold in folds for name in fold.scores}),
        skipped=skipped,
        quality_file=config.model / QUALITY_FILE if quality is not None else None,
        quality=quality,
        postprocessing_file=config.model / RULES_FILE if rules is not None else None,
        postprocessing=rules,
        seconds=round(time.monotonic() - start, 3),
    )


def _find_folds(config: CalibrateConfig, listen: Listener) -> list[ValidatedFold]:
    if not config.model.is_dir():
        raise ModelError(f"model folder '{config.model.name}' not found", where=config.model.parent)
    folds, bare = list_validated_folds(config.model)
    if bare:
        listed = ", ".join(map(str, bare))
        listen(Notice(text=f"left out, not validated: fold {listed}", is_warning=True))
    listen(Notice(text=f"validated folds: {', '.join(str(fold.fold) for fold in folds)}"))
    return folds


def _learn_quality(
    config: CalibrateConfig, folds: Sequence[ValidatedFold], listen: Listener
) -> tuple[dict[str, Any], tuple[str, ...]]:
    measured = _measure(config, folds, listen)
    observations = build_observations(folds, measured.features, measured.labels)
    verdict = evaluate_estimates(
        observations, measured.labels, error_rate=config.error_rate, accept_dice=config.accept_dice
    )
    calibration = Calibration(
        checkpoints=measured.checkpoints,
        tta=config.tta,
        error_rate=config.error_rate,
        is_useful=verdict.is_useful,
        estimator=fit_estimator(observations, measured.labels, accept_dice=config.accept_dice),
    )
    num_cases = len({item.case for item in observations})
    num_groups = len({item.group for item in observations})
    content = write_quality(
        config.model / QUALITY_FILE,
        calibration,
        verdict,
        num_cases=num_cases,
        groups="folds" if len(folds) >= _MIN_FOLDS else f"{num_groups} groups of cases of too few folds",
        proven_error_rate=compute_proven_rate(config.error_rate, num_cases, num_groups),
    )
    if not verdict.is_useful:
        listen(Notice(text="the estimates are no better than the mean Dice of each label and will not be used"))
    return content, measured.skipped


def _measure(config: CalibrateConfig, folds: Sequence[ValidatedFold], listen: Listener) -> _Measured:
    device = choose_device(config.device)
    settings = InferenceSettings(
        device=device,
        autocast=choose_autocast(config.precision, device),
        may_choose_type=config.precision == "auto",
        step=config.step,
        tta=config.tta,
    )
    cases = find_cases(_choose_dataset(config), [n for fold in folds for n in fold.scores])
    features: dict[int, CaseFeatures] = {}
    checkpoints: dict[str, str] = {}
    skipped: list[str] = []
    folder: ModelFolder | None = None
    for fold in folds:
        folder = open_model_folder(config.model, (fold.fold,))
        own = {name: cases[name] for name in sorted(fold.scores) if name in cases}
        skipped += [f"{name}: not among the training cases" for name in sorted(fold.scores) if name not in cases]
        features[fold.fold], failed = measure_fold(folder, settings, own, listen)
        skipped += failed
        checkpoints[str(fold.fold)] = folder.folds[0].identity
    if folder is None:
        raise ModelError("no fold to calibrate on", where=config.model)
    for line in skipped[:_MAX_LISTED]:
        listen(Notice(text=f"left out: {line}", is_warning=True))
    return _Measured(features, checkpoints, list_scored_labels(folder.model.dataset), tuple(skipped))


def build_observations(
    folds: Sequence[ValidatedFold], features: Mapping[int, CaseFeatures], labels: Sequence[ScoredLabel]
) -> list[Observation]:
    """Join what was measured with what it scored.

    Groups are the folds; with fewer than three, cases are dealt out to five groups by the order of their names.
    """
    names = sorted({name for found in features.values() for name in found})
    places = {name: place for place, name in enumerate(names)}
    has_groups = len(features) >= _MIN_FOLDS
    return [
        Observation(
            case=name,
            group=fold.fold if has_groups else places[name] % NUM_GROUPS,
            label=label.name,
            features=measured[label.channel],
            dice=fold.scores[name].get(label.key),
        )
        for fold in folds
        for name, measured in features.get(fold.fold, {}).items()
        for label in labels
    ]


def _learn_postprocessing(config: CalibrateConfig, folds: Sequence[ValidatedFold], listen: Listener) -> dict[str, Any]:
    rules = learn_postprocessing(
        config.model,
        {fold.fold: sorted(fold.scores) for fold in folds},
        _choose_dataset(config),
        num_workers=config.num_workers,
        listen=listen,
    )
    return write_rules(config.model / RULES_FILE, rules)


def _choose_dataset(config: CalibrateConfig) -> str:
    return config.dataset or config.model.absolute().parent.name

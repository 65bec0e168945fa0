"""What follows a prediction: cleaning, measuring, writing, entering it into the manifest. Any thread may do it.

Writes: the mask, and what was asked for beside it.
"""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stu_pipeline.datasets.cases import Case
from stu_pipeline.inference.window_statistics import WindowStatistics
from stu_pipeline.nnunet.mask_file import write_mask
from stu_pipeline.prediction.combining.ensemble import Ensemble, Mask, Prediction
from stu_pipeline.prediction.config import CaseReport, PredictConfig
from stu_pipeline.prediction.models.model_folder import ModelFolder
from stu_pipeline.prediction.postprocessing.rules import PostprocessingRules, apply_rules, choose_spacing, find_rules
from stu_pipeline.prediction.proof.file_marks import FileMark
from stu_pipeline.prediction.proof.manifest import Manifest
from stu_pipeline.prediction.quality.document import Calibration, find_calibration
from stu_pipeline.prediction.quality.estimate import estimate_quality
from stu_pipeline.prediction.report.case_facts import CaseFacts, ModelFacts, describe_case
from stu_pipeline.prediction.report.training_data import describe_training_data, find_fingerprint
from stu_pipeline.prediction.run.extras import CaseExtras, ExtrasPlan
from stu_pipeline.prediction.run.saving import collect_saving, describe_saving
from stu_pipeline.records import describe

# What the manifest knows better than a report that is not complete.
_OF_THE_MANIFEST = ("case", "status", "output", "outputs")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Finishing:
    """A predicted case that is not written yet."""

    case: Case
    inputs: dict[str, FileMark]
    prediction: Prediction
    extras: CaseExtras
    started: float
    """When its files were opened, by the monotonic clock."""


class CaseFinisher:
    """Turns predictions into files and reports.

    Args:
        config: says what is wanted besides masks.
        ensemble: the models; the first one names labels and reader.
        manifest: where masks are announced.
    """

    def __init__(self, config: PredictConfig, ensemble: Ensemble, manifest: Manifest) -> None:
        first = ensemble.folders[0]
        self.model = first.model
        self.saving = WindowStatistics()
        """Of all cases so far."""
        self.manifest = manifest
        self._calibration, about_quality = _find_calibration(ensemble.folders, config.tta)
        self._rules, about_rules = _find_rules(config, ensemble.folders)
        self.notices = (*about_quality, *about_rules)
        self._facts = _describe_model(first)
        self._extras = ExtrasPlan(
            config=config,
            outputs=manifest.outputs,
            model=self.model,
            model_name=first.path.name,
            decision=ensemble.groups[0].decision,
            has_quality=self._calibration is not None,
        )

    def open_extras(self, case: Case) -> CaseExtras:
        """Prepare what sees a case besides the export of its mask."""
        return CaseExtras(self._extras, case)

    def finish(self, item: Finishing) -> CaseReport:
        """Clean, measure, write and announce a mask.

        Raises:
            StorageError: the mask, or something beside it, could not be written.
        """
        prediction = item.prediction
        mask, changes = self._clean(prediction)
        facts = self._measure(prediction, mask)
        saving = collect_saving(prediction.watch.statistics)
        self.saving.add(saving)
        report = CaseReport(
            case=item.case.id,
            status="done",
            output=self.manifest.outputs.masks[item.case.id],
            volumes_ml=facts.volumes_ml,
            warnings=facts.warnings,
            notes=(*prediction.watch.notes, *describe_saving(saving), *changes),
            forward_passes=prediction.watch.num_passes,
            peak_memory_gib=measure_peak_gib(),
            quality=self._estimate(item.extras),
        )
        return self._write(item, mask, report)

    def _write(self, item: Finishing, mask: Mask, report: CaseReport) -> CaseReport:
        ids = self.model.dataset.label_ids
        mask = mask if ids is None else ids.to_original(mask)
        extras = item.extras.write(mask, item.prediction.raw)
        report = replace(report, seconds=time.monotonic() - item.started)

        def announce(temporary: Path) -> None:
            facts = {key: value for key, value in describe(report).items() if key not in _OF_THE_MANIFEST}
            self.manifest.announce(item.case, temporary, item.inputs, facts, extras=extras)

        write_mask(
            self.model,
            mask,
            self.manifest.outputs.masks[item.case.id],
            item.prediction.raw,
            before_commit=announce,
        )
        return replace(report, outputs=self.manifest.list_outputs(item.case.id))

    def _clean(self, prediction: Prediction) -> tuple[Mask, tuple[str, ...]]:
        """Apply what was learned from the cross-validation; say what it changed."""
        if self._rules is None:
            return prediction.mask, ()
        mask, changes = apply_rules(prediction.mask, self._rules, choose_spacing(prediction.raw.grid))
        return mask, tuple(str(change) for change in changes)

    def _measure(self, prediction: Prediction, mask: Mask) -> CaseFacts:
        grid = prediction.prepared.grid
        return describe_case(
            mask,
            prediction.raw.sample,
            prediction.raw.grid,
            self._facts,
            image_step=prediction.raw.sample_step,
            is_reoriented="Reorient" in self.model.reader_name,
            cropped_shape=[grid.cropped_shape[axis] for axis in grid.transpose_backward],
        )

    def _estimate(self, extras: CaseExtras) -> dict[str, Any] | None:
        if self._calibration is None or extras.meter is None:
            return None
        quality = estimate_quality(
            extras.meter.finish(), self._calibration.estimator, error_rate=self._calibration.error_rate
        )
        described: dict[str, Any] = describe(quality)
        return described | {"reasons": list(quality.reasons)}


def measure_peak_gib() -> float:
    """Return the largest resident size that this process has had."""
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30, 3)


def _find_calibration(folders: tuple[ModelFolder, ...], tta: str) -> tuple[Calibration | None, tuple[str, ...]]:
    """Return the calibration of a single model; what several models are worth together was never measured."""
    if len(folders) > 1:
        return None, ()
    identities = {str(item.fold): item.identity for item in folders[0].folds}
    calibration, reason = find_calibration(folders[0].path, identities)
    if calibration is not None and calibration.tta != tta:
        return None, (f"no expected Dice: it was calibrated with --tta {calibration.tta}",)
    return calibration, (reason,) if reason else ()


def _find_rules(
    config: PredictConfig, folders: tuple[ModelFolder, ...]
) -> tuple[PostprocessingRules | None, tuple[str, ...]]:
    """Return the post-processing of a single model; what several models need together was never measured."""
    if config.postprocessing == "none" or len(folders) > 1:
        return None, ()
    folder = folders[0]
    identities = {str(item.fold): item.identity for item in folder.folds}
    return find_rules(folder.path, identities, folder.model.dataset)


def _describe_model(folder: ModelFolder) -> ModelFacts:
    model = folder.model
    schemes = model.configuration.configuration["normalization_schemes"]
    return ModelFacts(
        labels=model.dataset.labels,
        channel_names=list(model.dataset.channel_names.values()),
        training=describe_training_data(model.plans.plans, schemes, find_fingerprint(folder.path)),
    )

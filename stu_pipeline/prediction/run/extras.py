"""What is made of a case besides its mask: measures of quality, probabilities, files per label, DICOM SEG."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from stu_pipeline.datasets.cases import Case
from stu_pipeline.datasets.dataset_fields import Label
from stu_pipeline.inference.case_grid import Decision
from stu_pipeline.nnunet.model import EngineModel
from stu_pipeline.nnunet.prepared_case import PreparedCase
from stu_pipeline.nnunet.raw_case import RawCase
from stu_pipeline.prediction.combining.ensemble import Sinks
from stu_pipeline.prediction.config import PredictConfig
from stu_pipeline.prediction.outputs import Outputs
from stu_pipeline.prediction.quality.meter import QualityMeter
from stu_pipeline.prediction.writing.dicom_seg import SegmentationSource, write_dicom_seg
from stu_pipeline.prediction.writing.label_files import ENDING as LABEL_ENDING
from stu_pipeline.prediction.writing.label_files import write_label_files
from stu_pipeline.prediction.writing.probability_files import ProbabilityTarget, ProbabilityWriter


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtrasPlan:
    """What is wanted of every case."""

    config: PredictConfig
    outputs: Outputs
    model: EngineModel
    """Names labels and regions."""
    model_name: str
    decision: Decision
    has_quality: bool

    @property
    def labels(self) -> dict[str, Label]:
        """Names and values as masks are written with."""
        dataset = self.model.dataset
        return dict(dataset.labels if dataset.label_ids is None else dataset.describe_original()["labels"])


class CaseExtras:
    """What one case makes besides its mask."""

    def __init__(self, plan: ExtrasPlan, case: Case) -> None:
        self._plan = plan
        self._case = case
        self._writer: ProbabilityWriter | None = None
        self.meter: QualityMeter | None = None

    def open(self, prepared: PreparedCase, raw: RawCase) -> Sinks:
        """Say what is to be shown the slabs of a prepared case."""
        plan = self._plan
        if plan.has_quality:
            z, y, x = prepared.spacing_mm
            self.meter = QualityMeter(plan.decision, z * y * x / 1000)
        if plan.config.probabilities != "none":
            target = ProbabilityTarget(
                path=plan.outputs.probabilities(self._case.id, plan.config.probabilities),
                kind=plan.config.probabilities,
                grid=raw.grid,
                names=_name_outputs(plan.model),
                is_regions=plan.decision.region_values is not None,
                bits=plan.config.probability_bits,
                properties=prepared.properties,
            )
            self._writer = ProbabilityWriter(target, prepared.grid)
        return Sinks(
            logits=() if self.meter is None else (self.meter,),
            probabilities=() if self._writer is None else (self._writer,),
        )

    def write(self, mask: npt.NDArray[Any], raw: RawCase) -> tuple[Path, ...]:
        """Complete everything for a mask `(z, y, x)` with the values it is written with; return what was written.

        Raises:
            StorageError: something cannot be written.
            DataError: the series lacks what a DICOM SEG refers to.
        """
        plan = self._plan
        written: list[Path] = []
        if self._writer is not None:
            with self._writer as writer:
                written += writer.finish()
        if plan.config.per_label_files:
            written.append(self._write_labels(mask, raw))
        if plan.config.dicom_seg:
            source = SegmentationSource(
                series=self._case.image_files[0], grid=raw.grid, labels=plan.labels, model=plan.model_name
            )
            written.append(write_dicom_seg(mask, source, plan.outputs.dicom_seg(self._case.id)))
        return tuple(written)

    def _write_labels(self, mask: npt.NDArray[Any], raw: RawCase) -> Path:
        folder = self._plan.outputs.label_folder(self._case.id)
        files = write_label_files(mask, raw.grid, self._plan.labels, folder)
        if self._plan.config.overwrite:  # labels that another model had
            for old in set(folder.glob(f"*{LABEL_ENDING}")) - set(files):
                old.unlink()
        return folder

    def discard(self) -> None:
        """Remove what was begun for a case that failed."""
        if self._writer is not None:
            self._writer.__exit__(None, None, None)


def _name_outputs(model: EngineModel) -> tuple[str, ...]:
    """Name the channels of the network's output, background included; regions in their order."""
    names = [name for name in model.dataset.labels if name != "ignore"]
    if model.region_values is not None:
        names = [name for name in names if name != "background"]
    return tuple(names[: model.num_outputs])

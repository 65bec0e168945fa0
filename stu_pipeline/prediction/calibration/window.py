"""Run one fold of a model over a case and measure what the prediction knows about itself."""

from __future__ import annotations

import math

from stu_pipeline.datasets.cases import Case
from stu_pipeline.nnunet.prepared_case import PreparedCase
from stu_pipeline.nnunet.raw_case import RawCase
from stu_pipeline.prediction.combining.ensemble import Ensemble, Prediction, Sinks
from stu_pipeline.prediction.combining.group import Watch
from stu_pipeline.prediction.models.model_folder import ModelFolder
from stu_pipeline.prediction.models.networks import InferenceSettings
from stu_pipeline.prediction.quality.features import LabelFeatures
from stu_pipeline.prediction.quality.meter import QualityMeter


class FoldMeter:
    """Measures cases with the weights of one fold.

    Args:
        folder: opened with that fold only.
        settings: as predictions will be run.
    """

    def __init__(self, folder: ModelFolder, settings: InferenceSettings) -> None:
        self._ensemble = Ensemble([folder], settings)

    def measure(self, case: Case) -> tuple[dict[int, LabelFeatures], Prediction]:
        """Return the features of a case by channel, and its prediction.

        Raises:
            DataError: the case cannot be used.
            NonFiniteError: the network computed NaN or infinite numbers.
            MemoryLimitError: the case does not fit the memory.
        """
        meters: list[QualityMeter] = []

        def open_sinks(prepared: PreparedCase, raw: RawCase) -> Sinks:
            meters.append(open_meter(self._ensemble, prepared))
            return Sinks(logits=(meters[0],))

        prediction = self._ensemble.predict(self._ensemble.load(case), Watch(), open_sinks)
        return meters[0].finish(), prediction


def open_meter(ensemble: Ensemble, prepared: PreparedCase) -> QualityMeter:
    """Make the meter of one case, for the slabs of logits of an ensemble's first group."""
    return QualityMeter(ensemble.groups[0].decision, math.prod(prepared.spacing_mm) / 1000)

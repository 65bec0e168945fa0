"""Plan, train and predict with STU-Net inside nnU-Net's loop.

The public names are resolved on first use, so that `import stu_pipeline` imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stu_pipeline.errors import StuError
    from stu_pipeline.evaluation.comparison.compare import compare
    from stu_pipeline.evaluation.comparison.config import CompareConfig, CompareResult
    from stu_pipeline.evaluation.evaluate import EvaluateConfig, EvaluateResult, evaluate
    from stu_pipeline.planning.config import PlanConfig, PlanResult
    from stu_pipeline.planning.plan import plan
    from stu_pipeline.prediction.calibration.calibrate import calibrate
    from stu_pipeline.prediction.calibration.config import CalibrateConfig, CalibrateResult
    from stu_pipeline.prediction.config import PredictConfig, PredictResult
    from stu_pipeline.prediction.predict import predict
    from stu_pipeline.preprocessing.preprocess import PreprocessConfig, PreprocessResult, preprocess
    from stu_pipeline.study.config import StudyConfig, StudyResult
    from stu_pipeline.study.study import run_study
    from stu_pipeline.training.config import TrainConfig, TrainResult
    from stu_pipeline.training.train import train

__version__ = "0.1.0"

_HOMES = {
    "StuError": "stu_pipeline.errors",
    "PlanConfig": "stu_pipeline.planning.config",
    "PlanResult": "stu_pipeline.planning.config",
    "plan": "stu_pipeline.planning.plan",
    "PreprocessConfig": "stu_pipeline.preprocessing.preprocess",
    "PreprocessResult": "stu_pipeline.preprocessing.preprocess",
    "preprocess": "stu_pipeline.preprocessing.preprocess",
    "TrainConfig": "stu_pipeline.training.config",
    "TrainResult": "stu_pipeline.training.config",
    "train": "stu_pipeline.training.train",
    "PredictConfig": "stu_pipeline.prediction.config",
    "PredictResult": "stu_pipeline.prediction.config",
    "predict": "stu_pipeline.prediction.predict",
    "CalibrateConfig": "stu_pipeline.prediction.calibration.config",
    "CalibrateResult": "stu_pipeline.prediction.calibration.config",
    "calibrate": "stu_pipeline.prediction.calibration.calibrate",
    "EvaluateConfig": "stu_pipeline.evaluation.evaluate",
    "EvaluateResult": "stu_pipeline.evaluation.evaluate",
    "evaluate": "stu_pipeline.evaluation.evaluate",
    "CompareConfig": "stu_pipeline.evaluation.comparison.config",
    "CompareResult": "stu_pipeline.evaluation.comparison.config",
    "compare": "stu_pipeline.evaluation.comparison.compare",
    "StudyConfig": "stu_pipeline.study.config",
    "StudyResult": "stu_pipeline.study.config",
    "run_study": "stu_pipeline.study.study",
}

__all__ = [  # noqa: RUF022 - in the order of the pipeline
    "plan", "PlanConfig", "PlanResult",
    "preprocess", "PreprocessConfig", "PreprocessResult",
    "train", "TrainConfig", "TrainResult",
    "predict", "PredictConfig", "PredictResult",
    "calibrate", "CalibrateConfig", "CalibrateResult",
    "evaluate", "EvaluateConfig", "EvaluateResult",
    "compare", "CompareConfig", "CompareResult",
    "run_study", "StudyConfig", "StudyResult",
    "StuError", "__version__",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'stu_pipeline' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)

"""One fold to train, with everything found on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stu_pipeline.training.config import TrainConfig
from stu_pipeline.training.run.requirements import find_plan, require_fold
from stu_pipeline.workspace import DatasetPaths, RunPaths, find_dataset, fold_folder

if TYPE_CHECKING:
    from stu_pipeline.planfile import PlanFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is trained, and where it goes."""

    config: TrainConfig
    dataset: DatasetPaths
    plan: PlanFile
    configuration: str
    num_folds: int

    @property
    def model_folder(self) -> Path:
        """The folder of all folds."""
        return self.dataset.model_folder(self.plan.name, self.configuration)

    @property
    def paths(self) -> RunPaths:
        """The files of this fold."""
        return RunPaths(fold_folder(self.model_folder, self.config.fold))


def find_job(config: TrainConfig) -> Job:
    """Find dataset, plan and fold.

    Raises:
        DataError: the dataset is not there.
        ModelError: there is no such plan or configuration.
        UsageError: there are several plans and none was chosen, or there is no such fold.
    """
    dataset = find_dataset(config.dataset)
    plan = find_plan(dataset, config)
    configuration = plan.configuration(config.configuration or plan.default_configuration).name
    num_folds = require_fold(dataset, config.fold)
    return Job(config=config, dataset=dataset, plan=plan, configuration=configuration, num_folds=num_folds)

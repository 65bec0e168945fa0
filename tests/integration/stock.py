"""Stock nnU-Net's planner and trainer, in this process and with a few steps only."""

from __future__ import annotations

import json
import warnings
from typing import Any

import numpy as np
import torch

from stu_pipeline.workspace import Workspace
from tests.integration.commands import use_variables


def plan_stock(workspace: Workspace, dataset_id: int, planner_name: str) -> str:
    """Let a stock planner write its plan, make it cheap to train, and return its name."""
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
    from nnunetv2.experiment_planning.experiment_planners.residual_unets.residual_encoder_unet_planners import (
        nnUNetPlannerResEncM,
    )

    planners = {planner.__name__: planner for planner in (ExperimentPlanner, nnUNetPlannerResEncM)}
    num_threads = torch.get_num_threads()
    # The planner cannot work with 0 augmentation workers: it takes their number for threads.
    with use_variables(workspace, nnUNet_n_proc_DA="1"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        planner = planners[planner_name](dataset_id)
        planner.plan_experiment()
    torch.set_num_threads(num_threads)
    path = workspace.preprocessed / planner.dataset_name / f"{planner.plans_identifier}.json"
    plan = json.loads(path.read_text())
    for configuration in plan["configurations"].values():
        configuration["batch_size"] = 2
        arguments = configuration["architecture"]["arch_kwargs"]
        arguments["features_per_stage"] = [features // 4 for features in arguments["features_per_stage"]]
    path.write_text(json.dumps(plan))
    return str(planner.plans_identifier)


def train_stock(
    workspace: Workspace,
    dataset: str,
    plan_name: str,
    *,
    fold: int = 0,
    num_epochs: int = 2,
    num_iterations: int = 3,
    continue_training: bool = False,
    look: Any = None,
) -> Any:
    """Train one fold with the stock trainer as `nnUNetv2_train` does, and return the trainer.

    Args:
        workspace: where everything is.
        dataset: `DatasetNNN_Name`.
        plan_name: the plan.
        fold: the fold.
        num_epochs: epochs in all; the command has 1000.
        num_iterations: steps per epoch; the command has 250.
        continue_training: what `--c` sets.
        look: called with the trainer once the checkpoint is loaded, before the first step.
    """
    from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint

    torch.manual_seed(0)
    np.random.seed(0)
    with use_variables(workspace, nnUNet_n_proc_DA="0"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = get_trainer_from_args(
            dataset,
            "3d_fullres",
            fold,
            plans_identifier=plan_name,
            continue_training=continue_training,
            device=torch.device("cpu"),
        )
        trainer.num_epochs = num_epochs
        trainer.num_iterations_per_epoch = num_iterations
        trainer.num_val_iterations_per_epoch = 1
        maybe_load_checkpoint(trainer, continue_training, False)
        if look is not None:
            look(trainer)
        trainer.run_training()
    return trainer

"""Our steps and nnU-Net's, on the same data from the same weights: the same losses, step for step."""

from __future__ import annotations

import pytest
import torch

from stu_pipeline import PlanConfig, PreprocessConfig, plan, preprocess
from stu_pipeline.nnunet.environment import engine_environment
from stu_pipeline.nnunet.output import engine_output
from stu_pipeline.nnunet.session import open_trainer
from stu_pipeline.nnunet.settings import TrainerSettings
from stu_pipeline.storage import read_json
from stu_pipeline.workspace import find_dataset, use_workspace
from tests.steps import make_batch, make_step
from tests.synthetic import write_tiny_dataset

NUM_STEPS = 50
# Both sum in float32, in another order; what training makes of it grows with the steps.
TOLERANCE = 2e-3


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    with use_workspace(tmp_path_factory.mktemp("loop")) as workspace:
        raw = write_tiny_dataset(workspace.raw, num_cases=5)
        planned = plan(PlanConfig(dataset=str(raw), scale="S", num_workers=0))
        preprocess(PreprocessConfig(dataset=str(raw), plan_name=planned.plan_name, num_workers=0))
        yield find_dataset(str(raw))


def open_both(dataset, *, batch_dice):
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer as StockTrainer

    content = read_json(dataset.plan_file("stuSPlans"))
    configuration = content["configurations"]["3d_fullres"]
    configuration |= {"batch_dice": batch_dice, "batch_size": 2}
    content["stu"]["execution"] = {}
    # Narrow, as fifty steps of both have to run in a test.
    kwargs = configuration["architecture"]["arch_kwargs"]
    kwargs["features_per_stage"] = [4, 8, 8, 16, 16, 16]
    description = read_json(dataset.preprocessed / "dataset.json")
    with engine_output(None):
        ours = open_trainer(
            content,
            description,
            configuration="3d_fullres",
            fold=0,
            device=torch.device("cpu"),
            settings=TrainerSettings(seed=0),
            listen=lambda event: None,
            is_stop_asked=lambda: False,
        )
        plans = {**content, "continue_training": False}
        stock = StockTrainer(plans, "3d_fullres", 0, description, torch.device("cpu"))
        stock.initialize()
    stock.network.load_state_dict(ours.network.state_dict())
    return ours, stock


@pytest.mark.parametrize("batch_dice", [False, True])
@pytest.mark.parametrize("micro_batch", [2, 1])
def test_the_losses_of_fifty_steps_are_nnunets(dataset, batch_dice, micro_batch):
    with engine_environment(dataset.workspace, num_workers=0):
        ours, stock = open_both(dataset, batch_dice=batch_dice)
        step = make_step(ours, micro_batch=micro_batch)
        torch.manual_seed(1)
        batches = [make_batch(ours) for _ in range(4)]
        ours.network.train()
        stock.network.train()
        pairs = []
        for index in range(NUM_STEPS):
            batch = batches[index % len(batches)]
            theirs = stock.train_step({"data": batch.data, "target": [target.float() for target in batch.targets]})
            pairs.append((float(step.run(batch).loss), float(theirs["loss"])))
    assert pairs[0][0] == pytest.approx(pairs[0][1], abs=1e-6)
    assert max(abs(ours - theirs) for ours, theirs in pairs) < TOLERANCE
    assert pairs[-1][1] < pairs[0][1] - 0.1  # something was learned, so there was something to differ in

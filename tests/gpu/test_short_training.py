"""Three steps of a real training on the GPU, from raw images to a scored validation."""

import math

import pytest

from stu_pipeline import PlanConfig, PreprocessConfig, TrainConfig, plan, preprocess, train
from stu_pipeline.log import Notice
from stu_pipeline.nnunet.events import EpochDone
from stu_pipeline.storage import read_json
from stu_pipeline.workspace import use_workspace
from tests.gpu.marks import DEVICE, pytestmark  # noqa: F401
from tests.synthetic import write_tiny_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    with use_workspace(tmp_path_factory.mktemp("gpu")) as workspace:
        raw = write_tiny_dataset(workspace.raw, num_cases=5, shape=(40, 48, 48))
        planned = plan(PlanConfig(dataset=str(raw), scale="S", num_workers=0))
        preprocess(PreprocessConfig(dataset=str(raw), plan_name=planned.plan_name, num_workers=0))
        yield str(raw)


def train_three_steps(dataset, **changes):
    events = []
    config = TrainConfig(
        dataset=dataset, device=DEVICE.type, num_epochs=1, num_iterations=3, seed=1, force=True, num_workers=2,
        trackers=(), **changes,
    )  # fmt: skip
    result = train(config, listen=events.append)
    (epoch,) = [event for event in events if isinstance(event, EpochDone)]
    return result, epoch, [event.text for event in events if isinstance(event, Notice) and event.is_warning]


@pytest.mark.parametrize(
    ("precision", "changes"),
    [("bf16", {}), ("fp16", {}), ("fp32", {}), ("bf16", {"augment": "cpu"}), ("bf16", {"ema_decay": 0.9})],
    ids=["bf16", "fp16", "fp32", "augmentation of nnU-Net", "averaged weights"],
)
def test_a_training_runs_and_is_scored(dataset, precision, changes):
    result, epoch, _ = train_three_steps(dataset, precision=precision, compile="off", **changes)
    assert math.isfinite(epoch.train_loss) and epoch.num_skipped_steps == 0
    assert epoch.gpu_memory_gib > 0
    assert result.mean_dice is not None
    assert (result.run_folder / "checkpoint_final.pth").is_file()
    assert read_json(result.run_folder / "run.json")


def test_a_compiled_training_runs_without_falling_back(dataset):
    result, epoch, warnings = train_three_steps(dataset, precision="bf16", compile="on")
    assert [text for text in warnings if "torch.compile" in text] == []
    assert math.isfinite(epoch.train_loss)
    assert result.mean_dice is not None


def test_a_finished_fold_is_not_trained_again(dataset):
    train_three_steps(dataset, precision="bf16", compile="off")
    again = train(TrainConfig(dataset=dataset, device=DEVICE.type, num_epochs=1, num_iterations=3, trackers=()))
    assert again.was_finished

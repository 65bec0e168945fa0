"""What stu assumes about nnU-Net's trainer, on a tiny dataset and without a training."""

import json

import numpy as np
import pytest
import torch

from stu_pipeline import PlanConfig, PreprocessConfig, plan, preprocess
from stu_pipeline.errors import ModelError
from stu_pipeline.nnunet.checkpoint import read_checkpoint
from stu_pipeline.nnunet.environment import engine_environment
from stu_pipeline.nnunet.output import engine_output
from stu_pipeline.nnunet.session import choose_precision, cpu_computes_bf16, open_trainer
from stu_pipeline.nnunet.settings import TrainerSettings
from stu_pipeline.storage import read_json
from stu_pipeline.training.loop.online_scores import count_matches
from stu_pipeline.training.loop.online_validation import score_patches
from stu_pipeline.workspace import find_dataset, use_workspace
from tests.steps import make_batch, make_step
from tests.synthetic import write_tiny_dataset

STOCK_KEYS = {
    "network_weights",
    "optimizer_state",
    "grad_scaler_state",
    "logging",
    "_best_ema",
    "current_epoch",
    "init_args",
    "trainer_name",
    "inference_allowed_mirroring_axes",
}


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    # PyTorch 2.13 computes wrong bf16 gradients on maps of a few voxels, more often with several threads (0014).
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("trainer")
    with use_workspace(root) as workspace:
        raw = write_tiny_dataset(workspace.raw, num_cases=5)
        planned = plan(PlanConfig(dataset=str(raw), scale="S", num_workers=0))
        preprocess(PreprocessConfig(dataset=str(raw), plan_name=planned.plan_name, num_workers=0))
        yield find_dataset(str(raw))


@pytest.fixture
def open_run(dataset, monkeypatch):
    environment = engine_environment(dataset.workspace, num_workers=0)
    environment.__enter__()

    def make(batch=None, execution=None, **changes):
        settings = TrainerSettings(**{"num_epochs": 2, "num_iterations": 1, "num_val_iterations": 1, **changes})
        events = []
        plan_content = read_json(dataset.plan_file("stuSPlans"))
        if batch is not None:
            plan_content["configurations"]["3d_fullres"]["batch_size"] = batch
            plan_content["configurations"]["3d_fullres"]["batch_dice"] = False
            plan_content["stu"]["execution"] = {"3d_fullres": execution} if execution else {}
        with engine_output(None):
            trainer = open_trainer(
                plan_content,
                read_json(dataset.preprocessed / "dataset.json"),
                configuration="3d_fullres",
                fold=0,
                device=torch.device("cpu"),
                settings=settings,
                listen=events.append,
                is_stop_asked=lambda: False,
            )
        trainer.events = events
        return trainer

    yield make
    environment.__exit__(None, None, None)


def test_the_class_has_the_stock_name_and_folder(open_run, dataset):
    trainer = open_run()
    assert type(trainer).__name__ == "nnUNetTrainer"
    assert trainer.paths.folder == dataset.model_folder("stuSPlans", "3d_fullres") / "fold_0"


def test_network_outputs_and_deep_supervision_targets_have_the_same_sizes(open_run):
    trainer = open_run()
    batch = make_batch(trainer)
    outputs = trainer.network(batch.data)
    assert [tuple(output.shape[2:]) for output in outputs] == [tuple(target.shape[2:]) for target in batch.targets]
    assert len(trainer._get_deep_supervision_scales()) == 5


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_lowers_the_loss_of_its_own_batch(open_run, precision):
    trainer = open_run(precision=precision, seed=0)
    trainer.network.train()
    step, batch = make_step(trainer), make_batch(trainer)
    losses = [float(step.run(batch).loss) for _ in range(4)]
    assert losses[-1] < losses[0]


def test_auto_precision_on_the_cpu_avoids_bf16_on_tiny_feature_maps():
    cpu = torch.device("cpu")
    assert choose_precision("auto", cpu, smallest_map_voxels=8) == "fp32"
    assert choose_precision("bf16", cpu, smallest_map_voxels=8) == "bf16"
    assert choose_precision("auto", cpu, smallest_map_voxels=175) == ("bf16" if cpu_computes_bf16() else "fp32")


def test_a_non_finite_loss_leaves_weights_and_momentum_alone(open_run):
    trainer = open_run()
    trainer.network.train()
    step = make_step(trainer)
    step.run(make_batch(trainer))
    before = {name: tensor.clone() for name, tensor in trainer.network.state_dict().items()}
    momentum = [state["momentum_buffer"].clone() for state in trainer.optimizer.state.values()]
    outcome = step.run(make_batch(trainer, value=float("nan")))
    assert float(outcome.is_fault) == 1 and not torch.isfinite(outcome.loss)
    assert all(torch.equal(before[name], tensor) for name, tensor in trainer.network.state_dict().items())
    after = [state["momentum_buffer"] for state in trainer.optimizer.state.values()]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(momentum, after, strict=True))


def test_a_checkpoint_has_stock_keys_plain_values_and_the_settings(open_run):
    trainer = open_run(learning_rate=0.02, seed=5)
    trainer.network.train()
    make_step(trainer).run(make_batch(trainer))
    trainer.logger.log("mean_fg_dice", np.float64(0.5), 0)
    trainer._best_ema = 0.5
    path = trainer.paths.checkpoint("best")
    trainer.save_checkpoint(str(path))
    content = torch.load(path, weights_only=True)
    assert set(content) == STOCK_KEYS | {"stu"}
    assert content["trainer_name"] == "nnUNetTrainer"
    assert content["init_args"]["configuration"] == "3d_fullres"
    assert content["stu"]["settings"]["learning_rate"] == 0.02
    assert content["stu"]["settings"]["seed"] == 5
    assert content["logging"]["ema_fg_dice"] == [0.5]


def test_weights_momentum_and_epoch_survive_a_checkpoint(open_run):
    trainer = open_run(seed=1)
    trainer.network.train()
    make_step(trainer).run(make_batch(trainer))
    trainer.current_epoch = 6
    path = trainer.paths.checkpoint("latest")
    trainer.save_checkpoint(str(path))
    other = open_run(seed=2)
    other.load_checkpoint(read_checkpoint(path))
    assert other.current_epoch == 6
    for ours, theirs in zip(trainer.network.parameters(), other.network.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    momentum, loaded = (
        [state["momentum_buffer"] for state in each.optimizer.state.values()] for each in (trainer, other)
    )
    assert len(momentum) > 100
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(momentum, loaded, strict=True))


def test_a_checkpoint_of_another_network_is_refused(open_run):
    trainer = open_run()
    path = trainer.paths.checkpoint("latest")
    trainer.save_checkpoint(str(path))
    content = read_checkpoint(path)
    content["network_weights"] = {"conv.weight": torch.zeros(3)}
    with pytest.raises(ModelError, match="does not fit the network"):
        trainer.load_checkpoint(content)


@pytest.mark.parametrize("ignore", [None, 3])
def test_online_counts_equal_the_engines(ignore):
    from nnunetv2.training.loss.dice import get_tp_fp_fn_tn

    torch.manual_seed(0)
    output = torch.randn(2, 3, 5, 6, 7)
    target = torch.randint(0, 3 if ignore is None else 4, (2, 1, 5, 6, 7))
    mask = None if ignore is None else (target != ignore).float()
    cleaned = torch.where(target == ignore, 0, target) if ignore is not None else target
    predicted = torch.nn.functional.one_hot(output.argmax(1), 3).movedim(-1, 1)
    tp, fp, fn, _ = get_tp_fp_fn_tn(predicted, cleaned, axes=[0, 2, 3, 4], mask=mask)
    counts = count_matches(output, target, regions=False, ignore_label=ignore)
    assert counts.tolist() == [tp[1:].tolist(), fp[1:].tolist(), fn[1:].tolist()]


def test_online_counts_of_regions_leave_ignored_voxels_out():
    output = torch.full((1, 2, 1, 1, 4), 5.0)
    target = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 1], [0, 1, 0, 0]]).reshape(1, 3, 1, 1, 4)
    counts = count_matches(output, target, regions=True, ignore_label=3)
    assert counts.tolist() == [[1, 1], [2, 2], [0, 0]]


def test_summary_of_validations_is_what_stock_would_write(tmp_path):
    from nnunetv2.evaluation.evaluate_predictions import load_summary_json

    from stu_pipeline.nnunet.summary import summarise_cases, write_summary

    def score(dice):
        return {"metrics": {1: {"Dice": dice, "TP": 3}}, "reference_file": "r", "prediction_file": "p"}

    write_summary(tmp_path / "summary.json", summarise_cases([score(0.5), score(1.0), score(float("nan"))]))
    assert load_summary_json(str(tmp_path / "summary.json"))["mean"][1]["Dice"] == 0.75
    assert json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))["foreground_mean"]["TP"] == 3


PARTS = {"micro_batch": 2, "activation_checkpointing": True, "batch_dice_scope": "sample"}


def test_a_step_in_parts_with_checkpointing_moves_the_weights_as_the_whole_batch_does(open_run):
    trainers = [open_run(batch=3, execution=execution, seed=3) for execution in (None, PARTS)]
    batch = make_batch(trainers[0], num_samples=3)
    start = join_weights(trainers[0])
    losses = []
    for trainer in trainers:
        trainer.network.train()
        losses.append(float(make_step(trainer).run(batch).loss))
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    whole, parts = (join_weights(trainer) - start for trainer in trainers)
    # Instance normalisation over a few voxels makes 1e-4 out of float32's rounding; in float64 it is 5e-16.
    assert (whole - parts).norm() < 5e-3 * whole.norm()


def join_weights(trainer):
    return torch.cat([weight.detach().flatten().double() for weight in trainer.network.parameters()])


def test_a_validation_batch_in_parts_gives_the_same_loss_and_counts(open_run):
    results = []
    for execution in (None, PARTS):
        trainer = open_run(batch=3, execution=execution, seed=3)
        torch.manual_seed(0)
        batch = make_batch(trainer, num_samples=3)
        options = {"regions": False, "ignore_label": None, "between": lambda device: None}
        results += score_patches(make_step(trainer), [trainer.network], [batch], **options)
    assert results[0].loss == pytest.approx(results[1].loss, abs=1e-5)
    # A voxel whose two best labels are level may go either way.
    assert np.abs(results[0].counts - results[1].counts).max() <= 3


def test_one_part_of_a_batch_that_is_not_finite_spoils_the_step(open_run):
    trainer = open_run(batch=3, execution=PARTS)
    trainer.network.train()
    batch = make_batch(trainer, num_samples=3)
    batch.data[2] = float("nan")
    before = [weight.detach().clone() for weight in trainer.network.parameters()]
    assert float(make_step(trainer).run(batch).is_fault) == 1
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.network.parameters(), strict=True))


def test_the_loader_yields_the_effective_batch_and_the_run_tells_how_it_is_split(open_run):
    trainer = open_run(batch=3, execution=PARTS, augment="cpu")
    with engine_output(None):
        loader, _ = trainer.get_dataloaders()
    assert next(loader)["data"].shape[0] == 3
    assert trainer.describe_execution() == {
        "effective_batch": 3,
        "num_accumulation_steps": 2,
        **PARTS,
        "foreground_oversampling": {"share": 0.33, "is_probabilistic": False},
    }


def test_a_plan_that_promises_what_its_loss_cannot_keep_is_refused(open_run):
    with pytest.raises(ModelError, match="it is per sample"):
        open_run(batch=3, execution=PARTS | {"batch_dice_scope": "micro-batch"})


def count_forced(loader, num_batches):
    """Count the samples for which nnU-Net's loader asks for foreground, while it makes real batches."""
    forced = []
    choose = loader.get_bbox

    def watch(shape, force_fg, *arguments, **options):
        forced.append(bool(force_fg))
        return choose(shape, force_fg, *arguments, **options)

    loader.get_bbox = watch
    for _ in range(num_batches):
        next(loader)
    return sum(forced), len(forced)


@pytest.mark.parametrize("which", [0, 1])
def test_a_batch_of_one_is_foreground_in_a_third_of_the_steps(open_run, which):
    trainer = open_run(batch=1, augment="cpu")
    with engine_output(None):
        loader = trainer.get_dataloaders()[which].data_loader
    loader.transforms = None
    np.random.seed(0)
    num_forced, num_samples = count_forced(loader, 400)
    assert num_samples == 400
    # Five standard deviations of 400 draws at 0.33.
    assert abs(num_forced - 132) < 48


def test_stock_never_forces_foreground_in_a_batch_of_one_and_half_of_a_batch_of_two(open_run):
    for batch, expected in ((1, 0), (2, 20), (3, 20)):
        trainer = open_run(batch=batch, augment="cpu")
        trainer.probabilistic_oversampling = False
        with engine_output(None):
            loader = trainer.get_dataloaders()[1].data_loader
        assert count_forced(loader, 20) == (expected, 20 * batch)


def test_an_epoch_without_any_label_does_not_spoil_the_moving_average(open_run):
    epochs = open_run().epochs
    for epoch, positives in enumerate((0.0, 4.0, 0.0)):
        epochs.begin(epoch, learning_rate=0.01)
        epochs.finish(epoch, train_loss=1.0, val_loss=1.0, counts=np.full((3, 2), positives))
    moving = epochs.list_moving_dice()
    assert moving[0] == 0 and moving[1] == pytest.approx(0.05) and moving[2] == moving[1]
    assert np.isnan(epochs.read("mean_fg_dice"))

"""Steps on cases of which each marks some labels only: two half-labelled sources teach one network both labels."""

import pytest
import torch

from stu_pipeline.datasets.marked_outputs import find_marked_outputs
from stu_pipeline.networks.stunet import STUNet
from stu_pipeline.nnunet.optimizer import build_optimizer
from stu_pipeline.training.loop.batch import Batch
from stu_pipeline.training.loop.online_scores import count_matches
from stu_pipeline.training.loop.online_validation import score_patches
from stu_pipeline.training.loop.step import TrainingStep
from stu_pipeline.training.loss.marks import SampleMarks
from stu_pipeline.training.loss.segmentation import build_loss
from tests.device_waits import RefuseWaiting

STRIDES = [[1, 1], [2, 2], [2, 2], [1, 1], [1, 1], [1, 1]]
SIZES = [16, 8, 4, 4, 4]
LABELS = [0, 1, 2]
# All cases but the last mark the bright structure, the last one the dark one.
NUM_CASES, SIDE = 6, 7
CASES = tuple(f"case_{index}" for index in range(NUM_CASES))
TABLE = {
    "sources": {"bright": [1], "dark": [2]},
    "cases": {**dict.fromkeys(CASES[:-1], "bright"), CASES[-1]: "dark"},
}


def build_step(micro_batch, *, batch_dice=False, is_partial=True):
    torch.manual_seed(0)
    network = STUNet(1, 3, STRIDES, [8, 8, 8, 8, 8, 8], 1, "2d", deep_supervision=True)
    network.apply(network.initialize)
    marked = find_marked_outputs({"stu_partial_labels": TABLE}, LABELS, case_ids=CASES) if is_partial else None
    return TrainingStep(
        network.train(),
        build_optimizer(network, learning_rate=0.05, weight_decay=3e-5),
        build_loss(regions=False, batch_dice=batch_dice, num_levels=5),
        precision="fp32",
        micro_batch=micro_batch,
        sample_marks=None if marked is None else SampleMarks(marked, torch.device("cpu")),
    )


def make_batch(seed, *, is_partial=True):
    """Make images with a bright and a dark square each; the targets of a case hold what its source marks."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.zeros(NUM_CASES, 1, 16, 16, dtype=torch.int16)
    for sample in range(NUM_CASES):
        for label in (1, 2):
            row, column = torch.randint(0, 17 - SIDE, (2,), generator=generator).tolist()
            labels[sample, 0, row : row + SIDE, column : column + SIDE] = label
    data = (labels == 1).float() - (labels == 2).float() + 0.3 * torch.randn(labels.shape, generator=generator)
    if is_partial:
        labels[:-1][labels[:-1] == 2] = 0
        labels[-1:][labels[-1:] == 1] = 0
    targets = [labels[:, :, :: 16 // size, :: 16 // size].contiguous() for size in SIZES]
    return Batch(data=data, targets=targets, case_ids=CASES)


def train(step):
    for index in range(40):
        assert float(step.run(make_batch(index)).is_fault) == 0


def score_fully(network):
    """Return the Dice of both labels on images with full references."""
    network.eval()
    counts = torch.zeros(3, 2, dtype=torch.float64)
    for seed in range(1000, 1004):
        batch = make_batch(seed, is_partial=False)
        with torch.no_grad():
            logits = network(batch.data)[0]
        counts += count_matches(logits, batch.targets[0], regions=False, ignore_label=None)
    return (2 * counts[0] / (2 * counts[0] + counts[1] + counts[2])).tolist()


@pytest.mark.parametrize("batch_dice", [False, True])
def test_two_half_labelled_sources_teach_both_labels(batch_dice):
    step = build_step(3, batch_dice=batch_dice)
    train(step)
    assert min(score_fully(step.network)) > 0.8


@pytest.mark.parametrize("batch_dice", [False, True])
def test_without_the_table_the_rarely_marked_label_is_taken_for_background(batch_dice):
    step = build_step(6, batch_dice=batch_dice, is_partial=False)
    train(step)
    assert score_fully(step.network)[1] < 0.3


def test_a_batch_of_one_source_leaves_the_heads_of_the_others_alone():
    step, batch = build_step(2), make_batch(0).split(5)[0]
    step._add_gradients(batch.split(2))
    for head in step.network.decoder.seg_layers[1:]:
        for weight in (head.weight, head.bias):
            assert (weight.grad[2] == 0).all() and weight.grad[1].abs().sum() > 0


@pytest.mark.parametrize("batch_dice", [False, True])
def test_gradients_of_parts_are_those_of_the_whole_batch(batch_dice):
    found = []
    for micro_batch in (4, 6):
        step, batch = build_step(micro_batch, batch_dice=batch_dice), make_batch(0)
        step.network.double()
        batch = Batch(data=batch.data.double(), targets=batch.targets, case_ids=batch.case_ids)
        value = float(step._add_gradients(batch.split(micro_batch)))
        weights = [weight for weight in step.network.parameters() if weight.grad is not None]
        found.append((value, torch.cat([weight.grad.flatten() for weight in weights])))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-6)
    assert float((found[0][1] - found[1][1]).norm()) < 1e-6 * float(found[1][1].norm())


def test_nothing_in_a_step_waits_for_the_device():
    step, batch = build_step(4, batch_dice=True), make_batch(0)
    with RefuseWaiting():
        step.run(batch)


def test_validation_patches_are_scored_by_the_marked_labels_only():
    step = build_step(4)
    train(step)
    options = {"regions": False, "ignore_label": None, "between": lambda device: None}
    (scores,) = score_patches(step, [step.network], [make_batch(2000), make_batch(2001)], **options)
    assert scores.mean_dice > 0.85
    ignoring = build_step(4, is_partial=False)
    (wrong,) = score_patches(ignoring, [step.network], [make_batch(2000), make_batch(2001)], **options)
    assert wrong.mean_dice < 0.7 and wrong.loss > scores.loss + 0.3

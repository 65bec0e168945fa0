"""Training steps of a trainer without its loop: our step, its loss, and batches of random numbers."""

from __future__ import annotations

import torch

from stu_pipeline.training.loop.batch import Batch
from stu_pipeline.training.loop.step import TrainingStep
from stu_pipeline.training.run.assembly import build_trainer_loss


def make_step(trainer, **changes):
    """Build the step that a run of this trainer would take."""
    execution = trainer.execution
    options = {
        "precision": trainer.settings.precision,
        "micro_batch": execution.micro_batch,
        "is_dice_per_part": execution.batch_dice_scope == "micro-batch",
    }
    return TrainingStep(trainer.network, trainer.optimizer, build_trainer_loss(trainer), **{**options, **changes})


def make_batch(trainer, *, value=0.0, num_samples=2, num_labels=3):
    """Make a batch of noise with random labels, of the sizes the trainer's network and loss expect."""
    patch = trainer.configuration_manager.patch_size
    data = torch.randn(num_samples, 1, *patch) + value
    sizes = [data.shape[2:]]
    for stride in trainer.configuration_manager.pool_op_kernel_sizes[1:-1]:
        sizes.append([size // step for size, step in zip(sizes[-1], stride, strict=True)])
    targets = [torch.randint(0, num_labels, (num_samples, 1, *size), dtype=torch.int16) for size in sizes]
    return Batch(data=data, targets=targets, case_ids=("case_000", "case_001", "case_002")[:num_samples])

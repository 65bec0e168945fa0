"""Training steps of a trainer without its loop: our step, its loss, and batches of random numbers."""

from __future__ import annotations

import torch

from stu_pipeline.training.loop.batch import Batch
from stu_pipeline.training.run.assembly import build_step


def make_step(trainer, *, micro_batch=None):
    """Build the step that a run of this trainer would take."""
    step = build_step(trainer, trainer.execution)
    step.micro_batch = micro_batch or step.micro_batch
    return step


def make_batch(trainer, *, value=0.0, num_samples=2, num_labels=3):
    """Make a batch of noise with random labels, of the sizes the trainer's network and loss expect."""
    patch = trainer.configuration_manager.patch_size
    data = torch.randn(num_samples, 1, *patch) + value
    sizes = [data.shape[2:]]
    for stride in trainer.configuration_manager.pool_op_kernel_sizes[1:-1]:
        sizes.append([size // step for size, step in zip(sizes[-1], stride, strict=True)])
    targets = [torch.randint(0, num_labels, (num_samples, 1, *size), dtype=torch.int16) for size in sizes]
    return Batch(data=data, targets=targets, case_ids=("case_000", "case_001", "case_002")[:num_samples])

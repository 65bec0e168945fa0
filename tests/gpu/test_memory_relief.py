"""GPU memory that really runs out: the same step again with less at once, and the training goes on."""

import contextlib
import gc
import math

import pytest
import torch

from stu_pipeline.errors import MemoryLimitError
from stu_pipeline.plan_execution import Execution
from stu_pipeline.training.augmentation.pipeline import Augmenter
from stu_pipeline.training.loop.memory_relief import MemoryRelief
from tests.gpu.marks import DEVICE, pytestmark  # noqa: F401
from tests.gpu.material import build_network, build_step, make_samples, make_settings

PATCH, BATCH = (96, 96, 96), 4
WHOLE = Execution(micro_batch=BATCH, batch_dice_scope="effective batch")


@pytest.fixture
def batch():
    settings = make_settings(PATCH)
    return Augmenter(settings, DEVICE, is_augmenting=True)(make_samples(BATCH, settings))


@contextlib.contextmanager
def memory_limited_to(num_bytes):
    """Let PyTorch take no more than so much of the GPU."""
    _, total = torch.cuda.mem_get_info(DEVICE)
    clear()
    torch.cuda.set_per_process_memory_fraction(num_bytes / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        clear()


def clear():
    gc.collect()
    torch.cuda.empty_cache()


def run_steps(batch, *, noted):
    """Run two steps, and return the losses and the peak of the second in bytes."""
    network = build_network(DEVICE)
    step = build_step(network, precision="bf16", micro_batch=BATCH, batch_dice=True)
    relief = MemoryRelief(
        network, WHOLE, batch=BATCH, world_size=1, listen=lambda event: None, note_change=noted.append
    )
    losses = [float(relief.run(step, batch).loss)]
    torch.cuda.reset_peak_memory_stats(DEVICE)
    losses.append(float(relief.run(step, batch).loss))
    return losses, torch.cuda.max_memory_reserved(DEVICE)


def test_a_step_that_does_not_fit_is_run_with_less_memory_and_the_same_loss(batch):
    expected, peak = run_steps(batch, noted=[])
    noted = []
    with memory_limited_to(0.5 * peak):
        losses, limited_peak = run_steps(batch, noted=noted)
    assert noted and noted[0].activation_checkpointing
    assert {rung.batch_dice_scope for rung in noted} == {"effective batch"}
    assert limited_peak <= 0.5 * peak
    # bf16 keeps 8 bits of every activation.
    assert losses == pytest.approx(expected, abs=0.02)


def test_less_memory_than_one_sample_needs_is_an_error_and_the_next_training_runs(batch):
    network = build_network(DEVICE)
    with memory_limited_to(torch.cuda.memory_allocated(DEVICE) + 64 * 2**20), pytest.raises(MemoryLimitError):
        step = build_step(network, precision="bf16", micro_batch=BATCH)
        relief = MemoryRelief(
            network, WHOLE, batch=BATCH, world_size=1, listen=lambda event: None, note_change=lambda rung: None
        )
        relief.run(step, batch)
    losses, _ = run_steps(batch, noted=[])
    assert all(math.isfinite(loss) for loss in losses)

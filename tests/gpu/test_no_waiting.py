"""A step from sample to account never makes the host wait for the GPU."""

import contextlib

import pytest
import torch

from stu_pipeline.training.augmentation.pipeline import Augmenter
from stu_pipeline.training.loop.ema import WeightAverage
from stu_pipeline.training.loop.ledger import StepLedger
from tests.gpu.marks import DEVICE, pytestmark  # noqa: F401
from tests.gpu.material import build_network, build_step, make_samples, make_settings

PATCH = (64, 64, 64)


@contextlib.contextmanager
def refusing_to_wait():
    """Let whatever PyTorch knows to wait for the GPU raise."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
@pytest.mark.parametrize(("micro_batch", "batch_dice"), [(2, False), (1, True)])
@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
def test_augmentation_step_average_and_account_do_not_wait(tmp_path, precision, micro_batch, batch_dice):
    settings = make_settings(PATCH)
    augment = Augmenter(settings, DEVICE, is_augmenting=True)
    network = build_network(DEVICE)
    step = build_step(network, precision=precision, micro_batch=micro_batch, batch_dice=batch_dice)
    average, ledger, nothing = WeightAverage(network, 0.99), StepLedger(tmp_path), torch.empty(0, device=DEVICE)

    def run(number):
        batch = augment(make_samples(2, settings, first_step=10 * number))
        outcome = step.run(batch)
        average.update(network)
        return outcome, batch.case_ids

    run(0)  # kernels are chosen and memory is taken
    torch.cuda.synchronize(DEVICE)
    outcomes = []
    with refusing_to_wait():
        for number in range(1, 9):
            outcome, cases = run(number)
            ledger.add(outcome, nothing, batch_cases=cases, epoch=0, step=number)
            outcomes.append(outcome)
    ledger.settle()
    assert len(ledger.losses) + ledger.num_skipped == 8
    assert ledger.losses == pytest.approx([float(outcome.loss) for outcome in outcomes if not float(outcome.is_fault)])


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_what_waits_is_noticed():
    numbers = torch.ones(3, device=DEVICE)
    with refusing_to_wait(), pytest.raises(RuntimeError):
        numbers.sum().item()

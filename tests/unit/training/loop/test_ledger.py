"""The account of an epoch: what counted, what was skipped, and when it is enough."""

import math

import pytest
import torch

from stu_pipeline.errors import NonFiniteError
from stu_pipeline.training.loop.ledger import StepLedger, name_cases
from stu_pipeline.training.loop.step import StepOutcome

NOTHING = torch.empty(0)


def make_outcome(loss, *, is_fault=None):
    fault = not math.isfinite(loss) if is_fault is None else is_fault
    return StepOutcome(torch.tensor(loss), torch.tensor(float(fault)))


def add(ledger, loss, *, flags=NOTHING, is_fault=None, epoch=4, step=1, cases=("case_b", "case_a")):
    return ledger.add(make_outcome(loss, is_fault=is_fault), flags, batch_cases=cases, epoch=epoch, step=step)


def test_losses_that_count_are_kept_in_order_and_averaged(tmp_path):
    ledger = StepLedger(tmp_path)
    ledger.begin_epoch()
    for loss in (1.0, -0.5, 0.25):
        add(ledger, loss)
    assert (ledger.losses, ledger.last_loss, ledger.num_skipped) == ([1.0, -0.5, 0.25], 0.25, 0)
    assert ledger.mean_loss == 0.25


def test_the_third_fault_in_a_row_stops_and_names_the_cases(tmp_path):
    ledger = StepLedger(tmp_path)
    add(ledger, math.nan)
    add(ledger, math.inf)
    with pytest.raises(NonFiniteError, match="at epoch 4, last cases: case_a, case_b") as caught:
        add(ledger, math.nan)
    assert caught.value.exit_code == 8 and caught.value.where == tmp_path
    assert "last finite state is saved" in caught.value.hint


def test_a_step_that_counts_between_faults_starts_the_count_anew(tmp_path):
    ledger = StepLedger(tmp_path)
    for loss in (math.nan, math.nan, 1.0, math.nan, math.nan):
        add(ledger, loss)
    assert (ledger.num_skipped, ledger.losses) == (4, [1.0])


def test_gradients_that_are_not_finite_are_a_fault_too(tmp_path, caplog):
    ledger = StepLedger(tmp_path)
    with caplog.at_level("WARNING", logger="stu_pipeline"):
        add(ledger, 0.5, is_fault=True, step=7)
    assert (ledger.losses, ledger.num_skipped, ledger.last_loss) == ([], 1, None)
    assert "gradients that are not finite at epoch 4, step 7, cases: case_a, case_b" in caplog.text


def test_faults_in_a_row_go_on_over_the_end_of_an_epoch(tmp_path):
    ledger = StepLedger(tmp_path)
    add(ledger, math.nan)
    add(ledger, math.nan)
    ledger.begin_epoch()
    assert ledger.num_skipped == 0
    with pytest.raises(NonFiniteError):
        add(ledger, math.nan, epoch=5)


def test_an_epoch_that_goes_on_keeps_what_it_had(tmp_path):
    ledger = StepLedger(tmp_path)
    ledger.begin_epoch([1.0, 3.0], num_skipped=2)
    add(ledger, 2.0)
    assert (ledger.mean_loss, ledger.num_skipped) == (2.0, 2)


def test_an_epoch_without_a_step_that_counted_has_no_mean(tmp_path):
    ledger = StepLedger(tmp_path)
    ledger.begin_epoch()
    assert math.isnan(ledger.mean_loss)


def test_flags_come_back(tmp_path):
    ledger = StepLedger(tmp_path)
    # On the CPU a step is over when it returns, so its own flags are there at once.
    assert add(ledger, 1.0, flags=torch.tensor([15.0, 0.0])) == [15.0, 0.0]
    assert ledger.settle() is None


def test_what_was_not_read_can_be_forgotten(tmp_path):
    ledger = StepLedger(tmp_path)
    ledger._pending.append(None)
    ledger.forget_pending()
    assert ledger.settle() is None and ledger.losses == []


def test_many_cases_are_cut_short():
    assert name_cases(["b", "a", "b"]) == "a, b"
    assert name_cases([f"case_{index:02d}" for index in range(14)]).endswith("case_11 and 2 more")

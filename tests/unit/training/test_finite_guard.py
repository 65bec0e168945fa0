import math

import pytest

from stu_pipeline.errors import NonFiniteError
from stu_pipeline.nnunet.finite_guard import FiniteGuard

BATCH = {"keys": ["case_b", "case_a"]}


def test_finite_losses_pass(tmp_path):
    guard = FiniteGuard(tmp_path)
    assert guard.accept(-0.5, batch=BATCH, epoch=0)
    assert guard.take_num_skipped() == 0


def test_the_third_in_a_row_stops_and_names_the_cases(tmp_path):
    guard = FiniteGuard(tmp_path)
    assert not guard.accept(math.nan, batch=BATCH, epoch=4)
    assert not guard.accept(math.inf, batch=BATCH, epoch=4)
    with pytest.raises(NonFiniteError, match="epoch 4, last cases: case_a, case_b") as caught:
        guard.accept(math.nan, batch=BATCH, epoch=4)
    assert caught.value.exit_code == 8


def test_a_finite_loss_between_starts_the_count_anew(tmp_path):
    guard = FiniteGuard(tmp_path)
    for loss in (math.nan, math.nan, 1.0, math.nan, math.nan):
        guard.accept(loss, batch=BATCH, epoch=0)
    assert guard.take_num_skipped() == 4
    assert guard.take_num_skipped() == 0

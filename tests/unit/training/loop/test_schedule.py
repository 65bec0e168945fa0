"""The learning rate of every step, and when a training stops by itself."""

import pytest
import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler

from stu_pipeline.training.loop.schedule import choose_learning_rate, is_out_of_patience

NAN = float("nan")


def list_rates(num_epochs, num_iterations, **options):
    return [
        choose_learning_rate(epoch, step, initial=0.01, num_epochs=num_epochs, num_iterations=num_iterations, **options)
        for epoch in range(num_epochs)
        for step in range(num_iterations)
    ]


@pytest.mark.parametrize("num_epochs", [1, 7, 1000])
def test_every_epoch_has_the_rate_of_nnunet(num_epochs):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.01)
    stock = PolyLRScheduler(optimizer, 0.01, num_epochs)
    for epoch, rate in enumerate(list_rates(num_epochs, 1)):
        stock.step(epoch)
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)


def test_a_shorter_training_ends_as_low_as_a_long_one():
    short, long = list_rates(10, 1), list_rates(1000, 1)
    assert short[5] == pytest.approx(long[500])
    assert short == sorted(short, reverse=True) and len(set(short)) == 10


def test_the_rate_is_constant_within_an_epoch_without_a_warm_up():
    assert len(set(list_rates(3, 5))) == 3


def test_a_warm_up_rises_with_every_step_to_the_decay_and_never_beyond():
    plain, warm = list_rates(10, 4), list_rates(10, 4, warmup_epochs=2.5)
    assert [rate / other for rate, other in zip(warm[:10], plain, strict=False)] == pytest.approx(
        [(step + 1) / 10 for step in range(10)]
    )
    assert warm[10:] == plain[10:]
    assert 0 < warm[0] < warm[1]


def test_a_warm_up_that_rounds_to_no_step_is_none():
    assert list_rates(2, 4, warmup_epochs=0.1) == list_rates(2, 4)


@pytest.mark.parametrize(
    ("dice", "patience", "expected"),
    [
        ([], 1, False),
        ([0.5], 1, False),
        ([0.5, 0.4], 1, True),
        ([0.5, 0.6], 1, False),
        ([0.5, 0.4, 0.4], 3, False),
        ([0.5, 0.4, 0.4, 0.4], 3, True),
        ([0.5, 0.4, 0.6, 0.4], 3, False),
        # Level is no improvement.
        ([0.5, 0.5, 0.5], 2, True),
        ([0.5, 0.4, 0.3], None, False),
    ],
)
def test_patience_counts_the_epochs_since_the_best(dice, patience, expected):
    assert is_out_of_patience(dice, patience) is expected


def test_epochs_without_any_score_do_not_hide_a_better_one():
    assert not is_out_of_patience([NAN, 0.4, 0.5, 0.6], 2)

"""The learning rate over a training, and when to stop early. Pure functions of the step."""

from __future__ import annotations

import math
from collections.abc import Sequence

POLY_EXPONENT = 0.9


def choose_learning_rate(
    epoch: int,
    step: int,
    *,
    initial: float,
    num_epochs: int,
    num_iterations: int,
    warmup_epochs: float = 0.0,
) -> float:
    """Return the learning rate of one step.

    nnU-Net's polynomial decay, constant within an epoch; a warm-up multiplies it by a ramp over its steps.

    Args:
        epoch: from 0.
        step: from 0, within the epoch.
        initial: where the decay begins.
        num_epochs: of the whole training; a shorter one decays faster.
        num_iterations: steps per epoch.
        warmup_epochs: length of the ramp; 0 for none.

    >>> choose_learning_rate(0, 0, initial=0.01, num_epochs=1000, num_iterations=250)
    0.01
    >>> choose_learning_rate(0, 4, initial=0.01, num_epochs=10, num_iterations=10, warmup_epochs=1)
    0.005
    """
    rate: float = initial * (1 - epoch / num_epochs) ** POLY_EXPONENT
    num_ramp = round(warmup_epochs * num_iterations)
    return rate * min(1.0, (epoch * num_iterations + step + 1) / num_ramp) if num_ramp else rate


def is_resting(epoch: int, step: int, *, num_iterations: int, rest_epochs: float) -> bool:
    """Tell whether a step belongs to the first epochs, in which a part of the network does not move.

    Args:
        epoch: from 0.
        step: from 0, within the epoch.
        num_iterations: steps per epoch.
        rest_epochs: how long it rests; a part of an epoch is rounded to whole steps, 0 is never.

    >>> [is_resting(0, step, num_iterations=4, rest_epochs=0.5) for step in range(4)]
    [True, True, False, False]
    """
    return epoch * num_iterations + step < round(rest_epochs * num_iterations)


def is_out_of_patience(moving_dice: Sequence[float], patience: int | None) -> bool:
    """Tell whether the moving average of the Dice has not improved for `patience` epochs.

    Args:
        moving_dice: one value per finished epoch.
        patience: None never stops.
    """
    if patience is None or len(moving_dice) <= patience:
        return False
    known = [value if math.isfinite(value) else -math.inf for value in moving_dice]
    best = max(range(len(known)), key=lambda epoch: (known[epoch], -epoch))
    return len(moving_dice) - 1 - best >= patience

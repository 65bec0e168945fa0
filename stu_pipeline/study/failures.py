"""Find runs that finished and still failed: their scores would make the other arm look good.

Reads: `metrics.jsonl` of a run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from stu_pipeline.study.rows import ScoreRow

# Of the epochs: the mean loss of the last ones is compared with that of the first.
_TAIL_SHARE = 0.2
_MAX_NAMED = 5


def find_flags(rows: Sequence[ScoreRow], metrics: Path, *, num_epochs: int) -> tuple[str, ...]:
    """List what makes a run look failed; nothing for a sound one.

    Args:
        rows: its scores.
        metrics: its `metrics.jsonl`; a missing one is a flag.
        num_epochs: that it was asked to train.
    """
    return (*find_lost_labels(rows), *find_loss_flags(read_losses(metrics), num_epochs=num_epochs))


def find_lost_labels(rows: Sequence[ScoreRow]) -> list[str]:
    """Find labels with Dice 0 in every case that has them: the network never found them.

    Returns:
        One flag that names them; empty when there is none.
    """
    lost = []
    names = dict.fromkeys(row.label for row in rows)
    for label in names:
        own = [row for row in rows if row.label == label and row.num_reference > 0]
        if own and all(row.dice == 0 for row in own):
            lost.append(label)
    if not lost:
        return []
    shown = ", ".join(lost[:_MAX_NAMED]) + (", ..." if len(lost) > _MAX_NAMED else "")
    return [f"Dice 0 in all cases for {len(lost)} of {len(names)} labels: {shown}"]


def find_loss_flags(losses: Sequence[float], *, num_epochs: int) -> list[str]:
    """Find a loss that never fell or was not finite, and a training that ended early.

    Args:
        losses: mean training loss per epoch; NaN where it was not finite.
        num_epochs: that were asked for.
    """
    flags = []
    if len(losses) < num_epochs:
        flags.append(f"stopped after {len(losses)} of {num_epochs} epochs")
    num_bad = sum(not math.isfinite(loss) for loss in losses)
    if num_bad:
        flags.append(f"loss was not finite in {num_bad} epochs")
        return flags
    num_tail = max(1, math.ceil(_TAIL_SHARE * len(losses)))
    if len(losses) > 1 and sum(losses[-num_tail:]) / num_tail >= losses[0]:
        flags.append("loss never fell")
    return flags


def read_losses(metrics: Path) -> list[float]:
    """Read the mean training loss of each epoch; the newest line of an epoch counts, a torn one does not.

    Returns:
        In the order of the epochs; empty when the file is missing.
    """
    if not metrics.is_file():
        return []
    losses: dict[int, float] = {}
    for line in metrics.read_text(encoding="utf-8").splitlines():
        try:
            content = json.loads(line)
            loss = content["train_loss"]
            losses[int(content["epoch"])] = math.nan if loss is None else float(loss)
        except (ValueError, KeyError, TypeError):
            continue
    return [losses[epoch] for epoch in sorted(losses)]

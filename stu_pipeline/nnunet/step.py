"""One step of a training: a batch passes the network in micro-batches, then the optimizer moves once.

Knows the network, the loss and the optimizer, but nothing of nnU-Net: trainer, probe and bench share it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

GRADIENT_NORM_LIMIT = 12.0
_AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}

Loss = Callable[[Any, Any], torch.Tensor]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class MicroBatch:
    """Samples that pass the network together, on the device.

    `data` is `(sample, channel, *spatial)`; `target` is a label map, or one per level of deep supervision.
    """

    data: torch.Tensor
    target: Any
    share: float
    """Its part of the whole batch's samples."""


def split_batch(batch: dict[str, Any], *, micro_batch: int, device: torch.device) -> Iterator[MicroBatch]:
    """Move a batch of nnU-Net's loader to the device, `micro_batch` samples at a time; the last part may be smaller.

    Only the part in use is on the device.
    """
    data, target = batch["data"], batch["target"]
    num_samples = data.shape[0]
    for first in range(0, num_samples, micro_batch):
        chosen = slice(first, min(first + micro_batch, num_samples))
        yield MicroBatch(
            data=data[chosen].to(device, non_blocking=True),
            target=_move(target, chosen, device),
            share=(chosen.stop - first) / num_samples,
        )


def open_autocast(precision: str, device: torch.device) -> Any:
    """Return the context in which the network runs; fp32 needs none."""
    dtype = _AUTOCAST_DTYPES.get(precision)
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)


def accumulate_gradients(
    network: nn.Module, loss: Loss, parts: Iterator[MicroBatch], *, precision: str, scaler: Any = None
) -> float:
    """Add up the gradients of the parts of one batch, each weighted by its share of the samples.

    For a loss that is a mean over samples (cross-entropy, and Dice per sample) the sum is the gradient of the whole
    batch. Batch Dice sees one part at a time, and with an ignore label the cross-entropy is averaged over the
    labelled voxels of one part.

    Args:
        network: in training mode; its gradients are added to.
        loss: takes the network's output in float32, and the target.
        parts: the batch, split.
        precision: `bf16`, `fp16` or `fp32`.
        scaler: gradient scaler of fp16.

    Returns:
        The loss of the batch. Where it is not finite the gradients are incomplete and must not be used.
    """
    total = 0.0
    for part in parts:
        total += _accumulate(network, loss, part, precision=precision, scaler=scaler)
        if not math.isfinite(total):
            break
    return total


def apply_gradients(network: nn.Module, optimizer: torch.optim.Optimizer, scaler: Any = None) -> bool:
    """Clip the gradients and move the weights once.

    Returns:
        False where the gradients were not finite and no scaler takes care of it: the weights did not move.
    """
    if scaler is not None:
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(network.parameters(), GRADIENT_NORM_LIMIT)
        scaler.step(optimizer)
        scaler.update()
        return True
    # Without a scaler nothing else keeps broken gradients from the weights.
    norm = nn.utils.clip_grad_norm_(network.parameters(), GRADIENT_NORM_LIMIT)
    is_finite = bool(torch.isfinite(norm))
    if is_finite:
        optimizer.step()
    return is_finite


def run_network(network: nn.Module, data: torch.Tensor, precision: str) -> Any:
    """Return the network's output, one tensor or one per level, in float32 whatever it ran in."""
    with open_autocast(precision, data.device):
        output = network(data)
    return [level.float() for level in output] if isinstance(output, (list, tuple)) else output.float()


def _accumulate(network: nn.Module, loss: Loss, part: MicroBatch, *, precision: str, scaler: Any) -> float:
    # A function of its own, so that nothing of this part is alive when the next one begins.
    weighted = loss(run_network(network, part.data, precision), part.target) * part.share
    value = float(weighted.detach())
    if math.isfinite(value):
        (weighted if scaler is None else scaler.scale(weighted)).backward()
    return value


def _move(target: Any, chosen: slice, device: torch.device) -> Any:
    if isinstance(target, list):
        return [level[chosen].to(device, non_blocking=True) for level in target]
    return target[chosen].to(device, non_blocking=True)

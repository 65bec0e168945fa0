"""When a tile is sure, which sure tiles are audited, and what labels a tile says."""

from __future__ import annotations

import hashlib

import torch

from stu_pipeline.inference.window_settings import CertaintySettings

_HASH_BYTES = 8
_TWO = 2


def measure_margins(logits: torch.Tensor, *, has_regions: bool) -> torch.Tensor:
    """Return how sure every voxel is, 0 to 1, `(*patch)`, of logits `(outputs, *patch)`.

    It is the distance of the two highest softmax probabilities, or `2 * |p - 0.5|` of the least decided region.
    A single output without regions is always sure.
    """
    if has_regions:
        return torch.tanh(logits.abs().amin(0) / 2)
    if logits.shape[0] == 1:
        return torch.ones_like(logits[0])
    if logits.shape[0] == _TWO:
        return torch.tanh((logits[1] - logits[0]).abs() / 2)
    highest = logits.topk(_TWO, dim=0).values
    norm = torch.logsumexp(logits, dim=0)
    return torch.exp(highest[0] - norm) - torch.exp(highest[1] - norm)


def is_unsure(logits: torch.Tensor, settings: CertaintySettings, *, has_regions: bool) -> bool:
    """Tell whether too many voxels of a tile's logits `(outputs, *patch)` are close to another label."""
    margins = measure_margins(logits, has_regions=has_regions)
    num_unsure = int((margins <= settings.margin).sum())
    return num_unsure > settings.share * margins.numel()


def is_audited(tile: int, settings: CertaintySettings) -> bool:
    """Draw whether a sure tile gets all passes anyway; the same answer every time for a seed and a tile."""
    digest = hashlib.blake2b(f"{settings.seed}:{tile}".encode(), digest_size=_HASH_BYTES).digest()
    return int.from_bytes(digest, "big") < settings.audit_share * (1 << (8 * _HASH_BYTES))


def read_labels(logits: torch.Tensor, *, has_regions: bool) -> torch.Tensor:
    """Return what a tile's logits `(outputs, *patch)` say: labels `(*patch)`, or regions `(outputs, *patch)`."""
    if has_regions:
        return logits > 0
    return logits.argmax(0).to(torch.int16)


def count_changed(before: torch.Tensor, after: torch.Tensor, *, has_regions: bool) -> int:
    """Count the voxels at which two answers of `read_labels` differ, in any region."""
    differs = before != after
    return int((differs.any(0) if has_regions else differs).sum())

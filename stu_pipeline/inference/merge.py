"""One stream of slabs from several: patches of different sizes on one grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from stu_pipeline.inference.slabs import Slab


def merge_slabs(streams: Sequence[Iterator[Slab]], weights: Sequence[float]) -> Iterator[Slab]:
    """Yield the weighted mean of streams that cover the same grid along the same axis.

    A stream is asked for its next slab when all planes of its last one are used, so at most one slab of each is
    held, and one merged slab as thick as the thinnest rest of them. It lies where the first stream's scores lie, is
    the caller's to keep where there are several streams, and holds until the next one where there is one.

    Args:
        streams: at least one, with slabs of any thickness.
        weights: one per stream, of positive sum; the mean divides by it.

    Raises:
        ValueError: weights do not fit, or the streams do not cover the same planes.
    """
    total = sum(weights)
    if len(weights) != len(streams) or not total > 0:
        raise ValueError(f"{len(streams)} streams cannot be merged with weights {list(weights)}")
    if len(streams) == 1:
        yield from streams[0]
        return
    shares = [weight / total for weight in weights]
    slabs = [next(stream, None) for stream in streams]
    position = 0
    while any(slab is not None for slab in slabs):
        present = _require_aligned(slabs, position)
        stop = min(slab.stop for slab in present)
        axis = present[0].axis
        yield Slab(start=position, axis=axis, scores=_average(present, shares, position, stop))
        position = stop
        # Nothing may hold the finished planes when their stream goes on to use their memory.
        del present
        for index, stream in enumerate(streams):
            slab = slabs[index]
            if slab is not None and slab.stop == position:
                slabs[index] = slab = None
                slabs[index] = next(stream, None)


def _require_aligned(slabs: Sequence[Slab | None], position: int) -> list[Slab]:
    present = [slab for slab in slabs if slab is not None]
    first = present[0]
    is_same = all(slab.axis == first.axis and slab.start <= position < slab.stop for slab in present)
    if len(present) < len(slabs) or not is_same:
        raise ValueError(f"streams do not cover the same planes, from plane {position} on")
    return present


def _average(slabs: Sequence[Slab], shares: Sequence[float], start: int, stop: int) -> torch.Tensor:
    total: torch.Tensor | None = None
    for slab, share in zip(slabs, shares, strict=True):
        planes = slab.scores.narrow(1 + slab.axis, start - slab.start, stop - start)
        if total is None:
            total = planes * share
        else:
            total.add_(planes.to(total.device), alpha=share)
    if total is None:
        raise ValueError("nothing to average")
    return total

"""Exchange numbers and small objects between ranks. Every function is a no-op for one process.

All ranks must call the same functions in the same order; a rank that does not lets the others wait.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

Value = TypeVar("Value")


class _HostGroup:
    """The group for objects and long waits: over the CPUs, with a timeout of its own."""

    def __init__(self) -> None:
        self.group: Any = None


_host = _HostGroup()


def count_ranks() -> int:
    """Count the ranks that train together; 1 outside `open_ranks`."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_main_rank() -> bool:
    """Tell whether this is the first rank; a process alone is."""
    return count_ranks() == 1 or distributed.get_rank() == 0


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """Return the sum of a tensor over all ranks, on the device it is on. No gradient goes through."""
    return _reduce(values, distributed.ReduceOp.SUM)


def agree_max(flags: torch.Tensor) -> torch.Tensor:
    """Return the largest value of each flag over all ranks: what one rank wants, all do."""
    return _reduce(flags, distributed.ReduceOp.MAX)


def gather_objects(value: Value) -> list[Value]:
    """Return the value of every rank, in the order of ranks, on all of them. For small things: they are pickled."""
    if count_ranks() == 1:
        return [value]
    values: list[Any] = [None] * count_ranks()
    distributed.all_gather_object(values, value, group=_host.group)
    return values


def share_from_main(value: Value) -> Value:
    """Return what rank 0 passed, on every rank; what the others pass is ignored."""
    if count_ranks() == 1:
        return value
    values: list[Any] = [value]
    distributed.broadcast_object_list(values, src=0, group=_host.group)
    shared: Value = values[0]
    return shared


def broadcast_from_main(tensors: Iterable[torch.Tensor]) -> None:
    """Overwrite tensors with what rank 0 has in them, on every rank; they are alike in shape, type and device."""
    if count_ranks() == 1:
        return
    for tensor in tensors:
        whole = tensor.detach().contiguous()
        distributed.broadcast(whole, src=0)
        with torch.no_grad():
            tensor.copy_(whole)


def wait_for_ranks() -> None:
    """Wait until all ranks are here, for hours if need be: for the final validation and long writes."""
    if count_ranks() > 1:
        distributed.barrier(group=_host.group)


def open_host_group(timeout_s: float) -> None:
    """Open the group that carries objects and long waits; `open_ranks` does it."""
    _host.group = distributed.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))


def close_host_group() -> None:
    """Forget the group; the process group takes it down."""
    _host.group = None


def _reduce(values: torch.Tensor, operation: Any) -> torch.Tensor:
    values = values.detach()
    if count_ranks() == 1:
        return values
    total = values.clone()
    # NCCL carries what is on a GPU only.
    on_host = values.device.type == "cpu" and distributed.get_backend() == "nccl"
    distributed.all_reduce(total, op=operation, group=_host.group if on_host else None)
    return total

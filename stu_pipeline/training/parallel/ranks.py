"""Ranks: the processes of one training, how they find each other, and what it means to lose one.

Whoever starts the processes says who is who in environment variables: `torchrun`, or `launch.py`.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import distributed

from stu_pipeline.errors import StuError, UsageError
from stu_pipeline.training.parallel.reduce import close_host_group, open_host_group

RANK_TIMEOUT_S = 600.0
"""How long a rank waits for the others within a step."""
WAIT_TIMEOUT_S = 24 * 3600.0
"""How long a rank waits for the others where they may rightly be busy, as in the final validation."""
_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_LOST = ("connection closed", "connection reset", "connection refused", "timed out", "timeout", "broken pipe")
_TORCHRUN_HINT = "start it with torchrun, one task per node: docs/how-to/run-on-slurm.md"


class LostRankError(StuError):
    """A process that trains along ended, or did not answer in time."""

    is_symptom = True
    """Why that happened, another process knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """This process among those that train together."""

    rank: int = 0
    local_rank: int = 0
    """Number among the processes of this node; it chooses the GPU."""
    world_size: int = 1
    backend: str = "gloo"
    """`nccl` between GPUs, `gloo` between CPUs."""
    local_world_size: int = 1
    """Processes on this node: they share its cores."""

    @property
    def is_main(self) -> bool:
        """Tell whether this process writes files and speaks to the user."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """Tell whether there are no others."""
        return self.world_size == 1


def find_ranks(variables: Mapping[str, str], *, device_type: str) -> Ranks:
    """Find out which process this is, from the variables that torchrun sets.

    Args:
        variables: the environment (`stu_pipeline.nnunet.environment.read_variables`).
        device_type: `cuda`, `cpu` or `mps`.

    Returns:
        One process alone, where nothing says that there are more.

    Raises:
        UsageError: the variables are incomplete or contradict each other, Slurm started several processes
            without torchrun, or the device knows no ranks.
    """
    world_size = _read_number(variables, "WORLD_SIZE", default=1)
    if world_size == 1:
        _require_one_task(variables)
        return Ranks(backend=_choose_backend(device_type))
    missing = [name for name in _VARIABLES if not variables.get(name)]
    if missing:
        raise UsageError(f"WORLD_SIZE is {world_size}, but {', '.join(missing)} not set", hint=_TORCHRUN_HINT)
    rank, local_rank = _read_number(variables, "RANK"), _read_number(variables, "LOCAL_RANK")
    local_world_size = _read_number(variables, "LOCAL_WORLD_SIZE", default=world_size)
    if not (0 <= rank < world_size and 0 <= local_rank < local_world_size):
        raise UsageError(
            f"rank {rank} of {world_size}, local rank {local_rank} of {local_world_size} makes no sense",
            hint=_TORCHRUN_HINT,
        )
    if device_type == "mps":
        raise UsageError("several processes cannot train on MPS", hint="train with one process")
    return Ranks(
        rank=rank,
        local_rank=local_rank,
        world_size=world_size,
        backend=_choose_backend(device_type),
        local_world_size=local_world_size,
    )


@contextlib.contextmanager
def open_ranks(ranks: Ranks, device: torch.device, *, timeout_s: float = RANK_TIMEOUT_S) -> Iterator[torch.device]:
    """Connect the ranks inside the block, and yield the device of this one. A process alone connects nothing.

    The group is always taken down. Open it before or after nnU-Net's trainer is built: that one takes the device
    from the global rank once it sees a group, so set the trainer's `device`, `is_ddp` and `local_rank` afterwards.

    Args:
        ranks: who this process is.
        device: `cuda` without an index, or the CPU.
        timeout_s: how long a step waits for the other ranks.

    Raises:
        UsageError: this rank has no GPU.
        LostRankError: another rank ended or did not answer, here or in the block. Between GPUs NCCL ends the
            process itself after the timeout (SIGABRT); whoever started the ranks then reports it.
    """
    if ranks.is_alone:
        yield device
        return
    device = _choose_device(ranks, device)
    try:
        _connect(ranks, device, timeout_s)
        try:
            yield device
        finally:
            close_host_group()
            distributed.destroy_process_group()
    except RuntimeError as error:
        if not is_lost_rank(error):
            raise
        raise LostRankError(
            f"rank {ranks.rank} of {ranks.world_size} lost the others: {_shorten(error)}",
            hint="see what the other ranks say; the same command continues from the newest checkpoint",
        ) from error


def is_lost_rank(error: BaseException) -> bool:
    """Tell whether an error comes from the connection to the other ranks."""
    if isinstance(error, distributed.DistError):
        return True
    # gloo raises plain errors; its source file or name is in the text.
    text = str(error).lower()
    return isinstance(error, RuntimeError) and "gloo" in text and any(words in text for words in _LOST)


def _connect(ranks: Ranks, device: torch.device, timeout_s: float) -> None:
    distributed.init_process_group(
        ranks.backend,
        rank=ranks.rank,
        world_size=ranks.world_size,
        timeout=timedelta(seconds=timeout_s),
        device_id=device if device.type == "cuda" else None,
    )
    try:
        open_host_group(WAIT_TIMEOUT_S)
    except RuntimeError:
        distributed.destroy_process_group()
        raise


def _choose_device(ranks: Ranks, device: torch.device) -> torch.device:
    if device.type != "cuda":
        return device
    num_gpus = torch.cuda.device_count()
    if ranks.local_rank >= num_gpus:
        raise UsageError(
            f"process {ranks.local_rank} of this node has no GPU, {num_gpus} are visible",
            hint=f"start at most {num_gpus} per node: torchrun --nproc-per-node {num_gpus}",
        )
    chosen = torch.device("cuda", ranks.local_rank)
    torch.cuda.set_device(chosen)
    return chosen


def _choose_backend(device_type: str) -> str:
    return "nccl" if device_type == "cuda" else "gloo"


def _require_one_task(variables: Mapping[str, str]) -> None:
    # A batch script has no step; `srun` gives each of its tasks one.
    num_tasks = _read_number(variables, "SLURM_STEP_NUM_TASKS", default=1)
    if num_tasks > 1 and "RANK" not in variables:
        raise UsageError(f"{num_tasks} Slurm tasks were started that know nothing of each other", hint=_TORCHRUN_HINT)


def _read_number(variables: Mapping[str, str], name: str, *, default: int = 0) -> int:
    text = variables.get(name, "").strip()
    if not text:
        return default
    if not text.isdecimal():
        raise UsageError(f"environment variable {name} is '{text}', expected a whole number", hint=_TORCHRUN_HINT)
    return int(text)


def _shorten(error: BaseException) -> str:
    """Return the first sentence of the library's message, without the place in its source and its ornaments."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    line = re.sub(r"^\[\S+:\d+\]\s*", "", line).encode("ascii", errors="ignore").decode()
    return line.partition(". ")[0].strip()[:200]

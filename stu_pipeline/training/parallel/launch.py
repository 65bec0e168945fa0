"""Start the processes of one training on this node, start them again after a crash, and say how it ended.

They get the variables that torchrun would set. torchrun itself is for several nodes: it knows neither our exit codes
nor SIGUSR1, starts everything again after any error, and gives 30 seconds to save.
"""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stu_pipeline.errors import MemoryLimitError, StoppedError, StuError, UsageError
from stu_pipeline.host import count_usable_cores
from stu_pipeline.log import Listener, Notice
from stu_pipeline.nnunet.environment import read_variables
from stu_pipeline.training.parallel.crew import STOP_GRACE_S, Child, Crew, open_crew
from stu_pipeline.training.parallel.ranks import LostRankError
from stu_pipeline.workspace import open_workspace

MAX_RESTARTS = 3
MIN_LIFE_S = 60.0
"""A failure without a signal that comes sooner would come again, so it is no reason to restart."""
_CONTINUE_HINT = "run the same command to continue from the newest checkpoint"


def run_ranks(
    function: Callable[..., Any],
    config: Any,
    *,
    num_ranks: int,
    device_type: str,
    listen: Listener,
    where: Path | None = None,
    stop_grace_s: float = STOP_GRACE_S,
) -> Any:
    """Call a function in several processes at once, as the ranks of one training, and return what rank 0 returns.

    Events of rank 0 come to `listen`. SIGTERM, SIGINT and SIGUSR1 are passed on. When a rank is killed or crashes, all
    are started again, three times at most, and `function` continues by itself; an error that a user can act on
    ends everything.

    Args:
        function: importable; called as `function(config, listen=...)` and finds its rank with `find_ranks`. What it
            returns, raises and tells holds no tensors: those cannot leave their process.
        config: its argument; pickles.
        num_ranks: processes; with CUDA each takes one GPU.
        device_type: `cuda` or `cpu`.
        listen: receives the events of rank 0, and what is said about restarts.
        where: the run's folder, for messages.
        stop_grace_s: how long the ranks may take to save after a signal.

    Raises:
        UsageError: there are fewer GPUs, or this is a process of torchrun already.
        StoppedError: a signal stopped the training.
        LostRankError: a rank crashed, and again after the restarts.
        MemoryLimitError: the same, when the system killed it.
        StuError: whatever a rank raised.
        RuntimeError: a bug; the rank's traceback is in the message.
    """
    require_gpus(num_ranks, device_type)
    require_no_ranks()
    with open_crew(stop_grace_s=stop_grace_s) as crew:
        for attempt in range(MAX_RESTARTS + 1):
            start_s = time.monotonic()
            children = _start(crew, function, config, num_ranks=num_ranks, listen=listen)
            failed = crew.wait_together(children)
            if crew.stop_signal is not None or not failed:
                break
            cause = choose_cause(failed)
            error = explain(cause, f"rank {children.index(cause)} of {num_ranks}", where=where)
            if attempt == MAX_RESTARTS or not _is_worth_a_restart(cause, time.monotonic() - start_s):
                raise error
            crew.release(children)
            text = f"{error}; starting again from the newest checkpoint ({attempt + 1} of {MAX_RESTARTS})"
            listen(Notice(text=text, is_warning=True))
        return take_result(crew, children[0], children, where=where)


def require_gpus(num_wanted: int, device_type: str) -> None:
    """Require as many GPUs as processes; on the CPU there may be any number.

    Raises:
        UsageError: there are fewer, or the device cannot be shared out.
    """
    if num_wanted == 1 or device_type == "cpu":
        return
    if device_type != "cuda":
        raise UsageError(f"several processes cannot train on '{device_type}'", hint="leave out --gpus")
    import torch

    num_gpus = torch.cuda.device_count()
    if num_wanted > num_gpus:
        hint = f"--gpus {num_gpus}" if num_gpus else "--device cpu"
        raise UsageError(f"{num_wanted} GPUs were asked for, {num_gpus} are visible", hint=hint)


def choose_device_type(wanted: str) -> str:
    """Choose what several processes train on: `auto` takes CUDA where there is a GPU, else the CPU."""
    if wanted != "auto":
        return wanted
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def require_no_ranks() -> None:
    """Refuse to start processes inside a process of torchrun.

    Raises:
        UsageError: this is one.
    """
    if int(read_variables().get("WORLD_SIZE") or 1) > 1:
        raise UsageError("--gpus starts processes itself, and so does torchrun", hint="leave out --gpus")


def list_process_variables(**changes: str) -> dict[str, str]:
    """Return the environment of a started process: ours, with the workspace in use and without another's ranks."""
    workspace = open_workspace()
    paths = {
        "nnUNet_raw": str(workspace.raw),
        "nnUNet_preprocessed": str(workspace.preprocessed),
        "nnUNet_results": str(workspace.results),
    }
    kept = {
        name: text for name, text in read_variables().items() if not name.startswith(("TORCHELASTIC_", "SLURM_STEP"))
    }
    return kept | paths | changes


def choose_threads(num_processes: int) -> dict[str, str]:
    """Share the cores out among processes, unless the user chose a number of threads."""
    if read_variables().get("OMP_NUM_THREADS"):
        return {}
    return {"OMP_NUM_THREADS": str(max(1, count_usable_cores() // num_processes))}


def find_free_port() -> int:
    """Find a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def choose_cause(failed: Sequence[Child]) -> Child:
    """Choose which of several failures explains the others.

    What a rank said comes before how one ended, and both before those that only missed it.
    """

    def rank_cause(child: Child) -> int:
        if child.error is not None:
            return 0 if child.knows_cause else 3
        return 1 if (child.exit_code or 0) < 0 else 2

    return min(failed, key=rank_cause)


def explain(child: Child, name: str, *, where: Path | None) -> StuError:
    """Turn the end of a failed process into an error.

    Raises:
        RuntimeError: it failed with an exception of Python's: a bug, with its traceback.
    """
    if child.error is not None:
        return child.error
    problem = f"{name} {child.describe_end()}"
    if child.exit_code == -signal.SIGKILL:
        hint = f"out of memory is the usual reason: use fewer --workers; {_CONTINUE_HINT}"
        return MemoryLimitError(problem, where=where, hint=hint)
    tail = child.read_tail()
    if (child.exit_code or 0) > 0:
        raise RuntimeError("\n".join([problem, *tail]))
    error = LostRankError(problem, where=where, hint=_CONTINUE_HINT)
    error.details = tuple(tail[-10:])
    return error


def take_result(crew: Crew, main: Child, children: Sequence[Child], *, where: Path | None) -> Any:
    """Return the result of a process that ended well, or was told to.

    Raises:
        StoppedError: a signal ended it.
        StuError: what went wrong while it stopped.
    """
    errors = [child.error for child in (main, *children) if child.error is not None]
    others = [error for error in errors if not isinstance(error, (StoppedError, LostRankError))]
    stops = [error for error in errors if isinstance(error, StoppedError)]
    if others or stops:
        raise (others or stops)[0]
    if main.outcome is not None and main.error is None:
        return main.outcome.result
    number = crew.stop_signal or signal.SIGTERM
    raise StoppedError(
        f"stopped by signal {int(number)} before the state could be saved",
        signal_number=int(number),
        where=where,
        hint=_CONTINUE_HINT,
    )


def _start(crew: Crew, function: Callable[..., Any], config: Any, *, num_ranks: int, listen: Listener) -> list[Child]:
    port = find_free_port()
    return [
        crew.add(
            Child(
                function,
                config,
                variables=_name_variables(rank, num_ranks, port),
                listen=listen if rank == 0 else None,
            )
        )
        for rank in range(num_ranks)
    ]


def _is_worth_a_restart(cause: Child, life_s: float) -> bool:
    """Tell whether a crash may not come again: always after a signal, else when the training ran for a while."""
    if cause.error is not None:
        return isinstance(cause.error, LostRankError) and life_s >= MIN_LIFE_S
    return (cause.exit_code or 0) < 0 or life_s >= MIN_LIFE_S


def _name_variables(rank: int, num_ranks: int, port: int) -> dict[str, str]:
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": num_ranks, "LOCAL_WORLD_SIZE": num_ranks}
    return list_process_variables(
        **{name: str(number) for name, number in numbers.items()},
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        **choose_threads(num_ranks),
    )

"""Train several folds at the same time, each in a process of its own, one GPU each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from stu_pipeline.errors import StoppedError, StuError
from stu_pipeline.log import Listener
from stu_pipeline.nnunet.environment import read_variables
from stu_pipeline.training.parallel.crew import STOP_GRACE_S, Child, Crew, open_crew
from stu_pipeline.training.parallel.launch import (
    choose_threads,
    explain,
    list_process_variables,
    require_gpus,
    require_no_ranks,
    take_result,
)


def run_folds(
    function: Callable[..., Any],
    configs: Sequence[Any],
    *,
    names: Sequence[str],
    num_at_once: int,
    device_type: str,
    listen_to: Callable[[str], Listener],
    stop_grace_s: float = STOP_GRACE_S,
) -> list[Any]:
    """Call a function for each config, several at a time, and return the results in the order of the configs.

    A fold that fails does not keep the others from being finished. A signal stops all, and none is begun after it.

    Args:
        function: importable; called as `function(config, listen=...)` in a process that sees one GPU.
        configs: one per fold; they pickle.
        names: what messages call each fold, `fold 0`.
        num_at_once: processes at a time; with CUDA no more than there are GPUs.
        device_type: `cuda` or `cpu`.
        listen_to: gives the listener of a fold by its name.
        stop_grace_s: how long the folds may take to save after a signal.

    Raises:
        UsageError: there are fewer GPUs, or this is a process of torchrun.
        StoppedError: a signal stopped them.
        StuError: a fold failed; of several the one with the highest exit code, and all of them in the details.
        RuntimeError: a bug, with its traceback.
    """
    require_gpus(num_at_once, device_type)
    require_no_ranks()
    threads = choose_threads(min(num_at_once, len(configs)))
    seats = [{**threads, **seat} for seat in list_seats(num_at_once, device_type)]

    def start(index: int, seat: int) -> Child:
        variables = list_process_variables(**seats[seat])
        return Child(function, configs[index], variables=variables, listen=listen_to(names[index]))

    with open_crew(stop_grace_s=stop_grace_s) as crew:
        children = _run_all(crew, start, num_folds=len(configs), num_seats=num_at_once)
        if crew.stop_signal is not None:
            for child in children:
                take_result(crew, child, [child], where=None)
            if len(children) < len(configs):
                raise StoppedError(
                    f"stopped by signal {crew.stop_signal} before '{names[len(children)]}' began",
                    signal_number=crew.stop_signal,
                    hint="run the same command to continue",
                )
        return _collect(children, names)


def list_seats(num_seats: int, device_type: str) -> list[dict[str, str]]:
    """List what each process at a time is told about the GPUs: one of those that we may use."""
    if device_type != "cuda":
        return [{} for _ in range(num_seats)]
    visible = read_variables().get("CUDA_VISIBLE_DEVICES", "")
    names = [name.strip() for name in visible.split(",") if name.strip()]
    names = names or [str(number) for number in range(num_seats)]
    return [{"CUDA_VISIBLE_DEVICES": names[seat]} for seat in range(num_seats)]


def _run_all(crew: Crew, start: Callable[[int, int], Child], *, num_folds: int, num_seats: int) -> list[Child]:
    """Start each fold as soon as a seat is free, and wait for all; after a signal no further one is started."""
    children: list[Child] = []
    seat_of: dict[int, int] = {}
    while seat_of or (len(children) < num_folds and crew.stop_signal is None):
        while len(children) < num_folds and len(seat_of) < num_seats and crew.stop_signal is None:
            seat = min(set(range(num_seats)) - set(seat_of.values()))
            seat_of[len(children)] = seat
            children.append(crew.add(start(len(children), seat)))
        crew.pump()
        seat_of = {index: seat for index, seat in seat_of.items() if children[index].is_alive}
    for child in children:
        child.hear()
    return children


def _collect(children: Sequence[Child], names: Sequence[str]) -> list[Any]:
    errors: list[tuple[str, StuError]] = []
    for child, name in zip(children, names, strict=True):
        if child.has_failed:
            errors.append((name, explain(child, name, where=None)))
    if not errors:
        return [child.outcome.result for child in children if child.outcome is not None]
    name, worst = max(errors, key=lambda pair: pair[1].exit_code)
    if len(children) > 1 and not isinstance(worst, StoppedError):
        worst.details = (*worst.details, *(f"{other} failed: {error}" for other, error in errors))
    raise worst

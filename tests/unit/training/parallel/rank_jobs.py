"""What the processes of the tests do. A module of its own, so that they can import it; torch only where it is used."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from stu_pipeline.errors import DataError, StoppedError
from stu_pipeline.log import Progress
from stu_pipeline.nnunet.environment import read_variables


@dataclass(frozen=True)
class Note:
    """An event of a test."""

    text: str
    pid: int


def rank_here():
    return int(read_variables().get("RANK", 0))


def leave_trace(folder):
    """Count the starts of this rank: a file per process."""
    Path(folder, f"rank{rank_here()}-{os.getpid()}").touch()


# -- processes without torch ----------------------------------------------------------------------------------------


def report(config, *, listen):
    listen(Progress(step="report", done=1, total=1, item=str(rank_here())))
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "OMP_NUM_THREADS", "nnUNet_results")
    return {name: read_variables().get(name) for name in names} | {"config": config}


def refuse_on_rank_one(folder, *, listen):
    leave_trace(folder)
    if rank_here() == 1:
        raise DataError("case 'a' is damaged", where=Path("somewhere"), hint="mend it", details=("one",))
    time.sleep(60)


def die_once_on_rank_one(folder, *, listen):
    leave_trace(folder)
    is_first_start = len(list(Path(folder).glob(f"rank{rank_here()}-*"))) == 1
    if rank_here() == 1 and is_first_start:
        os.kill(os.getpid(), signal.SIGKILL)
    if is_first_start:
        time.sleep(60)
    return "done"


def die_always_on_rank_one(folder, *, listen):
    leave_trace(folder)
    if rank_here() == 1:
        os.write(2, b"the last words\n")
        os.kill(os.getpid(), signal.SIGABRT)
    time.sleep(60)


def fail_late_on_rank_one(folder, *, listen):
    """Rank 0 only misses the other one; that one takes longer to end than it takes to be missed."""
    from stu_pipeline.training.parallel.ranks import LostRankError

    leave_trace(folder)
    if rank_here() == 0:
        raise LostRankError("rank 0 lost the others")
    time.sleep(3)
    raise ZeroDivisionError("the real reason")


def divide_by_zero(folder, *, listen):
    leave_trace(folder)
    return 1 / 0


def train_until_stopped(folder, *, listen):
    """Behave as the training loop does: save on SIGUSR1, save and leave on SIGTERM and SIGINT."""
    seen: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, lambda number, frame: seen.append(number))
    leave_trace(folder)
    listen(Note("running", os.getpid()))
    told = 0
    for _ in range(1200):
        time.sleep(0.05)
        stops = [number for number in seen if number != signal.SIGUSR1]
        if stops:
            listen(Note(f"saved {len(stops)}", os.getpid()))
            raise StoppedError("stopped, state saved", signal_number=stops[0])
        if len(seen) > told:
            told = len(seen)
            Path(folder, f"saved-by-rank{rank_here()}").touch()
            listen(Note("saved on request", os.getpid()))
    return "not stopped"


def ignore_signals(folder, *, listen):
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    leave_trace(folder)
    listen(Note("running", os.getpid()))
    time.sleep(60)


def train_fold(config, *, listen):
    """Note begin and end; `config` is (folder, name, what to do)."""
    folder, name, what = config
    Path(folder, f"{name}.begun").touch()
    running = len(list(Path(folder).glob("*.begun"))) - len(list(Path(folder).glob("*.ended")))
    listen(Progress(step=name, done=running, total=1))
    time.sleep(0.3)
    Path(folder, f"{name}.ended").touch()
    if what == "refuse":
        raise DataError(f"'{name}' is damaged")
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return name, running


# -- processes that exchange tensors ----------------------------------------------------------------------------------


def open_all(timeout_s=60.0):
    import torch

    from stu_pipeline.training.parallel.ranks import find_ranks, open_ranks

    torch.set_num_threads(1)
    ranks = find_ranks(read_variables(), device_type="cpu")
    return ranks, open_ranks(ranks, torch.device("cpu"), timeout_s=timeout_s)


def exchange(config, *, listen):
    import torch

    from stu_pipeline.training.parallel.reduce import (
        agree_max,
        count_ranks,
        gather_objects,
        share_from_main,
        sum_over_ranks,
        wait_for_ranks,
    )

    ranks, group = open_all()
    with group as device:
        own = torch.tensor([float(ranks.rank), 10.0])
        found = {
            "device": str(device),
            "count": count_ranks(),
            "sum": sum_over_ranks(own).tolist(),
            "own": own.tolist(),
            "max": agree_max(own).tolist(),
            "gathered": gather_objects({"rank": ranks.rank}),
            "shared": share_from_main(f"from {ranks.rank}"),
        }
        wait_for_ranks()
        everyone = gather_objects(found)
    return everyone, count_ranks(), torch.distributed.is_initialized()


def lose_rank_one(config, *, listen):
    import torch

    from stu_pipeline.training.parallel.ranks import LostRankError
    from stu_pipeline.training.parallel.reduce import sum_over_ranks

    ranks, group = open_all(timeout_s=config["timeout_s"])
    try:
        with group:
            if ranks.rank == 1:
                if config["how"] == "leaves":
                    return None
                time.sleep(8)  # is stuck
            sum_over_ranks(torch.ones(1))
    except LostRankError as error:
        return str(error), torch.distributed.is_initialized()
    return "nothing was noticed", None


def raise_inside(config, *, listen):
    """Fail on both ranks with what has nothing to do with the others."""
    _, group = open_all()
    try:
        with group:
            raise RuntimeError("shape '[2]' is invalid for input of size 3: timed out is part of a name")
    except RuntimeError as error:
        return type(error).__name__


def train_together(configs, *, listen):
    from tests.unit.training.parallel.tiny_training import train_shares

    ranks, group = open_all()
    with group as device:
        return [train_shares(ranks, device, **config) for config in configs]

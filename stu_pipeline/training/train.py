"""Train one fold of one plan, from wherever it stands to a scored validation.

Reads: plan, preprocessed data. Writes: the run folder (docs/reference/folders.md).
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from stu_pipeline.errors import LockedError, StorageError
from stu_pipeline.log import Listener, ignore_events, log_to_file
from stu_pipeline.storage import hold_lock, storage_errors
from stu_pipeline.training.config import TrainConfig, TrainResult
from stu_pipeline.training.finetuning.same_start import require_same_start, require_weights_for_recipe
from stu_pipeline.training.run.job import Job, find_job
from stu_pipeline.training.run.record import read_start
from stu_pipeline.training.run.requirements import require_preprocessed
from stu_pipeline.training.run.result import read_result
from stu_pipeline.training.run.start import drop_leftovers
from stu_pipeline.training.run.state import is_finished, list_checkpoints
from stu_pipeline.training.story.trackers import require_trackers

if TYPE_CHECKING:
    from stu_pipeline.training.finetuning.origin import Origin


def train(config: TrainConfig, *, listen: Listener = ignore_events) -> TrainResult:
    """Train one fold and validate it; run it again and it continues.

    Under `torchrun` every process calls this, and all train the fold together; with `num_gpus` this process starts
    them. Events reach the listener of the first process.

    Raises:
        DataError: the dataset, its preprocessed data or the fold is missing.
        ModelError: there is no such plan, or its checkpoints cannot be used.
        StorageError: the disk is full or not writable; the last checkpoint is intact.
        MemoryLimitError: a step does not fit, however it is cut up; the last checkpoint is intact.
        LockedError: another run trains this fold.
        NonFiniteError: the loss stayed non-finite; the last finite state is saved.
        StoppedError: a signal stopped the run, its state is saved.
    """
    require_trackers(config.trackers or ())
    job = find_job(config)
    if is_finished(job.paths) and not config.force:
        _require_same_start(job, listen)
        _tidy(job)
        return read_result(job, elapsed_s=0.0, was_finished=True)
    require_preprocessed(job.dataset, job.plan, job.configuration)
    start = time.monotonic()
    if (config.num_gpus or 1) > 1:
        _find_origin(job)  # what is refused is refused before any process starts
        return _train_in_ranks(job, listen)
    _train_here(job, listen)
    return read_result(job, elapsed_s=time.monotonic() - start, was_finished=False)


def train_folds(
    configs: Sequence[TrainConfig], *, listen_to: Callable[[str], Listener] = lambda name: ignore_events
) -> list[TrainResult]:
    """Train several folds, one after the other; with `num_gpus` as many at a time, each on a GPU of its own.

    Args:
        configs: one per fold, alike but for the fold; at least one.
        listen_to: gives the listener of a fold by its name, `fold 0`.

    Raises:
        StuError: as `train` says. One after the other, the first error ends it; at the same time, the others are
            finished first.
    """
    names = [f"fold {config.fold}" for config in configs]
    num_at_once = configs[0].num_gpus or 1
    if num_at_once == 1 or len(configs) == 1:
        return [train(config, listen=listen_to(name)) for config, name in zip(configs, names, strict=True)]
    from stu_pipeline.nnunet.session import choose_device
    from stu_pipeline.training.parallel.folds import run_folds

    return run_folds(
        train,
        [dataclasses.replace(config, num_gpus=None) for config in configs],
        names=names,
        num_at_once=min(num_at_once, len(configs)),
        device_type=choose_device(configs[0].device).type,
        listen_to=listen_to,
    )


def _train_in_ranks(job: Job, listen: Listener) -> TrainResult:
    from stu_pipeline.nnunet.session import choose_device
    from stu_pipeline.training.parallel.launch import run_ranks

    config = job.config
    result: TrainResult = run_ranks(
        train,
        dataclasses.replace(config, num_gpus=None),
        num_ranks=config.num_gpus or 1,
        device_type=choose_device(config.device).type,
        listen=listen,
        where=job.paths.folder,
    )
    return result


def _train_here(job: Job, listen: Listener) -> None:
    from stu_pipeline.nnunet.environment import read_variables
    from stu_pipeline.nnunet.session import choose_device
    from stu_pipeline.training.parallel.ranks import find_ranks
    from stu_pipeline.training.run.fold import run_fold

    device = choose_device(job.config.device)
    ranks = find_ranks(read_variables(), device_type=device.type)
    if not ranks.is_main:
        run_fold(job, device, ranks, ignore_events)
        return
    origin = _find_origin(job)
    with _hold_run(job):
        run_fold(job, device, ranks, listen, origin=origin)


def _find_origin(job: Job) -> Origin | None:
    """Read the weights to begin with, and check them; the run folder is not touched."""
    config = job.config
    if config.force or config.resume == "never" or not list_checkpoints(job.paths):
        require_weights_for_recipe(config)
    if config.pretrained is None:
        return None
    from stu_pipeline.training.finetuning.origin import find_origin

    return find_origin(job)


def _require_same_start(job: Job, listen: Listener) -> None:
    """Refuse to answer for a fold that is finished and began with something else."""
    identity = None
    if job.config.pretrained is not None:
        from stu_pipeline.transfer.files.reading import read_weight_file

        identity = read_weight_file(job.config.pretrained, sidecar=job.config.sidecar).identity
    require_same_start(job.config, read_start(job.paths), identity=identity, where=job.paths.folder, listen=listen)


@contextlib.contextmanager
def _hold_run(job: Job) -> Iterator[None]:
    """Hold the run folder, and log into it."""
    paths = job.paths
    what = f"fold {job.config.fold} of '{job.model_folder.name}'"
    with hold_lock(paths.lock, what=what), log_to_file(paths.log), storage_errors(paths.folder):
        drop_leftovers(paths)
        yield


def _tidy(job: Job) -> None:
    """Remove what a run left that was killed right after its last file."""
    if job.paths.lock.exists():
        with contextlib.suppress(LockedError, StorageError), _hold_run(job):
            pass

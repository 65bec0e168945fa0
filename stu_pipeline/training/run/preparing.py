"""Prepare a run: the checkpoint it continues from, its settings, precision and batch."""

from __future__ import annotations

import torch

from stu_pipeline.errors import UsageError
from stu_pipeline.host import count_usable_cores
from stu_pipeline.log import Listener, Notice
from stu_pipeline.nnunet.session import choose_precision
from stu_pipeline.storage import read_json
from stu_pipeline.training.finetuning.origin import Origin
from stu_pipeline.training.finetuning.same_start import require_same_start, require_weights_for_recipe
from stu_pipeline.training.parallel.ranks import Ranks
from stu_pipeline.training.parallel.reduce import share_from_main
from stu_pipeline.training.parallel.shares import choose_batch_rule
from stu_pipeline.training.run.job import Job
from stu_pipeline.training.run.opening import Run
from stu_pipeline.training.run.same_run import require_same_run
from stu_pipeline.training.run.settings import choose_settings
from stu_pipeline.training.run.signals import SignalFlags
from stu_pipeline.training.run.start import choose_start
from stu_pipeline.training.run.state import ResumePoint

_MAX_LOADER_WORKERS = 12


def choose_num_workers(wanted: int | None, ranks: Ranks) -> int:
    """Choose how many processes read samples, unless the user has."""
    if wanted is not None:
        return wanted
    # Ranks of one node share its cores; one is left for the process that trains.
    return min(_MAX_LOADER_WORKERS, max(1, count_usable_cores() // ranks.local_world_size - 1))


def prepare_run(
    job: Job,
    device: torch.device,
    ranks: Ranks,
    listen: Listener,
    *,
    flags: SignalFlags,
    num_workers: int,
    origin: Origin | None,
) -> Run:
    """Find where a run begins, and decide on all that it needs before a network is built.

    Args:
        job: the fold.
        device: of this rank.
        ranks: who this process is.
        listen: gets what there is to say.
        flags: what signals ask for.
        num_workers: processes that read samples.
        origin: weights that a new run begins with; on rank 0 alone.

    Raises:
        ModelError: no checkpoint can be used, or it belongs to another training or began with other weights.
        UsageError: flags do not go together with each other or with what was begun.
    """
    identity = None if origin is None else origin.weights.identity
    resume = _find_resume_point(job, ranks, listen, identity=identity)
    planned = job.plan.configuration(job.configuration)
    precision = choose_precision(job.config.precision, device, smallest_map_voxels=planned.smallest_map_voxels)
    # The seed may be drawn here: every rank takes the first one's.
    stored = resume.settings if resume else {}
    settings = share_from_main(choose_settings(job.config, stored, precision=precision, pretrained=identity))
    if resume is None and settings.pretrained is None:
        _warn_of_plan(job, listen)
    if settings.augment == "cpu" and not ranks.is_alone:
        raise UsageError("nnU-Net's own loader serves one process, not several", hint="leave out --augment cpu")
    rule = choose_batch_rule(
        planned.batch_size,
        ranks.world_size,
        lr_given=job.config.learning_rate is not None,
        num_epochs=settings.num_epochs,
    )
    return Run(
        job=job,
        ranks=ranks,
        device=device,
        listen=listen,
        settings=settings,
        resume=resume,
        rule=rule,
        flags=flags,
        num_workers=num_workers,
        origin=origin,
    )


def _find_resume_point(job: Job, ranks: Ranks, listen: Listener, *, identity: str | None) -> ResumePoint | None:
    """Find what the run goes on from, and refuse what belongs to another training or another start."""
    resume = choose_start(job.config, job.paths, listen)
    if resume is None:
        require_weights_for_recipe(job.config)
    else:
        require_same_run(
            resume.checkpoint,
            job.plan.raw,
            read_json(job.dataset.preprocessed_dataset_json),
            configuration=job.configuration,
            fold=job.config.fold,
            where=job.paths.folder,
        )
    if resume is not None and ranks.is_main:
        require_same_start(job.config, resume.start, identity=identity, where=job.paths.folder, listen=listen)
    return resume


def _warn_of_plan(job: Job, listen: Listener) -> None:
    planned = job.plan.pretrained
    if planned is not None:
        text = (
            f"plan '{job.plan.name}' was made for the weights of '{planned.file}', and the training begins from scratch"
        )
        listen(Notice(text=text, is_warning=True))

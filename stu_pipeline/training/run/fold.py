"""Run the training of one fold in this process: resume, train, validate."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools

import torch

from stu_pipeline.errors import MemoryLimitError, StoppedError, StuError
from stu_pipeline.log import Listener, Notice
from stu_pipeline.nnunet.checkpoint import read_checkpoint
from stu_pipeline.nnunet.environment import engine_environment
from stu_pipeline.nnunet.memory_meter import is_device_gone, is_out_of_memory
from stu_pipeline.nnunet.output import engine_output
from stu_pipeline.nnunet.trainer import StopTrainingError, nnUNetTrainer
from stu_pipeline.nnunet.validation import validate_fold
from stu_pipeline.plan_execution import Execution
from stu_pipeline.training.finetuning.beginning import find_tuning, open_steering
from stu_pipeline.training.finetuning.origin import Origin
from stu_pipeline.training.loop.control import RunControl
from stu_pipeline.training.loop.loop import TrainingLoop
from stu_pipeline.training.loop.position import Position
from stu_pipeline.training.parallel.ranks import Ranks, open_ranks
from stu_pipeline.training.parallel.reduce import wait_for_ranks
from stu_pipeline.training.parallel.shares import take_share
from stu_pipeline.training.run.assembly import Assembly, assemble
from stu_pipeline.training.run.job import Job
from stu_pipeline.training.run.opening import Run, open_run_trainer, open_whole_trainer
from stu_pipeline.training.run.preparing import choose_num_workers, prepare_run
from stu_pipeline.training.run.record import RunRecord
from stu_pipeline.training.run.signals import catch_signals
from stu_pipeline.training.run.space import require_checkpoint_space
from stu_pipeline.training.run.start import drop_outlived, drop_replaced, set_aside
from stu_pipeline.training.story.progress import RunStory
from stu_pipeline.training.story.trackers import open_trackers


def run_fold(job: Job, device: torch.device, ranks: Ranks, listen: Listener, *, origin: Origin | None = None) -> None:
    """Train and validate a fold, alone or together with other ranks.

    Args:
        job: the fold.
        device: `cuda` without an index, or the CPU.
        ranks: who this process is.
        listen: gets the events; only the first rank's should.
        origin: weights that a new run begins with; the first rank's counts.

    Raises:
        StuError: as `train` says.
    """
    num_workers = choose_num_workers(job.config.num_workers, ranks)
    with (
        catch_signals() as flags,
        open_ranks(ranks, device) as own_device,
        engine_environment(job.dataset.workspace, num_workers=num_workers),
        engine_output(job.paths.log if ranks.is_main else None),
    ):
        run = prepare_run(job, own_device, ranks, listen, flags=flags, num_workers=num_workers, origin=origin)
        with _open_story(run) as story:
            _run(dataclasses.replace(run, listen=_tell_both(run.listen, story)), story)


def _open_story(run: Run) -> contextlib.AbstractContextManager[RunStory | None]:
    """Open what is kept and told of the run; the first rank's alone."""
    if not run.ranks.is_main:
        return contextlib.nullcontext()
    job, first_epoch = run.job, run.resume.epoch if run.resume else 0
    title = f"{job.dataset.name}, {job.plan.name}, {job.configuration}, fold {job.config.fold}"
    trackers = open_trackers(
        job.config.trackers,
        job.paths.folder,
        first_epoch=first_epoch,
        facts={"title": title, **dataclasses.asdict(run.settings)},
        listen=run.listen,
    )
    return RunStory(job.paths, first_epoch=first_epoch, trackers=trackers, listen=run.listen, title=title)


def _tell_both(listen: Listener, story: RunStory | None) -> Listener:
    if story is None:
        return listen

    def hear(event: object) -> None:
        story.hear(event)
        listen(event)

    return hear


def _run(run: Run, story: RunStory | None) -> None:
    job = run.job
    trainer: nnUNetTrainer | None = None
    try:
        trainer = open_run_trainer(run)
        if not _is_over(trainer, run):
            _train(trainer, run)
            if story is not None:
                story.plot()
        if run.ranks.is_main:
            drop_outlived(job.paths)
        _validate(trainer, run)
    except StopTrainingError as error:
        number = run.flags.stop_signal or error.signal_number
        raise StoppedError(
            f"stopped by signal {number} at epoch {_name_epoch(trainer)}, state saved",
            signal_number=number,
            where=job.paths.folder,
            hint="run the same command to continue",
        ) from None
    except (RuntimeError, MemoryError) as error:
        explained = _explain(error, _name_epoch(trainer), job)
        if explained is None:
            raise
        raise explained from error


def _name_epoch(trainer: nnUNetTrainer | None) -> int:
    return 0 if trainer is None else int(trainer.current_epoch)


def _explain(error: RuntimeError | MemoryError, epoch: int, job: Job) -> StuError | None:
    """Turn what the machine is to blame for into an error of ours; anything else gives None."""
    reason = str(error).partition("\n")[0]
    if is_out_of_memory(error):
        return MemoryLimitError(
            f"memory ran out in epoch {epoch}: {reason}",
            where=job.paths.folder,
            hint=f"plan for less: stu plan {job.dataset.name} --plan NAME --gpu-memory GIB",
        )
    if is_device_gone(error):
        return StuError(
            f"the GPU is gone in epoch {epoch}: {reason}; the last checkpoint is intact",
            where=job.paths.folder,
            hint="see what nvidia-smi says; the same command continues",
        )
    return None


def _is_over(trainer: nnUNetTrainer, run: Run) -> bool:
    """Tell whether only the validation is left."""
    resume = run.resume
    if resume is None:
        return False
    wants_more = run.settings.num_epochs > int(resume.settings.get("num_epochs", trainer.current_epoch))
    is_complete = resume.position.is_complete or trainer.current_epoch >= trainer.num_epochs
    return resume.path == run.job.paths.checkpoint("final") and is_complete and not wants_more


def _train(trainer: nnUNetTrainer, run: Run) -> None:
    resume, paths = run.resume, run.job.paths
    execution = _choose_execution(trainer, run)
    record = RunRecord(run.job, trainer.settings, resume)
    if run.ranks.is_main:
        _record_start(trainer, run, record, execution)
        num_parameters = sum(weight.numel() for weight in trainer.bare_network.parameters())
        tuning = find_tuning(trainer.start)
        require_checkpoint_space(
            paths,
            num_parameters,
            keeps_average=run.settings.ema_decay is not None,
            keeps_start=tuning is not None and tuning.pulls,
        )
        drop_replaced(paths, is_new=resume is None)
        if resume is not None:
            set_aside(resume)
    wait_for_ranks()
    steering = open_steering(trainer, is_new=resume is None)
    if run.ranks.is_main:
        record.note_start(trainer.start)
    parts = assemble(
        Assembly(
            trainer=trainer,
            ranks=run.ranks,
            batch_rule=run.rule,
            control=RunControl(run.flags, interval_s=run.settings.checkpoint_interval_s),
            listen=run.listen,
            num_workers=run.num_workers,
            execution=execution,
            note_execution=record.note_execution,
            adjust_gradients=None if steering is None else steering.adjust_gradients,
        )
    )
    parts = dataclasses.replace(parts, steering=steering)
    if parts.average is not None and resume is not None and resume.average is not None:
        parts.average.load_state_dict(resume.average)
    position = resume.position if resume is not None else Position()
    position.is_complete = False  # if it was, more epochs were asked for
    try:
        TrainingLoop(parts, position).run()
    finally:
        trainer.close_loaders()


def _record_start(trainer: nnUNetTrainer, run: Run, record: RunRecord, chosen: Execution) -> None:
    execution = trainer.describe_execution(chosen)
    record.write(
        execution,
        memory_ran_out=chosen != trainer.execution,
        mirroring=trainer.mirroring.to_json(),
        device=str(run.device),
        num_workers=run.num_workers,
        ranks=run.ranks,
        batch_rule=run.rule,
    )
    run.listen(Notice(text=record.describe_start(str(run.device), execution, run.rule)))


def _choose_execution(trainer: nnUNetTrainer, run: Run) -> Execution:
    """Return the plan's, or the rung of the memory ladder where an earlier part of the run had arrived."""
    planned = trainer.execution
    stored = run.resume.execution if run.resume is not None else None
    if stored is None:
        return planned
    return dataclasses.replace(
        planned,
        micro_batch=min(planned.micro_batch, int(stored["micro_batch"])),
        activation_checkpointing=planned.activation_checkpointing or bool(stored["activation_checkpointing"]),
    )


def _validate(trainer: nnUNetTrainer, run: Run) -> None:
    ranks = run.ranks
    if trainer.sharding is not None:
        # Passes through a sharded network take all ranks, and their cases differ in tiles: one rank does it alone.
        if ranks.is_main:
            validate_fold(open_whole_trainer(run), run.job.dataset)
        wait_for_ranks()
        return
    validate = functools.partial(
        validate_fold,
        trainer,
        run.job.dataset,
        choose_share=lambda case_ids: take_share(case_ids, ranks.rank, ranks.world_size),
        wait_for_others=wait_for_ranks,
    )
    paths = run.job.paths
    if paths.checkpoint("ema").is_file() and not paths.averaged_summary.is_file():
        trained = copy.deepcopy(trainer.bare_network.state_dict())
        trainer.bare_network.load_state_dict(read_checkpoint(paths.checkpoint("ema"))["network_weights"])
        validate(is_averaged=True)
        trainer.bare_network.load_state_dict(trained)
    # Last, because its summary is what says that the fold is finished.
    validate()
    wait_for_ranks()

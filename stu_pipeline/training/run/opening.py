"""Open the trainer of a run: network, weights, mirroring, compiler, ranks."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from stu_pipeline.datasets.laterality import Mirroring
from stu_pipeline.errors import UsageError
from stu_pipeline.log import Listener, Notice
from stu_pipeline.nnunet.marked_outputs import find_trainer_marks
from stu_pipeline.nnunet.optimizer import build_optimizer
from stu_pipeline.nnunet.session import open_trainer
from stu_pipeline.nnunet.settings import TrainerSettings
from stu_pipeline.nnunet.trainer import nnUNetTrainer
from stu_pipeline.storage import read_json
from stu_pipeline.training.finetuning.beginning import begin_with_origin, find_tuning, group_weights
from stu_pipeline.training.finetuning.origin import Origin
from stu_pipeline.training.loop.compilation import choose_compilation, compile_network
from stu_pipeline.training.loop.layout import apply_layout, choose_layout
from stu_pipeline.training.parallel.ranks import Ranks
from stu_pipeline.training.parallel.reduce import share_from_main
from stu_pipeline.training.parallel.sharding import ShardedState, shard_network
from stu_pipeline.training.parallel.shares import BatchRule, require_even_shares
from stu_pipeline.training.parallel.wrap import find_idle_parameters, wrap_network
from stu_pipeline.training.run.job import Job
from stu_pipeline.training.run.mirroring import choose_mirroring
from stu_pipeline.training.run.signals import SignalFlags
from stu_pipeline.training.run.state import ResumePoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run that is about to train."""

    job: Job
    ranks: Ranks
    device: torch.device
    listen: Listener
    settings: TrainerSettings
    resume: ResumePoint | None
    rule: BatchRule
    flags: SignalFlags
    num_workers: int
    origin: Origin | None = None
    """Weights to begin with; on rank 0 alone."""


def open_run_trainer(run: Run) -> nnUNetTrainer:
    """Build the trainer of a run, with the weights of its checkpoint.

    Raises:
        DataError: the table of partial labels does not fit the dataset.
        ModelError: the network cannot be built, or the checkpoint does not fit it.
        UsageError: the axes to mirror make no sense.
    """
    job = run.job
    trainer = _open_bare(run)
    trainer.mirroring = _choose_mirroring(trainer, run)
    # The loss asks again; here a table that does not fit is refused before anything of an older run is dropped.
    find_trainer_marks(trainer)
    _begin(trainer, run)
    _choose_layout(trainer, run)
    idle = find_idle_parameters(trainer.network, trainer.list_level_weights())
    if job.config.shard:
        _shard(trainer, run, idle)
    if run.resume is not None:
        trainer.load_checkpoint(run.resume.checkpoint)
    _compile(trainer, run)
    if trainer.sharding is None:
        trainer.network = wrap_network(trainer.network, run.ranks, run.device, idle=idle)
    return trainer


def open_whole_trainer(run: Run) -> nnUNetTrainer:
    """Build a trainer with the final weights of a run in one piece, for its validation."""
    trainer = _open_bare(run)
    trainer.mirroring = _choose_mirroring(trainer, run)
    trainer.load_checkpoint(str(trainer.paths.checkpoint("final")))
    return trainer


def _open_bare(run: Run) -> nnUNetTrainer:
    job = run.job
    return open_trainer(
        job.plan.raw,
        read_json(job.dataset.preprocessed_dataset_json),
        configuration=job.configuration,
        fold=job.config.fold,
        device=run.device,
        settings=run.settings,
        listen=run.listen,
        is_stop_asked=run.flags.is_stop_asked,
        rank=run.ranks.rank,
    )


def _begin(trainer: nnUNetTrainer, run: Run) -> None:
    """Say what the training began with; a new one gets the weights it begins with."""
    if run.resume is not None:
        trainer.start = run.resume.start
    elif run.settings.pretrained is not None:
        begin_with_origin(trainer, run.origin, run.listen)
    group_weights(trainer)


def _shard(trainer: nnUNetTrainer, run: Run, idle: list[str]) -> None:
    """Spread weights and momentum over the ranks, in place."""
    if run.ranks.is_alone:
        raise UsageError("--shard spreads a network over several processes, here is one", hint="add --gpus N")
    if run.settings.precision == "fp16" or run.settings.ema_decay is not None:
        raise UsageError("--shard knows neither fp16 nor --ema", hint="use --precision bf16, and leave out --ema")
    tuning = find_tuning(trainer.start)
    if tuning is not None and not tuning.is_plain:
        raise UsageError(
            f"--shard knows no recipe whose weights move apart, got '{run.settings.recipe}'", hint="--recipe warmup"
        )
    require_even_shares(run.rule.batch, run.ranks.world_size)
    trainer.network = shard_network(trainer.network, run.ranks, run.device, idle=idle)
    trainer.optimizer = build_optimizer(
        trainer.network, learning_rate=trainer.initial_lr, weight_decay=trainer.weight_decay
    )
    trainer.sharding = ShardedState(run.ranks)


def _choose_mirroring(trainer: nnUNetTrainer, run: Run) -> Mirroring:
    job = run.job
    stored = run.resume.mirroring if run.resume is not None else None
    if stored is not None and job.config.mirror is None:
        return Mirroring.from_json(stored, where=job.paths.folder)
    training_cases, _ = trainer.do_split()
    mirroring, reason = choose_mirroring(
        job.config.mirror or "auto",
        dataset_json=trainer.dataset_json,
        plan=job.plan,
        configuration=job.configuration,
        data_folder=job.dataset.data_folder(job.plan.configuration(job.configuration).data_identifier),
        case_ids=sorted(map(str, training_cases)),
    )
    if reason:
        run.listen(Notice(text=reason))
    # nnU-Net's own transforms cannot swap labels.
    return mirroring.without_swaps() if run.settings.augment == "cpu" else mirroring


def _choose_layout(trainer: nnUNetTrainer, run: Run) -> None:
    """Time the layouts when a training begins; one that goes on, or is to be repeatable, does not depend on a clock."""
    layout = run.settings.memory_layout
    if run.resume is None and not run.settings.deterministic:
        planned = run.job.plan.configuration(run.job.configuration)
        layout = choose_layout(
            trainer.network,
            num_channels=trainer.num_input_channels,
            patch=planned.patch_size,
            strides=planned.total_stride,
            device=run.device,
            precision=run.settings.precision,
        )
        layout = share_from_main(layout)
        trainer.settings = dataclasses.replace(trainer.settings, memory_layout=layout)
    apply_layout(trainer.network, layout)


def _compile(trainer: nnUNetTrainer, run: Run) -> None:
    if not choose_compilation(run.job.config.compile, run.device):
        return
    trainer.network, problem = compile_network(
        trainer.network,
        num_channels=trainer.num_input_channels,
        strides=run.job.plan.configuration(run.job.configuration).total_stride,
        device=run.device,
        precision=run.settings.precision,
    )
    if problem:
        run.listen(Notice(text=problem, is_warning=True))

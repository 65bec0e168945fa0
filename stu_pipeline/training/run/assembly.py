"""Put a training together: trainer, loss, samples, augmentation, step and loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stu_pipeline.datasets.laterality import Mirroring
from stu_pipeline.log import Listener
from stu_pipeline.nnunet.marked_outputs import find_trainer_marks
from stu_pipeline.nnunet.patch_geometry import PatchGeometry, describe_patches
from stu_pipeline.nnunet.trainer import nnUNetTrainer
from stu_pipeline.plan_execution import Execution
from stu_pipeline.training.augmentation.pipeline import Augmenter
from stu_pipeline.training.augmentation.settings import AugmentationSettings
from stu_pipeline.training.loop.batches import DeviceBatches, EngineBatches
from stu_pipeline.training.loop.control import RunControl
from stu_pipeline.training.loop.ema import WeightAverage
from stu_pipeline.training.loop.layout import LAYOUTS
from stu_pipeline.training.loop.loop import BatchSource, LoopParts
from stu_pipeline.training.loop.memory_relief import MemoryRelief
from stu_pipeline.training.loop.step import TrainingStep
from stu_pipeline.training.loss.marks import SampleMarks
from stu_pipeline.training.loss.segmentation import SegmentationLoss, build_loss
from stu_pipeline.training.parallel.ranks import Ranks
from stu_pipeline.training.parallel.shares import BatchRule, list_slots
from stu_pipeline.training.sampling.crop import CropRule
from stu_pipeline.training.sampling.loader import SampleLoader
from stu_pipeline.training.sampling.sample import Phase
from stu_pipeline.training.sampling.source import SampleSource


@dataclass(frozen=True, slots=True, kw_only=True)
class Assembly:
    """What a training is put together from."""

    trainer: nnUNetTrainer
    ranks: Ranks
    batch_rule: BatchRule
    control: RunControl
    listen: Listener
    num_workers: int
    execution: Execution
    note_execution: Callable[[Execution], None]
    adjust_gradients: Callable[[], None] | None = None
    """See `TrainingStep`."""


def assemble(assembly: Assembly) -> LoopParts:
    """Build the parts of a loop around an opened trainer, whose network may be compiled and wrapped.

    Raises:
        DataError: the dataset's table of partial labels does not fit the cases, the labels or the mirroring.
    """
    trainer, ranks, rule = assembly.trainer, assembly.ranks, assembly.batch_rule
    settings = trainer.settings
    relief = MemoryRelief(
        trainer.bare_network,
        assembly.execution,
        batch=rule.batch,
        world_size=ranks.world_size,
        listen=assembly.listen,
        note_change=assembly.note_execution,
    )
    marked = find_trainer_marks(trainer)
    step = build_step(
        trainer,
        assembly.execution,
        world_size=ranks.world_size,
        largest_share=-(-rule.batch // ranks.world_size),
        sample_marks=None if marked is None else SampleMarks(marked, trainer.device),
        adjust_gradients=assembly.adjust_gradients,
    )
    opener = _Opener(assembly, make_augmentation(describe_patches(trainer), trainer.mirroring, settings.augment))
    return LoopParts(
        trainer=trainer,
        step=step,
        open_batches=lambda first: opener.open("train", first),
        open_validation=lambda first: opener.open("validation", first),
        control=assembly.control,
        relief=relief,
        listen=assembly.listen,
        batch_size=rule.batch,
        average=None if settings.ema_decay is None else WeightAverage(trainer.bare_network, settings.ema_decay),
        learning_rate_factor=rule.learning_rate_factor,
        warmup_epochs=max(settings.warmup_epochs, rule.warmup_epochs),
        world_size=ranks.world_size,
    )


def build_step(
    trainer: nnUNetTrainer,
    execution: Execution,
    *,
    world_size: int = 1,
    largest_share: int = 1,
    sample_marks: SampleMarks | None = None,
    adjust_gradients: Callable[[], None] | None = None,
) -> TrainingStep:
    """Build the step of an opened trainer: its network, optimizer, loss, precision and layout.

    Args:
        trainer: its network may be compiled and wrapped.
        execution: how the step runs.
        world_size: ranks that train together.
        largest_share: samples of a step on the rank that has most.
        sample_marks: see `TrainingStep`.
        adjust_gradients: see `TrainingStep`.
    """
    settings = trainer.settings
    return TrainingStep(
        trainer.network,
        trainer.optimizer,
        build_trainer_loss(trainer),
        precision=settings.precision,
        micro_batch=execution.micro_batch,
        scaler=trainer.grad_scaler,
        world_size=world_size,
        largest_share=largest_share,
        memory_format=LAYOUTS[settings.memory_layout],
        is_dice_per_part=execution.batch_dice_scope == "micro-batch",
        sample_marks=sample_marks,
        adjust_gradients=adjust_gradients,
    )


def build_trainer_loss(trainer: nnUNetTrainer) -> SegmentationLoss:
    """Build the loss of a trainer's plan and labels."""
    labels = trainer.label_manager
    scales = trainer._get_deep_supervision_scales()
    return build_loss(
        regions=bool(labels.has_regions),
        batch_dice=bool(trainer.configuration_manager.batch_dice),
        ignore_label=labels.ignore_label,
        num_levels=None if scales is None else len(scales),
    )


def make_augmentation(geometry: PatchGeometry, mirroring: Mirroring, augment: str) -> AugmentationSettings:
    """Return what the augmentation is told; without one, patches are read as they are."""
    is_augmenting = augment != "none"
    return AugmentationSettings(
        patch=geometry.patch,
        initial_patch=geometry.initial_patch if is_augmenting else geometry.patch,
        rotation_rad=geometry.rotation_rad,
        is_dummy_2d=geometry.is_dummy_2d,
        mirroring=mirroring,
        masked_channels=geometry.masked_channels,
        previous_labels=geometry.previous_labels,
        regions=geometry.regions,
        ignore_label=geometry.ignore_label,
        deep_supervision_scales=geometry.deep_supervision_scales,
    )


class _Opener:
    """Opens the batches of a phase."""

    def __init__(self, assembly: Assembly, augmentation: AugmentationSettings) -> None:
        self._assembly = assembly
        self._augmentation = augmentation

    def open(self, phase: Phase, first_step: int) -> BatchSource:
        assembly, trainer = self._assembly, self._assembly.trainer
        is_training = phase == "train"
        if trainer.settings.augment == "cpu":
            return EngineBatches(trainer.dataloader_train if is_training else trainer.dataloader_val, trainer.device)
        is_augmenting = is_training and trainer.settings.augment != "none"
        ranks = assembly.ranks
        # Validation is a sixth of the work, and of forward passes only.
        num_workers = assembly.num_workers if is_training else min(assembly.num_workers, 1 + assembly.num_workers // 4)
        loader = SampleLoader(
            self._make_source(phase, is_augmenting=is_augmenting),
            phase=phase,
            seed=int(trainer.settings.seed or 0),
            slots=list_slots(assembly.batch_rule.batch, ranks.rank, ranks.world_size),
            num_workers=num_workers,
            first_step=first_step,
        )
        return DeviceBatches(loader, Augmenter(self._augmentation, trainer.device, is_augmenting=is_augmenting))

    def _make_source(self, phase: Phase, *, is_augmenting: bool) -> SampleSource:
        trainer = self._assembly.trainer
        training_cases, validation_cases = trainer.do_split()
        labels: Any = trainer.label_manager
        previous = trainer.folder_with_segs_from_previous_stage
        geometry = self._augmentation
        return SampleSource(
            folder=Path(trainer.preprocessed_dataset_folder),
            cases=tuple(sorted(map(str, training_cases if phase == "train" else validation_cases))),
            num_channels=len(trainer.dataset_json["channel_names"]),
            settings=geometry,
            rule=CropRule(
                batch=self._assembly.batch_rule.batch,
                foreground_share=float(trainer.oversample_foreground_percent),
                is_probabilistic=bool(trainer.probabilistic_oversampling),
                annotated_key=(-1, *map(int, labels.all_labels)) if labels.has_ignore_label else None,
            ),
            is_augmenting=is_augmenting,
            previous_folder=None if previous is None else Path(previous),
        )

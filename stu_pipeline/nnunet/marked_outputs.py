"""Which outputs of a trainer's network are marked in which of its cases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stu_pipeline.datasets.dataset_fields import Label
from stu_pipeline.datasets.marked_outputs import MarkedOutputs, find_marked_outputs
from stu_pipeline.datasets.partial_labels import find_partial_labels
from stu_pipeline.nnunet.trainer import nnUNetTrainer


def find_trainer_marks(trainer: nnUNetTrainer) -> MarkedOutputs | None:
    """Find the marked outputs of the training and validation cases of a fold; None where all are marked everywhere.

    Raises:
        DataError: the table of partial labels does not fit the cases, the labels, or how the training mirrors.
    """
    if find_partial_labels(trainer.dataset_json) is None:
        return None
    training_cases, validation_cases = trainer.do_split()
    mirroring = trainer.mirroring
    return find_marked_outputs(
        trainer.dataset_json,
        list_outputs(trainer.label_manager),
        case_ids={*map(str, training_cases), *map(str, validation_cases)},
        pairs=mirroring.pairs if mirroring.swapping_axes else (),
        where=Path(trainer.preprocessed_dataset_folder_base) / "dataset.json",
    )


def list_outputs(label_manager: Any) -> list[Label]:
    """List the label or region of every output; with labels the first is the background."""
    if not label_manager.has_regions:
        return list(range(int(label_manager.num_segmentation_heads)))
    regions = label_manager.foreground_regions
    return [tuple(map(int, region)) if isinstance(region, (tuple, list)) else int(region) for region in regions]

"""A trainer in a temporary folder, its step and a batch of random numbers: what probes and benches measure with."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from stu_pipeline.log import ignore_events
from stu_pipeline.nnunet.environment import engine_environment, set_variables
from stu_pipeline.nnunet.output import engine_output
from stu_pipeline.nnunet.session import open_trainer
from stu_pipeline.nnunet.settings import TrainerSettings
from stu_pipeline.nnunet.trainer import nnUNetTrainer
from stu_pipeline.planfile import PlanFile
from stu_pipeline.training.loop.batch import Batch
from stu_pipeline.workspace import Workspace, find_dataset

_DATASET = "Dataset000_Probe"


@contextmanager
def open_scratch_trainer(
    plan: PlanFile, dataset_json: dict[str, Any], configuration: str, *, device: torch.device, precision: str
) -> Iterator[nnUNetTrainer]:
    """Open the trainer of a plan in a temporary workspace. Names in the plan cannot lead out of it."""
    raw = {**plan.raw, "dataset_name": _DATASET}
    with tempfile.TemporaryDirectory(prefix="stu-probe-") as folder:
        root = Path(folder)
        workspace = Workspace(raw=root / "raw", preprocessed=root / "preprocessed", results=root / "results")
        (workspace.raw / _DATASET).mkdir(parents=True)
        data = find_dataset(_DATASET, workspace).data_folder(plan.configuration(configuration).data_identifier)
        data.mkdir(parents=True)
        (data / "probe.b2nd").touch()  # the engine tells the format from the files it finds
        with (
            engine_environment(workspace, num_workers=0),
            set_variables({"nnUNet_wandb_enabled": "0"}),
            engine_output(None),
        ):
            yield open_trainer(
                raw,
                dataset_json,
                configuration=configuration,
                fold=0,
                device=device,
                settings=TrainerSettings(precision=precision),
                listen=ignore_events,
                is_stop_asked=lambda: False,
            )


def make_random_batch(trainer: nnUNetTrainer) -> Batch:
    """Make one batch of random numbers as a training sees it, on the trainer's device: same shapes and types."""
    patch = [int(size) for size in trainer.configuration_manager.patch_size]
    labels, num_samples, device = trainer.label_manager, int(trainer.configuration_manager.batch_size), trainer.device
    data = torch.randn(num_samples, trainer.num_input_channels, *patch, device=device)
    targets = []
    for scale in trainer._get_deep_supervision_scales() or [[1.0] * len(patch)]:
        size = [round(voxels * factor) for voxels, factor in zip(patch, scale, strict=True)]
        if labels.has_regions:
            num_maps = len(labels.foreground_regions) + labels.has_ignore_label
            targets.append(torch.rand(num_samples, num_maps, *size, device=device) < 0.5)
        else:
            num_values = labels.num_segmentation_heads + labels.has_ignore_label
            shape = (num_samples, 1, *size)
            targets.append(torch.randint(0, num_values, shape, dtype=torch.int16, device=device))
    return Batch(data=data, targets=targets)

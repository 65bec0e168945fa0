"""The networks of a model folder, loaded once and kept: one per fold."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from stu_pipeline.datasets.laterality import Mirroring
from stu_pipeline.inference.execution import MIN_BF16_MAP_VOXELS, prepare_network
from stu_pipeline.inference.mirroring import list_mirrorings
from stu_pipeline.inference.window_settings import EffortMode, TtaMode, WindowNetwork
from stu_pipeline.nnunet.model import EngineModel, build_network
from stu_pipeline.nnunet.side_swap import find_model_swap
from stu_pipeline.prediction.models.model_folder import FoldWeights, ModelFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceSettings:
    """What is the same for every model of an ensemble."""

    device: torch.device
    autocast: torch.dtype | None = None
    """Computing type of the networks; None is float32."""
    may_choose_type: bool = False
    """Whether a network with very small feature maps may compute in float32 instead."""
    step: float = 0.5
    tta: TtaMode = "full"
    effort: EffortMode = "full"


def open_networks(
    folder: ModelFolder, settings: InferenceSettings, *, weight: float, level: int = 0
) -> tuple[WindowNetwork, ...]:
    """Build the network of every fold on the device.

    Args:
        folder: whose folds share the weight equally.
        settings: of the ensemble.
        weight: of the model in the ensemble.
        level: 0 runs on every tile, higher ones where those below are unsure (`effort="elastic"`).

    Raises:
        ModelError: a network cannot be built, or the weights of a fold do not fit it.
    """
    return tuple(
        _open_fold(folder, item, settings, weight=weight / len(folder.folds), level=level) for item in folder.folds
    )


def _open_fold(
    folder: ModelFolder, item: FoldWeights, settings: InferenceSettings, *, weight: float, level: int
) -> WindowNetwork:
    model = folder.model
    autocast = _choose_type(model, settings)
    network = build_network(model, item.load(), settings.device, where=item.path)
    # Each fold is mirrored as it was trained.
    mirroring = item.mirroring if settings.tta != "none" else Mirroring(axes=())
    return WindowNetwork(
        run=prepare_network(
            network,
            device=settings.device,
            autocast=autocast,
            patch_voxels=model.patch_voxels,
        ),
        mirrorings=tuple(list_mirrorings(mirroring.axes)),
        side_swap=find_model_swap(
            mirroring,
            model.labels,
            num_image_channels=model.num_image_channels,
            has_previous_stage=model.previous_stage is not None,
            where=item.path,
        ),
        weight=weight,
        level=level,
        autocast=autocast,
        name=f"fold {item.fold} of '{folder.path.name}'",
    )


def _choose_type(model: EngineModel, settings: InferenceSettings) -> torch.dtype | None:
    """Return the computing type of one model: bf16 on the CPU is too coarse for maps of a few voxels."""
    if settings.device.type != "cpu" or not settings.may_choose_type or settings.autocast is None:
        return settings.autocast
    is_safe = model.deepest_map_voxels is None or model.deepest_map_voxels >= MIN_BF16_MAP_VOXELS
    return settings.autocast if is_safe else None


def count_network_parameters(folder: ModelFolder) -> int:
    """Count the parameters of one fold's network."""
    return sum(tensor.numel() for tensor in folder.folds[0].load().values())

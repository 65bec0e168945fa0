"""Whether weights are of the scale of a network: every tensor fits but for channels, outputs and dimensions."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from stu_pipeline.errors import ModelError
from stu_pipeline.networks.layout import NUM_LEVELS
from stu_pipeline.networks.scales import SCALES
from stu_pipeline.transfer.loading.channels import STEM_KERNELS
from stu_pipeline.transfer.loading.heads import HEAD_PREFIX
from stu_pipeline.transfer.weight_file import WeightFile

LAST_HEAD_BIAS = f"{HEAD_PREFIX}{NUM_LEVELS - 1}.bias"
_SPATIAL_FROM = 2
_MAX_LISTED = 5


def require_same_scale(source: WeightFile, tensors: Mapping[str, torch.Tensor]) -> int:
    """Return the number of spatial axes of a network, once it is clear that the weights are of its scale.

    Args:
        source: the weights.
        tensors: the state dict of the network.

    Raises:
        ModelError: the network is no STU-Net or of another scale; both scales are named.
    """
    stem = tensors.get(STEM_KERNELS[0])
    if stem is None or LAST_HEAD_BIAS not in tensors:
        raise ModelError(
            "the network of this plan is no STU-Net, it cannot take the weights of one",
            hint="plan again with --scale",
        )
    keys = {**source.tensors, **tensors}
    wrong = [key for key in keys if not _fits(key, source.tensors.get(key), tensors.get(key))]
    if wrong:
        name = _name_scale(tensors)
        raise ModelError(
            f"'{source.path.name}' holds scale {source.network.scale}, this plan is of scale {name}: "
            f"{len(wrong)} of {len(keys)} tensors have other shapes or are not there",
            where=source.path.parent,
            hint=f"plan with --scale {source.network.scale}, or take weights of scale {name}",
            details=tuple(f"'{key}'" for key in wrong[:_MAX_LISTED]),
        )
    return stem.ndim - _SPATIAL_FROM


def _fits(key: str, source: torch.Tensor | None, target: torch.Tensor | None) -> bool:
    if source is None or target is None:
        return False
    first, second = list(source.shape[:_SPATIAL_FROM]), list(target.shape[:_SPATIAL_FROM])
    if key in STEM_KERNELS:
        first, second = first[:1], second[:1]
    elif key.startswith(HEAD_PREFIX):
        first, second = first[1:], second[1:]
    # The axes that both have: the last ones.
    num_common = min(source.ndim, target.ndim) - _SPATIAL_FROM
    return first == second and (num_common <= 0 or source.shape[-num_common:] == target.shape[-num_common:])


def _name_scale(tensors: Mapping[str, torch.Tensor]) -> str:
    width = tensors[STEM_KERNELS[0]].shape[0]
    num_blocks = len({key.split(".")[2] for key in tensors if key.startswith("conv_blocks_context.0.")})
    for letter, spec in SCALES.items():
        if (spec.width, spec.num_blocks) == (width, num_blocks):
            return letter
    return f"its own (width {width}, {num_blocks} blocks per stage)"

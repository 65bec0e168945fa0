"""What a candidate sees at a voxel: the maps of all its decoder levels there, before any head."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from stu_pipeline.networks.layout import NUM_LEVELS
from stu_pipeline.networks.stunet import STUNet
from stu_pipeline.training.ranking.patches import ProbePatch


@torch.inference_mode()
def compute_features(network: STUNet, patches: Sequence[ProbePatch], device: torch.device) -> NDArray[np.float32]:
    """Return the features of all chosen voxels of the patches, `(voxel, feature)`.

    Args:
        network: in evaluation mode, on the device.
        patches: at least one.
        device: where the network is.
    """
    rows = []
    with _catch_maps(network) as maps:
        for patch in patches:
            maps.clear()
            network(patch.data.to(device))
            voxels = torch.from_numpy(patch.voxels).to(device)
            size = torch.tensor(patch.data.shape[2:], device=device)
            rows.append(torch.cat([_look_up(found, voxels, size) for found in maps], dim=1).float().cpu().numpy())
    return np.concatenate(rows)


def _look_up(found: torch.Tensor, voxels: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    """Return the map's values `(voxel, feature)` at voxels of the full resolution: nearest."""
    shape = torch.tensor(found.shape[2:], device=found.device)
    places = torch.div(voxels * shape, size, rounding_mode="floor")
    flat = torch.zeros(len(places), dtype=torch.long, device=found.device)
    for step, place in zip(found.shape[2:], places.unbind(1), strict=True):
        flat = flat * step + place
    return found[0].flatten(1)[:, flat].T


@contextlib.contextmanager
def _catch_maps(network: STUNet) -> Iterator[list[torch.Tensor]]:
    maps: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> None:
        maps.append(output)

    hooks = [network.conv_blocks_localization[level].register_forward_hook(keep) for level in range(NUM_LEVELS)]
    try:
        yield maps
    finally:
        for hook in hooks:
            hook.remove()

"""Low resolution: an image as if it had been taken with fewer voxels."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import interpolate

_LINEAR_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


def simulate_low_resolution(volume: Tensor, scale: float, *, kept_axes: tuple[int, ...] = ()) -> None:
    """Reduce one channel to its nearest voxels and bring it back to its size linearly, in place.

    Args:
        volume: `(*spatial)`, one to three axes.
        scale: share of the voxels that stays along an axis; at least one voxel always does.
        kept_axes: axes that keep all their voxels.
    """
    shape = list(volume.shape)
    coarse = [size if axis in kept_axes else max(1, round(size * scale)) for axis, size in enumerate(shape)]
    reduced = interpolate(volume[None, None], coarse, mode="nearest-exact")
    volume.copy_(interpolate(reduced, shape, mode=_LINEAR_MODES[volume.ndim])[0, 0])

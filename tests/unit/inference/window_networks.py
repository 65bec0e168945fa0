"""Networks and helpers for the tests of the window."""

import torch
from torch import nn

from stu_pipeline.inference.mirroring import list_mirrorings
from stu_pipeline.inference.window import slide
from stu_pipeline.inference.window_settings import WindowNetwork


def build_convolutions(num_axes=3, *, channels=2, outputs=3, seed=0):
    """Build a small network whose answer at a voxel depends on its neighbours."""
    torch.manual_seed(seed)
    kind = nn.Conv3d if num_axes == 3 else nn.Conv2d
    return nn.Sequential(kind(channels, 6, 3, padding=1), nn.ReLU(), kind(6, outputs, 3, padding=1)).eval()


def build_window_network(num_axes=3, *, mirror_axes=(), seed=0, outputs=3, channels=2, **changes):
    """Build one network of a window with all mirrored copies along some axes."""
    return WindowNetwork(
        run=changes.pop("run", None) or build_convolutions(num_axes, channels=channels, outputs=outputs, seed=seed),
        mirrorings=tuple(list_mirrorings(mirror_axes)),
        **changes,
    )


def make_image(shape, *, channels=2, seed=1):
    """Make an image `(c, z, y, x)` of noise."""
    return torch.randn(channels, *shape, generator=torch.Generator().manual_seed(seed))


def collect(slabs):
    """Put slabs together; they must come in order without gaps."""
    parts, axis, position = [], 0, 0
    for slab in slabs:
        assert slab.start == position
        assert slab.scores.dtype == torch.float32
        position, axis = slab.stop, slab.axis
        parts.append(slab.scores.clone())
    return torch.cat(parts, 1 + axis)


def slide_all(networks, image, settings, **options):
    """Return all logits of a window."""
    return collect(slide(networks, image, settings, **options))

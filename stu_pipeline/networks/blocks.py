"""The building blocks of STU-Net: residual block, upsampling layer, segmentation heads.

Tensors are `(batch, channel, z, y, x)`, or `(batch, channel, y, x)` in 2D.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

NEGATIVE_SLOPE = 0.01

_CONVS: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
_NORMS: dict[int, type[nn.InstanceNorm2d] | type[nn.InstanceNorm3d]] = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


def build_conv(width_in: int, width: int, kernel: int, stride: Sequence[int]) -> nn.Conv2d | nn.Conv3d:
    """Build a convolution with bias that keeps the size up to its stride; the stride's length is the number of axes."""
    step = tuple(stride)
    return _CONVS[len(step)](width_in, width, kernel, step, padding=kernel // 2)  # type: ignore[arg-type]


class ResidualBlock(nn.Module):
    """Two convolutions with instance normalisation and a shortcut.

    The first block of a stage projects its shortcut (1x1 convolution) and carries the stride of the stage.
    """

    conv3: nn.Module | None

    def __init__(self, width_in: int, width: int, stride: Sequence[int], *, has_projection: bool) -> None:
        super().__init__()
        ones = (1,) * len(stride)
        norm = _NORMS[len(stride)]
        self.conv1 = build_conv(width_in, width, 3, stride)
        self.norm1 = norm(width, affine=True)
        self.act1 = nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True)
        self.conv2 = build_conv(width, width, 3, ones)
        self.norm2 = norm(width, affine=True)
        self.conv3 = build_conv(width_in, width, 1, stride) if has_projection else None
        self.act2 = nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the block's output, smaller than `x` by the stride."""
        y = self.act1(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        # In place: the norm keeps its input for the backward pass, not this output.
        y += x if self.conv3 is None else self.conv3(x)
        activated: torch.Tensor = self.act2(y)
        return activated


class ResidualStage(nn.Sequential):
    """A projecting, striding block, then `num_blocks - 1` plain ones.

    Submodules are named by their number alone, as in the published weights.
    """

    is_checkpointing: bool = False
    """Whether a training keeps only the blocks' inputs and runs each block again in the backward pass."""

    def __init__(self, width_in: int, width: int, stride: Sequence[int], num_blocks: int) -> None:
        ones = (1,) * len(stride)
        first = ResidualBlock(width_in, width, stride, has_projection=True)
        rest = [ResidualBlock(width, width, ones, has_projection=False) for _ in range(num_blocks - 1)]
        super().__init__(first, *rest)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the last block's output, smaller than `x` by the stride."""
        is_recomputing = self.is_checkpointing and self.training and torch.is_grad_enabled()
        for block in self:
            # Blocks draw no random numbers, so the generators' states need not be kept.
            x = checkpoint(block, x, use_reentrant=False, preserve_rng_state=False) if is_recomputing else block(x)
        return x


class UpsampleLayer(nn.Module):
    """Nearest-neighbour upsampling by a stride, then a 1x1 convolution: its weights fit every stride."""

    def __init__(self, width_in: int, width: int, stride: Sequence[int]) -> None:
        super().__init__()
        self.stride = tuple(float(step) for step in stride)
        self.conv = build_conv(width_in, width, 1, (1,) * len(stride))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x` upsampled and projected; a stride of ones copies nothing."""
        if any(step != 1 for step in self.stride):
            x = functional.interpolate(x, scale_factor=self.stride, mode="nearest")
        projected: torch.Tensor = self.conv(x)
        return projected


class SegmentationHeads(nn.Module):
    """The 1x1 heads of the decoder levels, coarsest first, and the switch that nnU-Net flips.

    nnU-Net sets `network.decoder.deep_supervision`, and its fine-tuning skips keys that contain '.seg_layers.'.
    """

    deep_supervision: bool

    def __init__(self, widths: Sequence[int], num_classes: int, num_axes: int, *, deep_supervision: bool) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        ones = (1,) * num_axes
        self.seg_layers = nn.ModuleList(build_conv(width, num_classes, 1, ones) for width in widths)

    def wants(self, level: int) -> bool:
        """Tell whether the head of a level runs: the finest always does, the others under deep supervision."""
        return self.deep_supervision or level == len(self.seg_layers) - 1

    def forward(self, x: torch.Tensor, level: int) -> torch.Tensor:
        """Return the logits of one level."""
        logits: torch.Tensor = self.seg_layers[level](x)
        return logits

"""Layers that compute on the CPU what PyTorch's own do, only faster."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

_MIN_GROUP_VOXELS = 1024
"""In channels-last order, PyTorch's group norm is slow below: it then counts channel by channel."""


class SampleNorm(nn.Module):
    """Instance normalisation as group normalisation with one channel per group.

    The same mean and variance per sample and channel, computed in float32 whatever the type of the input. With two
    CPU threads and float32 it is 5 times as fast as `torch.nn.InstanceNorm3d`, and in channels-last order it needs no
    copies.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, norm: nn.InstanceNorm2d | nn.InstanceNorm3d) -> None:
        super().__init__()
        self.weight = norm.weight
        self.bias = norm.bias
        self.eps = norm.eps

    @staticmethod
    def fits(norm: nn.InstanceNorm2d | nn.InstanceNorm3d) -> bool:
        """Tell whether a layer can be replaced; one with statistics of its training cannot."""
        return not norm.track_running_stats

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return `(b, c, *spatial)` with mean 0 and variance 1 per sample and channel, scaled and shifted."""
        if x.is_contiguous() or x[0, 0].numel() >= _MIN_GROUP_VOXELS:
            return functional.group_norm(x, x.shape[1], self.weight, self.bias, self.eps)
        # Of a single sample, the batch's statistics are the sample's.
        parts = [self._normalise_sample(sample) for sample in (x[index : index + 1] for index in range(len(x)))]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _normalise_sample(self, x: torch.Tensor) -> torch.Tensor:
        return functional.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=self.eps)


class OneDnnConv(nn.Module):
    """A convolution that always takes oneDNN.

    For one sample and small maps PyTorch multiplies matrices instead, which takes 2 to 15 times as long.
    """

    def __init__(self, conv: nn.Conv2d | nn.Conv3d) -> None:
        super().__init__()
        self.weight = conv.weight
        self.bias = conv.bias
        self._padding = tuple(int(size) for size in conv.padding)
        self._stride, self._dilation, self._groups = conv.stride, conv.dilation, conv.groups

    @staticmethod
    def fits(conv: nn.Conv2d | nn.Conv3d) -> bool:
        """Tell whether a layer can be replaced: padded with zeros by numbers, and oneDNN is there."""
        return conv.padding_mode == "zeros" and not isinstance(conv.padding, str) and torch._C._has_mkldnn

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the convolution of `(b, c, *spatial)`."""
        output: torch.Tensor = torch.mkldnn_convolution(
            x, self.weight, self.bias, self._padding, self._stride, self._dilation, self._groups
        )
        return output


class FloatPool(nn.Module):
    """Average pooling in float32, which PyTorch lacks in bfloat16 on the CPU; the result has the type of the input."""

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.pool = pool

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """Tell whether a layer pools averages."""
        return isinstance(module, (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the pooled `(b, c, *spatial)`."""
        pooled: torch.Tensor = self.pool(x.float())
        return pooled.to(x.dtype)

"""Statistics of each layer beside those of a fresh network: what training did to it, and what died."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from stu_pipeline.networks.blocks import NEGATIVE_SLOPE
from stu_pipeline.transfer.files.tensors import count_non_finite

# A filter this much weaker than the middle one of its layer passes nothing on.
_DEAD_SHARE = 1e-3
_PARTS = (
    (re.compile(r"conv_blocks_context\.(\d+)\."), "encoder stage {}"),
    (re.compile(r"upsample_layers\."), "upsampling"),
    (re.compile(r"conv_blocks_localization\.(\d+)\."), "decoder level {}"),
    (re.compile(r"(?:decoder\.seg_layers|seg_outputs)\."), "heads"),
)
_HE_GAIN = math.sqrt(2 / (1 + NEGATIVE_SLOPE**2))


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerStatistics:
    """One convolution, or one normalisation."""

    name: str
    part: str
    """'encoder stage 0', ..., for people."""
    kind: str
    """'convolution' or 'normalisation'."""
    shape: tuple[int, ...]
    std: float
    """Standard deviation of a convolution's weights; of a normalisation's weights their mean size."""
    ratio: float
    """`std` by that of a fresh network: He weights, and 1 for a normalisation."""
    num_filters: int
    num_dead: int
    """Filters of a thousandth of the usual size or less."""
    is_fresh: bool
    """A normalisation that is exactly as it began: weight 1, bias 0. False for convolutions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokenTensor:
    """A tensor with values that are NaN or infinite."""

    name: str
    num_wrong: int
    num_values: int


def measure_layers(tensors: Mapping[str, torch.Tensor]) -> tuple[LayerStatistics, ...]:
    """Measure every convolution and every normalisation, in the order of the file; other tensors are left out."""
    layers = []
    for name, tensor in tensors.items():
        if not name.endswith(".weight") or not tensor.is_floating_point() or tensor.numel() == 0:
            continue
        if tensor.ndim >= 3:
            layers.append(_measure_convolution(name, tensor))
        elif tensor.ndim == 1:
            layers.append(_measure_norm(name, tensor, tensors.get(f"{name.removesuffix('weight')}bias")))
    return tuple(layers)


def find_broken(tensors: Mapping[str, torch.Tensor]) -> tuple[BrokenTensor, ...]:
    """List the tensors that hold NaN or infinite values."""
    counts = ((name, count_non_finite(tensor), tensor.numel()) for name, tensor in tensors.items())
    return tuple(BrokenTensor(name=name, num_wrong=wrong, num_values=total) for name, wrong, total in counts if wrong)


def _measure_convolution(name: str, tensor: torch.Tensor) -> LayerStatistics:
    values = _clean(tensor)
    std = float(values.pow(2).mean().sqrt())
    expected = _HE_GAIN / math.sqrt(tensor[0].numel())
    sizes = values.reshape(len(values), -1).pow(2).mean(dim=1).sqrt()
    return LayerStatistics(
        name=name,
        part=_name_part(name),
        kind="convolution",
        shape=tuple(tensor.shape),
        std=std,
        ratio=std / expected,
        num_filters=len(sizes),
        num_dead=int((sizes <= _DEAD_SHARE * sizes.median()).sum()),
        is_fresh=False,
    )


def _measure_norm(name: str, weight: torch.Tensor, bias: torch.Tensor | None) -> LayerStatistics:
    sizes = _clean(weight).abs()
    mean = float(sizes.mean())
    return LayerStatistics(
        name=name,
        part=_name_part(name),
        kind="normalisation",
        shape=tuple(weight.shape),
        std=mean,
        ratio=mean,
        num_filters=len(sizes),
        num_dead=int((sizes <= _DEAD_SHARE).sum()),
        is_fresh=bool((weight == 1).all()) and (bias is None or bool((bias == 0).all())),
    )


def _clean(tensor: torch.Tensor) -> torch.Tensor:
    """Return float32 values with zeros where they are not finite."""
    return torch.nan_to_num(tensor.detach().float(), nan=0.0, posinf=0.0, neginf=0.0)


def _name_part(name: str) -> str:
    for pattern, part in _PARTS:
        if match := pattern.search(name):
            return part.format(*match.groups())
    return name.rpartition(".")[0]

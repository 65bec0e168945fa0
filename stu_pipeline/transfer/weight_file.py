"""A file of weights as everything else sees it: tensors in our names, and what is known of their training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stu_pipeline.networks.weights import RecognisedNetwork

if TYPE_CHECKING:
    import torch

WeightForm = Literal["published", "checkpoint", "safetensors"]
"""`published`: nnU-Net v1's `.model`, as STU-Net was released; `checkpoint`: a `.pth` of nnU-Net v2, the STU-Net
fork or ours; `safetensors`: what `stu weights export` writes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFacts:
    """What is known of how weights were trained; None is not known, and never guessed.

    Axes are (z, y, x) after transposing, or (y, x), as in a plan.
    """

    label_names: tuple[str, ...] | None = None
    """One per output of the network: 'background' first, or the names of the regions."""
    has_regions: bool = False
    """Outputs are overlapping regions, each with a sigmoid of its own."""
    channel_names: tuple[str, ...] | None = None
    strides: tuple[tuple[int, ...], ...] | None = None
    """Six entries with the leading ones, as in a plan. They leave no trace in the weights."""
    spacing_mm: tuple[float, ...] | None = None
    patch_voxels: tuple[int, ...] | None = None
    normalization_schemes: tuple[str, ...] | None = None
    """nnU-Net v2's names, one per channel, for example 'ZScoreNormalization'."""
    use_mask_for_norm: tuple[bool, ...] | None = None
    transpose_forward: tuple[int, ...] | None = None
    dataset_name: str | None = None
    num_epochs: int | None = None
    """Epochs that were trained."""
    source: str = "the weights alone"
    """Where these facts come from, for people: "side-car 'small_ep4k.model.pkl'"."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class WeightFile:
    """Weights of an STU-Net that were read safely and checked: complete for their scale, and finite."""

    path: Path
    form: WeightForm
    identity: str
    """SHA-256 that changes with the tensors; what run records and plans name."""
    network: RecognisedNetwork
    tensors: dict[str, torch.Tensor]
    """On the CPU, in our key names (`networks/weights.py`), in the order and type of the file."""
    facts: WeightFacts

    @property
    def num_axes(self) -> int:
        """Spatial axes of the kernels: 2 or 3."""
        return count_axes(self.tensors)


def count_axes(tensors: Mapping[str, torch.Tensor]) -> int:
    """Count the spatial axes of the kernels of an STU-Net, in whatever order its tensors come."""
    return max(tensor.ndim for tensor in tensors.values()) - 2

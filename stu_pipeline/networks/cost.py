"""What an STU-Net costs: parameters, feature-map elements, multiply-adds; analytic, without weights or torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stu_pipeline.networks.layout import NUM_LEVELS, Layout, build_layout, parameter_shapes

# Autograd keeps four maps of a residual block: what each of its two norms reads, and what each activation leaves
# (the shortcut's own output is added and forgotten).
_MAPS_PER_BLOCK = 4


@dataclass(frozen=True, slots=True)
class ConvOutput:
    """One convolution in the forward pass: features out, output voxels, and weights that meet each output element."""

    features: int
    num_voxels: int
    fan_in: int

    @property
    def num_elements(self) -> int:
        """Count the output elements for one sample."""
        return self.features * self.num_voxels


def count_parameters(
    input_channels: int,
    num_classes: int,
    features_per_stage: Sequence[int],
    n_blocks_per_stage: Sequence[int] | int,
    *,
    conv_op: str = "3d",
) -> int:
    """Count the weights of the network, all five heads included; strides do not matter.

    Raises:
        ModelError: features or blocks are malformed.
    """
    ones = [[1] * (2 if conv_op == "2d" else 3)] * (NUM_LEVELS + 1)
    layout = build_layout(ones, features_per_stage, n_blocks_per_stage, conv_op)
    return sum(math.prod(shape) for _, shape in parameter_shapes(layout, input_channels, num_classes))


def count_feature_map_elements(
    patch: Sequence[int],
    strides: Sequence[Sequence[int]],
    features_per_stage: Sequence[int],
    n_blocks_per_stage: Sequence[int] | int,
    *,
    num_classes: int,
    deep_supervision: bool = False,
) -> int:
    """Count the output elements of all convolutions for one sample, nnU-Net's unit of activation memory.

    As in nnU-Net the coarse heads count only with deep supervision; the full-resolution head always counts.
    The sum equals what forward hooks on every convolution would add up. Patch and strides are (z, y, x) or (y, x).

    Raises:
        ModelError: an argument is malformed, or the patch does not fit the strides.
    """
    conv_op = f"{len(patch)}d"
    layout = build_layout(strides, features_per_stage, n_blocks_per_stage, conv_op)
    outputs = conv_outputs(layout, patch, num_classes=num_classes, deep_supervision=deep_supervision)
    return sum(output.num_elements for output in outputs)


def count_multiply_adds(
    patch: Sequence[int],
    strides: Sequence[Sequence[int]],
    features_per_stage: Sequence[int],
    n_blocks_per_stage: Sequence[int] | int,
    *,
    input_channels: int,
    num_classes: int,
    deep_supervision: bool = False,
) -> int:
    """Count the multiply-adds of all convolutions in one forward pass of one sample (the paper's "FLOPs").

    Raises:
        ModelError: as for `count_feature_map_elements`.
    """
    layout = build_layout(strides, features_per_stage, n_blocks_per_stage, f"{len(patch)}d")
    outputs = conv_outputs(
        layout, patch, num_classes=num_classes, input_channels=input_channels, deep_supervision=deep_supervision
    )
    return sum(output.num_elements * output.fan_in for output in outputs)


def count_saved_elements(
    patch: Sequence[int],
    strides: Sequence[Sequence[int]],
    features_per_stage: Sequence[int],
    n_blocks_per_stage: Sequence[int] | int,
    *,
    input_channels: int = 1,
    activation_checkpointing: bool = False,
) -> int:
    """Count the elements that autograd keeps of one sample for the backward pass of a training step.

    With checkpointing these are the inputs of the residual blocks, what lies between them (the decoder's
    upsampled and concatenated maps), and the inside of the largest block, which is recomputed while the rest
    is still there. Logits are left to the loss. Patch and strides are (z, y, x) or (y, x).

    Raises:
        ModelError: as for `count_feature_map_elements`.
    """
    layout = build_layout(strides, features_per_stage, n_blocks_per_stage, f"{len(patch)}d")
    num_voxels = [math.prod(size) for size in layout.stage_sizes(patch)]
    maps = [width * voxels for width, voxels in zip(layout.features, num_voxels, strict=True)]
    between = input_channels * num_voxels[0] + sum(_elements_between_blocks(layout, maps, num_voxels))
    num_blocks = [*layout.num_blocks, *layout.num_blocks[:NUM_LEVELS]]
    outputs = list(zip(num_blocks, [*maps, *maps[:NUM_LEVELS]], strict=True))
    if not activation_checkpointing:
        return between + sum(_MAPS_PER_BLOCK * count * size for count, size in outputs)
    # Upsampling needs no values of its input, so nothing keeps the bottleneck's output; with a stride of one
    # there is no upsampling and the 1x1 convolution keeps it.
    bottleneck = maps[-1] if _has_stride(layout, NUM_LEVELS) else 0
    return between + sum(count * size for count, size in outputs) - bottleneck + _MAPS_PER_BLOCK * max(maps)


def conv_outputs(
    layout: Layout,
    patch: Sequence[int],
    *,
    num_classes: int,
    input_channels: int = 1,
    deep_supervision: bool = False,
) -> Iterator[ConvOutput]:
    """Yield the output of every convolution that runs for one patch.

    Raises:
        ModelError: the patch does not fit the strides.
    """
    num_voxels = [math.prod(size) for size in layout.stage_sizes(patch)]
    width_in = input_channels
    for stage, width in enumerate(layout.features):
        yield from _stage_outputs(layout, stage, width_in, num_voxels[stage])
        width_in = width
    for level in range(NUM_LEVELS):
        stage = NUM_LEVELS - 1 - level
        width = layout.features[stage]
        yield ConvOutput(width, num_voxels[stage], layout.features[stage + 1])
        yield from _stage_outputs(layout, stage, 2 * width, num_voxels[stage])
        if deep_supervision or stage == 0:
            yield ConvOutput(num_classes, num_voxels[stage], width)


def _stage_outputs(layout: Layout, stage: int, width_in: int, num_voxels: int) -> Iterator[ConvOutput]:
    width, kernel = layout.features[stage], 3**layout.num_axes
    yield ConvOutput(width, num_voxels, width_in * kernel)
    yield ConvOutput(width, num_voxels, width * kernel)
    yield ConvOutput(width, num_voxels, width_in)
    for _ in range(2 * (layout.num_blocks[stage] - 1)):
        yield ConvOutput(width, num_voxels, width * kernel)


def _elements_between_blocks(layout: Layout, maps: Sequence[int], num_voxels: Sequence[int]) -> Iterator[int]:
    """Yield what every decoder level keeps outside its blocks: the upsampled map, and the concatenation."""
    for stage in range(NUM_LEVELS):
        upsampled = layout.features[stage + 1] * num_voxels[stage] if _has_stride(layout, stage + 1) else 0
        yield upsampled + 2 * maps[stage]


def _has_stride(layout: Layout, stage: int) -> bool:
    return any(step != 1 for step in layout.strides[stage])

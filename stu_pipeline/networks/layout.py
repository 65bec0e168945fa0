"""The checked shape of one STU-Net: stages, strides, and every tensor of its state dict. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import index
from typing import SupportsIndex

from stu_pipeline.errors import ModelError
from stu_pipeline.networks.scales import NUM_STAGES

NUM_LEVELS = NUM_STAGES - 1
"""Decoder levels, and so heads; level 0 is the coarsest, as in the published weights."""

_CONV_OPS = {"2d": 2, "3d": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Strides, features and blocks of the six stages, full resolution first; `build_layout` makes checked ones."""

    strides: tuple[tuple[int, ...], ...]
    features: tuple[int, ...]
    num_blocks: tuple[int, ...]

    @property
    def num_axes(self) -> int:
        """Count the spatial axes: 2 or 3."""
        return len(self.strides[0])

    @property
    def divisor(self) -> tuple[int, ...]:
        """Multiply the strides per axis; a patch must be a multiple of it. Axes as in the strides: (z, y, x)."""
        return tuple(math.prod(axis) for axis in zip(*self.strides, strict=True))

    def stage_sizes(self, patch: Sequence[int]) -> list[tuple[int, ...]]:
        """List the spatial size of the six stages for a patch in voxels, full resolution first.

        Raises:
            ModelError: the patch has the wrong number of axes, is no multiple of the strides, or leaves a
                single voxel in a stage (instance normalisation needs two).
        """
        self.require_patch(patch)
        sizes = []
        size = tuple(int(voxels) for voxels in patch)
        for stride in self.strides:
            size = tuple(voxels // step for voxels, step in zip(size, stride, strict=True))
            sizes.append(size)
        return sizes

    def require_patch(self, patch: Sequence[int]) -> None:
        """Refuse a patch (voxels, axes as in the strides) that this network cannot take.

        Raises:
            ModelError: as for `stage_sizes`.
        """
        divisor = self.divisor
        if len(patch) != len(divisor):
            raise ModelError(
                f"patch '{_by(patch)}' has {len(patch)} axes, expected {len(divisor)}",
                hint="use the configuration that the plan was made for",
            )
        if any(voxels < 1 or voxels % step for voxels, step in zip(patch, divisor, strict=True)):
            raise ModelError(
                f"patch '{_by(patch)}' is not a multiple of '{_by(divisor)}', the product of the strides",
                hint="change patch_size or strides in the plan",
            )
        if all(voxels == step for voxels, step in zip(patch, divisor, strict=True)):
            raise ModelError(
                f"patch '{_by(patch)}' leaves a single voxel in the deepest stage, expected at least 2",
                hint="use a larger patch or smaller strides in the plan",
            )


def build_layout(
    strides: Sequence[Sequence[int]],
    features_per_stage: Sequence[int],
    n_blocks_per_stage: Sequence[int] | int,
    conv_op: str = "3d",
) -> Layout:
    """Check the plain-JSON architecture arguments of a plan and freeze them.

    Args:
        strides: six entries with one step per axis, (z, y, x) or (y, x); the first is all ones.
        features_per_stage: six positive numbers, full resolution first.
        n_blocks_per_stage: six positive numbers, or one for all stages.
        conv_op: '3d' or '2d'.

    Raises:
        ModelError: an argument is malformed; all problems are listed at once.
    """
    blocks = [n_blocks_per_stage] * NUM_STAGES if isinstance(n_blocks_per_stage, int) else list(n_blocks_per_stage)
    problems = [
        *_stride_problems(strides, conv_op),
        *_count_problems("features_per_stage", features_per_stage),
        *_count_problems("n_blocks_per_stage", blocks),
    ]
    if problems:
        raise ModelError(
            problems[0], hint="correct arch_kwargs in the plan, or plan again", details=tuple(problems[1:])
        )
    return Layout(
        strides=tuple(tuple(int(step) for step in stride) for stride in strides),
        features=tuple(int(count) for count in features_per_stage),
        num_blocks=tuple(int(count) for count in blocks),
    )


def parameter_shapes(layout: Layout, input_channels: int, num_classes: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield `(key, shape)` of the state dict in its order, without building the network."""
    wide, narrow = (3,) * layout.num_axes, (1,) * layout.num_axes
    width_in = input_channels
    for stage, width in enumerate(layout.features):
        yield from _stage_shapes(f"conv_blocks_context.{stage}", width_in, width, layout.num_blocks[stage], wide)
        width_in = width
    for level in range(NUM_LEVELS):
        deeper, width = layout.features[-1 - level], layout.features[-2 - level]
        yield from _conv_shapes(f"upsample_layers.{level}.conv", deeper, width, narrow)
    for level in range(NUM_LEVELS):
        width, num_blocks = layout.features[-2 - level], layout.num_blocks[-2 - level]
        yield from _stage_shapes(f"conv_blocks_localization.{level}", 2 * width, width, num_blocks, wide)
    for level in range(NUM_LEVELS):
        yield from _conv_shapes(f"decoder.seg_layers.{level}", layout.features[-2 - level], num_classes, narrow)


def _stage_shapes(
    prefix: str, width_in: int, width: int, num_blocks: int, kernel: tuple[int, ...]
) -> Iterator[tuple[str, tuple[int, ...]]]:
    for block in range(num_blocks):
        name = f"{prefix}.{block}"
        first = width_in if block == 0 else width
        yield from _conv_shapes(f"{name}.conv1", first, width, kernel)
        yield from _norm_shapes(f"{name}.norm1", width)
        yield from _conv_shapes(f"{name}.conv2", width, width, kernel)
        yield from _norm_shapes(f"{name}.norm2", width)
        if block == 0:
            yield from _conv_shapes(f"{name}.conv3", first, width, (1,) * len(kernel))


def _conv_shapes(
    name: str, width_in: int, width: int, kernel: tuple[int, ...]
) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (width, width_in, *kernel)
    yield f"{name}.bias", (width,)


def _norm_shapes(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _stride_problems(strides: Sequence[Sequence[int]], conv_op: str) -> list[str]:
    num_axes = _CONV_OPS.get(conv_op) if isinstance(conv_op, str) else None
    if num_axes is None:
        return [f"conv_op '{conv_op}' is unknown, expected one of: {', '.join(_CONV_OPS)}"]
    if not _is_list(strides) or not all(_is_list(stride) for stride in strides):
        return [f"strides '{strides}' are not a list of lists"]
    problems = []
    if len(strides) != NUM_STAGES:
        problems.append(f"strides have {len(strides)} entries, expected {NUM_STAGES} with the leading ones")
    for stage, stride in enumerate(strides):
        if len(stride) != num_axes or not all(_is_positive(step) for step in stride):
            problems.append(f"stride '{list(stride)}' of stage {stage} is not {num_axes} positive whole numbers")
    if not problems and any(step != 1 for step in strides[0]):
        problems.append(f"first stride '{list(strides[0])}' is not all ones")
    return problems


def _count_problems(name: str, counts: Sequence[int]) -> list[str]:
    if not _is_list(counts) or len(counts) != NUM_STAGES or not all(_is_positive(count) for count in counts):
        return [f"{name} '{counts}' is not {NUM_STAGES} positive whole numbers"]
    return []


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _is_positive(value: object) -> bool:
    return isinstance(value, SupportsIndex) and not isinstance(value, bool) and index(value) > 0


def _by(sizes: Sequence[int]) -> str:
    return "x".join(str(int(size)) for size in sizes)

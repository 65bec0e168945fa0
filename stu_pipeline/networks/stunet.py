"""STU-Net as published (arXiv 2304.06716), in the form that nnU-Net builds from a plan."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from stu_pipeline.errors import ModelError
from stu_pipeline.networks.blocks import NEGATIVE_SLOPE, ResidualStage, SegmentationHeads, UpsampleLayer
from stu_pipeline.networks.cost import conv_outputs
from stu_pipeline.networks.layout import NUM_LEVELS, build_layout


class STUNet(nn.Module):
    """Six residual encoder stages and five decoder levels of fixed kernels, so that weights fit any strides.

    The constructor's parameter names and the names of the submodules are a file format: plans hold the former,
    checkpoints the latter. Keys equal the published ones except for the heads (see `weights.py`).

    Args:
        input_channels: image channels.
        num_classes: outputs per voxel, background included.
        strides: six entries, (z, y, x) or (y, x) each; the first is all ones.
        features_per_stage: six feature counts, full resolution first.
        n_blocks_per_stage: six block counts, or one for all stages; a decoder level uses its encoder stage's count.
        conv_op: '3d' or '2d'.
        deep_supervision: whether `forward` returns all five levels; later changes go to `decoder.deep_supervision`.

    Raises:
        ModelError: an argument is malformed.
    """

    def __init__(  # noqa: PLR0917 - nnU-Net and the plan fix these names
        self,
        input_channels: int,
        num_classes: int,
        strides: Sequence[Sequence[int]],
        features_per_stage: Sequence[int],
        n_blocks_per_stage: Sequence[int] | int,
        conv_op: str = "3d",
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        if input_channels < 1 or num_classes < 1:
            raise ModelError(
                f"network has {input_channels} input channels and {num_classes} outputs, expected at least 1 of each",
                hint="check channel_names and labels in dataset.json",
            )
        layout = build_layout(strides, features_per_stage, n_blocks_per_stage, conv_op)
        self.layout = layout
        self.num_classes = num_classes
        widths = layout.features
        ones = (1,) * layout.num_axes
        self.conv_blocks_context = nn.ModuleList(
            ResidualStage(width_in, width, stride, num_blocks)
            for width_in, width, stride, num_blocks in zip(
                (input_channels, *widths[:-1]), widths, layout.strides, layout.num_blocks, strict=True
            )
        )
        levels = [(widths[stage + 1], widths[stage], stage) for stage in reversed(range(NUM_LEVELS))]
        self.upsample_layers = nn.ModuleList(
            UpsampleLayer(deeper, width, layout.strides[stage + 1]) for deeper, width, stage in levels
        )
        self.conv_blocks_localization = nn.ModuleList(
            ResidualStage(2 * width, width, ones, layout.num_blocks[stage]) for _, width, stage in levels
        )
        self.decoder = SegmentationHeads(
            [width for _, width, _ in levels], num_classes, layout.num_axes, deep_supervision=deep_supervision
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor | list[torch.Tensor]:
        """Return logits for `x` of `(batch, channel, *spatial)`.

        Without deep supervision one tensor of the input's spatial size; with it a list of five, highest resolution
        first.

        Raises:
            ModelError: the spatial size does not fit the strides.
        """
        self.layout.require_patch(x.shape[2:])
        skips: list[torch.Tensor] = []
        for stage in self.conv_blocks_context:
            x = stage(x)
            skips.append(x)
        skips.pop()
        outputs: list[torch.Tensor] = []
        for level, (upsample, stage) in enumerate(
            zip(self.upsample_layers, self.conv_blocks_localization, strict=True)
        ):
            x = stage(torch.cat((upsample(x), skips.pop()), dim=1))
            if self.decoder.wants(level):
                outputs.append(self.decoder(x, level))
        return outputs[::-1] if self.decoder.deep_supervision else outputs[0]

    def set_activation_checkpointing(self, is_on: bool) -> None:
        """Choose whether training keeps only the inputs of residual blocks and recomputes what is inside them.

        A choice of the run and no part of the network: the results are the same, so neither the constructor's
        arguments nor the state dict know it. Evaluation and `torch.no_grad` are not affected.
        """
        for stage in (*self.conv_blocks_context, *self.conv_blocks_localization):
            stage.is_checkpointing = is_on

    def compute_conv_feature_map_size(self, input_size: Sequence[int]) -> int:
        """Count the output elements of all convolutions for one sample of a spatial size, without running anything.

        nnU-Net's convention: coarse heads count only while deep supervision is on.

        Raises:
            ModelError: the size does not fit the strides.
        """
        outputs = conv_outputs(
            self.layout, input_size, num_classes=self.num_classes, deep_supervision=self.decoder.deep_supervision
        )
        return sum(output.num_elements for output in outputs)

    @staticmethod
    def initialize(module: nn.Module) -> None:
        """Give one convolution He weights and a zero bias; for `network.apply(network.initialize)`."""
        if isinstance(module, nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, a=NEGATIVE_SLOPE)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

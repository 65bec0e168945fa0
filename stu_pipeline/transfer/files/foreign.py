"""Which other network weights are of, told by the names of their tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable

from stu_pipeline.errors import ModelError
from stu_pipeline.networks.weights import from_published

_KNOWN = (
    (r"encoder\.stages\.\d+\.blocks\.", "nnU-Net's ResidualEncoderUNet"),
    (r"encoder\.stages\.\d+\.\d+\.convs\.", "nnU-Net's PlainConvUNet"),
    (r"decoder\.stages\.", "one of nnU-Net v2's networks"),
    (r"conv_blocks_context\.\d+\.(?:blocks|\d+\.blocks)\.", "nnU-Net v1's Generic_UNet"),
    (r"tu\.\d+\.", "nnU-Net v1's Generic_UNet"),
    (r"swinViT\.", "SwinUNETR"),
    (r"vit\.", "UNETR"),
)
_WRAPPER = re.compile(r"^(?:module\.|_orig_mod\.)+")


def find_foreign_network(names: Iterable[str]) -> str:
    """Say which other network has tensors of these names; empty for an STU-Net."""
    bare = [_WRAPPER.sub("", name) for name in names]
    for pattern, network in _KNOWN:
        found = next((name for name in bare if re.match(pattern, name)), None)
        if found is not None:
            return f"'{found[:100]}' looks like {network}"
    try:
        from_published(dict.fromkeys(bare))
    except ModelError as error:
        return error.problem[:200]
    return ""

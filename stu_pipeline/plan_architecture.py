"""The parts of a plan that name code or other configurations, checked against closed lists."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stu_pipeline.errors import ModelError
from stu_pipeline.networks.scales import NUM_STAGES

NETWORK_CLASS = "stu_pipeline.networks.stunet.STUNet"
NETWORK_CLASSES = (
    NETWORK_CLASS,
    "dynamic_network_architectures.architectures.unet.PlainConvUNet",
    "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
    "dynamic_network_architectures.architectures.unet.ResidualUNet",
)
"""Closed list: a plan is data, and a class name in it is imported and called."""

_IMPORTABLE = re.compile(r"torch\.nn\.(modules\.[a-z]+\.)?[A-Z][A-Za-z0-9]*\Z")
# Written before nnU-Net 2.5; nnU-Net still reads it and builds one of its own networks.
_OLD_CLASS_KEY = "UNet_class_name"


def resolve_configuration(configurations: Mapping[str, Any], name: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    """Fill in what a configuration inherits; its own keys win.

    Raises:
        ValueError: configurations inherit in a circle.
        KeyError: there is no such configuration.
    """
    if name in seen:
        raise ValueError(f"configurations inherit in a circle: {' -> '.join((*seen, name))}")
    own = dict(configurations[name])
    if "inherits_from" not in own:
        return own
    parent = resolve_configuration(configurations, own.pop("inherits_from"), (*seen, name))
    return {**parent, **own}


def parse_architecture(
    name: str, resolved: Mapping[str, Any], path: Path | None
) -> tuple[str, tuple[tuple[int, ...], ...]]:
    """Return the network class and the strides of a resolved configuration.

    Raises:
        ModelError: the class, or something it would import, is not on the closed lists, or an STU-Net has
            the wrong number of strides.
    """
    if "architecture" not in resolved:
        strides = resolved["pool_op_kernel_sizes"]
        network_class = f"dynamic_network_architectures.architectures.unet.{resolved[_OLD_CLASS_KEY]}"
    else:
        architecture = resolved["architecture"]
        network_class = architecture["network_class_name"]
        strides = architecture["arch_kwargs"]["strides"]
        _check_imports(name, architecture, path)
    if network_class not in NETWORK_CLASSES:
        raise ModelError(
            f"configuration '{name}' names the unknown network class '{network_class}'",
            where=path,
            hint=f"known classes: {', '.join(NETWORK_CLASSES)}",
        )
    parsed = tuple(tuple(int(step) for step in ([stride] if isinstance(stride, int) else stride)) for stride in strides)
    if network_class == NETWORK_CLASS and len(parsed) != NUM_STAGES:
        raise ModelError(
            f"configuration '{name}' has {len(parsed)} strides, STU-Net needs {NUM_STAGES} with the leading ones",
            where=path,
            hint="pad them with ones, or make the plan again: stu plan DATASET --force",
        )
    return network_class, parsed


def _check_imports(name: str, architecture: Mapping[str, Any], path: Path | None) -> None:
    for key in architecture.get("_kw_requires_import", ()):
        value = architecture["arch_kwargs"].get(key)
        if value is not None and not (isinstance(value, str) and _IMPORTABLE.match(value)):
            raise ModelError(
                f"configuration '{name}' wants to import '{value}' for '{key}', only parts of torch.nn are allowed",
                where=path,
                hint="do not use this plan unless you know where it comes from",
            )

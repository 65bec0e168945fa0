"""A trained model as nnU-Net's plan describes it: geometry, labels, and the network built from the plan.

The network is never looked up by the trainer's name, and only names on closed lists are imported.
"""

from __future__ import annotations

import copy
import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from stu_pipeline.datasets.dataset_json import DatasetJson
from stu_pipeline.errors import ModelError
from stu_pipeline.nnunet.allowed_names import (
    find_layer_class,
    find_network_class,
    raise_plan_problems,
    require_known_names,
)
from stu_pipeline.nnunet.model_dataset import parse_model_dataset

_PLAN_KEYS = ("configurations", "image_reader_writer", "transpose_forward", "transpose_backward")
_CONFIGURATION_KEYS = ("patch_size", "spacing", "normalization_schemes", "use_mask_for_norm")
_WRAPPER = re.compile(r"^(?:module\.|_orig_mod\.)+")
_MAX_LISTED = 5
# What nnU-Net's classes raise on arguments that make no sense.
_BUILD_ERRORS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class EngineModel:
    """One configuration of a plan with the labels of its dataset. Axes are the plan's: transposed `(z, y, x)`."""

    plans: Any
    """nnU-Net's `PlansManager`, around a copy of the plan."""
    configuration: Any
    """nnU-Net's `ConfigurationManager`."""
    labels: Any
    """nnU-Net's `LabelManager`."""
    dataset: DatasetJson
    dataset_json: dict[str, Any]
    configuration_name: str
    where: Path
    """The plan file, for messages."""

    @property
    def patch_voxels(self) -> tuple[int, ...]:
        """Tile size, two entries for a 2D configuration."""
        return tuple(int(size) for size in self.configuration.patch_size)

    @property
    def num_image_channels(self) -> int:
        """Channels a case must have."""
        return self.dataset.num_channels

    @property
    def num_network_channels(self) -> int:
        """Channels the network sees: a cascade adds one per foreground label of the previous stage."""
        added = len(self.labels.foreground_labels) if self.previous_stage else 0
        return self.num_image_channels + added

    @property
    def num_outputs(self) -> int:
        """Labels with background, or regions."""
        return int(self.labels.num_segmentation_heads)

    @property
    def deepest_map_voxels(self) -> int | None:
        """Voxels of the smallest feature map of a tile; None where the plan does not say its strides."""
        architecture = self.configuration.configuration.get("architecture") or {}
        strides = (architecture.get("arch_kwargs") or {}).get("strides")
        if not strides:
            return None
        steps = [[step] * len(self.patch_voxels) if isinstance(step, int) else step for step in strides]
        return math.prod(
            max(1, size // math.prod(int(step[axis]) for step in steps)) for axis, size in enumerate(self.patch_voxels)
        )

    @property
    def region_values(self) -> tuple[int, ...] | None:
        """The value each region is painted with, in painting order; None for plain labels."""
        return tuple(int(value) for value in self.labels.regions_class_order) if self.labels.has_regions else None

    @property
    def reader_name(self) -> str:
        """nnU-Net's reader-writer class for images and masks."""
        return str(self.plans.plans["image_reader_writer"])

    @property
    def previous_stage(self) -> str | None:
        """The configuration a cascade starts from."""
        return self.configuration.previous_stage_name or None


def open_engine_model(
    plan: Mapping[str, Any], dataset_json: Mapping[str, Any], configuration: str, *, where: Path
) -> EngineModel:
    """Check a plan with its `dataset.json` and open one configuration. Neither input is changed.

    Args:
        plan: content of `plans.json`; older forms of nnU-Net 2 are understood.
        dataset_json: content of the `dataset.json` beside it.
        configuration: for example `3d_fullres`.
        where: the plan file.

    Raises:
        ModelError: keys are missing, or a name is not on the closed lists.
    """
    content: dict[str, Any] = copy.deepcopy(dict(plan))
    content.setdefault("label_manager", "LabelManager")  # nnU-Net would print about it
    _require_keys(content, _PLAN_KEYS, where)
    dataset = parse_model_dataset(dataset_json, where)
    try:
        plans = PlansManager(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # older plans
            manager = plans.get_configuration(configuration)
        labels = LabelManager(
            dict(dataset.engine_description["labels"]), dataset.engine_description.get("regions_class_order")
        )
    except _BUILD_ERRORS as error:
        raise ModelError(f"plan has no usable configuration '{configuration}': {error}", where=where) from error
    _require_keys(manager.configuration, _CONFIGURATION_KEYS, where)
    require_known_names(content, manager.configuration, where)
    _require_sane_numbers(content, manager.configuration, where)
    return EngineModel(
        plans=plans,
        configuration=manager,
        labels=labels,
        dataset=dataset,
        dataset_json=copy.deepcopy(dataset.engine_description),
        configuration_name=configuration,
        where=where,
    )


def build_network(
    model: EngineModel, weights: Mapping[str, torch.Tensor], device: torch.device, *, where: Path | None = None
) -> nn.Module:
    """Build the network of a plan on a device with given weights, ready for inference.

    It is made without memory first and compared with the weights, so nothing is initialised for nothing. On the
    CPU it shares the memory of the weights.

    Args:
        model: whose plan names the network.
        weights: of one fold.
        device: where it will run.
        where: the checkpoint, for messages.

    Raises:
        ModelError: an unknown network, arguments that do not fit it, or weights that do not fit the network.
    """
    with torch.device("meta"):
        network = build_empty_network(model)
    require_fitting_weights(network, weights, where or model.where)
    if device.type == "cpu":
        load_weights(network, weights, assign=True)
    else:
        network.to_empty(device=device)
        load_weights(network, weights)
    return network.eval().requires_grad_(False)


def build_empty_network(model: EngineModel, *, deep_supervision: bool = False) -> nn.Module:
    """Build the network of a plan on the current default device, without nnU-Net's initialisation.

    Raises:
        ModelError: an unknown network, or arguments that do not fit it.
    """
    architecture = model.configuration.configuration.get("architecture")
    if not isinstance(architecture, dict) or not isinstance(architecture.get("arch_kwargs"), dict):
        raise ModelError("plan has no 'architecture' with 'arch_kwargs'", where=model.where)
    network_class = find_network_class(architecture.get("network_class_name"), model.where)
    arguments = copy.deepcopy(architecture["arch_kwargs"])
    for name in architecture.get("_kw_requires_import") or ():
        if name in arguments:
            arguments[name] = find_layer_class(arguments[name], model.where)
    arguments["deep_supervision"] = deep_supervision
    try:
        network: nn.Module = network_class(
            input_channels=model.num_network_channels, num_classes=model.num_outputs, **arguments
        )
    except _BUILD_ERRORS as error:
        raise ModelError(
            f"plan's arguments do not fit the network '{network_class.__name__}': {error}", where=model.where
        ) from error
    return network


def require_fitting_weights(network: nn.Module, weights: Mapping[str, torch.Tensor], where: Path) -> None:
    """Compare weights with a network, key by key and shape by shape.

    Raises:
        ModelError: tensors are missing, unexpected or of another shape.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {_WRAPPER.sub("", name): tuple(tensor.shape) for name, tensor in weights.items()}
    problems = [f"'{name}' is missing" for name in expected if name not in found]
    problems += [f"'{name}' is unexpected" for name in found if name not in expected]
    problems += [
        f"'{name}' has shape {list(found[name])}, expected {list(shape)}"
        for name, shape in expected.items()
        if found.get(name, shape) != shape
    ]
    if problems:
        raise ModelError(
            f"weights do not fit the network of the plan, {len(problems)} tensors differ",
            where=where,
            hint="plans.json and the checkpoint must come from the same training",
            details=tuple(problems[:_MAX_LISTED]),
        )


def load_weights(network: nn.Module, weights: Mapping[str, torch.Tensor], *, assign: bool = False) -> None:
    """Copy weights into a network, or let it use them in place; prefixes of DDP and torch.compile are dropped."""
    plain = {_WRAPPER.sub("", name): tensor for name, tensor in weights.items()}
    if assign:  # what is copied takes the type of the network, what is assigned brings its own
        plain = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in plain.items()}
    network.load_state_dict(plain, assign=assign)


def _require_keys(content: Mapping[str, Any], keys: tuple[str, ...], where: Path) -> None:
    raise_plan_problems([f"key '{key}' is missing" for key in keys if key not in content], where)


def _require_sane_numbers(plan: dict[str, Any], configuration: dict[str, Any], where: Path) -> None:
    problems = []
    patch, spacing = configuration["patch_size"], configuration["spacing"]
    if not _are_numbers(patch, whole=True) or len(patch) not in (2, 3):
        problems.append(f"patch_size '{patch}' is not two or three positive whole numbers")
    if not _are_numbers(spacing, whole=False) or len(spacing) != len(patch):
        problems.append(f"spacing '{spacing}' is not one positive number per axis of the patch")
    forward, backward = plan["transpose_forward"], plan["transpose_backward"]
    try:
        is_order = sorted(forward) == [0, 1, 2] and [forward[axis] for axis in backward] == [0, 1, 2]
    except (TypeError, IndexError):
        is_order = False
    if not is_order:
        problems.append(f"transpose_forward '{forward}' and transpose_backward '{backward}' do not undo each other")
    raise_plan_problems(problems, where)


def _are_numbers(values: object, *, whole: bool) -> bool:
    if not isinstance(values, (list, tuple)):
        return False
    kinds = (int,) if whole else (int, float)
    return all(isinstance(value, kinds) and not isinstance(value, bool) and value > 0 for value in values)

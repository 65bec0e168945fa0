"""Write the weights of one network for others: `.safetensors` with a JSON, or nnU-Net v1's `.model` with a side-car.

Writes: `<name>.safetensors` and `<name>.json`, or `<name>.model` and `<name>.model.pkl`; every file is read back.
"""

from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from stu_pipeline.errors import ModelError, StorageError
from stu_pipeline.networks.layout import build_layout, parameter_shapes
from stu_pipeline.networks.scales import SCALES
from stu_pipeline.networks.weights import to_published
from stu_pipeline.nnunet.checkpoint import read_checkpoint
from stu_pipeline.storage import write_atomically, write_bytes, write_json
from stu_pipeline.transfer.files.description import build_description, find_description_path
from stu_pipeline.transfer.packages.declaration import find_median_voxels
from stu_pipeline.transfer.weight_file import WeightFacts, WeightFile

MODEL_KEY = "model"
"""In the JSON: the model folder that the weights are of, so that it can be made again."""
_SYSTEM_ERROR = re.compile(r"os error (\d+)")
_PICKLE_PROTOCOL = 2
# nnU-Net v2's names of normalisations in v1.
_SCHEMES = {"ZScoreNormalization": "nonCT", "NoNormalization": "noNorm"}
_NUM_AXES = 3


def write_safetensors(path: Path, weights: WeightFile, *, model: dict[str, Any] | None) -> tuple[Path, Path]:
    """Write the tensors and the JSON that binds them to their hash; the JSON comes last.

    Args:
        path: the `.safetensors`.
        weights: what is written.
        model: of which model folder they are, JSON values; None for weights alone.

    Raises:
        StorageError: the disk is full or not writable, or does not hold what was written.
    """
    tensors = {name: tensor.contiguous() for name, tensor in weights.tensors.items()}

    def write(temporary: Path) -> None:
        try:
            save_file(tensors, temporary)
        except SafetensorError as error:
            number = _SYSTEM_ERROR.search(str(error))
            raise OSError(int(number[1]) if number else 5, str(error)) from error
        _require_written(temporary, tensors)

    write_atomically(path, write)
    description = build_description(path, weights)
    if model is not None:
        description[MODEL_KEY] = model
    described = find_description_path(path)
    write_json(described, description)
    return path, described


def write_published(path: Path, weights: WeightFile) -> tuple[Path, Path]:
    """Write weights as nnU-Net v1 did, without optimizer; every tensor stays as it is.

    Args:
        path: the `.model`; the side-car gets its name and `.pkl`.
        weights: of a 3D network of a known scale, z-scored or not normalised.

    Raises:
        ModelError: v1 has no form for what is known of these weights, or too little is known.
        StorageError: the disk is full or not writable, or does not hold what was written.
    """
    sidecar = build_sidecar(weights)
    state = OrderedDict(to_published(_order_tensors(weights)))
    content = {
        "epoch": weights.facts.num_epochs or 0,
        "state_dict": state,
        "optimizer_state_dict": None,
        "lr_scheduler_state_dict": None,
        "plot_stuff": ([], [], [], []),
        "best_stuff": (None, None, None),
    }

    def write(temporary: Path) -> None:
        with temporary.open("wb") as stream:
            torch.save(content, stream)
        # Every byte is compared with the checksum that was made of the tensors; they are not loaded again.
        read_checkpoint(temporary, required=("state_dict",), without=("state_dict",))

    write_atomically(path, write)
    companion = path.with_name(f"{path.name}.pkl")
    write_bytes(companion, pickle.dumps(sidecar, protocol=_PICKLE_PROTOCOL))
    return path, companion


def build_sidecar(weights: WeightFile) -> dict[str, Any]:
    """Return nnU-Net v1's settings of a training as plain values.

    Raises:
        ModelError: v1 has no form for them, or too little is known.
    """
    facts, network = weights.facts, weights.network
    _require_v1_form(weights)
    spec = SCALES[network.scale]
    channels = range(network.num_input_channels)
    schemes = [_SCHEMES[scheme] for scheme in facts.normalization_schemes or ()]
    forward = list(facts.transpose_forward or range(_NUM_AXES))
    pools = [list(stride) for stride in (facts.strides or ())[1:]]
    spacing, patch = [list(values or ()) for values in (facts.spacing_mm, facts.patch_voxels)]
    stage = {
        "batch_size": 2,
        "num_pool_per_axis": [sum(pool[axis] > 1 for pool in pools) for axis in range(_NUM_AXES)],
        "patch_size": patch,
        # nnU-Net v1 only prints it.
        "median_patient_size_in_voxels": [int(size) for size in find_median_voxels(facts) or patch],
        "current_spacing": spacing,
        "original_spacing": spacing,
        "do_dummy_2D_data_aug": False,
        "pool_op_kernel_sizes": pools,
        "conv_kernel_sizes": [[3] * _NUM_AXES] * (len(pools) + 1),
    }
    plans = {
        "num_stages": 1,
        "num_modalities": network.num_input_channels,
        "modalities": dict(zip(channels, schemes, strict=True)),
        "normalization_schemes": dict(zip(channels, schemes, strict=True)),
        "dataset_properties": {"intensityproperties": None},
        "num_classes": network.num_classes - 1,
        "all_classes": list(range(1, network.num_classes)),
        "base_num_features": spec.width,
        "conv_per_stage": 2,
        "use_mask_for_norm": dict(zip(channels, facts.use_mask_for_norm or [False] * len(channels), strict=True)),
        "keep_only_largest_region": None,
        "min_region_size_per_class": None,
        "min_size_per_class": None,
        "transpose_forward": forward,
        "transpose_backward": [forward.index(axis) for axis in range(_NUM_AXES)],
        "data_identifier": "nnUNetData_plans_v2.1",
        "preprocessor_name": "GenericPreprocessor",
        "plans_per_stage": {0: stage},
    }
    return {
        "init": ("", 0, "", "", False, 0, True, False, True),
        "name": f"STUNetTrainer_{spec.name}",
        "plans": plans,
    }


def _require_v1_form(weights: WeightFile) -> None:
    facts = weights.facts
    problem = ""
    if weights.num_axes != _NUM_AXES:
        problem = "the published STU-Net is 3D only"
    elif unknown := _list_unknown(facts):
        problem = f"unknown: {', '.join(unknown)}"
    elif facts.has_regions:
        problem = "its outputs are regions, the published form has labels only"
    elif unfit := [scheme for scheme in facts.normalization_schemes or () if scheme not in _SCHEMES]:
        problem = f"nnU-Net v1 has no '{unfit[0]}' without the intensities of the training"
    if problem:
        raise ModelError(
            f"'{weights.path.name}' cannot be written in the published form: {problem}",
            where=weights.path.parent,
            hint="--form safetensors",
        )


def _list_unknown(facts: WeightFacts) -> list[str]:
    values = {
        "strides": facts.strides,
        "voxel spacing": facts.spacing_mm,
        "patch size": facts.patch_voxels,
        "normalisation": facts.normalization_schemes,
    }
    return [name for name, value in values.items() if value is None]


def _order_tensors(weights: WeightFile) -> dict[str, torch.Tensor]:
    """Return the tensors in the order of the network; a `.safetensors` has them in another."""
    spec = SCALES[weights.network.scale]
    ones = [[1] * weights.num_axes] * len(spec.features_per_stage)
    layout = build_layout(ones, spec.features_per_stage, spec.n_blocks_per_stage, f"{weights.num_axes}d")
    keys = parameter_shapes(layout, weights.network.num_input_channels, weights.network.num_classes)
    return {key: weights.tensors[key] for key, _ in keys}


def _require_written(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Compare a file with what was to be written, one tensor at a time."""
    try:
        with safe_open(path, framework="pt", device="cpu") as content:
            is_same = set(content.keys()) == set(tensors) and all(
                _are_same_bits(content.get_tensor(name), tensor) for name, tensor in tensors.items()
            )
    except SafetensorError as error:
        raise StorageError(f"'{path.name}' could not be read back: {error}", where=path.parent) from error
    if not is_same:
        raise StorageError(f"'{path.name}' holds other bytes than were written", where=path.parent)


def _are_same_bits(first: torch.Tensor, second: torch.Tensor) -> bool:
    return first.dtype == second.dtype and torch.equal(first.view(torch.uint8), second.view(torch.uint8))

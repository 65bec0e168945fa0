"""Tiny model folders with random weights, made without training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.synthetic import write_dataset_json

STRIDES_3D = [[1, 1, 1], [2, 2, 2], [2, 2, 2], [1, 1, 1], [1, 1, 1], [1, 1, 1]]
STRIDES_2D = [[1, 1], [2, 2], [2, 2], [1, 1], [1, 1], [1, 1]]
_INTENSITIES = {"mean": 60.0, "std": 80.0, "median": 50.0, "min": -30.0, "max": 300.0} | {
    "percentile_00_5": -20.0, "percentile_99_5": 250.0,
}  # fmt: skip
_RESAMPLE = {"force_separate_z": None, "order_z": 0}


def write_model_folder(
    results: Path,
    *,
    network: str = "STUNet",
    configuration: str = "3d_fullres",
    plan_name: str = "stuSPlans",
    dataset: str = "Dataset901_Tiny",
    labels: dict[str, Any] | None = None,
    regions_class_order: Sequence[int] | None = None,
    num_channels: int = 1,
    patch: Sequence[int] = (16, 16, 16),
    spacing_mm: Sequence[float] = (2.0, 1.0, 1.0),
    transpose: Sequence[int] = (0, 1, 2),
    folds: Sequence[int | str] = (0,),
    checkpoint: str = "final",
    mirror_axes: Sequence[int] | None = (0, 1, 2),
    normalisation: str = "ZScoreNormalization",
    reader: str = "SimpleITKIO",
    file_ending: str = ".nii.gz",
    seed: int = 0,
    **configuration_changes: Any,
) -> Path:
    """Write `<results>/<dataset>/nnUNetTrainer__<plan>__<configuration>` and return it.

    `configuration_changes` go into the configuration as they are, for example `previous_stage`.
    """
    labels = labels or {"background": 0, "label1": 1, "label2": 2}
    folder = results / dataset / f"nnUNetTrainer__{plan_name}__{configuration}"
    order = {"regions_class_order": list(regions_class_order)} if regions_class_order is not None else {}
    write_dataset_json(
        folder,
        channel_names={str(index): f"channel{index}" for index in range(num_channels)},
        labels=labels,
        numTraining=4,
        file_ending=file_ending,
        **order,
    )
    kind, arguments, imports = _describe_network(network, len(patch))
    plan = {
        "dataset_name": dataset,
        "plans_name": plan_name,
        "image_reader_writer": reader,
        "transpose_forward": list(transpose),
        "transpose_backward": [list(transpose).index(axis) for axis in range(3)],
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(index): _INTENSITIES for index in range(num_channels)},
        "configurations": {
            configuration: {
                "data_identifier": f"{plan_name}_{configuration}",
                "preprocessor_name": "DefaultPreprocessor",
                "batch_size": 2,
                "patch_size": list(patch),
                "median_image_size_in_voxels": list(patch),
                "spacing": list(spacing_mm),
                "normalization_schemes": [normalisation] * num_channels,
                "use_mask_for_norm": [False] * num_channels,
                "resampling_fn_data": "resample_data_or_seg_to_shape",
                "resampling_fn_seg": "resample_data_or_seg_to_shape",
                "resampling_fn_data_kwargs": {"is_seg": False, "order": 3} | _RESAMPLE,
                "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1} | _RESAMPLE,
                "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
                "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1} | _RESAMPLE,
                "architecture": {
                    "network_class_name": kind,
                    "arch_kwargs": arguments,
                    "_kw_requires_import": imports,
                },
                "batch_dice": False,
            }
            | configuration_changes
        },
    }
    (folder / "plans.json").write_text(json.dumps(plan), encoding="utf-8")
    num_inputs = num_channels
    if "previous_stage" in configuration_changes:
        num_inputs += sum(name not in ("background", "ignore") for name in labels)
    num_outputs = len([name for name in labels if name != "ignore"]) - (1 if regions_class_order else 0)
    for index, fold in enumerate(folds):
        weights = _make_weights(kind, arguments, imports, num_inputs, num_outputs, seed=seed + index)
        write_checkpoint(
            folder / f"fold_{fold}" / f"checkpoint_{checkpoint}.pth", weights, configuration, mirror_axes=mirror_axes
        )
    return folder


def write_checkpoint(
    path: Path, weights: dict[str, torch.Tensor], configuration: str, *, mirror_axes: Sequence[int] | None = (0, 1, 2),
    **changes: Any,
) -> Path:  # fmt: skip
    """Write a checkpoint with nnU-Net's keys."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "network_weights": weights,
        "optimizer_state": {"state": {}, "param_groups": []},
        "grad_scaler_state": None,
        "logging": {"mean_fg_dice": [0.5]},
        "_best_ema": 0.5,
        "current_epoch": 3,
        "init_args": {"configuration": configuration, "fold": 0, "device": torch.device("cpu")},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": None if mirror_axes is None else tuple(mirror_axes),
    } | changes
    torch.save(content, path)
    return path


def _describe_network(network: str, num_axes: int) -> tuple[str, dict[str, Any], list[str]]:
    strides = STRIDES_3D if num_axes == 3 else STRIDES_2D
    if network == "STUNet":
        arguments: dict[str, Any] = {
            "strides": strides,
            "features_per_stage": [4, 4, 8, 8, 8, 8],
            "n_blocks_per_stage": [1] * 6,
            "conv_op": f"{num_axes}d",
        }
        return "stu_pipeline.networks.stunet.STUNet", arguments, []
    blocks = {"PlainConvUNet": "n_conv_per_stage"}.get(network, "n_blocks_per_stage")
    arguments = {
        "n_stages": 3,
        "features_per_stage": [4, 8, 8],
        "conv_op": f"torch.nn.modules.conv.Conv{num_axes}d",
        "kernel_sizes": [[3] * num_axes] * 3,
        "strides": strides[:3],
        blocks: [1, 1, 1],
        "n_conv_per_stage_decoder": [1, 1],
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{num_axes}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    home = "dynamic_network_architectures.architectures.unet"
    return f"{home}.{network}", arguments, ["conv_op", "norm_op", "dropout_op", "nonlin"]


def _make_weights(
    kind: str, arguments: dict[str, Any], imports: list[str], num_inputs: int, num_outputs: int, *, seed: int
) -> dict[str, torch.Tensor]:
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    network: nn.Module = get_network_from_plans(
        kind, arguments, imports, num_inputs, num_outputs, allow_init=True, deep_supervision=True
    )
    torch.random.set_rng_state(state)
    weights = network.state_dict()
    for name, tensor in weights.items():
        if ".seg_layers." in name and name.endswith("weight"):
            tensor.sub_(tensor.mean(dim=1, keepdim=True))  # else one label would win everywhere
    return weights

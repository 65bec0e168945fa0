"""Files of weights in the layouts of others, made: nnU-Net v1's `.model` with its side-car, and the fork's `.pth`."""

from __future__ import annotations

import dataclasses
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stu_pipeline.networks.layout import build_layout, parameter_shapes
from stu_pipeline.networks.scales import SCALES, Scale
from stu_pipeline.networks.weights import to_published

PUBLISHED_POOLS = [[2, 2, 2]] * 4 + [[1, 1, 2]]
TINY_WIDTH = 1
"""Features of the first stage of a file that is not of any scale; 130 tensors all the same, and half a megabyte."""


def shrink_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let scale S be of width 1 in a test, so that files of it are whole and small."""
    monkeypatch.setitem(SCALES, "S", dataclasses.replace(SCALES["S"], width=TINY_WIDTH))


def make_published_state(
    scale: Scale = "S",
    *,
    num_input_channels: int = 1,
    num_classes: int = 105,
    num_axes: int = 3,
    seed: int = 0,
    tiny: bool = False,
) -> OrderedDict[str, torch.Tensor]:
    """Make a state dict with the published keys: He weights, norms near one, small biases; float32."""
    spec = SCALES[scale]
    factor = TINY_WIDTH / spec.width if tiny else 1
    features = [int(width * factor) for width in spec.features_per_stage]
    layout = build_layout([[1] * num_axes] * 6, features, spec.n_blocks_per_stage, f"{num_axes}d")
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, torch.Tensor] = {}
    for key, shape in parameter_shapes(layout, num_input_channels, num_classes):
        noise = torch.randn(shape, generator=generator)
        if key.endswith(".weight") and len(shape) > 1:
            state[key] = noise * (2 / (noise[0].numel() * (1 + 0.01**2))) ** 0.5
        else:
            state[key] = 0.05 * noise + (1.0 if ".norm" in key and key.endswith(".weight") else 0.0)
    return OrderedDict(to_published(state))


def write_published_model(
    path: Path,
    *,
    scale: Scale = "S",
    num_input_channels: int = 1,
    num_classes: int = 105,
    seed: int = 0,
    tiny: bool = False,
    momentum: bool = True,
    sidecar: bool = True,
    prefix: str = "",
    numpy_home: str = "numpy.core",
    change_state: Callable[[dict[str, torch.Tensor]], Any] = lambda state: None,
    **changes: Any,
) -> OrderedDict[str, torch.Tensor]:
    """Write a file as nnU-Net v1 did, for example `small_ep4k.model`, and return its state dict (published keys).

    Args:
        path: the `.model` to write; the side-car is `<path>.pkl`.
        scale: scale of the network.
        num_input_channels: its input channels.
        num_classes: its outputs, background included.
        seed: of its weights.
        tiny: make it of a width that no scale has, for what never gets to the weights.
        momentum: put SGD's momentum in, as the released files do.
        sidecar: write the side-car too.
        prefix: put before every key, for example 'module.'.
        numpy_home: where NumPy's functions are said to be; the released files are of NumPy 1.
        change_state: changes the state dict in place, before it is written.
        changes: replace whole entries of the file.
    """
    state = make_published_state(
        scale, num_input_channels=num_input_channels, num_classes=num_classes, seed=seed, tiny=tiny
    )
    change_state(state)
    named = OrderedDict((prefix + key, tensor) for key, tensor in state.items())
    content: dict[str, Any] = {
        "epoch": 4000,
        "state_dict": named,
        "optimizer_state_dict": make_optimizer_state(state) if momentum else None,
        "lr_scheduler_state_dict": None,
        "plot_stuff": tuple([np.float32(0.5), np.float64(0.25)] for _ in range(4)),
        "best_stuff": (None, np.float64(-0.75), np.array([0.5, 0.75])),
        "amp_grad_scaler": {"scale": 65536.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000,
                            "_growth_tracker": 10},
    } | changes  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    if numpy_home != "numpy._core":
        rewrite_pickle(path, lambda data: data.replace(b"numpy._core.multiarray", f"{numpy_home}.multiarray".encode()))
    if sidecar:
        write_published_sidecar(
            path.with_name(f"{path.name}.pkl"),
            scale=scale,
            num_input_channels=num_input_channels,
            num_classes=num_classes,
        )
    return state


def make_optimizer_state(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Make the state of SGD with momentum for these weights."""
    group = {"lr": 1e-5, "momentum": 0.99, "dampening": 0, "weight_decay": 3e-5, "nesterov": True}
    return {
        "state": {index: {"momentum_buffer": tensor * 0.01} for index, tensor in enumerate(state.values())},
        "param_groups": [{**group, "params": list(range(len(state)))}],
    }


def make_published_plans(
    *, num_input_channels: int = 1, num_classes: int = 105, pools: Sequence[Sequence[int]] = PUBLISHED_POOLS
) -> dict[str, Any]:
    """Make the plans of a side-car as nnU-Net v1 wrote them; those of the released ones by default."""
    stage = {
        "batch_size": 2,
        "num_pool_per_axis": [4, 4, 5],
        "patch_size": np.array([128, 128, 128]),
        "median_patient_size_in_voxels": np.array([228, 228, 240]),
        "current_spacing": np.array([1.5, 1.5, 1.5]),
        "original_spacing": np.array([1.5, 1.5, 1.5]),
        "do_dummy_2D_data_aug": np.bool_(False),
        "pool_op_kernel_sizes": [list(pool) for pool in pools],
        "conv_kernel_sizes": [[3, 3, 3]] * 6,
    }
    channels = range(num_input_channels)
    return {
        "num_stages": 1,
        "num_modalities": num_input_channels,
        "modalities": dict.fromkeys(channels, "nonCT"),
        "normalization_schemes": OrderedDict((channel, "nonCT") for channel in channels),
        "dataset_properties": {"intensityproperties": None},
        "num_classes": num_classes - 1,
        "all_classes": list(range(1, num_classes)),
        # What the released files say for every scale, true or not.
        "base_num_features": 32,
        "conv_per_stage": 2,
        "use_mask_for_norm": OrderedDict((channel, False) for channel in channels),
        "keep_only_largest_region": None,
        "min_region_size_per_class": None,
        "min_size_per_class": None,
        "transpose_forward": [np.int64(0), 1, 2],
        "transpose_backward": [np.int64(axis) for axis in range(3)],
        "data_identifier": "nnUNetData_plans_v2.1",
        "preprocessor_name": "GenericPreprocessor",
        "plans_per_stage": {0: stage},
    }


def write_published_sidecar(
    path: Path, *, scale: Scale | None = "S", num_input_channels: int = 1, num_classes: int = 105, **changes: Any
) -> Path:
    """Write the side-car of a released file; `changes` replace entries of its plans."""
    plans = make_published_plans(num_input_channels=num_input_channels, num_classes=num_classes) | changes
    name = "STUNetTrainer" if scale is None else f"STUNetTrainer_{SCALES[scale].name}"
    content = OrderedDict(init=("", 0, "", "", False, 0, True, False, True), name=name, plans=plans)
    data = pickle.dumps(content, protocol=2)
    path.write_bytes(data.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    return path


def make_fork_arguments(
    *,
    labels: dict[str, Any] | None = None,
    num_input_channels: int = 1,
    pools: Sequence[Sequence[int]] = ([1, 1, 1], *PUBLISHED_POOLS),
) -> dict[str, Any]:
    """Make the `init_args` of a checkpoint of the fork, whose plan is in the form of nnU-Net 2.2."""
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": np.array([96, 160, 160]),
        "median_image_size_in_voxels": np.array([128.0, 250.0, 250.0]),
        "spacing": np.array([2.0, 1.5, 1.5]),
        "normalization_schemes": ["CTNormalization"] * num_input_channels,
        "use_mask_for_norm": [False] * num_input_channels,
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 32,
        "n_conv_per_stage_encoder": (2,) * len(pools),
        "n_conv_per_stage_decoder": (2,) * (len(pools) - 1),
        "num_pool_per_axis": [4, 5, 5],
        "pool_op_kernel_sizes": [list(pool) for pool in pools],
        "conv_kernel_sizes": [[3, 3, 3]] * len(pools),
        "unet_max_num_features": 320,
    }
    plans = {
        "dataset_name": "Dataset701_Liver",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "label_manager": "LabelManager",
        "configurations": {"3d_fullres": configuration},
    }
    dataset_json = {
        "channel_names": {str(channel): f"CT{channel}" for channel in range(num_input_channels)},
        "labels": labels or {"background": 0, "liver": 1, "tumour": 2},
        "numTraining": 10,
        "file_ending": ".nii.gz",
    }
    return {
        "plans": plans,
        "configuration": "3d_fullres",
        "fold": 0,
        "dataset_json": dataset_json,
        "unpack_dataset": True,
        "device": torch.device("cuda"),
    }


def write_fork_checkpoint(
    path: Path,
    *,
    scale: Scale = "S",
    num_input_channels: int = 1,
    num_classes: int = 3,
    seed: int = 0,
    tiny: bool = False,
    init_args: dict[str, Any] | None = None,
    **changes: Any,
) -> OrderedDict[str, torch.Tensor]:
    """Write a `.pth` as the STU-Net fork of nnU-Net 2.2 did and return its state dict (published keys).

    NumPy's functions stay where the NumPy at hand has them.
    """
    state = make_published_state(
        scale, num_input_channels=num_input_channels, num_classes=num_classes, seed=seed, tiny=tiny
    )
    content = {
        "network_weights": state,
        "optimizer_state": make_optimizer_state(state),
        "grad_scaler_state": None,
        "logging": {"mean_fg_dice": [np.float64(0.5)], "dice_per_class_or_region": [[np.float32(0.5)]]},
        "_best_ema": np.float64(0.5),
        "current_epoch": 1000,
        "init_args": init_args or make_fork_arguments(num_input_channels=num_input_channels),
        "trainer_name": f"STUNetTrainer_{SCALES[scale].name}",
        "inference_allowed_mirroring_axes": (0, 1, 2),
    } | changes
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return state


def rewrite_pickle(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Change the pickle inside a file of `torch.save`, with right checksums."""
    with zipfile.ZipFile(path) as archive:
        content = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in content.items():
            archive.writestr(name, change(data) if name.endswith("/data.pkl") else data)

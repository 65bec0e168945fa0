"""The closed lists of names that a plan may use. A plan is data: no other name is ever imported."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stu_pipeline.errors import ModelError

_UNET = "dynamic_network_architectures.architectures.unet"
NETWORKS = {
    "stu_pipeline.networks.stunet.STUNet": ("stu_pipeline.networks.stunet", "STUNet"),
    f"{_UNET}.PlainConvUNet": (_UNET, "PlainConvUNet"),
    f"{_UNET}.ResidualEncoderUNet": (_UNET, "ResidualEncoderUNet"),
    f"{_UNET}.ResidualUNet": (_UNET, "ResidualUNet"),
    # Where older plans say it is.
    "dynamic_network_architectures.architectures.residual_unet.ResidualEncoderUNet": (_UNET, "ResidualEncoderUNet"),
}
RESAMPLING = ("resample_data_or_seg_to_shape", "resample_torch_fornnunet", "no_resampling_hack")
_RESAMPLING_OPTIONS = (
    "is_seg", "order", "order_z", "force_separate_z", "separate_z_anisotropy_threshold",
    "num_threads", "memefficient_seg_resampling", "mode",
)  # fmt: skip
NORMALISATION = (
    "CTNormalization", "ZScoreNormalization", "NoNormalization", "RescaleTo01Normalization", "RGBTo01Normalization",
)  # fmt: skip
PREPROCESSORS = ("DefaultPreprocessor",)
LABEL_MANAGERS = ("LabelManager",)
READERS = {
    "SimpleITKIO": (".nii.gz", ".nii", ".nrrd", ".mha"),
    "SimpleITKIOWithReorient": (".nii.gz", ".nii", ".nrrd", ".mha"),
    "NibabelIO": (".nii.gz", ".nii"),
    "NibabelIOWithReorient": (".nii.gz", ".nii"),
    "NaturalImage2DIO": (".png", ".bmp", ".tif"),
    "Tiff3DIO": (".tif", ".tiff"),
}
"""nnU-Net's reader-writers, and the endings each can read and write."""

_LAYERS = (
    "Conv2d", "Conv3d", "InstanceNorm2d", "InstanceNorm3d", "BatchNorm2d", "BatchNorm3d",
    "Dropout", "Dropout2d", "Dropout3d", "LeakyReLU", "ReLU", "PReLU", "ELU", "GELU", "SiLU", "Identity",
)  # fmt: skip
_BLOCK_HOME = "dynamic_network_architectures.building_blocks.residual"
_BLOCKS = {f"{_BLOCK_HOME}.{name}": (_BLOCK_HOME, name) for name in ("BasicBlockD", "BottleneckD")}


def require_known_names(plan: dict[str, Any], configuration: dict[str, Any], where: Path) -> None:
    """Refuse a plan with a name outside the closed lists, before anything is looked up.

    Raises:
        ModelError: all such names are in `details`.
    """
    problems = _check_name("image_reader_writer", plan.get("image_reader_writer"), READERS)
    problems += _check_name("label_manager", plan.get("label_manager"), LABEL_MANAGERS)
    problems += _check_name("preprocessor_name", configuration.get("preprocessor_name"), PREPROCESSORS)
    for use in ("data", "seg", "probabilities"):
        problems += _check_name(f"resampling_fn_{use}", configuration.get(f"resampling_fn_{use}"), RESAMPLING)
        options = configuration.get(f"resampling_fn_{use}_kwargs")
        if not isinstance(options, dict):
            problems.append(f"resampling_fn_{use}_kwargs is missing")
        else:
            problems += _check_all(f"resampling_fn_{use}_kwargs", options, _RESAMPLING_OPTIONS)
    problems += _check_all("normalization_schemes", configuration.get("normalization_schemes") or (), NORMALISATION)
    raise_plan_problems(problems, where)


def find_network_class(name: object, where: Path) -> type[Any]:
    """Return the network class of that name.

    Raises:
        ModelError: the name is not on the list; it is not imported.
    """
    if not isinstance(name, str) or name not in NETWORKS:
        raise ModelError(
            f"plan names the network '{name}', which is not supported",
            where=where,
            hint=f"supported: {', '.join(sorted({attribute for _, attribute in NETWORKS.values()}))}",
        )
    return _import(NETWORKS[name])


def find_layer_class(name: object, where: Path) -> type[Any] | None:
    """Return the torch layer or building block of that name; None stays None.

    Raises:
        ModelError: the name is not on the list; it is not imported.
    """
    if name is None:
        return None
    if isinstance(name, str) and name in _BLOCKS:
        return _import(_BLOCKS[name])
    home, _, layer = name.rpartition(".") if isinstance(name, str) else ("", "", "")
    if (home == "torch.nn" or home.startswith("torch.nn.modules.")) and layer in _LAYERS:
        return _import(("torch.nn", layer))
    raise ModelError(f"plan names the layer '{name}', which is not supported", where=where)


def raise_plan_problems(problems: list[str], where: Path) -> None:
    """Raise one `ModelError` for a list of problems of a plan; do nothing when there are none."""
    if problems:
        raise ModelError(
            f"plan cannot be used: {problems[0]}", where=where, details=tuple(problems) if len(problems) > 1 else ()
        )


def _check_name(key: str, value: object, known: Iterable[str]) -> list[str]:
    names = tuple(known)
    if isinstance(value, str) and value in names:
        return []
    return [f"{key} is '{value}', expected one of: {', '.join(names)}"]


def _check_all(key: str, values: object, known: Iterable[str]) -> list[str]:
    names = tuple(known)
    if not isinstance(values, (list, tuple, dict)) or (not values and isinstance(values, (list, tuple))):
        return [f"{key} is missing"]
    return [problem for value in values for problem in _check_name(key, value, names)]


def _import(home: tuple[str, str]) -> type[Any]:
    found: type[Any] = getattr(importlib.import_module(home[0]), home[1])
    return found

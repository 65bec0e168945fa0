"""The plan and the description of a model that was made of weights: nnU-Net's names throughout, but for the network."""

from __future__ import annotations

from typing import Any

import stu_pipeline
from stu_pipeline.errors import ModelError
from stu_pipeline.networks.scales import SCALES
from stu_pipeline.plan_architecture import NETWORK_CLASS
from stu_pipeline.planfile import PLAN_SCHEMA, STU_KEY
from stu_pipeline.transfer.packages.declaration import find_median_voxels, read_published_plan
from stu_pipeline.transfer.weight_file import WeightFile

# These measure the image at hand. The others need intensities of the training, which no file of weights holds.
_PER_IMAGE_SCHEMES = ("ZScoreNormalization", "NoNormalization", "RescaleTo01Normalization", "RGBTo01Normalization")
_RESAMPLING = {"order_z": 0, "force_separate_z": None}
_RESAMPLER = "resample_data_or_seg_to_shape"
_NUM_AXES = 3


def require_known_facts(weights: WeightFile, *, has_labels: bool = False) -> None:
    """Refuse weights of which too little is known to predict with them as they were trained.

    Args:
        weights: as they were read, with what was declared.
        has_labels: whether a `dataset.json` was given, which names the outputs.

    Raises:
        ModelError: what is missing is listed, with the flag that declares it.
    """
    facts, name = weights.facts, weights.path.name
    if facts.strides is None:
        raise ModelError(
            f"strides of '{name}' are unknown, they leave no trace in weights and wrong ones give wrong masks",
            where=weights.path.parent,
            hint="--published for the released weights, else --sidecar FILE or --strides 2x2x2,...",
        )
    missing = [text for value, text in (
        (facts.label_names if not has_labels else True, "the names of its outputs: --labels FILE"),
        (facts.spacing_mm, "voxel spacing: --sidecar FILE"),
        (facts.patch_voxels, "patch size: --sidecar FILE"),
        (facts.normalization_schemes, "normalisation: --sidecar FILE"),
    ) if value is None]  # fmt: skip
    if missing:
        raise ModelError(
            f"too little is known of '{name}' to predict with it: {missing[0]}",
            where=weights.path.parent,
            hint="--published for the released weights",
            details=tuple(missing) if len(missing) > 1 else (),
        )
    unfit = [scheme for scheme in facts.normalization_schemes or () if scheme not in _PER_IMAGE_SCHEMES]
    if unfit:
        raise ModelError(
            f"'{name}' was trained with {unfit[0]}, whose intensities of the training no file of weights holds",
            where=weights.path.parent,
            hint="use the model folder the file comes from: stu weights export MODEL -o model.zip",
        )
    if facts.has_regions and not has_labels:
        raise ModelError(
            f"'{name}' has regions, of which only the names are known",
            where=weights.path.parent,
            hint="--labels dataset.json of its training",
        )


def build_dataset_json(weights: WeightFile) -> dict[str, Any]:
    """Describe the channels and labels of weights, the labels in their own order.

    A channel named 'CT' is a name only: the plan decides how it is normalised.
    """
    facts, num_channels = weights.facts, weights.network.num_input_channels
    channels = facts.channel_names or tuple(f"channel{index}" for index in range(num_channels))
    return {
        "channel_names": {str(index): name for index, name in enumerate(channels)},
        "labels": {name: value for value, name in enumerate(facts.label_names or ())},
        "file_ending": ".nii.gz",
    }


def build_plan(
    weights: WeightFile, *, plan_name: str, dataset_name: str, configuration: str, story: dict[str, Any]
) -> dict[str, Any]:
    """Build the plan under which weights predict as they were trained.

    Args:
        weights: whose facts are known (`require_known_facts`).
        plan_name: its name.
        dataset_name: of the training, or where the model goes.
        configuration: '3d_fullres' or '2d'.
        story: for our own block; nnU-Net ignores it.
    """
    facts = weights.facts
    forward = list(facts.transpose_forward or range(_NUM_AXES))
    channels = range(weights.network.num_input_channels)
    median = find_median_voxels(facts)
    plan = {
        "dataset_name": dataset_name,
        "plans_name": plan_name,
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": forward,
        "transpose_backward": [forward.index(axis) for axis in range(_NUM_AXES)],
        "configurations": {configuration: _build_configuration(weights, f"{plan_name}_{configuration}", median)},
        "experiment_planner_used": "stu weights convert",
        "label_manager": "LabelManager",
        # Read for every channel, used by none of the schemes that are possible here.
        "foreground_intensity_properties_per_channel": {str(channel): {} for channel in channels},
        STU_KEY: {
            "schema": PLAN_SCHEMA,
            "version": stu_pipeline.__version__,
            "scale": weights.network.scale,
            "converted": story,
        },
    }
    if median is not None:
        plan["original_median_spacing_after_transp"] = list(facts.spacing_mm or ())
        plan["original_median_shape_after_transp"] = [int(size) for size in median]
    return plan


def name_plan(weights: WeightFile, *, is_released: bool) -> str:
    """Name the plan of converted weights, for example 'stuSPublishedPlans'."""
    return f"stu{weights.network.scale}{'Published' if is_released else 'Converted'}Plans"


def _build_configuration(weights: WeightFile, identifier: str, median: tuple[float, ...] | None) -> dict[str, Any]:
    facts = weights.facts
    spec = SCALES[weights.network.scale]
    num_channels = weights.network.num_input_channels
    patch = list(facts.patch_voxels or ())
    return {
        "data_identifier": identifier,
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": read_published_plan().batch_size,
        "patch_size": patch,
        "median_image_size_in_voxels": [float(size) for size in median or patch],
        "spacing": list(facts.spacing_mm or ()),
        "normalization_schemes": list(facts.normalization_schemes or ()),
        "use_mask_for_norm": list(facts.use_mask_for_norm or [False] * num_channels),
        "resampling_fn_data": _RESAMPLER,
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, **_RESAMPLING},
        "resampling_fn_seg": _RESAMPLER,
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, **_RESAMPLING},
        "resampling_fn_probabilities": _RESAMPLER,
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, **_RESAMPLING},
        "architecture": {
            "network_class_name": NETWORK_CLASS,
            "arch_kwargs": {
                "strides": [list(stride) for stride in facts.strides or ()],
                "features_per_stage": spec.features_per_stage,
                "n_blocks_per_stage": spec.n_blocks_per_stage,
                "conv_op": f"{weights.num_axes}d",
            },
            "_kw_requires_import": [],
        },
        "batch_dice": False,
    }

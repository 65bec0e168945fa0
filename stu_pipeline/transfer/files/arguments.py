"""What a checkpoint of nnU-Net v2, of the STU-Net fork or of ours says about its training, as facts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stu_pipeline.datasets.dataset_fields import IGNORE, Label, parse_channels, parse_labels
from stu_pipeline.errors import ModelError
from stu_pipeline.networks.scales import NUM_STAGES
from stu_pipeline.plan_architecture import NETWORK_CLASS, resolve_configuration
from stu_pipeline.transfer.files.facts import parse_sizes, parse_strides, parse_texts, parse_truths, parse_whole
from stu_pipeline.transfer.weight_file import WeightFacts

_FORK = "STUNetTrainer"


def parse_arguments(checkpoint: Mapping[str, Any], where: Path) -> WeightFacts:
    """Read the facts from `init_args`; without plans in it everything is unknown.

    Raises:
        ModelError: the plans, the configuration or the labels in it are malformed.
    """
    arguments = checkpoint.get("init_args")
    if not isinstance(arguments, Mapping) or not isinstance(arguments.get("plans"), Mapping):
        return WeightFacts()
    try:
        plans = arguments["plans"]
        configuration = resolve_configuration(plans["configurations"], arguments["configuration"])
        return _parse_facts(checkpoint, plans, configuration, f"settings inside '{where.name}'")
    except KeyError as error:
        raise _explain(where, f"{str(error)[:80]} is missing") from error
    except (TypeError, ValueError, AttributeError, LookupError, OverflowError, RecursionError) as error:
        raise _explain(where, str(error)[:200]) from error


def name_outputs(labels: Mapping[str, Label]) -> tuple[tuple[str, ...], bool]:
    """Name the outputs of a network for labels or regions as `parse_labels` returns them, and say which they are."""
    if any(isinstance(label, tuple) for label in labels.values()):
        return tuple(name for name, label in labels.items() if name != IGNORE and label != 0), True
    values = {name: label for name, label in labels.items() if name != IGNORE and isinstance(label, int)}
    return tuple(sorted(values, key=values.__getitem__)), False


def _parse_facts(
    checkpoint: Mapping[str, Any], plans: Mapping[str, Any], configuration: Mapping[str, Any], source: str
) -> WeightFacts:
    dataset_json = checkpoint["init_args"].get("dataset_json") or {}
    names, has_regions = name_outputs(parse_labels(dataset_json["labels"])) if dataset_json else (None, False)
    # A second stage also sees the masks of the first, which are no channels of an image.
    is_second = bool(configuration.get("previous_stage"))
    channels = dataset_json.get("channel_names") or dataset_json.get("modality")
    epochs, dataset_name = checkpoint.get("current_epoch"), plans.get("dataset_name")
    return WeightFacts(
        label_names=names,
        has_regions=has_regions,
        channel_names=tuple(parse_channels(channels).values()) if channels and not is_second else None,
        strides=_find_strides(checkpoint, configuration),
        spacing_mm=parse_sizes(configuration["spacing"]),
        patch_voxels=parse_whole(configuration["patch_size"]),
        normalization_schemes=None if is_second else parse_texts(configuration["normalization_schemes"]),
        use_mask_for_norm=None if is_second else parse_truths(configuration["use_mask_for_norm"]),
        transpose_forward=parse_whole(plans["transpose_forward"]),
        dataset_name=dataset_name if isinstance(dataset_name, str) and dataset_name.isprintable() else None,
        num_epochs=epochs if type(epochs) is int and 0 <= epochs <= 1_000_000 else None,
        source=source,
    )


def _find_strides(
    checkpoint: Mapping[str, Any], configuration: Mapping[str, Any]
) -> tuple[tuple[int, ...], ...] | None:
    """Return the strides that were trained with; None where the plan is of another network than the weights."""
    architecture = configuration.get("architecture")
    if isinstance(architecture, Mapping) and architecture["network_class_name"] == NETWORK_CLASS:
        return parse_strides(architecture["arch_kwargs"]["strides"])
    if not str(checkpoint.get("trainer_name")).startswith(_FORK):
        return None
    # The fork's trainers take the plan of a plain U-Net and force five poolings on it.
    pools = configuration["pool_op_kernel_sizes"] if architecture is None else architecture["arch_kwargs"]["strides"]
    strides = [parse_whole(pool) for pool in pools]
    return parse_strides([*strides, *([(1,) * len(strides[0])] * NUM_STAGES)][:NUM_STAGES])


def _explain(where: Path, reason: str) -> ModelError:
    return ModelError(
        f"'{where.name}' holds settings that cannot be read: {reason}",
        where=where.parent,
        hint="use another checkpoint of this training",
    )

"""The weights that a training is asked to begin with, read and checked against its plan before any work.

Reads: the file of weights, a head mapping.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from stu_pipeline.datasets.dataset_fields import BACKGROUND, parse_labels
from stu_pipeline.datasets.label_mapping import read_head_mapping
from stu_pipeline.errors import ModelError, UsageError
from stu_pipeline.networks.layout import build_layout, parameter_shapes
from stu_pipeline.nnunet.model import EngineModel, open_engine_model
from stu_pipeline.plan_architecture import NETWORK_CLASS
from stu_pipeline.plan_pretrained import PretrainedStart
from stu_pipeline.storage import read_json
from stu_pipeline.training.finetuning.recipes import RECIPES
from stu_pipeline.training.run.job import Job
from stu_pipeline.transfer.files.arguments import name_outputs
from stu_pipeline.transfer.files.reading import read_weight_file
from stu_pipeline.transfer.loading.adapt import AdaptedWeights, TargetNetwork, adapt_weights
from stu_pipeline.transfer.loading.mappings import ChannelMapping, HeadMapping, parse_channel_mapping
from stu_pipeline.transfer.loading.strides import compare_strides
from stu_pipeline.transfer.weight_file import WeightFile


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Origin:
    """Weights that fit the plan of a training."""

    weights: WeightFile
    target: TargetNetwork
    """The plan's network; its tensors have shapes and no values."""
    heads: HeadMapping | None
    channels: ChannelMapping | None
    warnings: tuple[str, ...]

    def adapt(self, tensors: Mapping[str, torch.Tensor]) -> AdaptedWeights:
        """Make the state dict that a freshly initialised network starts from.

        Raises:
            ModelError: the weights do not fit.
        """
        target = TargetNetwork(
            tensors=tensors,
            label_names=self.target.label_names,
            channel_names=self.target.channel_names,
            has_regions=self.target.has_regions,
            strides=self.target.strides,
        )
        return adapt_weights(self.weights, target, heads=self.heads, channels=self.channels)


def find_origin(job: Job) -> Origin | None:
    """Read the weights of `--pretrained` and check them against the plan; None where none are asked for.

    Nothing is written, and no network is built.

    Raises:
        ModelError: the file is missing, damaged, hostile, not finite, of another scale or trained with other
            strides; or a mapping does not fit.
        DataError: the head mapping cannot be read.
        UsageError: the channel mapping cannot be read, or the recipe keeps heads and none of these has a label of
            the dataset.
    """
    config = job.config
    if config.pretrained is None:
        return None
    weights = read_weight_file(config.pretrained, sidecar=config.sidecar)
    model = open_engine_model(
        job.plan.raw,
        read_json(job.dataset.preprocessed_dataset_json),
        job.configuration,
        where=job.dataset.plan_file(job.plan.name),
    )
    target = _describe_target(job, model)
    planned = job.plan.pretrained
    warnings = [*_check_strides(job, weights, target), *_check_normalisation(job, weights, model)]
    if planned is not None and planned.identity != weights.identity:
        warnings.append(f"plan '{job.plan.name}' was made for the weights of '{planned.file}', not for these")
    origin = Origin(
        weights=weights,
        target=target,
        heads=_read_heads(config.head_mapping, weights, target),
        channels=None if config.channel_mapping is None else parse_channel_mapping(config.channel_mapping),
        warnings=tuple(warnings),
    )
    preview = origin.adapt(target.tensors)  # what does not fit is refused now
    if config.recipe is not None and RECIPES[config.recipe].keeps_heads and not list_kept_outputs(preview):
        raise UsageError(
            f"recipe '{config.recipe}' keeps old heads, and no label of this dataset is among those of the weights",
            hint="--recipe warmup, or name the labels with --head-mapping",
        )
    return origin


def list_kept_outputs(adapted: AdaptedWeights) -> list[int]:
    """List the outputs that came with the weights. Background is none: it changes with every label that is added."""
    rows = enumerate(adapted.table.heads)
    return [index for index, row in rows if row.source_index is not None and row.target != BACKGROUND]


def _describe_target(job: Job, model: EngineModel) -> TargetNetwork:
    planned = job.plan.configuration(job.configuration)
    if planned.network_class != NETWORK_CLASS:
        raise ModelError(
            f"the network of plan '{job.plan.name}' is '{planned.network_class.rpartition('.')[2]}', "
            "it cannot take the weights of an STU-Net",
            hint=f"stu plan {job.dataset.name} --pretrained FILE",
        )
    arguments = planned.arch_kwargs
    layout = build_layout(
        planned.strides,
        arguments["features_per_stage"],
        arguments["n_blocks_per_stage"],
        arguments.get("conv_op", "3d"),
    )
    # One number stands for each tensor: these are shapes, not weights.
    zero = torch.zeros(())
    shapes = parameter_shapes(layout, model.num_network_channels, model.num_outputs)
    names = model.dataset.channel_names
    label_names, has_regions = name_outputs(parse_labels(model.dataset_json["labels"]))
    return TargetNetwork(
        tensors={name: zero.expand(shape) for name, shape in shapes},
        label_names=label_names,
        channel_names=tuple(names[index] for index in sorted(names)),
        has_regions=has_regions,
        strides=planned.strides,
    )


def _read_heads(path: Path | None, weights: WeightFile, target: TargetNetwork) -> HeadMapping | None:
    if path is None:
        return None
    names = weights.facts.label_names
    if names is None:
        raise ModelError(
            f"heads cannot be mapped: the label names of '{weights.path.name}' are not known",
            where=weights.path.parent,
            hint="stu weights inspect FILE",
        )
    return HeadMapping(names=read_head_mapping(path, names, target.label_names))


def _check_strides(job: Job, weights: WeightFile, target: TargetNetwork) -> Sequence[str]:
    """Refuse strides that the weights were not trained with, unless the plan declares them; unknown ones are told."""
    found = compare_strides(weights.facts.strides, target.strides, name=weights.path.name)
    planned = _find_own_plan(job, weights)
    if not found or (planned is not None and planned.accepts_other_strides):
        return ()
    if weights.facts.strides is not None:
        raise ModelError(
            found[0].partition(":")[0],
            where=job.dataset.plan_file(job.plan.name),
            hint=f"stu plan {job.dataset.name} --pretrained {weights.path}",
        )
    return found


def _check_normalisation(job: Job, weights: WeightFile, model: EngineModel) -> Sequence[str]:
    """Say where the network sees other numbers than the weights were trained with."""
    trained, planned = weights.facts.normalization_schemes, _find_own_plan(job, weights)
    own = tuple(model.configuration.normalization_schemes)
    if trained is None or set(trained) == set(own) or (planned is not None and planned.any_normalisation):
        return ()
    return (
        f"'{weights.path.name}' was trained with {_list_names(trained)}, this plan normalises with "
        f"{_list_names(own)}; for the same: stu plan {job.dataset.name} --pretrained {weights.path}",
    )


def _find_own_plan(job: Job, weights: WeightFile) -> PretrainedStart | None:
    """Return what the plan declares, where it was made for these weights."""
    planned = job.plan.pretrained
    return planned if planned is not None and planned.identity == weights.identity else None


def _list_names(schemes: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(schemes))

"""Put the weights of a file into another network: what fits is loaded, what can be is adapted, the rest starts anew.

Pure: tensors in, tensors and a table out. Nothing is skipped silently.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from stu_pipeline.datasets.label_names import match_names
from stu_pipeline.errors import ModelError
from stu_pipeline.transfer.loading.channels import STEM_KERNELS, StemChange, change_stem, choose_stem_change
from stu_pipeline.transfer.loading.dimensions import CHANGES, Change, change_dimensions, find_change
from stu_pipeline.transfer.loading.heads import HEAD_PREFIX, HeadLabels, HeadRow, change_head, choose_heads
from stu_pipeline.transfer.loading.mappings import ChannelMapping, HeadMapping
from stu_pipeline.transfer.loading.same_scale import LAST_HEAD_BIAS, require_same_scale
from stu_pipeline.transfer.loading.strides import compare_strides
from stu_pipeline.transfer.loading.table import LoadRow, LoadTable, Origin
from stu_pipeline.transfer.weight_file import WeightFile

_STEM = "stem"
_HEADS = "heads"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TargetNetwork:
    """The network that takes the weights, as it was initialised: what is not loaded stays as it is here."""

    tensors: Mapping[str, torch.Tensor]
    """The state dict, in our key names."""
    label_names: Sequence[str]
    """One per output: 'background' first, or the names of the regions."""
    channel_names: Sequence[str]
    """Of the images. Input channels beyond them are labels of the stage before a cascade."""
    has_regions: bool = False
    strides: Sequence[Sequence[int]] | None = None
    """Six entries, as in the plan; only to say where they differ."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AdaptedWeights:
    """A complete state dict for the target, and where everything in it comes from."""

    tensors: dict[str, torch.Tensor]
    """On the CPU, in the order and type of the target."""
    table: LoadTable
    origins: dict[str, Origin]
    """By key. A head of which some outputs were reused is 'adapted'."""


@dataclass(slots=True)
class _Work:
    """The decisions, and the tensors made so far."""

    source: WeightFile
    target: TargetNetwork
    change: Change | None
    stem: StemChange
    heads: tuple[HeadRow, ...]
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)


def adapt_weights(
    source: WeightFile,
    target: TargetNetwork,
    *,
    heads: HeadMapping | None = None,
    channels: ChannelMapping | None = None,
) -> AdaptedWeights:
    """Make a state dict for a network from the weights of another one of the same scale.

    The body is loaded bit-exact, converted to the target's number type. Other input channels and other dimensions are
    adapted so that the answer to an image stays the same (`channels.py`, `dimensions.py`). Outputs are reused where
    they mean the same (`heads.py`), else they keep the target's fresh weights. Neither argument is changed.

    Args:
        source: complete weights.
        target: the network, freshly initialised.
        heads: which outputs to reuse where names do not say it.
        channels: which input channels to use where names do not say it.

    Raises:
        ModelError: the networks differ in scale, or a mapping does not fit them.
    """
    num_axes = require_same_scale(source, target.tensors)
    _require_described(target)
    work = _Work(
        source=source,
        target=target,
        change=find_change(source.tensors[STEM_KERNELS[0]].ndim - 2, num_axes),
        stem=_choose_stem(source, target, channels),
        heads=choose_heads(_describe_source_heads(source), _describe_target_heads(target), heads),
    )
    for key, fresh in target.tensors.items():
        _fill(work, key, fresh.detach().cpu())
    return AdaptedWeights(tensors=work.tensors, table=_make_table(work), origins=work.origins)


def _require_described(target: TargetNetwork) -> None:
    """Refuse a target whose names are not of its network: everything would land one place beside its own."""
    num_outputs, num_channels = target.tensors[LAST_HEAD_BIAS].shape[0], target.tensors[STEM_KERNELS[0]].shape[1]
    if num_outputs != len(target.label_names) or num_channels < len(target.channel_names):
        raise ModelError(
            f"the network has {num_channels} input channels and {num_outputs} outputs, dataset.json describes "
            f"{len(target.channel_names)} and {len(target.label_names)}",
            hint="plan again: the dataset has changed since",
        )


def _choose_stem(source: WeightFile, target: TargetNetwork, channels: ChannelMapping | None) -> StemChange:
    total = target.tensors[STEM_KERNELS[0]].shape[1]
    num_source = source.network.num_input_channels
    names = source.facts.channel_names
    if names is not None and len(names) > num_source:
        names = None
    image_names = names or tuple(str(index) for index in range(num_source))
    num_extra = total - len(target.channel_names)
    has_same_extra = num_extra == num_source - len(image_names) and _have_same_labels(source, target)
    return choose_stem_change(
        image_names,
        tuple(target.channel_names),
        channels,
        num_extra=num_extra,
        keeps_extra=has_same_extra,
        has_source_names=names is not None,
    )


def _have_same_labels(source: WeightFile, target: TargetNetwork) -> bool:
    names = source.facts.label_names
    if names is None:
        return False
    matched = match_names(list(target.label_names), list(names))
    return [matched.get(name) for name in target.label_names] == list(names)


def _describe_source_heads(source: WeightFile) -> HeadLabels:
    facts = source.facts
    names = facts.label_names
    return HeadLabels(
        names=names if names is not None and len(names) == source.network.num_classes else None,
        num_outputs=source.network.num_classes,
        has_regions=facts.has_regions,
    )


def _describe_target_heads(target: TargetNetwork) -> HeadLabels:
    return HeadLabels(
        names=tuple(target.label_names),
        num_outputs=target.tensors[LAST_HEAD_BIAS].shape[0],
        has_regions=target.has_regions,
    )


def _fill(work: _Work, key: str, fresh: torch.Tensor) -> None:
    """Make one tensor of the target, and note its origin."""
    given = work.source.tensors[key].detach().cpu()
    kernel = change_dimensions(given, work.change)
    # A 1x1 kernel changes its form, not its numbers.
    is_changed = kernel.numel() != given.numel()
    origin: Origin = "adapted" if is_changed else "loaded"
    if key in STEM_KERNELS and work.stem.shares:
        kernel, origin = change_stem(kernel, work.stem, fresh), "adapted"
    elif key.startswith(HEAD_PREFIX):
        indices = [row.source_index for row in work.heads]
        if indices != list(range(len(given))):
            kernel = change_head(kernel, work.heads, fresh)
            origin = "initialised" if all(index is None for index in indices) else "adapted"
    work.tensors[key] = kernel.to(fresh.dtype).clone()
    work.origins[key] = origin


def _make_table(work: _Work) -> LoadTable:
    total = sum(tensor.numel() for tensor in work.tensors.values())
    parts: dict[str, list[str]] = {}
    for key in work.tensors:
        parts.setdefault(_name_part(key), []).append(key)
    rows = []
    for part, keys in parts.items():
        rows += _make_head_rows(work, keys, total) if part == _HEADS else [_make_row(work, part, keys, total)]
    facts = work.source.facts
    return LoadTable(
        source=work.source.path.name,
        identity=work.source.identity,
        rows=tuple(rows),
        heads=work.heads,
        notes=compare_strides(facts.strides, work.target.strides, name=work.source.path.name),
    )


def _make_row(work: _Work, part: str, keys: list[str], total: int) -> LoadRow:
    is_adapted = any(work.origins[key] == "adapted" for key in keys)
    reasons = [CHANGES[work.change]] if work.change is not None and is_adapted else []
    if part == _STEM and work.stem.how:
        reasons.append(work.stem.how)
    return LoadRow(
        part=part,
        origin="adapted" if is_adapted else "loaded",
        how=", ".join(reasons),
        num_tensors=len(keys),
        num_parameters=sum(work.tensors[key].numel() for key in keys),
        share=sum(work.tensors[key].numel() for key in keys) / total,
    )


def _make_head_rows(work: _Work, keys: list[str], total: int) -> list[LoadRow]:
    """Make a row for the outputs that are reused and one for those that start anew, where there are both."""
    num_outputs = len(work.heads)
    per_output = sum(work.tensors[key].numel() for key in keys) // num_outputs
    num_reused = sum(row.source_index is not None for row in work.heads)
    counts: Iterable[tuple[Origin, int]] = (
        ("loaded", num_reused),
        ("initialised", num_outputs - num_reused),
    )
    return [
        LoadRow(
            part=_HEADS,
            origin=origin,
            how=f"{count} of {num_outputs} outputs",
            num_tensors=len(keys),
            num_parameters=count * per_output,
            share=count * per_output / total,
        )
        for origin, count in counts
        if count
    ]


def _name_part(key: str) -> str:
    group, number, block, *rest = key.split(".")
    if key.startswith(HEAD_PREFIX):
        return _HEADS
    if group == "upsample_layers":
        return "upsampling"
    if group == "conv_blocks_localization":
        return f"decoder level {number}"
    is_stem = (number, block) == ("0", "0") and rest[0] in ("conv1", "conv3")
    return _STEM if is_stem else f"encoder stage {number}"

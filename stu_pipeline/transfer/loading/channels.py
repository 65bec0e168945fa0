"""The stem for other input channels: which channel of the source each one takes, and how much of it.

The two stem kernels are `(feature, channel, *kernel)`. `conv1` is followed by instance normalisation and does not care
about its scale, the shortcut `conv3` does: repeated for 4 channels without scaling it changes the network's output by
1.85 times its size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from stu_pipeline.datasets.label_names import find_nearest_names, match_names
from stu_pipeline.errors import ModelError
from stu_pipeline.transfer.loading.mappings import MEAN, ChannelMapping

STEM_KERNELS = ("conv_blocks_context.0.0.conv1.weight", "conv_blocks_context.0.0.conv3.weight")


@dataclass(frozen=True, slots=True, kw_only=True)
class StemChange:
    """How the input channels of the source become those of the target."""

    shares: tuple[tuple[float, ...], ...]
    """One row per image channel of the target: how much it takes of each image channel of the source. Columns sum to
    1, so that equal images in all channels are answered as by the source. Empty where nothing changes."""
    how: str
    """For people; empty where nothing changes."""
    num_extra: int = 0
    """Channels of the target behind the images: the labels of the stage before a cascade."""
    keeps_extra: bool = False
    """They are taken from the source; else they start anew."""


def choose_stem_change(
    source_names: Sequence[str],
    target_names: Sequence[str],
    mapping: ChannelMapping | None,
    *,
    num_extra: int = 0,
    keeps_extra: bool = False,
    has_source_names: bool = True,
) -> StemChange:
    """Decide what each target channel takes.

    A declared source comes first, then the channel of the same name. With one channel on either side, or with as many
    unnamed ones as the target has, they go in order. Everything else takes the average. What no channel takes by name
    is shared by all, and what several take is divided.

    Args:
        source_names: image channels of the source; their numbers where the names are not known.
        target_names: image channels of the target.
        mapping: what the user declares; None for nothing.
        num_extra: label channels of the target, from the stage before a cascade.
        keeps_extra: whether the source has the same ones.
        has_source_names: whether `source_names` are names and not numbers.

    Raises:
        ModelError: the mapping names a channel that is not there; all of them are listed.
    """
    declared = _require_known(mapping, source_names, target_names)
    takes = declared | {
        name: source
        for name, source in _match(source_names, target_names, has_source_names=has_source_names).items()
        if name not in declared
    }
    chosen = [takes.get(name, MEAN) for name in target_names]
    rows = [[float(take in (MEAN, source)) for source in source_names] for take in chosen]
    shares = _normalise(rows)
    starts_anew = num_extra > 0 and not keeps_extra
    if _is_identity(shares) and not starts_anew:
        return StemChange(shares=(), how="")
    how = _describe(chosen, source_names, target_names)
    if starts_anew:
        how += f"; {num_extra} label channels of the stage before start anew"
    return StemChange(shares=shares, how=how, num_extra=num_extra, keeps_extra=keeps_extra)


def change_stem(kernel: torch.Tensor, change: StemChange, fresh: torch.Tensor) -> torch.Tensor:
    """Return a stem kernel for the target's channels.

    Args:
        kernel: of the source, in the target's dimensions.
        change: from `choose_stem_change`.
        fresh: the target's own kernel, freshly initialised.
    """
    if not change.shares:
        return kernel
    shares = torch.tensor(change.shares, dtype=torch.float64)
    images = torch.einsum("ts,fs...->ft...", shares, kernel[:, : shares.shape[1]].double())
    behind = kernel if change.keeps_extra else fresh
    extra = behind[:, behind.shape[1] - change.num_extra :]
    return torch.cat([images, extra.double()], dim=1)


def _match(source_names: Sequence[str], target_names: Sequence[str], *, has_source_names: bool) -> dict[str, str]:
    if len(source_names) == 1:
        return dict.fromkeys(target_names, source_names[0])
    if has_source_names:
        return match_names(target_names, source_names)
    return dict(zip(target_names, source_names, strict=True)) if len(source_names) == len(target_names) else {}


def _require_known(
    mapping: ChannelMapping | None, source_names: Sequence[str], target_names: Sequence[str]
) -> dict[str, str]:
    declared = dict(mapping.sources) if mapping is not None else {}
    targets = match_names(list(declared), target_names)
    sources = match_names(list(declared.values()), source_names)
    problems = [
        f"this dataset has no channel '{name}', its channels: {', '.join(target_names)}{_suggest(name, target_names)}"
        for name in declared
        if name not in targets
    ] + [
        f"the weights have no channel '{name}', their channels: {', '.join(source_names)}{_suggest(name, source_names)}"
        for name in declared.values()
        if name not in sources and name != MEAN
    ]
    if problems:
        raise ModelError(
            f"channel mapping: {problems[0]}", hint="--channel-mapping T1=CT,FLAIR=mean", details=tuple(problems[1:])
        )  # fmt: skip
    return {targets[name]: sources.get(source, MEAN) for name, source in declared.items()}


def _suggest(name: str, known: Sequence[str]) -> str:
    nearest = find_nearest_names(name, known)
    return f" (nearest: '{nearest[0]}')" if nearest else ""


def _normalise(rows: list[list[float]]) -> tuple[tuple[float, ...], ...]:
    """Divide what several channels take, and share among all what none takes."""
    columns = []
    for column in zip(*rows, strict=True):
        total = sum(column)
        columns.append([value / total for value in column] if total else [1 / len(rows)] * len(rows))
    return tuple(tuple(row) for row in zip(*columns, strict=True))


def _is_identity(shares: tuple[tuple[float, ...], ...]) -> bool:
    num_columns = len(shares[0])
    return all(
        row == tuple(float(column == place) for column in range(num_columns)) for place, row in enumerate(shares)
    )


def _describe(chosen: Sequence[str], source_names: Sequence[str], target_names: Sequence[str]) -> str:
    head = f"{len(source_names)} -> {len(target_names)} channels"
    if len(source_names) == 1:
        return f"{head}, each 1/{len(target_names)} of the kernel" if len(target_names) > 1 else head
    if len(target_names) == 1 and chosen[0] == MEAN:
        return f"{head}, kernels summed"
    if all(take == MEAN for take in chosen):
        return f"{head}, kernels averaged, {len(source_names)}/{len(target_names)} of their mean each"
    pairs = [f"{name} from {take}" for name, take in zip(target_names, chosen, strict=True)]
    unused = [name for name in source_names if name not in chosen] if MEAN not in chosen else []
    return f"{head}: {', '.join([*pairs, *(f'{name} shared by all' for name in unused)])}"

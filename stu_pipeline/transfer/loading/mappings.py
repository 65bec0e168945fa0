"""What a user may declare about a transfer: which output and which channel takes what. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from stu_pipeline.errors import UsageError

MEAN = "mean"
"""Stands for the average over all channels of the source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadMapping:
    """Which outputs of the source the outputs of the target start from, where names do not say it."""

    names: Mapping[str, str | None] = field(default_factory=dict)
    """Target name to source name; None starts the output anew. Outputs that are not in it go by their names."""
    by_index: bool = False
    """Output by output in their order, whatever the names: the user says that the labels are the same."""

    def __post_init__(self) -> None:
        """Refuse two declarations at once."""
        if self.names and self.by_index:
            raise UsageError("heads are mapped by index or by names, not both")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelMapping:
    """Which channel of the source each channel of the target starts from, where names do not say it."""

    sources: Mapping[str, str] = field(default_factory=dict)
    """Target channel to source channel or 'mean'. A channel without a known name goes by its number, from '0'.
    Channels that are not in it go by their names."""


def parse_channel_mapping(text: str) -> ChannelMapping:
    """Read `T1=CT,FLAIR=mean`.

    Raises:
        UsageError: it is something else, or names a channel twice.
    """
    sources: dict[str, str] = {}
    for part in text.split(","):
        target, equals, source = (piece.strip() for piece in part.partition("="))
        if not (target and equals and source):
            raise UsageError(
                f"a channel mapping is TARGET=SOURCE,..., got '{text}'", hint="--channel-mapping T1=CT,FLAIR=mean"
            )
        if target in sources:
            raise UsageError(f"channel '{target}' is mapped twice in '{text}'")
        sources[target] = source
    return ChannelMapping(sources=sources)

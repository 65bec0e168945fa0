"""What a union of datasets is asked for, checked as far as no file is needed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from stu_pipeline.errors import UsageError

_PICKED = re.compile(r"(.+):(\d{1,4}(?:,\d{1,4})*)\Z", re.DOTALL)
_RESERVED = ("background", "ignore")


@dataclass(frozen=True, slots=True, kw_only=True)
class UnionRequest:
    """Several datasets that become one."""

    sources: tuple[str, ...]
    """Ids, names or paths of datasets in nnU-Net v2 form; `107:0` or `107:0,2` picks channels of a source."""
    dataset_name: str | None = None
    """'Name' or 'DatasetNNN_Name'; None takes 'Union' and the first free id from 900."""
    union_labels: Path | None = None
    """A JSON file that says which labels of the sources are one, are renamed or are not used."""
    keep_channel_names: bool = False
    """Keep the names the sources agree on, so that CT is normalised as CT; else each image gets its own z-score."""
    labels_of: tuple[str, ...] | None = None
    """Foreground labels of a trained model, in its order: they come first and keep their numbers."""

    def __post_init__(self) -> None:
        """Refuse what cannot be a union.

        Raises:
            UsageError: too few sources, one given twice, or labels of a model that are none.
        """
        if not self.sources or (len(self.sources) == 1 and self.labels_of is None):
            found = f"got '{self.sources[0]}'" if self.sources else "got none"
            raise UsageError(f"a union needs two datasets or more, {found}", hint="stu plan DATASET plans a single one")
        twice = [source for source in dict.fromkeys(self.sources) if self.sources.count(source) > 1]
        if twice:
            raise UsageError(f"dataset '{twice[0]}' is given twice", hint="give each dataset once")
        for source in self.sources:
            split_source(source)
        names = self.labels_of or ()
        wrong = [name for name in names if not name or name.casefold() in _RESERVED or names.count(name) > 1]
        if wrong or self.labels_of == ():
            raise UsageError(
                f"'{wrong[0]}' cannot be a foreground label of a model" if wrong else "the model has no labels to keep"
            )


def split_source(source: str) -> tuple[str, tuple[int, ...] | None]:
    """Split a source into dataset and picked channels; None takes all of them.

    Raises:
        UsageError: a channel is picked twice.

    >>> split_source("107:0,2")
    ('107', (0, 2))
    >>> split_source("Dataset101_OpenKBP")
    ('Dataset101_OpenKBP', None)
    """
    match = _PICKED.match(source)
    if match is None:
        return source, None
    channels = tuple(int(text) for text in match[2].split(","))
    if len(set(channels)) < len(channels):
        raise UsageError(f"'{source}' picks a channel twice", hint=f"for example {match[1]}:{channels[0]}")
    return match[1], channels

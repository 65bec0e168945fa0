"""The datasets a union is made of, opened and checked before any work.

Reads: their `dataset.json` and folder listings; no image.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stu_pipeline.datasets.cases import Case, list_training_cases
from stu_pipeline.datasets.dataset_fields import BACKGROUND, IGNORE
from stu_pipeline.datasets.dataset_json import DatasetJson, read_dataset_json
from stu_pipeline.datasets.endings import PICTURE_ENDINGS, TIFF_ENDINGS, split_ending
from stu_pipeline.datasets.forms.inventory import FORM_NAMES
from stu_pipeline.datasets.forms.recognise import recognise_form
from stu_pipeline.datasets.partial_labels import PartialLabels, find_partial_labels
from stu_pipeline.datasets.union.request import UnionRequest, split_source
from stu_pipeline.errors import DataError, StuError, UsageError
from stu_pipeline.storage import hash_file
from stu_pipeline.workspace import Workspace, find_dataset

_MAX_CHANNELS_SHOWN = 8
_PICTURES = frozenset(PICTURE_ENDINGS) - frozenset(TIFF_ENDINGS)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnionSource:
    """One dataset of a union, with the channels that are taken."""

    name: str
    folder: Path
    channels: tuple[int, ...]
    description: DatasetJson
    cases: tuple[Case, ...]
    """Their images are the picked channels, in the order they were picked."""
    partial: PartialLabels | None
    dataset_json_sha256: str

    @property
    def channel_names(self) -> tuple[str, ...]:
        """The names of the channels that are taken."""
        return tuple(self.description.channel_names[channel] for channel in self.channels)

    @property
    def labels(self) -> dict[str, int]:
        """The plain foreground labels by name, ascending; values are consecutive.

        What regions hold without a name of its own gets its id in the label files as a name.
        """
        names = {
            value: name
            for name, value in self.description.labels.items()
            if isinstance(value, int) and name not in (BACKGROUND, IGNORE)
        }
        stored = dict(zip(self.description.label_values, self.description.stored_label_ids, strict=True))
        return {names.get(value, str(stored[value])): value for value in self.description.foreground_values}

    @property
    def unnamed(self) -> tuple[str, ...]:
        """The ids among `labels` that only regions name."""
        return tuple(name for name in self.labels if name not in self.description.labels)

    @property
    def region_names(self) -> tuple[str, ...]:
        """The regions of several labels, which a union leaves out."""
        return tuple(name for name, value in self.description.labels.items() if isinstance(value, tuple))


def open_sources(request: UnionRequest, workspace: Workspace) -> list[UnionSource]:
    """Open the datasets of a union, in the order they are given.

    Raises:
        DataError: a dataset is not there or faulty, its files are missing, or they do not fit together.
        UsageError: a picked channel that is not there, or two datasets of one name.
    """
    sources: list[UnionSource] = []
    errors: list[StuError] = []
    for text in request.sources:
        try:
            sources.append(_open(text, workspace))
        except (DataError, UsageError) as error:
            errors.append(error)
    _raise_errors(errors)
    _require_distinct(sources)
    _require_one_channel_count(sources)
    _require_one_kind(sources)
    return sources


def _open(text: str, workspace: Workspace) -> UnionSource:
    name, picked = (text, None) if Path(text).is_dir() else split_source(text)
    _refuse_foreign(name)
    dataset = find_dataset(name, workspace)
    if not dataset.raw.is_dir():
        raise DataError(
            f"raw data of '{dataset.name}' not found, a union needs it",
            where=dataset.raw.parent,
            hint="set nnUNet_raw, or give the dataset's path",
        )
    description = read_dataset_json(dataset.raw)
    channels = _choose_channels(dataset.name, description, picked)
    cases = list_training_cases(dataset.raw, description)
    return UnionSource(
        name=dataset.name,
        folder=dataset.raw,
        channels=channels,
        description=description,
        cases=tuple(_pick(case, channels, dataset.name) if picked is not None else case for case in cases),
        partial=find_partial_labels(description.raw),
        dataset_json_sha256=hash_file(dataset.raw / "dataset.json"),
    )


def _refuse_foreign(name: str) -> None:
    path = Path(name).expanduser()
    if os.sep not in name or not path.is_dir():
        return
    form = recognise_form(path.absolute())
    if form.is_foreign:
        raise DataError(
            f"'{path.name}' is in the form of {FORM_NAMES[form.kind]}, a union takes datasets in that of nnU-Net v2",
            where=path,
            hint=f"stu plan {path} --no-preprocess describes it so; then give the name it got",
        )


def _choose_channels(name: str, description: DatasetJson, picked: tuple[int, ...] | None) -> tuple[int, ...]:
    if picked is None:
        return tuple(range(description.num_channels))
    if wrong := [channel for channel in picked if channel >= description.num_channels]:
        raise UsageError(f"'{name}' has no channel {wrong[0]}, it has {_show_channels(description)}")
    return picked


def _pick(case: Case, channels: tuple[int, ...], name: str) -> Case:
    if max(channels) >= len(case.image_files):
        raise DataError(
            f"channels of '{name}' cannot be picked: case '{case.id}' holds them in one file",
            where=case.image_files[0].parent,
            hint=f"give '{name}' without channels",
        )
    return replace(case, image_files=tuple(case.image_files[channel] for channel in channels))


def _raise_errors(errors: Sequence[StuError]) -> None:
    """Raise what several sources have together as one error."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        details = tuple(f"{error.problem} (in {error.where})" if error.where else error.problem for error in errors)
        raise DataError(f"{len(errors)} sources of the union cannot be used", details=details)


def _require_distinct(sources: Sequence[UnionSource]) -> None:
    seen: dict[str, UnionSource] = {}
    for source in sources:
        other = seen.setdefault(source.name.casefold(), source)
        if other is source:
            continue
        if other.folder == source.folder:
            raise UsageError(f"dataset '{source.name}' is given twice", hint="give each dataset once")
        raise UsageError(
            f"two sources are named '{source.name}', and cases are named after their source",
            where=f"{other.folder} and {source.folder}",
            hint="rename one of the folders",
        )


def _require_one_channel_count(sources: Sequence[UnionSource]) -> None:
    counts = {len(source.channels) for source in sources}
    if len(counts) == 1:
        return
    many = next(source for source in sources if len(source.channels) > min(counts))
    example = ",".join(str(channel) for channel in many.channels[: min(counts)])
    raise DataError(
        "the sources have different numbers of channels",
        hint=f"pick channels, for example '{many.name}:{example}'",
        details=tuple(f"'{source.name}' has {_show_picked(source)}" for source in sources),
    )


def _show_picked(source: UnionSource) -> str:
    if len(source.channels) == source.description.num_channels:
        return _show_channels(source.description)
    return f"{len(source.channels)} channel{'s' * (len(source.channels) != 1)} picked of " + _show_channels(
        source.description
    )


def _show_channels(description: DatasetJson) -> str:
    names = list(description.channel_names.items())
    shown = ", ".join(f"{index} {name}" for index, name in names[:_MAX_CHANNELS_SHOWN])
    more = f" and {len(names) - _MAX_CHANNELS_SHOWN} more" if len(names) > _MAX_CHANNELS_SHOWN else ""
    return f"{len(names)} channel{'s' * (len(names) != 1)} ({shown}{more})"


def _require_one_kind(sources: Sequence[UnionSource]) -> None:
    """Refuse what no single reader of nnU-Net reads: pictures among volumes. TIFF keeps its spacing elsewhere."""
    kinds: dict[str, list[str]] = {}
    for source in sources:
        for ending in {case.ending.lower() for case in source.cases}:
            kind = "TIFF" if ending in TIFF_ENDINGS else "pictures" if ending in _PICTURES else "volumes"
            kinds.setdefault(kind, []).append(source.name)
    if "TIFF" in kinds:
        raise DataError(
            f"'{kinds['TIFF'][0]}' holds TIFF files, which a union cannot take: their spacing lies in other files",
            hint="save them as .nii.gz",
        )
    if len(kinds) > 1:
        raise DataError(
            f"'{kinds['pictures'][0]}' holds pictures and '{kinds['volumes'][0]}' volumes, which are read in "
            "different ways",
            hint="make a union of pictures, or of volumes",
        )


def holds_pictures(sources: Sequence[UnionSource]) -> bool:
    """Whether the images are flat pictures, so that the label maps are pictures too."""
    return split_ending(sources[0].cases[0].image_files[0].name)[1].lower() in _PICTURES

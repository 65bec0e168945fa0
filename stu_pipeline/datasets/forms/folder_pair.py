"""A folder of images and a folder of label maps, matched by name.

An image `<case>` or `<case>_0000` belongs to the label map `<case>`; several channels are `<case>_0000`,
`<case>_0001`, ... Numbers that are part of the name on both sides, as in `scan_2023`, stay part of it.

Reads: folder listings, and the header of one image.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stu_pipeline.datasets.dataset_fields import check_case_id
from stu_pipeline.datasets.endings import SUPPORTED_ENDINGS, split_ending
from stu_pipeline.datasets.forms.inventory import Inventory, SourceCase, choose_ending
from stu_pipeline.datasets.forms.volume_series import count_volumes
from stu_pipeline.datasets.listing import find_clashes, list_folder, raise_problems, split_channel
from stu_pipeline.datasets.reading import read_header
from stu_pipeline.errors import DataError, UsageError

DEFAULT_CHANNEL = "image"
Groups = dict[str, dict[int, Path]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderPair:
    """Two folders, and what their channels are called."""

    images: Path
    labels: Path
    channels: tuple[str, ...] = ()
    """Empty: one channel is called 'image', several 'image_0', 'image_1', ..."""


def take_folder_pair(pair: FolderPair) -> Inventory:
    """Match images and label maps.

    Raises:
        DataError: nothing found, or files that do not match; all problems are in `details`.
        UsageError: both folders are one, or a channel has no name.
    """
    images, labels = pair.images.absolute(), pair.labels.absolute()
    if images.resolve() == labels.resolve():
        raise UsageError("images and labels are one folder", where=images, hint="put the label maps into their own")
    if any(not name or not name.isprintable() for name in pair.channels):
        raise UsageError(f"channel names must be words, got {', '.join(map(repr, pair.channels))}")
    image_files, image_notes, problems = _index(images)
    label_files, label_notes, label_problems = _index(labels)
    problems += label_problems
    groups, known, match_problems = _match(image_files, label_files)
    problems += match_problems
    if image_files and label_files:
        problems += _compare(groups, known, images, labels)
    problems += [problem for case_id in groups if (problem := check_case_id(case_id))]
    problems += find_clashes(groups)
    raise_problems(problems, "images and labels", images, "correct the names, or remove the files")
    cases = tuple(
        SourceCase(id=name, images=tuple(group[index] for index in sorted(group)), label=known[name])
        for name, group in sorted(groups.items())
    )
    try:
        ending = choose_ending(path for case in cases for path in case.images)
    except ValueError as error:
        raise DataError(str(error), where=images, hint="convert them to one format") from error
    names, must_split = _choose_channels(pair.channels, cases)
    return Inventory(
        form="folder_pair",
        sources=(images, labels),
        cases=cases,
        channel_names=names,
        file_ending=ending,
        labels=None,
        must_split=must_split,
        notes=(*image_notes, *label_notes),
    )


def _index(folder: Path) -> tuple[dict[str, Path], tuple[str, ...], list[str]]:
    """Return the files by name without ending, notes and problems."""
    listing = list_folder(folder)
    problems = [*listing.problems, *listing.irregular.values()]
    files: dict[str, Path] = {}
    for name in listing.image_names:
        # macOS spells accents in two characters, other systems in one: they are one name here.
        stem = unicodedata.normalize("NFC", split_ending(name)[0])
        if stem in files:
            problems.append(f"'{folder.name}/{files[stem].name}' and '{name}' are two files of one name")
        files[stem] = folder / name
    if not files and not problems:
        found = f", only {len(listing.names)} other files" if listing.names else ""
        problems.append(f"folder '{folder.name}' has no images{found}, expected {' '.join(SUPPORTED_ENDINGS)}")
    return files, listing.notes, problems


def _match(images: Mapping[str, Path], labels: Mapping[str, Path]) -> tuple[Groups, dict[str, Path], list[str]]:
    """Group the images by case and channel; return them, the label maps by case, and problems."""
    have_number = all(split_channel(stem)[1] == 0 for stem in labels) and bool(labels)
    if images.keys() == labels.keys() and not have_number:
        return {stem: {0: path} for stem, path in images.items()}, dict(labels), []
    known = {split_channel(stem)[0]: path for stem, path in labels.items()} if have_number else dict(labels)
    groups: Groups = {}
    problems = []
    for stem, path in images.items():
        start, number = split_channel(stem)
        is_numbered = number is not None and (stem not in known or start in known)
        case_id, channel = (start, number or 0) if is_numbered else (stem, 0)
        group = groups.setdefault(case_id, {})
        if channel in group:
            problems.append(f"'{group[channel].name}' and '{path.name}' are the same channel of case '{case_id}'")
        group[channel] = path
    return groups, known, problems


def _compare(groups: Groups, labels: Mapping[str, Path], image_folder: Path, label_folder: Path) -> list[str]:
    problems = [
        f"image '{image_folder.name}/{next(iter(group.values())).name}' has no label map, expected '{name}' "
        f"in '{label_folder.name}'"
        for name, group in groups.items()
        if name not in labels
    ]
    problems += [
        f"label map '{label_folder.name}/{path.name}' has no image"
        for name, path in labels.items()
        if name not in groups
    ]
    num_channels = max((max(group) + 1 for group in groups.values()), default=0)
    for name, group in groups.items():
        missing = [str(index) for index in range(num_channels) if index not in group]
        if missing and name in labels:
            problems.append(f"case '{name}' has {len(group)} of {num_channels} channels, missing {', '.join(missing)}")
    return problems


def _choose_channels(given: tuple[str, ...], cases: Sequence[SourceCase]) -> tuple[tuple[str, ...], bool]:
    """Return the channel names, and whether each image is a 4D file that holds all channels."""
    first = cases[0]
    num_channels, must_split = len(first.images), False
    if num_channels == 1:
        num_volumes = count_volumes(first.images[0])
        # A fourth dimension may be time as well, so it is taken for channels only where they are named.
        must_split = num_volumes > 1 and len(given) == num_volumes
        if num_volumes > 1 and not must_split:
            raise DataError(
                f"'{first.images[0].name}' is 4D and holds {num_volumes} volumes",
                where=first.images[0].parent,
                hint=f"if they are channels, name all {num_volumes}: --channels A,B,...; else save one volume per file",
            )
        num_channels = num_volumes if must_split else read_header(first.images[0]).num_channels
    if given and len(given) != num_channels:
        raise UsageError(
            f"{len(given)} channels are named, the images have {num_channels}",
            where=first.images[0].parent,
            hint="--channels takes one name per channel, separated by commas",
        )
    if given:
        return given, must_split
    return (DEFAULT_CHANNEL,) if num_channels == 1 else tuple(
        f"{DEFAULT_CHANNEL}_{i}" for i in range(num_channels)
    ), False

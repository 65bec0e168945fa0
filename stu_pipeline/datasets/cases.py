"""Which files make up which case: training cases of a dataset, and cases to predict.

Reads: folder listings only. Dot files, sub-folders and files of other kinds are ignored.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from stu_pipeline.datasets.dataset_json import DatasetJson
from stu_pipeline.datasets.endings import PICTURE_ENDINGS, SUPPORTED_ENDINGS, split_ending
from stu_pipeline.errors import DataError

_CHANNEL = re.compile(r"(.+)_(\d{4})\Z")
_MAX_CHANNEL_FILES = 10_000


@dataclass(frozen=True, slots=True)
class Case:
    """One case: its channel files in order, and its label map when it is a training case."""

    id: str
    image_files: tuple[Path, ...]
    label_file: Path | None = None

    @property
    def ending(self) -> str:
        """The ending of the image files, for example '.nii.gz'."""
        return split_ending(self.image_files[0].name)[1]


def list_training_cases(raw_folder: Path, dataset_json: DatasetJson) -> list[Case]:
    """List the training cases of a dataset, sorted by id.

    Raises:
        DataError: missing or unexpected channels, missing labels, labels without images, wrong endings,
            names that clash, fewer or more cases than `numTraining`; all of them in `details`.
            Zero cases is an error.
    """
    if dataset_json.listed_cases is not None:
        cases, problems = _take_listed(dataset_json)
    else:
        cases, problems = _find_training_cases(raw_folder, dataset_json)
    if not cases and not problems:
        raise DataError(
            f"no training cases found, expected '<case>_0000{dataset_json.file_ending}' in imagesTr",
            where=raw_folder / "imagesTr",
            hint="see docs/how-to/prepare-a-dataset.md",
        )
    problems += _find_clashes(case.id for case in cases)
    if not problems and len(cases) != dataset_json.num_training:
        problems.append(f"dataset.json says numTraining {dataset_json.num_training}, found {len(cases)} cases")
    hint = "correct the files, or remove the case from imagesTr and labelsTr"
    raise_problems(problems, f"the files of '{raw_folder.name}'", raw_folder, hint)
    return sorted(cases, key=lambda case: case.id)


def list_input_cases(source: Path, num_channels: int, file_ending: str) -> list[Case]:
    """List the cases of a file or a folder to predict, sorted by id.

    Any supported ending is accepted. A one-channel model takes any file name, with or without `_0000`;
    more channels need `<case>_0000` to `<case>_NNNN`. A single file of a multi-channel case may be any of
    its channels.

    Args:
        source: a file or a folder.
        num_channels: what the model expects.
        file_ending: what the model was trained on, to say what was expected.

    Raises:
        DataError: nothing found, missing or unexpected channels, or two inputs that would get one name.
    """
    if not source.exists():
        raise DataError(f"'{source.name}' not found", where=source.parent, hint="check the path given with -i")
    if source.is_dir():
        files = _list_files(source)
        folder = source
    else:
        folder = source.parent
        files = _list_files_of_case(source, num_channels)
    images = [name for name in files if split_ending(name)[1]]
    if not images:
        raise DataError(
            f"no cases found: {_describe_found(files)}, expected files like "
            f"'case_0000{file_ending}' ({', '.join(SUPPORTED_ENDINGS)})",
            where=source,
            hint="check the folder given with -i",
        )
    cases, problems = _group_inputs(folder, images, num_channels)
    problems += _find_clashes(case.id for case in cases)
    raise_problems(problems, f"the input '{source.name}'", source)
    return sorted(cases, key=lambda case: case.id)


def raise_problems(problems: Iterable[str], what: str, where: Path, hint: str = "") -> None:
    """Raise one `DataError` for a list of problems; do nothing when there are none."""
    details = tuple(problems)
    if not details:
        return
    if len(details) == 1:
        raise DataError(f"{what} cannot be used: {details[0]}", where=where, hint=hint)
    raise DataError(
        f"{what} cannot be used, {len(details)} problems", where=where, hint=hint or "correct them all", details=details
    )


def _list_files(folder: Path) -> list[str]:
    """List the names in a folder that are not hidden and not folders, sorted; links and pipes included."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if not entry.name.startswith(".") and not entry.is_dir())
    except FileNotFoundError as error:
        raise DataError(f"folder '{folder.name}' not found", where=folder.parent) from error
    except (NotADirectoryError, PermissionError) as error:
        raise DataError(f"folder '{folder.name}' cannot be read: {error.strerror}", where=folder.parent) from error


def _list_files_of_case(file: Path, num_channels: int) -> list[str]:
    if num_channels == 1:
        return [file.name]
    stem, ending = split_ending(file.name)
    match = _CHANNEL.match(stem)
    if not match:
        return [file.name]
    wanted = re.compile(re.escape(match[1]) + r"_\d{4}" + re.escape(ending) + r"\Z")
    return [name for name in _list_files(file.parent) if wanted.match(name)]


def _find_training_cases(raw_folder: Path, dataset_json: DatasetJson) -> tuple[list[Case], list[str]]:
    images, problems = _group_channels(raw_folder / "imagesTr", dataset_json.file_ending)
    labels, label_problems = _index_labels(raw_folder / "labelsTr", dataset_json.file_ending)
    problems += label_problems
    cases = []
    num_files = _count_channel_files(images, dataset_json)
    for case_id, channels in images.items():
        problems += _compare_channels(case_id, channels, num_files, dataset_json.file_ending)
        if case_id not in labels:
            problems.append(
                f"case '{case_id}' has no label map, missing 'labelsTr/{case_id}{dataset_json.file_ending}'"
            )
        files = tuple(channels[index] for index in sorted(channels))
        cases.append(Case(id=case_id, image_files=files, label_file=labels.get(case_id)))
    problems += [f"label map 'labelsTr/{labels[name].name}' has no image" for name in labels if name not in images]
    return cases, problems


def _count_channel_files(images: dict[str, dict[int, Path]], dataset_json: DatasetJson) -> int:
    """Files per case. Colour pictures hold their 3 or 4 channels in one file."""
    is_colour = (
        dataset_json.file_ending in PICTURE_ENDINGS
        and dataset_json.num_channels in (3, 4)
        and all(set(channels) == {0} for channels in images.values())
    )
    return 1 if is_colour else dataset_json.num_channels


def _group_channels(folder: Path, file_ending: str) -> tuple[dict[str, dict[int, Path]], list[str]]:
    groups: dict[str, dict[int, Path]] = {}
    problems: list[str] = []
    for name in _list_files(folder):
        stem, ending = split_ending(name)
        if not ending:
            continue
        if ending != file_ending:
            problems.append(f"'{folder.name}/{name}' ends in {ending} but dataset.json says {file_ending}")
        elif match := _CHANNEL.match(stem):
            groups.setdefault(match[1], {})[int(match[2])] = folder / name
        else:
            problems.append(f"'{folder.name}/{name}' has no channel number, expected '{stem}_0000{file_ending}'")
    return groups, problems


def _index_labels(folder: Path, file_ending: str) -> tuple[dict[str, Path], list[str]]:
    labels: dict[str, Path] = {}
    problems: list[str] = []
    for name in _list_files(folder):
        stem, ending = split_ending(name)
        if ending == file_ending:
            labels[stem] = folder / name
        elif ending:
            problems.append(f"'{folder.name}/{name}' ends in {ending} but dataset.json says {file_ending}")
    return labels, problems


def _compare_channels(case_id: str, channels: dict[int, Path], num_files: int, ending: str) -> list[str]:
    missing = [f"'{case_id}_{index:04d}{ending}'" for index in range(num_files) if index not in channels]
    extra = [f"'{channels[index].name}'" for index in sorted(channels) if index >= num_files]
    problems = []
    if missing:
        found = num_files - len(missing)
        problems.append(f"case '{case_id}' has {found} of {num_files} channels, missing {', '.join(missing)}")
    if extra:
        problems.append(f"case '{case_id}' has unexpected channels {', '.join(extra)}, expected {num_files}")
    return problems


def _take_listed(dataset_json: DatasetJson) -> tuple[list[Case], list[str]]:
    cases, problems = [], []
    for case_id, files in (dataset_json.listed_cases or {}).items():
        for path in (*files.images, files.label):
            if not path.is_file():
                problems.append(f"case '{case_id}' lists '{path}', which is not there")
        if len(files.images) not in (dataset_json.num_channels, 1 if _may_be_colour(dataset_json) else -1):
            problems.append(f"case '{case_id}' lists {len(files.images)} of {dataset_json.num_channels} channels")
        cases.append(Case(id=case_id, image_files=files.images, label_file=files.label))
    return cases, problems


def _may_be_colour(dataset_json: DatasetJson) -> bool:
    return dataset_json.file_ending in PICTURE_ENDINGS and dataset_json.num_channels in (3, 4)


def _group_inputs(folder: Path, names: list[str], num_channels: int) -> tuple[list[Case], list[str]]:
    if num_channels == 1:
        return _name_single_channel_cases(folder, names)
    groups: dict[str, dict[int, Path]] = {}
    endings: dict[str, str] = {}
    problems: list[str] = []
    for name in names:
        stem, ending = split_ending(name)
        match = _CHANNEL.match(stem)
        if not match:
            problems.append(
                f"'{name}' has no channel number; the model has {num_channels} channels, "
                f"expected '{stem}_0000{ending}' to '{stem}_{num_channels - 1:04d}{ending}'"
            )
            continue
        case_id, channel = match[1], int(match[2])
        endings.setdefault(case_id, ending)
        if channel in groups.setdefault(case_id, {}):
            problems.append(f"'{groups[case_id][channel].name}' and '{name}' are the same channel of one case")
        groups[case_id][channel] = folder / name
    num_files = num_channels
    if num_channels in (3, 4) and all(set(g) == {0} and endings[c] in PICTURE_ENDINGS for c, g in groups.items()):
        num_files = 1
    for case_id, channels in groups.items():
        problems += _compare_channels(case_id, channels, num_files, endings[case_id])
    cases = [Case(id=name, image_files=tuple(group[i] for i in sorted(group))) for name, group in groups.items()]
    return cases, problems


def _name_single_channel_cases(folder: Path, names: list[str]) -> tuple[list[Case], list[str]]:
    taken: dict[str, str] = {}
    problems: list[str] = []
    channels = [_CHANNEL.match(split_ending(name)[0]) for name in names]
    numbered = {match[1]: match for match in channels if match and int(match[2]) == 0}
    for name, match in zip(names, channels, strict=True):
        stem = split_ending(name)[0]
        if match and int(match[2]) > 0 and match[1] in numbered:
            problems.append(f"'{name}' is a further channel of case '{match[1]}', the model has one channel")
            continue
        case_id = match[1] if match and int(match[2]) == 0 else stem
        if case_id in taken:
            problems.append(f"'{taken[case_id]}' and '{name}' would both be written as '{case_id}'")
        taken[case_id] = name
    return [Case(id=case_id, image_files=(folder / name,)) for case_id, name in taken.items()], problems


def _find_clashes(case_ids: Iterable[str]) -> list[str]:
    """Names that are one file on systems which ignore case or accents' encoding."""
    seen: dict[str, str] = {}
    problems = []
    for case_id in case_ids:
        key = unicodedata.normalize("NFC", case_id).casefold()
        if key in seen:
            problems.append(f"cases '{seen[key]}' and '{case_id}' have names that some systems cannot tell apart")
        seen[key] = case_id
    return problems


def _describe_found(files: list[str]) -> str:
    if not files:
        return "the folder is empty"
    more = f" and {len(files) - 3} more" if len(files) > 3 else ""
    return f"found only {', '.join(map(repr, files[:3]))}{more}"

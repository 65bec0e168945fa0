"""Which files make up which case: training cases of a dataset, and cases to predict.

Reads: folder listings, and the first bytes of files to predict that may be DICOM. Hidden files, and sub-folders and
files of other kinds are ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stu_pipeline.datasets.dataset_fields import check_case_id
from stu_pipeline.datasets.dataset_json import DatasetJson
from stu_pipeline.datasets.endings import PICTURE_ENDINGS, SUPPORTED_ENDINGS, split_ending
from stu_pipeline.datasets.formats.dicom_files import MASK_ENDING, holds_series, is_dicom_file
from stu_pipeline.datasets.listing import find_clashes, list_folder, raise_problems, split_channel
from stu_pipeline.datasets.series_folders import list_series_folders
from stu_pipeline.errors import DataError


@dataclass(frozen=True, slots=True)
class Case:
    """One case: its channels in order, files or folders of DICOM slices, and its label map when it is for training."""

    id: str
    image_files: tuple[Path, ...]
    label_file: Path | None = None

    @property
    def ending(self) -> str:
        """The ending of the image files, for example '.nii.gz', which masks of DICOM series get too."""
        return split_ending(self.image_files[0].name)[1] or MASK_ENDING

    @property
    def is_dicom(self) -> bool:
        """Whether each channel is a folder of DICOM slices."""
        return self.image_files[0].is_dir()


def list_training_cases(raw_folder: Path, dataset_json: DatasetJson) -> list[Case]:
    """List the training cases of a dataset, sorted by id. What was passed over: `list_notes`.

    Raises:
        DataError: missing or unexpected channels, missing labels, labels without images, wrong endings, names
            that clash or cannot be used, files that are none; all of them in `details`. Zero cases is an error.
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
    problems += find_clashes(case.id for case in cases)
    hint = "correct the files, or remove the case from imagesTr and labelsTr"
    raise_problems(problems, f"the files of '{raw_folder.name}'", raw_folder, hint)
    return sorted(cases, key=lambda case: case.id)


def list_notes(raw_folder: Path, dataset_json: DatasetJson, cases: Sequence[Case]) -> list[str]:
    """List what is no fault but worth a line: ignored files, and a `numTraining` that is not what is there."""
    notes: list[str] = []
    if len(cases) != dataset_json.num_training:
        notes.append(f"dataset.json says numTraining {dataset_json.num_training}, found {len(cases)} cases")
    if dataset_json.listed_cases is None:
        for name in ("imagesTr", "labelsTr"):
            notes += list_folder(raw_folder / name).notes
    return notes


def list_input_cases(source: Path, num_channels: int, file_ending: str) -> list[Case]:
    """List the cases of a file or a folder to predict, sorted by id.

    Any supported ending is accepted. A one-channel model takes any file name, with or without `_0000`;
    more channels need `<case>_0000` to `<case>_NNNN`. A single file of a multi-channel case may be any of
    its channels. A folder of DICOM slices is an image of its folder's name: the source itself, or sub-folders of it.

    Args:
        source: a file or a folder.
        num_channels: what the model expects.
        file_ending: what the model was trained on, to say what was expected.

    Raises:
        DataError: nothing found, missing or unexpected channels, or two inputs that would get one name.
    """
    if not source.exists():
        raise DataError(f"'{source.name}' not found", where=source.parent, hint="check the path given with -i")
    if holds_series(source) or is_dicom_file(source):
        return _list_one_series(source, num_channels)
    folder = source if source.is_dir() else source.parent
    listing = list_folder(folder)
    # A pipe or a dead link is the fault of one case, found when that case is read.
    files = sorted((*listing.names, *listing.irregular))
    if not source.is_dir():
        files = _list_files_of_case(source.name, files, num_channels)
    elif listing.problems:
        raise_problems(listing.problems, f"the input '{source.name}'", source)
    images = [name for name in files if split_ending(name)[1]]
    if source.is_dir():
        images += list_series_folders(source)
    if not images:
        raise DataError(
            f"no cases found: {_describe_found(files)}, expected files like "
            f"'case_0000{file_ending}' ({', '.join(SUPPORTED_ENDINGS)}) or folders of DICOM slices",
            where=source,
            hint="check the folder given with -i",
        )
    cases, problems = _group_inputs(folder, images, num_channels)
    problems += find_clashes(case.id for case in cases)
    raise_problems(problems, f"the input '{source.name}'", source)
    return sorted(cases, key=lambda case: case.id)


def _list_one_series(source: Path, num_channels: int) -> list[Case]:
    """Make the one case of a folder that holds slices itself."""
    if source.is_file():
        raise DataError(
            f"'{source.name}' is a single DICOM file, expected the folder of its series",
            where=source.parent,
            hint=f"-i {source.parent}",
        )
    if images := list_folder(source).image_names:
        raise DataError(
            f"folder '{source.name}' holds DICOM slices and {len(images)} other images, first '{images[0]}'",
            where=source,
            hint="put each DICOM series in a folder of its own",
        )
    folder = source.absolute()  # '.' has no name
    cases, problems = _group_inputs(folder.parent, [folder.name], num_channels)
    problems += [problem for case in cases if (problem := check_case_id(case.id))]
    raise_problems(problems, f"the series '{folder.name}'", folder.parent)
    return cases


def _list_files_of_case(name: str, files: Sequence[str], num_channels: int) -> list[str]:
    """Pick the channels that belong to one given file."""
    stem, ending = split_ending(name)
    case_id, channel = split_channel(stem)
    if num_channels == 1 or channel is None:
        return [name]
    return [
        other
        for other in files
        if split_ending(other)[1] == ending
        and (found := split_channel(split_ending(other)[0]))[0] == case_id
        and found[1] is not None
    ]


def _find_training_cases(raw_folder: Path, dataset_json: DatasetJson) -> tuple[list[Case], list[str]]:
    ending = dataset_json.file_ending
    images, image_problems = _group_channels(raw_folder / "imagesTr", ending)
    labels, label_problems = _index_labels(raw_folder / "labelsTr", ending)
    problems = [*image_problems, *label_problems]
    if images is None or labels is None:
        return [], problems
    cases = []
    num_files = _count_channel_files(images, dataset_json)
    for case_id, channels in images.items():
        if problem := check_case_id(case_id):
            problems.append(problem)
        problems += _compare_channels(case_id, channels, num_files, ending)
        if case_id not in labels:
            problems.append(f"case '{case_id}' has no label map, missing 'labelsTr/{case_id}{ending}'")
        files = tuple(channels[index] for index in sorted(channels))
        cases.append(Case(id=case_id, image_files=files, label_file=labels.get(case_id)))
    problems += [f"label map 'labelsTr/{labels[name].name}' has no image" for name in labels if name not in images]
    return cases, problems


def _count_channel_files(images: dict[str, dict[int, Path]], dataset_json: DatasetJson) -> int:
    """Files per case. Colour pictures hold their 3 or 4 channels in one file."""
    is_colour = _may_be_colour(dataset_json) and all(set(channels) == {0} for channels in images.values())
    return 1 if is_colour else dataset_json.num_channels


def _group_channels(folder: Path, file_ending: str) -> tuple[dict[str, dict[int, Path]] | None, list[str]]:
    """Return the channel files by case, None when the folder cannot be read, and what is wrong."""
    listing = list_folder(folder)
    problems = [*listing.problems, *listing.irregular.values()]
    if not listing.names and listing.problems:
        return None, problems
    groups: dict[str, dict[int, Path]] = {}
    for name in listing.image_names:
        stem, ending = split_ending(name)
        case_id, channel = split_channel(stem)
        if ending != file_ending:
            problems.append(f"'{folder.name}/{name}' ends in {ending} but dataset.json says {file_ending}")
        elif channel is None:
            problems.append(f"'{folder.name}/{name}' has no channel number, expected '{stem}_0000{file_ending}'")
        else:
            groups.setdefault(case_id, {})[channel] = folder / name
    return groups, problems


def _index_labels(folder: Path, file_ending: str) -> tuple[dict[str, Path] | None, list[str]]:
    listing = list_folder(folder)
    problems = [*listing.problems, *listing.irregular.values()]
    if not listing.names and listing.problems:
        return None, problems
    labels: dict[str, Path] = {}
    for name in listing.image_names:
        stem, ending = split_ending(name)
        if ending == file_ending:
            labels[stem] = folder / name
        else:
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
                reason = "is not a regular file" if path.exists() else "is not there"
                problems.append(f"case '{case_id}' lists '{path}', which {reason}")
            elif not split_ending(path.name)[1]:
                problems.append(f"case '{case_id}' lists '{path}', which has no supported ending")
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
        case_id, channel = split_channel(stem)
        if channel is None:
            problems.append(
                f"'{name}' has no channel number; the model has {num_channels} channels, "
                f"expected '{stem}_0000{ending}' to '{stem}_{num_channels - 1:04d}{ending}'"
            )
            continue
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
    parts = [split_channel(split_ending(name)[0]) for name in names]
    numbered = {case_id for case_id, channel in parts if channel == 0}
    for name, (start, channel) in zip(names, parts, strict=True):
        if channel and start in numbered:
            problems.append(f"'{name}' is a further channel of case '{start}', the model has one channel")
            continue
        case_id = start if channel == 0 else split_ending(name)[0]
        if case_id in taken:
            problems.append(f"'{taken[case_id]}' and '{name}' would both be written as '{case_id}'")
        taken[case_id] = name
    return [Case(id=case_id, image_files=(folder / name,)) for case_id, name in taken.items()], problems


def _describe_found(files: list[str]) -> str:
    if not files:
        return "the folder is empty"
    more = f" and {len(files) - 3} more" if len(files) > 3 else ""
    return f"found only {', '.join(map(repr, files[:3]))}{more}"

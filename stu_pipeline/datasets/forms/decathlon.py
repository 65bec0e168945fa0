"""Medical Segmentation Decathlon tasks and nnU-Net v1 tasks: one `dataset.json` form, two ways to name files.

The Decathlon keeps all channels of a case in one file `<case>.nii.gz`, nnU-Net v1 one file per channel
`<case>_0000.nii.gz`; both list `<case>.nii.gz` under `training`.

Reads: `dataset.json` and folder listings.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from stu_pipeline.datasets.dataset_fields import (
    BACKGROUND,
    check_case_id,
    parse_channels,
    parse_labels,
    resolve_file,
    show_value,
)
from stu_pipeline.datasets.dataset_json import read_strict_json
from stu_pipeline.datasets.endings import NIFTI_ENDINGS, split_ending
from stu_pipeline.datasets.forms.inventory import Inventory, SourceCase
from stu_pipeline.datasets.listing import Listing, find_clashes, list_folder, raise_problems

_TASK_NAME = re.compile(r"Task(\d{1,4})_(.+)\Z", re.IGNORECASE)
_KEPT_KEYS = ("name", "description", "reference", "licence", "license", "release", "tensorImageSize")
_MAX_TEXT = 2000
_MAX_DIGITS = 7
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Found:
    case: SourceCase
    is_numbered: bool


def take_decathlon(folder: Path) -> Inventory:
    """Look through a Decathlon or nnU-Net v1 task.

    Raises:
        DataError: `dataset.json` or the files cannot be used; all problems are in `details`.
    """
    folder = folder.absolute()
    raw = read_strict_json(folder / "dataset.json")
    problems: list[str] = []
    channels = _collect(problems, lambda: parse_channels(raw.get("modality")), {0: ""})
    nothing: tuple[dict[str, int], list[str]] = ({}, [])
    labels, notes = _collect(problems, lambda: _read_labels(raw.get("labels")), nothing)
    files = list_folder(folder / "imagesTr")
    found, case_problems = _find_cases(folder, raw, files, len(channels))
    problems += case_problems
    problems += find_clashes(item.case.id for item in found)
    numbered = {item.is_numbered for item in found}
    if len(numbered) > 1:
        problems.append("some images have channel numbers and some have not, expected all or none")
    if not found and not problems:
        problems.append("no training cases found, expected NIfTI files in imagesTr")
    raise_problems(problems, f"the task '{folder.name}'", folder)
    cases = sorted((item.case for item in found), key=lambda case: case.id)
    match = _TASK_NAME.match(folder.name)
    return Inventory(
        form="nnunet_v1" if True in numbered else "msd",
        sources=(folder,),
        cases=tuple(cases),
        channel_names=tuple(channels.values()),
        file_ending=NIFTI_ENDINGS[0],
        labels=labels,
        must_split=True not in numbered and len(channels) > 1,
        number=int(match[1]) if match else None,
        name=match[2] if match else folder.name,
        extra={key: raw[key] for key in _KEPT_KEYS if isinstance(raw.get(key), str) and len(raw[key]) <= _MAX_TEXT},
        notes=(*notes, *files.notes, *_note_left_out(folder, files, cases), *_note_test_images(folder)),
    )


def _collect(problems: list[str], parse: Callable[[], T], fallback: T) -> T:
    try:
        return parse()
    except ValueError as error:
        problems.append(str(error).replace("channel_names", "modality"))
        return fallback


def _read_labels(value: Any) -> tuple[dict[str, int], list[str]]:
    """Turn `{"0": "background", "1": "liver"}` round. Two labels of one name are told apart by their value."""
    if not isinstance(value, dict) or not value:
        raise ValueError(
            f'labels must be an object like {{"0": "background", "1": "liver"}}, found {show_value(value)}'
        )
    labels: dict[str, int] = {BACKGROUND: 0}
    notes = []
    for key, name in value.items():
        if not (key.isascii() and key.isdigit() and len(key) < _MAX_DIGITS and isinstance(name, str)):
            raise ValueError(f"labels must name whole numbers, found {show_value(key)}: {show_value(name)}")
        number = int(key)
        if number == 0:
            if name != BACKGROUND:
                notes.append(f"label 0, {show_value(name)}, is called '{BACKGROUND}'")
            continue
        own_name = name if name not in labels else f"{name}_{number}"
        if own_name != name:
            notes.append(f"label {number} has the name {show_value(name)} of another one, it is called '{own_name}'")
        labels[own_name] = number
    parse_labels(labels)
    return labels, notes


def _find_cases(
    folder: Path, raw: Mapping[str, Any], files: Listing, num_channels: int
) -> tuple[list[_Found], list[str]]:
    problems = [*files.problems, *files.irregular.values()]
    if "training" in raw:
        listed = raw["training"]
        if not isinstance(listed, list):
            return [], [*problems, f"training must be a list of images and labels, found {show_value(listed)}"]
        pairs = [pair for entry in listed if (pair := _read_entry(entry, folder, problems)) is not None]
    else:
        labels = list_folder(folder / "labelsTr")
        problems += [*labels.problems, *labels.irregular.values()]
        pairs = [(folder / "imagesTr" / name, folder / "labelsTr" / name) for name in labels.image_names]
    cases = []
    for image, label in pairs:
        # The label map's name is the case in both forms; an image's may end in a channel number.
        case_id = split_ending(label.name)[0]
        images, is_numbered = _find_images(case_id, image, num_channels)
        found = check_case_id(case_id) or _check_files(case_id, images, label)
        if found:
            problems.append(found)
        cases.append(_Found(SourceCase(id=case_id, images=images, label=label), is_numbered))
    return cases, problems


def _read_entry(entry: Any, folder: Path, problems: list[str]) -> tuple[Path, Path] | None:
    image, label = (entry.get("image"), entry.get("label")) if isinstance(entry, dict) else (None, None)
    if not isinstance(image, str) or not isinstance(label, str):
        problems.append(f"training must list images and labels, found {show_value(entry)}")
        return None
    try:
        name = split_ending(Path(label).name)[0]
        return resolve_file(name, image, folder), resolve_file(name, label, folder)
    except ValueError as error:
        problems.append(str(error))
        return None


def _find_images(case_id: str, image: Path, num_channels: int) -> tuple[tuple[Path, ...], bool]:
    """Find what stands behind an entry: the file itself, or one numbered file per channel (True)."""
    numbered = tuple(image.with_name(f"{case_id}_{index:04d}.nii.gz") for index in range(num_channels))
    if any(path.exists() for path in numbered):
        return numbered, True
    return (image,), False


def _check_files(case_id: str, images: tuple[Path, ...], label: Path) -> str:
    for path in (*images, label):
        where = f"'{path.parent.name}/{path.name}'"
        if not path.is_file():
            reason = "is not a regular file" if path.exists() else "is not there"
            return f"case '{case_id}' lists {where}, which {reason}"
        if split_ending(path.name)[1].lower() not in NIFTI_ENDINGS:
            return f"case '{case_id}' lists {where}, expected a NIfTI file"
    return ""


def _note_left_out(folder: Path, files: Listing, cases: list[SourceCase]) -> list[str]:
    known = {path.name for case in cases for path in case.images if path.parent == folder / "imagesTr"}
    left_out = [name for name in files.image_names if name not in known]
    if not left_out:
        return []
    return [f"{len(left_out)} images in 'imagesTr' are not listed under training and left out, first '{left_out[0]}'"]


def _note_test_images(folder: Path) -> list[str]:
    names = list_folder(folder / "imagesTs").image_names if (folder / "imagesTs").is_dir() else ()
    text = f"{len(names)} images in 'imagesTs' are no training cases; predict them with -i {folder / 'imagesTs'}"
    return [text] if names else []

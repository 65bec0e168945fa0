"""The single fields of `dataset.json`: each is checked by one function that raises `ValueError` with one line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stu_pipeline.datasets.endings import SUPPORTED_ENDINGS
from stu_pipeline.datasets.label_ids import (
    LABEL_IDS_KEY,
    MAX_LABEL,
    MAX_NUM_LABELS,
    LabelIds,
    check_label_ids,
    make_label_ids,
)

BACKGROUND = "background"
IGNORE = "ignore"
_MAX_CHANNELS = 10_000  # a channel has four digits in a file name
_MAX_CASES = 10_000_000
_MAX_ID_LENGTH = 128
_MAX_SHOWN = 80
_MAX_PATH_BYTES = 4000
_MAX_NAME_BYTES = 255
_MAX_ID_BYTES = 200  # a file name has 255, and endings are added
# nnU-Net's readers that keep the stored axes. The reorienting ones would hand training other arrays than ours.
_KNOWN_READERS = ("None", "SimpleITKIO", "NibabelIO", "NaturalImage2DIO", "Tiff3DIO")
_REORIENTING_READERS = ("SimpleITKIOWithReorient", "NibabelIOWithReorient")

Label = int | tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseFiles:
    """The files of one case as `dataset.json` lists them."""

    images: tuple[Path, ...]
    label: Path


def parse_channels(value: Any) -> dict[int, str]:
    """Return channel index to name."""
    if not isinstance(value, dict) or not value:
        raise ValueError(f'channel_names must be an object like {{"0": "CT"}}, found {show_value(value)}')
    expected = [str(index) for index in range(len(value))]
    if sorted(value, key=lambda key: (len(key), key)) != expected:
        raise ValueError(f"channel_names must count {', '.join(map(repr, expected))}, found {show_value(list(value))}")
    if wrong := [name for name in value.values() if not isinstance(name, str) or not name.isprintable() or not name]:
        raise ValueError(f"channel_names must name each channel, found {show_value(wrong[0])}")
    if len(value) > _MAX_CHANNELS:
        raise ValueError(f"channel_names names {len(value)} channels, the limit is {_MAX_CHANNELS}")
    return {int(index): value[index] for index in expected}


def parse_labels(value: Any) -> dict[str, Label]:
    """Return label name to value as written; a region is a tuple of values, a region of one value that value."""
    if not isinstance(value, dict):
        raise ValueError(f'labels must be an object like {{"background": 0, "liver": 1}}, found {show_value(value)}')
    labels: dict[str, Label] = {name: _parse_label(name, label) for name, label in value.items()}
    if BACKGROUND not in labels:
        raise ValueError("labels has no 'background', which must be 0")
    if labels[BACKGROUND] != 0:
        raise ValueError(f"label 'background' must be 0, found {show_value(labels[BACKGROUND])}")
    counts = Counter(label for label in labels.values() if isinstance(label, int))
    twice = next((label for label, count in counts.items() if count > 1), None)
    if twice is not None:
        names = ", ".join(name for name, label in labels.items() if label == twice)
        raise ValueError(f"label {twice} has several names: {_shorten(names)}")
    values = list_values(labels)
    if len(values) < 2:
        raise ValueError("labels names no foreground")
    if len(values) > MAX_NUM_LABELS:
        raise ValueError(f"labels names {len(values)} labels, the limit is {MAX_NUM_LABELS}")
    if IGNORE in labels and labels[IGNORE] != values[-1]:
        raise ValueError(f"label 'ignore' must be the highest value {values[-1]}, found {show_value(labels[IGNORE])}")
    return labels


def parse_label_ids(raw: Mapping[str, Any], labels: Mapping[str, Label]) -> LabelIds | None:
    """Return the table from the ids of the dataset to consecutive ones; None when they are consecutive.

    Where the table is written down already, `labels` holds consecutive ids and the table must fit them.
    """
    values = list_values(labels)
    if LABEL_IDS_KEY not in raw:
        return make_label_ids(values)
    stored = raw[LABEL_IDS_KEY]
    if problem := check_label_ids(stored):
        raise ValueError(f"{problem}, found {show_value(stored)}")
    if values != list(range(len(stored))):
        raise ValueError(
            f"{LABEL_IDS_KEY} has {len(stored)} ids, so labels must be 0 to {len(stored) - 1}, "
            f"found {show_value(values)}"
        )
    return make_label_ids(stored)


def list_values(labels: Mapping[str, Label]) -> list[int]:
    """List every value that labels and regions name, ascending."""
    return sorted({value for label in labels.values() for value in values_of(label)})


def _parse_label(name: str, value: Any) -> Label:
    if not name or not name.isprintable():
        raise ValueError(f"label name {show_value(name)} is not allowed: it must be printable text")
    name = _shorten(name)
    if _is_label(value):
        return int(value)
    if (
        isinstance(value, list)
        and value
        and all(_is_label(item) for item in value)
        and name not in (BACKGROUND, IGNORE)
    ):
        if len(set(value)) < len(value):
            raise ValueError(f"region '{name}' names a label twice: {show_value(value)}")
        # nnU-Net, too, takes a region of one value as that value.
        return tuple(value) if len(value) > 1 else int(value[0])
    hint = ", write it without quotes" if isinstance(value, str) and value.strip().isdigit() else ""
    raise ValueError(
        f"label '{name}' must be a whole number from 0 to {MAX_LABEL} or a list, found {show_value(value)}{hint}"
    )


def _is_label(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_LABEL


def parse_order(value: Any, labels: Mapping[str, Label]) -> tuple[int, ...] | None:
    """Return the order in which regions are written, or None when there is none."""
    num_regions = sum(1 for name in labels if name not in (BACKGROUND, IGNORE))
    has_regions = any(isinstance(label, tuple) for label in labels.values())
    if value is None:
        if has_regions:
            raise ValueError("labels has regions, so regions_class_order is needed")
        return None
    if not isinstance(value, list) or not all(_is_label(item) for item in value):
        raise ValueError(f"regions_class_order must be a list of labels, found {show_value(value)}")
    if has_regions and len(value) != num_regions:
        raise ValueError(f"regions_class_order has {len(value)} entries for {num_regions} regions")
    known = list_values(labels)
    if known != list(range(len(known))) and (unknown := sorted(set(value).difference(known))):
        raise ValueError(f"regions_class_order names {show_value(unknown)}, which no label or region holds")
    return tuple(value)


def parse_ending(value: Any) -> str:
    """Return the file ending."""
    if not isinstance(value, str) or value not in SUPPORTED_ENDINGS:
        raise ValueError(
            f"file_ending {show_value(value)} is not supported, expected one of {' '.join(SUPPORTED_ENDINGS)}"
        )
    return value


def parse_count(value: Any) -> int:
    """Return the number of training cases."""
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MAX_CASES:
        raise ValueError(f"numTraining must be a whole number above 0, found {show_value(value)}")
    return value


def parse_listed(value: Any, folder: Path) -> dict[str, CaseFiles]:
    """Return the files listed under `dataset`, by case id."""
    if not isinstance(value, dict) or not value:
        raise ValueError("dataset must be an object: case id to images and label")
    cases = {}
    for case_id, files in value.items():
        if problem := check_case_id(case_id):
            raise ValueError(problem)
        images = files.get("images") if isinstance(files, dict) else None
        if not isinstance(images, list) or not images or not isinstance(files.get("label"), str):
            raise ValueError(f"case '{case_id}' must have a list 'images' and a 'label'")
        cases[case_id] = CaseFiles(
            images=tuple(resolve_file(case_id, name, folder) for name in images),
            label=resolve_file(case_id, files["label"], folder),
        )
    return cases


def check_case_id(case_id: str) -> str:
    """Return why a case cannot have this name, or an empty string.

    Names become file names: they stay in their folder, are no option of a command, and print as they are.
    """
    problem = ""
    if not case_id or case_id[0] in ".- " or case_id[-1] == " ":
        problem = "it must not be empty, start with '.' or '-', or start or end with a space"
    elif not case_id.isprintable() or any(char in "/\\" for char in case_id):
        problem = "it must be printable text without '/' and '\\'"
    elif len(case_id) > _MAX_ID_LENGTH or len(case_id.encode()) > _MAX_ID_BYTES:
        problem = f"it must have at most {_MAX_ID_LENGTH} characters"
    return f"case name {show_value(case_id)} is not allowed: {problem}" if problem else ""


def resolve_file(case_id: str, name: Any, folder: Path) -> Path:
    """Resolve a listed file: relative ones stay inside the dataset folder, absolute ones are taken as they are.

    Raises:
        ValueError: no plain path, or one that leaves the folder.
    """
    if (
        not isinstance(name, str)
        or not name.isprintable()
        or not name
        or name[0] == "~"
        or "$" in name
        or "://" in name
    ):
        raise ValueError(f"case '{case_id}' lists the file {show_value(name)}, expected a plain path")
    if len(name.encode()) > _MAX_PATH_BYTES or any(len(part.encode()) > _MAX_NAME_BYTES for part in Path(name).parts):
        raise ValueError(f"case '{case_id}' lists the file {show_value(name)}, which is too long for a path")
    path = Path(name)
    if ".." in path.parts:
        raise ValueError(f"case '{case_id}' lists the file {show_value(name)}, which leaves the dataset folder")
    return path if path.is_absolute() else folder / path


def check_reader(raw: Mapping[str, Any]) -> None:
    """Refuse readers that are unknown or reorient the images."""
    name = raw.get("overwrite_image_reader_writer", "None")
    if name in _REORIENTING_READERS:
        raise ValueError(f"overwrite_image_reader_writer '{name}' reorients images, which is not supported")
    if name not in _KNOWN_READERS:
        raise ValueError(f"overwrite_image_reader_writer {show_value(name)} is not one of {', '.join(_KNOWN_READERS)}")


def values_of(label: Label) -> tuple[int, ...]:
    """Return the label values of a label or region."""
    return label if isinstance(label, tuple) else (label,)


def show_value(value: Any) -> str:
    """Write a value into a message: short, and printable."""
    # Cut before it is turned into text: a list of a million entries is no message.
    if isinstance(value, (str, list, tuple)):
        value = value[:_MAX_SHOWN]
    if isinstance(value, str):
        return _shorten(f"'{value}'" if value.isprintable() else repr(value))
    return _shorten(repr(value))


def _shorten(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 3]}..."

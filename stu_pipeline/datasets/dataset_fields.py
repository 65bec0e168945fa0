"""The single fields of `dataset.json`: each is checked by one function that raises `ValueError` with one line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stu_pipeline.datasets.endings import SUPPORTED_ENDINGS

CASE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
BACKGROUND = "background"
IGNORE = "ignore"
MAX_LABEL = 65535
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
        raise ValueError(f'channel_names must be an object like {{"0": "CT"}}, found {_show(value)}')
    expected = [str(index) for index in range(len(value))]
    if sorted(value, key=lambda key: (len(key), key)) != expected:
        raise ValueError(f"channel_names must count {', '.join(map(repr, expected))}, found {_show(list(value))}")
    if wrong := [name for name in value.values() if not isinstance(name, str) or not name]:
        raise ValueError(f"channel_names must name each channel, found {_show(wrong[0])}")
    return {int(index): value[index] for index in expected}


def parse_labels(value: Any) -> dict[str, Label]:
    """Return label name to value; a region is a tuple of values, a region of one value that value."""
    if not isinstance(value, dict):
        raise ValueError(f'labels must be an object like {{"background": 0, "liver": 1}}, found {_show(value)}')
    labels: dict[str, Label] = {name: _parse_label(name, label) for name, label in value.items()}
    if BACKGROUND not in labels:
        raise ValueError("labels has no 'background', which must be 0")
    if labels[BACKGROUND] != 0:
        raise ValueError(f"label 'background' must be 0, found {_show(labels[BACKGROUND])}")
    plain = [label for label in labels.values() if isinstance(label, int)]
    if len(set(plain)) < len(plain):
        twice = next(label for label in plain if plain.count(label) > 1)
        raise ValueError(f"label {twice} has several names: {', '.join(n for n, v in labels.items() if v == twice)}")
    values = sorted({value for label in labels.values() for value in values_of(label)})
    if values != list(range(len(values))):
        missing = next(number for number in range(len(values)) if number not in values)
        raise ValueError(
            f"label values must be consecutive from 0, {missing} is missing and {values[-1]} is the highest"
        )
    if len(values) < 2:
        raise ValueError("labels names no foreground")
    if IGNORE in labels and labels[IGNORE] != values[-1]:
        raise ValueError(f"label 'ignore' must be the highest value {values[-1]}, found {_show(labels[IGNORE])}")
    return labels


def _parse_label(name: str, value: Any) -> Label:
    if _is_label(value):
        return int(value)
    if (
        isinstance(value, list)
        and value
        and all(_is_label(item) for item in value)
        and name not in (BACKGROUND, IGNORE)
    ):
        if len(set(value)) < len(value):
            raise ValueError(f"region '{name}' names a label twice: {_show(value)}")
        # nnU-Net, too, takes a region of one value as that value.
        return tuple(value) if len(value) > 1 else int(value[0])
    hint = ", write it without quotes" if isinstance(value, str) and value.strip().isdigit() else ""
    raise ValueError(
        f"label '{name}' must be a whole number from 0 to {MAX_LABEL} or a list, found {_show(value)}{hint}"
    )


def _is_label(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_LABEL


def parse_order(value: Any, labels: dict[str, Label]) -> tuple[int, ...] | None:
    """Return the order in which regions are written, or None when there is none."""
    num_regions = sum(1 for name in labels if name not in (BACKGROUND, IGNORE))
    has_regions = any(isinstance(label, tuple) for label in labels.values())
    if value is None:
        if has_regions:
            raise ValueError("labels has regions, so regions_class_order is needed")
        return None
    if not isinstance(value, list) or not all(_is_label(item) for item in value):
        raise ValueError(f"regions_class_order must be a list of labels, found {_show(value)}")
    if has_regions and len(value) != num_regions:
        raise ValueError(f"regions_class_order has {len(value)} entries for {num_regions} regions")
    return tuple(value)


def parse_ending(value: Any) -> str:
    """Return the file ending."""
    if not isinstance(value, str) or value not in SUPPORTED_ENDINGS:
        raise ValueError(f"file_ending {_show(value)} is not supported, expected one of {' '.join(SUPPORTED_ENDINGS)}")
    return value


def parse_count(value: Any) -> int:
    """Return the number of training cases."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"numTraining must be a whole number above 0, found {_show(value)}")
    return value


def parse_listed(value: Any, folder: Path) -> dict[str, CaseFiles]:
    """Return the files listed under `dataset`, by case id."""
    if not isinstance(value, dict) or not value:
        raise ValueError("dataset must be an object: case id to images and label")
    cases = {}
    for case_id, files in value.items():
        if not CASE_ID.match(case_id):
            raise ValueError(f"case id {_show(case_id)} is not allowed: letters, digits, '.', '_', '-', at most 128")
        images = files.get("images") if isinstance(files, dict) else None
        if not isinstance(images, list) or not images or not isinstance(files.get("label"), str):
            raise ValueError(f"case '{case_id}' must have a list 'images' and a 'label'")
        cases[case_id] = CaseFiles(
            images=tuple(_resolve(case_id, name, folder) for name in images),
            label=_resolve(case_id, files["label"], folder),
        )
    return cases


def _resolve(case_id: str, name: Any, folder: Path) -> Path:
    """Resolve a listed file: relative ones stay inside the dataset folder, absolute ones are taken as they are."""
    if not isinstance(name, str) or not name or "\0" in name or name.startswith("~") or "$" in name or "://" in name:
        raise ValueError(f"case '{case_id}' lists the file {_show(name)}, expected a plain path")
    path = Path(name)
    if ".." in path.parts:
        raise ValueError(f"case '{case_id}' lists the file {_show(name)}, which leaves the dataset folder")
    return path if path.is_absolute() else folder / path


def check_reader(raw: Mapping[str, Any]) -> None:
    """Refuse readers that are unknown or reorient the images."""
    name = raw.get("overwrite_image_reader_writer", "None")
    if name in _REORIENTING_READERS:
        raise ValueError(f"overwrite_image_reader_writer '{name}' reorients images, which is not supported")
    if name not in _KNOWN_READERS:
        raise ValueError(f"overwrite_image_reader_writer {_show(name)} is not one of {', '.join(_KNOWN_READERS)}")


def values_of(label: Label) -> tuple[int, ...]:
    """Return the label values of a label or region."""
    return label if isinstance(label, tuple) else (label,)


def _show(value: Any) -> str:
    text = f"'{value}'" if isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."

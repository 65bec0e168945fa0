"""Mend `dataset.json` where only one reading is possible: old forms, missing or wrong entries."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stu_pipeline.datasets.dataset_fields import BACKGROUND
from stu_pipeline.datasets.endings import split_ending
from stu_pipeline.datasets.listing import list_folder, split_channel


@dataclass(frozen=True, slots=True, kw_only=True)
class MendedDescription:
    """The content of a `dataset.json` as it should be, and what was changed. The original is not touched."""

    content: dict[str, Any]
    changes: tuple[str, ...]


def mend_description(raw: Any, folder: Path) -> MendedDescription | None:
    """Mend what is certain; None when there is nothing of that kind. What is left may still be invalid.

    Args:
        raw: parsed content of `dataset.json`.
        folder: the dataset's folder, whose `imagesTr` and `labelsTr` tell the file ending and the number of cases.
    """
    if not isinstance(raw, dict):
        return None
    content = dict(raw)
    changes = [*_mend_channels(content), *_mend_labels(content), *_mend_ending(content, folder)]
    num_cases = count_cases(folder, str(content.get("file_ending", "")))
    if "dataset" not in content and num_cases and content.get("numTraining") != num_cases:
        changes.append(f"numTraining {content.get('numTraining', 'missing')} -> {num_cases}")
        content["numTraining"] = num_cases
    return MendedDescription(content=content, changes=tuple(changes)) if changes else None


def count_cases(folder: Path, ending: str) -> int:
    """Count the cases of a dataset by the label maps that have an image."""
    names = [split_ending(name) for name in list_folder(folder / "imagesTr").image_names]
    images = {split_channel(stem)[0] for stem, found in names if found == ending}
    labels = [split_ending(name) for name in list_folder(folder / "labelsTr").image_names]
    return len(images & {stem for stem, found in labels if found == ending})


def _mend_channels(content: dict[str, Any]) -> list[str]:
    if "modality" not in content or "channel_names" in content:
        return []
    content["channel_names"] = content.pop("modality")
    return ["'modality' -> 'channel_names'"]


def _mend_labels(content: dict[str, Any]) -> list[str]:
    labels = content.get("labels")
    if not isinstance(labels, dict) or not labels:
        return []
    changes = []
    if _is_inverted(labels):
        labels = {name: int(value) for value, name in labels.items()}
        changes.append("labels turned round: name -> number")
    quoted = [name for name, value in labels.items() if isinstance(value, str) and value.strip().isdecimal()]
    if quoted:
        labels = {name: int(value) if name in quoted else value for name, value in labels.items()}
        changes.append(f"labels without quotes: {', '.join(quoted)}")
    zero = [name for name, value in labels.items() if value == 0 and not isinstance(value, bool)]
    if len(zero) == 1 and zero[0] != BACKGROUND and BACKGROUND not in labels:
        labels = {BACKGROUND if name == zero[0] else name: value for name, value in labels.items()}
        changes.append(f"label 0 is called '{BACKGROUND}', not '{zero[0]}'")
    content["labels"] = labels
    return changes


def _is_inverted(labels: dict[str, Any]) -> bool:
    """Whether labels map numbers to names, each name once."""
    names = list(labels.values())
    return (
        all(key.isdecimal() for key in labels)
        and all(isinstance(name, str) and name and not name.isdecimal() for name in names)
        and len(set(names)) == len(names)
        and len({int(key) for key in labels}) == len(labels)
    )


def _mend_ending(content: dict[str, Any], folder: Path) -> list[str]:
    if "file_ending" in content:
        return []
    endings = {split_ending(name)[1] for part in ("imagesTr", "labelsTr") for name in _list_images(folder / part)}
    if len(endings) != 1:
        return []
    content["file_ending"] = endings.pop()
    return [f"file_ending '{content['file_ending']}' added"]


def _list_images(folder: Path) -> tuple[str, ...]:
    return list_folder(folder).image_names

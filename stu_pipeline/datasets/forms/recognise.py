"""In which form a dataset comes.

Reads: `dataset.json` and folder listings.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stu_pipeline.datasets.dataset_json import read_strict_json
from stu_pipeline.datasets.endings import split_ending
from stu_pipeline.datasets.listing import list_folder, split_channel
from stu_pipeline.errors import DataError
from stu_pipeline.workspace import split_dataset_name

FormKind = Literal["nnunet_v2", "msd", "nnunet_v1"]
_PAIR_HINT = "stu plan --images FOLDER --labels FOLDER --dataset-name NAME"


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """The form of a dataset, and the folder with its `dataset.json`."""

    kind: FormKind
    path: Path

    @property
    def is_foreign(self) -> bool:
        """Whether it must be imported before it can be planned."""
        return self.kind != "nnunet_v2"


def recognise_form(path: Path) -> Form:
    """Recognise the form of a dataset folder; a `dataset.json` in it may be given as well.

    What is named `DatasetNNN_Name`, or says so by its keys, is nnU-Net v2, right or wrong; its faults are
    found when it is read.

    Raises:
        DataError: there is nothing, or neither a `dataset.json` nor a dataset's name.
    """
    folder = path.parent if path.name == "dataset.json" and path.is_file() else path
    description = folder / "dataset.json"
    if not folder.is_dir():
        problem = "is a file, expected a folder" if folder.exists() else "not found"
        hint = "unpack it first" if folder.is_file() else "check the path"
        raise DataError(f"'{folder.name}' {problem}", where=folder.parent, hint=hint)
    if not description.is_file():
        if split_dataset_name(folder.name):
            return Form(kind="nnunet_v2", path=folder)
        raise DataError(
            f"'{folder.name}' is no dataset: it has no dataset.json", where=folder, hint=_suggest_pair(folder)
        )
    raw = read_strict_json(description)
    if not is_decathlon_json(raw):
        return Form(kind="nnunet_v2", path=folder)
    return Form(kind="nnunet_v1" if _has_channel_numbers(folder) else "msd", path=folder)


def is_decathlon_json(raw: Any) -> bool:
    """Tell whether a `dataset.json` is written as the Decathlon and nnU-Net v1 write it."""
    if not isinstance(raw, dict):
        return False
    labels = raw.get("labels")
    is_inverted = (
        isinstance(labels, dict)
        and bool(labels)
        and all(key.isdigit() and isinstance(name, str) for key, name in labels.items())
    )
    return "channel_names" not in raw and "file_ending" not in raw and ("modality" in raw or is_inverted)


def _has_channel_numbers(folder: Path) -> bool:
    names = list_folder(folder / "imagesTr").image_names
    return bool(names) and all(split_channel(split_ending(name)[0])[1] is not None for name in names)


def _suggest_pair(folder: Path) -> str:
    images, labels = (
        next((entry for entry in ("imagesTr", "images", "image") if (folder / entry).is_dir()), ""),
        next((entry for entry in ("labelsTr", "labels", "label", "masks") if (folder / entry).is_dir()), ""),
    )
    if images and labels:
        return f"stu plan --images {folder / images} --labels {folder / labels} --dataset-name NAME"
    return _PAIR_HINT

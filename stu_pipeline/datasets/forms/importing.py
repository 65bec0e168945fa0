"""Describe a dataset in another form as nnU-Net v2, where it lies: its files are listed, not copied.

Only channels that share one 4D file are written out, one file each.

Reads: the source. Writes, among the raw datasets: `dataset.json`, `stu_import.json`, split channels.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stu_pipeline.datasets.dataset_json import parse_dataset_json, read_strict_json
from stu_pipeline.datasets.forms.decathlon import take_decathlon
from stu_pipeline.datasets.forms.folder_pair import DEFAULT_CHANNEL, FolderPair, take_folder_pair
from stu_pipeline.datasets.forms.inventory import FORM_NAMES, Inventory
from stu_pipeline.datasets.forms.label_discovery import find_labels, look_like_hounsfield
from stu_pipeline.datasets.forms.naming import choose_dataset_name
from stu_pipeline.datasets.forms.recognise import recognise_form
from stu_pipeline.datasets.forms.volume_series import SplitTask, split_volumes
from stu_pipeline.datasets.listing import raise_problems
from stu_pipeline.errors import DataError, StorageError
from stu_pipeline.log import Listener, Notice, Progress, ignore_events
from stu_pipeline.storage import hold_lock, read_json, write_json
from stu_pipeline.workers import run_in_workers
from stu_pipeline.workspace import Workspace, import_record, open_workspace

_SCHEMA = 1
_MAX_NOTES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class _Target:
    """Where a source is described, and what is there from earlier imports."""

    folder: Path
    record: Mapping[str, Any]
    description: Mapping[str, Any]

    @property
    def description_file(self) -> Path:
        return self.folder / "dataset.json"

    @property
    def is_edited(self) -> bool:
        """Whether the description is not as it was written."""
        return bool(self.description) and _hash(self.description) not in self.record.get("written", ())


def import_dataset(
    source: Path | FolderPair,
    *,
    workspace: Workspace | None = None,
    name: str | None = None,
    num_workers: int = 0,
    listen: Listener = ignore_events,
) -> Path:
    """Describe a dataset among the raw ones and return its folder; nnU-Net v2 is returned as it is.

    The same source finds its dataset again: what did not change is not read again, and what was edited in its
    `dataset.json` stays. The source itself is never changed.

    Args:
        source: a Decathlon or nnU-Net v1 task, or two folders.
        workspace: where datasets are; None takes the current one.
        name: 'Name' or 'DatasetNNN_Name'; None takes what the source is called.
        num_workers: processes that read label maps and split files; 0 works in this one.
        listen: receives `Progress` and `Notice` events.

    Raises:
        DataError: the source cannot be used; all problems are in `details`.
        UsageError: the name is taken by another dataset, or is none.
        LockedError: another import is at work in the same folder.
        StorageError: the folder of the raw datasets cannot be written.
    """
    inventory = _take(source)
    if isinstance(inventory, Path):
        return inventory
    workspace = workspace or open_workspace()
    with hold_lock(workspace.import_lock, what="the folder of the raw datasets"):
        target = _open_target(workspace.raw / choose_dataset_name(inventory, workspace, name))
        channels = _choose_channels(inventory, source, target)
        signature = _sign_files(inventory)
        if not _is_current(target, signature, channels):
            _write(inventory, target, signature, channels, num_workers=num_workers, listen=listen)
    return target.folder


def find_import(
    source: Path | FolderPair, *, workspace: Workspace | None = None, name: str | None = None
) -> Path | None:
    """Return where `import_dataset` would find a source unchanged; None when it would write. Writes nothing.

    Raises:
        DataError: the source cannot be used.
        UsageError: the name is taken by another dataset, or is none.
    """
    inventory = _take(source)
    if isinstance(inventory, Path):
        return inventory
    workspace = workspace or open_workspace()
    target = _open_target(workspace.raw / choose_dataset_name(inventory, workspace, name))
    is_current = _is_current(target, _sign_files(inventory), _choose_channels(inventory, source, target))
    return target.folder if is_current else None


def _take(source: Path | FolderPair) -> Inventory | Path:
    """Look through a source; the folder of an nnU-Net v2 dataset is returned as it is."""
    if isinstance(source, FolderPair):
        return take_folder_pair(source)
    form = recognise_form(source)
    return take_decathlon(form.path) if form.is_foreign else form.path


def _open_target(folder: Path) -> _Target:
    record_file, description_file = import_record(folder), folder / "dataset.json"
    record = read_json(record_file) if record_file.is_file() else {}
    description = read_strict_json(description_file) if description_file.is_file() else {}
    if not isinstance(record, dict) or not isinstance(description, dict):
        raise DataError(
            f"'{folder.name}' is no usable import", where=folder, hint="delete this folder and import again"
        )
    return _Target(folder=folder, record=record, description=description)


def _choose_channels(inventory: Inventory, source: Path | FolderPair, target: _Target) -> tuple[str, ...]:
    """Take the names given now, else those given or written earlier, else what the source says."""
    if isinstance(source, FolderPair) and source.channels:
        return inventory.channel_names
    known = target.description.get("channel_names")
    is_kept = isinstance(source, FolderPair) or target.is_edited
    if is_kept and isinstance(known, dict) and len(known) == len(inventory.channel_names):
        return tuple(str(name) for name in known.values())
    return inventory.channel_names


def _is_current(target: _Target, signature: Mapping[str, Any], channels: tuple[str, ...]) -> bool:
    names = target.description.get("channel_names")
    return (
        target.record.get("files") == signature
        and isinstance(names, dict)
        and tuple(names.values()) == channels
        and all((target.folder / name).is_file() for name in target.record.get("split", ()))
    )


def _write(
    inventory: Inventory,
    target: _Target,
    signature: Mapping[str, Any],
    channels: tuple[str, ...],
    *,
    num_workers: int,
    listen: Listener,
) -> None:
    for text in inventory.notes[:_MAX_NOTES]:
        listen(Notice(text=text))
    keep_labels = target.is_edited and isinstance(target.description.get("labels"), dict)
    labels = target.description["labels"] if keep_labels else inventory.labels
    if labels is None:
        labels = find_labels(inventory.cases, num_workers=num_workers, listen=listen)
    content = _describe(inventory, target, labels, channels)
    parse_dataset_json(content, target.description_file)
    record = {
        "schema": _SCHEMA,
        "form": inventory.form,
        "sources": [os.fspath(path) for path in inventory.sources],
        "written": [_hash(content), *target.record.get("written", ())][:2],
    }
    # The record comes first: a folder that a killed import left is known to belong to this source.
    write_json(import_record(target.folder), record)
    split = _split(inventory, target, num_workers=num_workers, listen=listen) if inventory.must_split else []
    write_json(target.description_file, content)
    write_json(import_record(target.folder), {**record, "files": signature, "split": split})
    _tell(inventory, target, content, listen)


def _describe(
    inventory: Inventory, target: _Target, labels: Mapping[str, Any], channels: tuple[str, ...]
) -> dict[str, Any]:
    kept = dict(target.description) if target.is_edited else dict(inventory.extra)
    return {
        **kept,
        "channel_names": {str(index): name for index, name in enumerate(channels)},
        "labels": dict(labels),
        "numTraining": len(inventory.cases),
        "file_ending": ".nii.gz" if inventory.must_split else inventory.file_ending,
        "dataset": {
            case.id: {
                "images": _name_split(case.id, len(channels))
                if inventory.must_split
                else [os.fspath(path) for path in case.images],
                "label": os.fspath(case.label),
            }
            for case in inventory.cases
        },
    }


def _name_split(case_id: str, num_channels: int) -> list[str]:
    return [f"imagesTr/{case_id}_{index:04d}.nii.gz" for index in range(num_channels)]


def _split(inventory: Inventory, target: _Target, *, num_workers: int, listen: Listener) -> list[str]:
    """Write every channel of every case into its own file and return their names."""
    names = {case.id: _name_split(case.id, len(inventory.channel_names)) for case in inventory.cases}
    tasks = [
        SplitTask(
            case_id=case.id, source=case.images[0], targets=tuple(target.folder / name for name in names[case.id])
        )
        for case in inventory.cases
    ]
    problems: list[str] = []
    outcomes = run_in_workers(split_volumes, tasks, num_workers=num_workers, name_of=lambda task: task.case_id)
    for done, outcome in enumerate(outcomes, start=1):
        if isinstance(outcome.error, StorageError):
            raise outcome.error
        if outcome.error is not None:
            problems.append(str(outcome.error))
        listen(Progress(step="split channels", done=done, total=len(tasks), item=outcome.item.case_id))
    raise_problems(sorted(problems), "the 4D images", inventory.sources[0], "correct or remove them")
    return [name for case_names in names.values() for name in case_names]


def _tell(inventory: Inventory, target: _Target, content: Mapping[str, Any], listen: Listener) -> None:
    num_labels = len(content["labels"]) - 1
    text = (
        f"{FORM_NAMES[inventory.form]} described as {target.folder.name}: {len(inventory.cases)} cases, "
        f"{num_labels} label{'s' * (num_labels != 1)}; its files stay where they are"
    )
    listen(Notice(text=text))
    is_default = content["channel_names"] == {"0": DEFAULT_CHANNEL}
    if is_default and (sentence := look_like_hounsfield(inventory.cases[0].images[0])):
        listen(Notice(text=f"{sentence}; if this is CT, say so: --channels CT", is_warning=True))


def _sign_files(inventory: Inventory) -> dict[str, list[int]]:
    """Return size and time of every file, by path."""
    files = {path: path.stat() for case in inventory.cases for path in (*case.images, case.label)}
    return {os.fspath(path): [status.st_size, status.st_mtime_ns] for path, status in files.items()}


def _hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

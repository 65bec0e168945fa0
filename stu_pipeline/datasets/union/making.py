"""Make one raw dataset of several: images are listed where they lie, label maps get the labels of the union.

Reads: the sources, which are never changed. Writes, among the raw datasets: `dataset.json` (last), `labelsTr/`,
`stu_union.json`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stu_pipeline.datasets.dataset_fields import IGNORE
from stu_pipeline.datasets.dataset_json import parse_dataset_json
from stu_pipeline.datasets.union.blueprint import Blueprint, draw_blueprint
from stu_pipeline.datasets.union.duplicates import find_duplicates
from stu_pipeline.datasets.union.naming import choose_union_name
from stu_pipeline.datasets.union.record import (
    SCHEMA,
    LabelMark,
    describe_mark,
    hash_content,
    read_marks,
    read_record,
    union_journal,
    union_record,
)
from stu_pipeline.datasets.union.request import UnionRequest
from stu_pipeline.datasets.union.rewriting import find_finished, rewrite_labels
from stu_pipeline.errors import DataError, UsageError
from stu_pipeline.log import Listener, Notice, ignore_events
from stu_pipeline.storage import hold_lock, read_json, remove_leftovers, storage_errors, write_json
from stu_pipeline.workspace import Workspace, open_workspace

_MAX_SHOWN = 8


def make_union(
    request: UnionRequest,
    *,
    workspace: Workspace | None = None,
    target: Workspace | None = None,
    num_workers: int = 0,
    listen: Listener = ignore_events,
) -> Path:
    """Write the union of several datasets among the raw ones and return its folder.

    The same request finds its union again and changes nothing, but for label maps whose source changed. A killed
    run is continued by the same request.

    Args:
        request: the sources, and how they are joined.
        workspace: where the sources are found by id and name; None takes the current one.
        target: where the union is written, under a name that is free in both; None takes `workspace`.
        num_workers: processes that write label maps; 0 works in this one.
        listen: receives `Progress` and `Notice` events.

    Raises:
        DataError: sources or labels cannot be joined, before any work; or label maps are damaged.
        UsageError: the request does not fit the sources, or the name is that of another dataset.
        LockedError: another union or import is being made in the same place.
        StorageError: the folder of the raw datasets cannot be written.
    """
    workspace = workspace or open_workspace()
    target = target or workspace
    blueprint = draw_blueprint(request, workspace)
    with hold_lock(target.import_lock, what="the folder of the raw datasets"):
        folder = target.raw / choose_union_name(blueprint.identify(), (target, workspace), request.dataset_name)
        if _is_current(blueprint, folder):
            listen(Notice(text=f"{folder.name} is this union already: {_count(blueprint.num_cases, 'case')}"))
            return folder
        _require_replaceable(blueprint, folder, target, listen)
        _write(blueprint, folder, num_workers=num_workers, listen=listen)
    _tell(blueprint, folder, listen)
    return folder


def find_union(request: UnionRequest, *, workspace: Workspace | None = None) -> Path | None:
    """Return where `make_union` would find its union unchanged; None when it would write. Writes nothing.

    Raises:
        DataError: as `make_union`.
        UsageError: as `make_union`.
    """
    workspace = workspace or open_workspace()
    blueprint = draw_blueprint(request, workspace)
    folder = workspace.raw / choose_union_name(blueprint.identify(), (workspace,), request.dataset_name)
    if _is_current(blueprint, folder):
        return folder
    _require_replaceable(blueprint, folder, workspace, ignore_events)
    return None


def _is_current(blueprint: Blueprint, folder: Path) -> bool:
    """Whether nothing would be written. What was added to `dataset.json` by hand stays."""
    record = read_record(folder)
    if record is None or union_journal(folder).exists() or not (folder / "dataset.json").is_file():
        return False
    tasks = blueprint.list_tasks(folder)
    return (
        record.get("identity") == blueprint.identify()
        and record.get("written") == hash_content(blueprint.describe())
        and len(find_finished(folder, tasks)) == len(tasks)
        and set(record.get("files", ())) == {task.case_id for task in tasks}
    )


def _require_replaceable(blueprint: Blueprint, folder: Path, target: Workspace, listen: Listener) -> None:
    """Refuse to make another union of one that was planned: plans and models know its labels by number."""
    record = read_record(folder)
    if record is None or record["identity"] == blueprint.identify():
        return
    planned = target.preprocessed / folder.name
    if planned.is_dir() and any(planned.glob("*.json")):
        raise UsageError(
            f"'{folder.name}' is another union, and it was planned",
            where=folder,
            hint="give another --dataset-name",
            details=_list_differences(record["identity"], blueprint.identify()),
        )
    listen(Notice(text=f"{folder.name} was another union, which was never planned: replaced"))


def _list_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, ...]:
    texts = {
        "sources": "other sources or channels",
        "channel_names": "other channel names",
        "labels": "other labels",
        "tables": "labels of the sources become others",
    }
    return tuple(text for key, text in texts.items() if before.get(key) != now.get(key))


def _write(blueprint: Blueprint, folder: Path, *, num_workers: int, listen: Listener) -> None:
    content = blueprint.describe()
    parse_dataset_json(content, folder / "dataset.json")
    for text in find_duplicates(blueprint.sources):
        listen(Notice(text=text, is_warning=True))
    marks = read_marks(folder)
    record = read_record(folder)
    if record is None or record["identity"] != blueprint.identify():
        # A description of other labels must not lie beside label maps that are being replaced.
        with storage_errors(folder):
            (folder / "dataset.json").unlink(missing_ok=True)
    # The record comes first: a folder that a killed run left is known to be this union.
    write_json(union_record(folder), _describe_record(blueprint, marks))
    remove_leftovers(folder / "labelsTr")
    marks = rewrite_labels(folder, blueprint.list_tasks(folder), num_workers=num_workers, listen=listen)
    old = read_marks(folder).keys() - marks.keys()
    if not _holds(folder / "dataset.json", content):
        write_json(folder / "dataset.json", content)
    write_json(union_record(folder), {**_describe_record(blueprint, marks), "written": hash_content(content)})
    with storage_errors(folder):
        union_journal(folder).unlink(missing_ok=True)
        for case_id in old:
            if Path(case_id).name == case_id:
                (folder / "labelsTr" / f"{case_id}{blueprint.file_ending}").unlink(missing_ok=True)


def _holds(path: Path, content: Any) -> bool:
    try:
        return bool(read_json(path) == content)
    except DataError:
        return False


def _describe_record(blueprint: Blueprint, marks: Mapping[str, LabelMark]) -> dict[str, Any]:
    names = {value: name for name, value in blueprint.space.describe().items()}
    return {
        "schema": SCHEMA,
        "identity": blueprint.identify(),
        "sources": [
            {
                "name": source.name,
                "folder": os.fspath(source.folder),
                "num_cases": len(source.cases),
                "dataset_json_sha256": source.dataset_json_sha256,
                "labels": {
                    name: names[blueprint.space.tables[source.name][value]] for name, value in source.labels.items()
                },
            }
            for source in blueprint.sources
        ],
        "union_labels": blueprint.union_labels,
        "labels_of": list(blueprint.labels_of) if blueprint.labels_of else None,
        "files": {case_id: describe_mark(mark) for case_id, mark in marks.items()},
    }


def _tell(blueprint: Blueprint, folder: Path, listen: Listener) -> None:
    names = blueprint.space.names
    listen(
        Notice(
            text=f"union of {_count(len(blueprint.sources), 'dataset')}: {folder.name}, "
            f"{_count(blueprint.num_cases, 'case')}, {_count(len(names), 'label')}, "
            f"channels {', '.join(blueprint.channel_names)}; the images stay where they are"
        )
    )
    shared: dict[int, list[str]] = {}
    for source in blueprint.sources:
        table = blueprint.space.tables[source.name]
        for name, value in source.labels.items():
            if table[value] not in (0, blueprint.space.ignore_value):
                shared.setdefault(table[value], []).append(f"'{name}' of {source.name}")
            else:
                what = IGNORE if table[value] else "background"
                listen(Notice(text=f"'{name}' of {source.name} is not used: its voxels are {what}"))
    joined = [f"{names[value - 1]} ({', '.join(found)})" for value, found in shared.items() if len(found) > 1]
    if joined:
        more = f" and {len(joined) - _MAX_SHOWN} more" if len(joined) > _MAX_SHOWN else ""
        listen(Notice(text=f"joined labels: {'; '.join(joined[:_MAX_SHOWN])}{more}"))
    if regions := [f"'{name}' of {source.name}" for source in blueprint.sources for name in source.region_names]:
        listen(Notice(text=f"regions are left out, their labels are in: {', '.join(regions[:_MAX_SHOWN])}"))


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'s' * (number != 1)}"

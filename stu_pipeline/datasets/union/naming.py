"""Which id and name a union gets: the same request always finds its own again.

Reads: the records of unions among the raw datasets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from stu_pipeline.datasets.union.record import union_record
from stu_pipeline.errors import UsageError
from stu_pipeline.storage import read_json
from stu_pipeline.workspace import Workspace, list_dataset_names, split_dataset_name

FIRST_FREE_ID = 900
DEFAULT_NAME = "Union"
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}\Z")


def choose_union_name(identity: Mapping[str, Any], workspaces: Sequence[Workspace], wanted: str | None) -> str:
    """Choose the name `DatasetNNN_Name` of a union.

    Args:
        identity: what makes it this union and no other.
        workspaces: where it is written, and others whose names are taken too.
        wanted: 'Name' or 'DatasetNNN_Name'; None takes 'Union'.

    Returns:
        The name it has already, that of a union it may replace, or a free one.

    Raises:
        UsageError: the name is taken by a dataset that is no union, or it is none.
    """
    names = sorted({name for workspace in workspaces for name in list_dataset_names(workspace)})
    known = {name: parts for name in names if (parts := split_dataset_name(name))}
    exact = split_dataset_name(wanted) if wanted is not None else None
    word = exact[1] if exact else DEFAULT_NAME if wanted is None else wanted
    if not _WORD.match(word):
        raise UsageError(
            f"dataset name {word[:100]!r} is not allowed: letters, digits, '_', '.', '-'",
            hint="--dataset-name Union, or --dataset-name Dataset900_Union",
        )
    same_name = [name for name, parts in known.items() if (parts == exact if exact else parts[1] == word)]
    same = [name for name in same_name if _read_identity(workspaces, name) == identity]
    if same:
        return same[0]
    in_the_way = [name for name, parts in known.items() if exact and parts[0] == exact[0] and name not in same_name]
    if wanted is not None and not in_the_way:
        in_the_way = [name for name in same_name if _read_identity(workspaces, name) is None]
        if same_name and not in_the_way:
            return same_name[0]
    if in_the_way:
        raise UsageError(
            f"'{in_the_way[0]}' is another dataset, not this union",
            where=workspaces[0].raw,
            hint="give another --dataset-name",
        )
    taken = {parts[0] for parts in known.values()}
    free = next(number for number in range(FIRST_FREE_ID, FIRST_FREE_ID + len(taken) + 1) if number not in taken)
    return f"Dataset{exact[0] if exact else free:03d}_{word}"


def _read_identity(workspaces: Sequence[Workspace], name: str) -> Any:
    """Return the identity of a union; None for other datasets."""
    path = next((path for workspace in workspaces if (path := union_record(workspace.raw / name)).is_file()), None)
    record = read_json(path) if path else None
    return record.get("identity") if isinstance(record, dict) else None

"""Which id and name an imported dataset gets: the same source always finds its own again.

Reads: the import records among the raw datasets.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from stu_pipeline.datasets.forms.inventory import Inventory
from stu_pipeline.errors import UsageError
from stu_pipeline.storage import read_json
from stu_pipeline.workspace import Workspace, import_record, list_dataset_names, split_dataset_name

FIRST_FREE_ID = 500
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}\Z")
_FOREIGN = re.compile(r"[^A-Za-z0-9_.-]+")


def choose_dataset_name(inventory: Inventory, workspace: Workspace, wanted: str | None) -> str:
    """Choose the name `DatasetNNN_Name` of a source.

    Args:
        inventory: the source, with the id and name it brings along.
        workspace: whose datasets are known.
        wanted: 'Name' or 'DatasetNNN_Name'; None takes what the source brings.

    Returns:
        The name the source was imported under before, else a free one.

    Raises:
        UsageError: the name is taken by another dataset, is none, or there is none.
    """
    known = {name: parts for name in list_dataset_names(workspace) if (parts := split_dataset_name(name))}
    number, word = _read_wanted(inventory, wanted)
    is_exact = wanted is not None and split_dataset_name(wanted) is not None
    same = [name for name in known if is_import_of(workspace.raw / name, inventory.sources)]
    fitting = [name for name in same if known[name][1] == word and (not is_exact or known[name][0] == number)]
    if fitting or (same and wanted is None):
        return (fitting or same)[0]
    in_the_way = [name for name, parts in known.items() if (parts[0] == number if is_exact else parts[1] == word)]
    if in_the_way:
        raise UsageError(
            f"'{in_the_way[0]}' is another dataset, not made from {_show(inventory.sources)}",
            where=workspace.raw,
            hint="give another name: --dataset-name NAME",
        )
    taken = {parts[0] for parts in known.values()}
    if number is None or number in taken:
        number = next(free for free in range(FIRST_FREE_ID, FIRST_FREE_ID + len(taken) + 1) if free not in taken)
    return f"Dataset{number:03d}_{word}"


def is_import_of(folder: Path, sources: Sequence[Path]) -> bool:
    """Tell whether a dataset folder was made from these sources."""
    record = import_record(folder)
    content = read_json(record) if record.is_file() else None
    return isinstance(content, dict) and content.get("sources") == [os.fspath(path) for path in sources]


def _read_wanted(inventory: Inventory, wanted: str | None) -> tuple[int | None, str]:
    if wanted is None:
        word = _FOREIGN.sub("_", inventory.name).strip("_.-")
        if not _WORD.match(word):
            raise UsageError(f"no name for {_show(inventory.sources)}", hint="give one: --dataset-name NAME")
        return inventory.number, word
    if parts := split_dataset_name(wanted):
        return parts
    if not _WORD.match(wanted):
        raise UsageError(
            f"dataset name {wanted[:100]!r} is not allowed: letters, digits, '_', '.', '-'",
            hint="--dataset-name Liver, or --dataset-name Dataset701_Liver",
        )
    return inventory.number, wanted


def _show(sources: Sequence[Path]) -> str:
    return " and ".join(f"'{path}'" for path in sources)

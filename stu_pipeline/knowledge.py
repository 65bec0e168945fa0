"""Find and read what this package knows as data: the `plans/` folder.

Reads: `plans/` of the repository, else the copy inside the installed package.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stu_pipeline.errors import StorageError
from stu_pipeline.storage import read_json

_PACKAGE = Path(__file__).resolve().parent
_PACKAGED_NAME = "_plans"


def find_knowledge_folder() -> Path:
    """Return the folder with the data.

    The repository's own `plans/` comes first: an editable install would otherwise read a stale copy.

    Raises:
        StorageError: the installation lacks the folder.
    """
    repository = _PACKAGE.parent
    if (repository / "plans").is_dir() and (repository / "pyproject.toml").is_file():
        return repository / "plans"
    packaged = _PACKAGE / _PACKAGED_NAME
    if packaged.is_dir():
        return packaged
    raise StorageError(
        "the installation is incomplete, its data folder is missing",
        where=packaged,
        hint="pip install --force-reinstall stu-pipeline",
    )


def read_knowledge(name: str) -> dict[str, Any]:
    """Read one JSON file of the folder, for example 'memory.json'."""
    content: dict[str, Any] = read_json(find_knowledge_folder() / name)
    return content


def find_knowledge(name: str) -> dict[str, Any] | None:
    """Read one JSON file of the folder, or return None when it is not there."""
    return read_knowledge(name) if (find_knowledge_folder() / name).is_file() else None

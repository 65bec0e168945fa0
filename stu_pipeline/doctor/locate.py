"""Find the folder of a dataset that may not be in order yet."""

from __future__ import annotations

import os
from pathlib import Path

from stu_pipeline.errors import DataError
from stu_pipeline.workspace import find_dataset


def find_folder(dataset: str) -> Path:
    """Return the raw folder of a dataset: id, name or path. A path need not be named `DatasetNNN_Name`.

    Raises:
        DataError: there is no such dataset, or its raw data is gone.
    """
    path = Path(os.path.normpath(Path(dataset).expanduser().absolute()))
    if path.is_dir() and ((path / "dataset.json").exists() or (path / "imagesTr").is_dir()):
        return path
    paths = find_dataset(dataset)
    if not paths.raw.is_dir():
        raise DataError(f"the raw data of '{paths.name}' is not there", where=paths.raw.parent)
    return paths.raw

"""Read where the labels of a case lie, from the properties beside its voxels, without running code from the file.

Reads: `<case>.pkl`, of ours and of stock nnU-Net.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from stu_pipeline.datasets.plain_pickle import PICKLE_ERRORS, load_plain_pickle
from stu_pipeline.errors import DataError
from stu_pipeline.training.sampling.crop import PlaceKey, Places

HINT = "preprocess the dataset again: stu plan DATASET"
_KEY = "class_locations"
_CACHE_BYTES = 64 << 20
_LOAD_ERRORS = (*PICKLE_ERRORS, OSError)


class PlaceReader:
    """Reads the places of cases and keeps the last ones, up to 64 MiB of files.

    Args:
        folder: the preprocessed cases.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kept: OrderedDict[str, tuple[int, Places]] = OrderedDict()

    def __reduce__(self) -> tuple[object, ...]:
        """Leave what was kept behind when a worker process is given a copy."""
        return PlaceReader, (self._folder,)

    def read(self, case_id: str) -> Places:
        """Return the places of a case; a label it does not have has no place.

        Raises:
            DataError: the file is missing, damaged, or not of a preprocessed training case.
        """
        if case_id not in self._kept:
            self._kept[case_id] = read_places(self._folder, case_id)
            while len(self._kept) > 1 and sum(size for size, _ in self._kept.values()) > _CACHE_BYTES:
                self._kept.popitem(last=False)
        self._kept.move_to_end(case_id)
        return self._kept[case_id][1]


def read_places(folder: Path, case_id: str) -> tuple[int, Places]:
    """Read the places of a case; return the size of the file in bytes, too.

    Raises:
        DataError: the file is missing, damaged, or not of a preprocessed training case.
    """
    path = folder / f"{case_id}.pkl"
    try:
        content = path.read_bytes()
        properties = load_plain_pickle(content)
        found = properties[_KEY]
        return len(content), {_as_key(key): np.asarray(places).reshape(-1, 4) for key, places in found.items()}
    except FileNotFoundError as error:
        raise DataError(f"case '{case_id}' has no file '{path.name}'", where=folder, hint=HINT) from error
    except _LOAD_ERRORS as error:
        problem = f"'{path.name}' of case '{case_id}' is damaged: {_describe(error)}"
        raise DataError(problem, where=folder, hint=HINT) from error


def _describe(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"it has no entry {lines[0]}" if isinstance(error, KeyError) and lines else next(iter(lines), "not readable")


def _as_key(key: Any) -> PlaceKey:
    return tuple(int(label) for label in key) if isinstance(key, tuple) else int(key)

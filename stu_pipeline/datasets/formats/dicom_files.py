"""Which files of a folder are DICOM slices, told by their content: many scanners give them no ending.

Reads: folder listings, and the first bytes of files without an ending of our own.
"""

from __future__ import annotations

import os
from pathlib import Path

from stu_pipeline.datasets.endings import split_ending
from stu_pipeline.errors import DataError

MASK_ENDING = ".nii.gz"
"""Of the masks of series, which have no ending to share."""
SEG_ENDING = ".seg.dcm"
"""Of the segmentations written beside masks; they are never slices."""
_PREAMBLE = 128
_MAGIC = b"DICM"
_INDEX_FILE = "DICOMDIR"
# What exports put beside the slices. Any other file that is no DICOM file may be a damaged slice.
_SIDE_ENDINGS = (
    ".txt", ".xml", ".json", ".html", ".htm", ".css", ".js", ".pdf", ".csv", ".md", ".log", ".md5", ".sha256", ".inf",
    ".ini", ".exe", ".jpg", ".jpeg", ".gif", ".ico", ".url", ".lnk", ".db", ".zip",
)  # fmt: skip
_MAX_DEPTH = 4


def is_dicom_file(path: Path) -> bool:
    """Whether a regular file starts as DICOM files do; never waits for a pipe."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as stream:
            return stream.read(_PREAMBLE + len(_MAGIC))[_PREAMBLE:] == _MAGIC
    except OSError:
        return False


def holds_series(folder: Path) -> bool:
    """Whether DICOM slices lie in a folder itself (an index file and our own segmentations do not count)."""
    try:
        return any(is_dicom_file(path) for path in _list_candidates(folder))
    except OSError:  # no folder, or not ours to read
        return False


def find_nested_series(folder: Path) -> Path | None:
    """Find a folder below one without slices of its own that holds some; None when there is none."""
    for place, folders, _ in os.walk(folder):
        below = Path(place)
        folders.sort()
        if len(below.relative_to(folder).parts) >= _MAX_DEPTH:
            folders.clear()
        if below != folder and holds_series(below):
            return below
    return None


def list_slice_files(folder: Path) -> tuple[Path, ...]:
    """List the DICOM files of a series folder, sorted by name.

    Raises:
        DataError: no slices, or a file that may be a damaged one: it is no DICOM file and nothing else we know.
    """
    try:
        candidates = _list_candidates(folder)
    except OSError as error:
        raise DataError(f"folder '{folder.name}' cannot be read: {error.strerror}", where=folder.parent) from error
    slices: list[Path] = []
    others: list[Path] = []
    for path in candidates:
        (slices if is_dicom_file(path) else others).append(path)
    if not slices:
        raise DataError(f"folder '{folder.name}' holds no DICOM files", where=folder.parent, hint="check the folder")
    odd = [path for path in others if path.suffix.lower() not in _SIDE_ENDINGS]
    if odd:
        more = f" and {len(odd) - 1} more are" if len(odd) > 1 else " is"
        raise DataError(
            f"'{odd[0].name}'{more} not DICOM, beside {len(slices)} slices: a damaged slice, or another file",
            where=folder,
            hint="copy the series again, or move the file out of its folder",
        )
    return tuple(slices)


def _list_candidates(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if not entry.is_dir())
    return [
        folder / name
        for name in names
        if not name.startswith(".")
        and name.upper() != _INDEX_FILE
        and not name.lower().endswith(SEG_ENDING)
        and not split_ending(name)[1]
    ]

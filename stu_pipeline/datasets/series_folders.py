"""Which sub-folders of an input folder are DICOM series, one case or channel each.

Reads: folder listings, and the first bytes of files without an ending of our own.
"""

from __future__ import annotations

from pathlib import Path

from stu_pipeline.datasets.dataset_fields import check_case_id
from stu_pipeline.datasets.formats.dicom_files import find_nested_series, holds_series
from stu_pipeline.datasets.listing import raise_problems


def list_series_folders(folder: Path) -> list[str]:
    """List the sub-folders that are DICOM series; slices that lie deeper are refused, lest a case is passed over.

    Raises:
        DataError: slices further down, or a folder whose name cannot be a case's.
    """
    names, problems = [], []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.is_dir():
            continue
        if holds_series(path):
            names.append(path.name)
            problems += [problem] if (problem := check_case_id(path.name)) else []
        elif nested := find_nested_series(path):
            problems.append(
                f"'{path.name}' holds DICOM slices only in sub-folders, first '{nested.relative_to(folder)}'"
            )
    raise_problems(
        problems, f"the input '{folder.name}'", folder, "give one folder per series, directly in the input folder"
    )
    return names

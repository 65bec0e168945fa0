"""List what a corrected copy of a dataset consists of: every file, its new name, and what it is.

Reads: folder listings.
"""

from __future__ import annotations

from pathlib import Path

from stu_pipeline.datasets.dataset_json import DatasetJson
from stu_pipeline.datasets.endings import split_ending
from stu_pipeline.datasets.listing import split_channel
from stu_pipeline.doctor.mending.mends import FileJob


def list_jobs(source: Path, target: Path, description: DatasetJson) -> list[FileJob]:
    """List the files of a dataset but `dataset.json` and hidden ones, sorted, with where they go.

    Label maps are to be renumbered when the dataset's labels have gaps.
    """
    jobs = []
    for path in sorted(source.rglob("*")):
        inner = path.relative_to(source)
        if not path.is_file() or any(part.startswith(".") for part in inner.parts) or str(inner) == "dataset.json":
            continue
        folder = str(inner.parent)
        is_image = folder in ("imagesTr", "imagesTs") and path.name.endswith(description.file_ending)
        is_label = folder in ("labelsTr", "labelsTs") and path.name.endswith(description.file_ending)
        name = _choose_name(path, description) if is_image else path.name
        jobs.append(
            FileJob(
                source=path,
                target=target / inner.parent / name,
                is_image=is_image,
                is_label=is_label,
                image=_find_image(path, source, description) if is_label else None,
                label_ids=description.file_label_ids if is_label else None,
            )
        )
    return jobs


def _choose_name(path: Path, description: DatasetJson) -> str:
    """Return the name with `_0000` where it is missing and can mean one thing only."""
    stem, ending = split_ending(path.name)
    name = f"{stem}_0000{ending}"
    has_channel = split_channel(stem)[1] is not None
    return path.name if has_channel or description.num_channels > 1 or path.with_name(name).exists() else name


def _find_image(label: Path, source: Path, description: DatasetJson) -> Path | None:
    stem, ending = split_ending(label.name)
    folder = source / label.parent.name.replace("labels", "images")
    names = [f"{stem}_0000{ending}", *([f"{stem}{ending}"] if description.num_channels == 1 else [])]
    return next((folder / name for name in names if (folder / name).is_file()), None)

"""Join what was measured in the cases into the dataset's fingerprint.

The file has nnU-Net's form. Shapes, spacings, moments and extremes are exact; percentiles are off by at most
half a quantile in rank (`datasets/statistics.py`), and exact for scans that store integers.
Writes: `dataset_fingerprint.json` beside the preprocessed data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from stu_pipeline.datasets.inspection import CaseReport
from stu_pipeline.datasets.statistics import mix_channels
from stu_pipeline.errors import DataError
from stu_pipeline.log import Listener, Notice, ignore_events
from stu_pipeline.storage import read_json, write_json
from stu_pipeline.workspace import DatasetPaths


def build_fingerprint(reports: Sequence[CaseReport]) -> dict[str, Any]:
    """Build the content of `dataset_fingerprint.json`; its lists are in the order of the reports.

    Args:
        reports: sound cases, with statistics.

    Raises:
        DataError: no case has any foreground.
    """
    measured = [(report, report.statistics) for report in reports if report.statistics is not None]
    with_foreground = [statistics.channels for _, statistics in measured if statistics.channels]
    if not with_foreground:
        raise DataError(
            "no case has any foreground voxel, so there is nothing to learn",
            hint="check that labels in dataset.json match the label maps",
        )
    return {
        "foreground_intensity_properties_per_channel": {
            str(index): mix_channels(channel) for index, channel in enumerate(zip(*with_foreground, strict=True))
        },
        "median_relative_size_after_cropping": float(np.median([item.relative_size for _, item in measured])),
        "shapes_after_crop": [list(item.shape_after_crop) for _, item in measured],
        "spacings": [list(report.spacing_mm or ()) for report, _ in measured],
    }


def store_fingerprint(dataset: DatasetPaths, content: dict[str, Any], *, listen: Listener = ignore_events) -> None:
    """Write a fingerprint. Writing what is there already does nothing."""
    path = dataset.fingerprint
    existing = _read_or_none(dataset)
    if existing == content:
        return
    if existing is not None:
        listen(Notice(text="the dataset's fingerprint is not the one that was there: replaced"))
    write_json(path, content)


def _read_or_none(dataset: DatasetPaths) -> Any:
    try:
        return read_json(dataset.fingerprint)
    except DataError:
        return None

"""The `dataset.json` of a model folder: what the model was trained on. Imports neither torch nor nnU-Net."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stu_pipeline.datasets.dataset_json import DatasetJson, parse_dataset_json
from stu_pipeline.errors import DataError, ModelError


def parse_model_dataset(dataset_json: Mapping[str, Any], where: Path) -> DatasetJson:
    """Check the `dataset.json` of a model folder; forms of published models are understood.

    Args:
        dataset_json: its content.
        where: the plan file beside it.

    Raises:
        ModelError: it does not describe channels and labels.
    """
    # Neither the files of the training nor their reader matter here; the plan names the reader.
    unused = ("dataset", "overwrite_image_reader_writer")
    content = {key: value for key, value in dataset_json.items() if key not in unused}
    if "channel_names" not in content and isinstance(content.get("modality"), dict):
        content["channel_names"] = content["modality"]
    content.setdefault("numTraining", 1)  # of no use here, and some published models lack it
    try:
        return parse_dataset_json(content, where.parent / "dataset.json")
    except DataError as error:
        raise ModelError(error.problem, where=where.parent, details=error.details) from error

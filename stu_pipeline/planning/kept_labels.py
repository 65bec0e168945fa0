"""Read the labels of a trained model, which come first in a union that teaches it more.

Reads: a file of weights, or the `dataset.json` of a model folder.
"""

from __future__ import annotations

from pathlib import Path

from stu_pipeline.datasets.dataset_json import read_dataset_json
from stu_pipeline.errors import DataError, ModelError

_BACKGROUND = "background"


def read_kept_labels(path: Path) -> tuple[str, ...]:
    """Return the names of a model's foreground labels, in the order of its outputs.

    Args:
        path: weights in any form, or a model folder.

    Raises:
        ModelError: not there, refused, without label names, or a model of regions.
    """
    if path.is_dir():
        return _read_model_folder(path)
    from stu_pipeline.transfer.files.reading import read_weight_file

    facts = read_weight_file(path).facts
    if facts.label_names is None:
        raise ModelError(
            f"which labels the weights '{path.name}' know is not known ({facts.source})",
            where=path.parent,
            hint="give the model folder, or put the side-car beside the weights",
        )
    if facts.has_regions:
        raise _refuse_regions(path)
    return tuple(name for name in facts.label_names if name != _BACKGROUND)


def _read_model_folder(folder: Path) -> tuple[str, ...]:
    try:
        described = read_dataset_json(folder / "dataset.json")
    except DataError as error:
        raise ModelError(
            f"'{folder.name}' is no model folder: {error.problem}", where=folder, hint="stu weights inspect FILE"
        ) from error
    if described.has_regions:
        raise _refuse_regions(folder)
    return tuple(described.find_name(value) for value in described.foreground_values)


def _refuse_regions(path: Path) -> ModelError:
    return ModelError(
        f"'{path.name}' knows regions, and the labels of a union do not overlap",
        where=path.parent,
        hint="leave out --keep-labels-of",
    )

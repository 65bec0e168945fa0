"""Whether models may be one ensemble: they must speak of the same labels, regions and channels."""

from __future__ import annotations

from collections.abc import Sequence

from stu_pipeline.errors import ModelError
from stu_pipeline.prediction.models.model_folder import ModelFolder


def require_same_labels(folders: Sequence[ModelFolder]) -> None:
    """Refuse models that do not speak of the same labels, regions and channels.

    Raises:
        ModelError: the differences are in `details`.
    """
    first = folders[0].model.dataset
    problems = []
    for folder in folders[1:]:
        other = folder.model.dataset
        for name in sorted({*first.labels, *other.labels}):
            a, b = first.labels.get(name, "absent"), other.labels.get(name, "absent")
            if a != b:
                problems.append(f"label '{name}' is {a} in '{folders[0].path.name}' and {b} in '{folder.path.name}'")
        if first.has_regions and list(first.labels) != list(other.labels):
            problems.append(f"regions are listed in another order in '{folder.path.name}'")
        if first.regions_class_order != other.regions_class_order:
            problems.append(f"regions_class_order differs: {first.regions_class_order}, {other.regions_class_order}")
        if first.label_ids != other.label_ids:
            problems.append(f"masks of '{folder.path.name}' are written with other label ids")
        if first.num_channels != other.num_channels:
            problems.append(f"channels differ: {first.num_channels}, {other.num_channels}")
    if problems:
        raise ModelError(
            "models cannot be one ensemble, they have different labels",
            where=folders[-1].path,
            details=tuple(problems),
        )

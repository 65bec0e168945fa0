"""What a prediction knows about itself: a few numbers per label of one case."""

from __future__ import annotations

from dataclasses import dataclass

from stu_pipeline.datasets.dataset_fields import values_of
from stu_pipeline.datasets.dataset_json import DatasetJson

_BACKGROUND = "background"
_IGNORE = "ignore"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelFeatures:
    """One label or region of one case, measured on the network's grid. All shares lie in 0 to 1.

    A label that the mask does not have has 0 voxels, and 0 in every other field.
    """

    num_voxels: int
    volume_ml: float
    soft_dice: float
    """Dice of the mask with its own probabilities: what it would score if the probabilities were right."""
    confidence: float
    """Mean probability of the label in its mask."""
    border_confidence: float
    """The same over the voxels at its border, once per face that another label touches."""
    entropy: float
    """Mean entropy of the probabilities in the mask, in nats; of the label against the rest where labels overlap."""
    surface: float
    """Faces that touch another label, by `num_voxels ** (2 / 3)`: about 7 for a ball, more when ragged."""
    agreement: float | None = None
    """Mean Dice of pairs of members' masks; None without members."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredLabel:
    """A label or region whose quality is estimated."""

    channel: int
    """Of the scores."""
    key: tuple[int, ...]
    """Its label values, as the network counts them."""
    name: str


def list_scored_labels(dataset: DatasetJson) -> tuple[ScoredLabel, ...]:
    """List the labels of a model, or its regions, in the order of the network's channels."""
    values = {
        name: tuple(sorted(values_of(label)))
        for name, label in dataset.labels.items()
        if name not in (_BACKGROUND, _IGNORE)
    }
    if dataset.has_regions:
        return tuple(ScoredLabel(channel=index, key=key, name=name) for index, (name, key) in enumerate(values.items()))
    return tuple(
        ScoredLabel(channel=key[0], key=key, name=name)
        for name, key in sorted(values.items(), key=lambda item: item[1])
    )

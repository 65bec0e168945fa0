"""Cascade inputs: the previous stage's prediction, damaged so that the network does not trust it blindly."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from stu_pipeline.training.augmentation.cascade_draws import Morphing, draw_cascade
from stu_pipeline.training.augmentation.components import remove_components
from stu_pipeline.training.augmentation.morphology import apply_operator, build_ball
from stu_pipeline.training.augmentation.settings import AugmentationSettings
from stu_pipeline.training.sampling.sample import SampleKey


def corrupt_previous(one_hot: Tensor, keys: Sequence[SampleKey], settings: AugmentationSettings) -> Tensor:
    """Damage the previous predictions of a batch in place and return it, as nnU-Net does.

    Labels grow, shrink, close or open, and lose small parts. Each sample comes out the same in any batch. The device is
    waited for only where a component is removed, once per batch.

    Args:
        one_hot: `(batch, label, *spatial)` of 0 and 1, any type; an empty batch comes back as it is.
        keys: one per sample.
        settings: of the configuration; `previous_labels` has one entry per channel.

    Raises:
        ValueError: the number of channels or of keys is another one.
    """
    num_labels = len(settings.previous_labels)
    if one_hot.shape[1] != num_labels:
        raise ValueError(f"expected {num_labels} channels of previous labels, got {one_hot.shape[1]}")
    volumes, choices = [], []
    for prediction, key in zip(one_hot, keys, strict=True):
        draws = draw_cascade(key, num_labels=num_labels)
        for morphing in draws.morphings:
            morph_label(prediction, morphing)
        volumes += [prediction[removal.channel] for removal in draws.removals]
        choices += [removal.choice for removal in draws.removals]
    remove_components(volumes, choices)
    return one_hot


def morph_label(prediction: Tensor, morphing: Morphing) -> None:
    """Apply one operator to one label of `(label, *spatial)` in place; other labels lose what it gains."""
    volume = prediction[morphing.channel]
    before = volume.bool()
    after = apply_operator(before, morphing.operator, build_ball(morphing.radius, before.ndim))
    prediction.masked_fill_(after & ~before, 0)
    volume.copy_(after)

"""From samples to the batch a network is trained on: nnU-Net's transforms in nnU-Net's order, on the device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stu_pipeline.training.augmentation.cascade import corrupt_previous
from stu_pipeline.training.augmentation.draws import draw_mirror_axes
from stu_pipeline.training.augmentation.intensity import apply_intensity
from stu_pipeline.training.augmentation.mirror import build_swap_table, mirror_sample
from stu_pipeline.training.augmentation.settings import AugmentationSettings
from stu_pipeline.training.augmentation.spatial import transform_sample
from stu_pipeline.training.augmentation.targets import blank_outside, encode_previous, make_targets, remove_outside
from stu_pipeline.training.loop.batch import Batch
from stu_pipeline.training.sampling.sample import Sample, SampleKey


class Augmenter:
    """Makes batches of samples. What becomes of a sample does not depend on the others of its batch.

    Args:
        settings: of the configuration.
        device: where the batch is made and stays.
        is_augmenting: False leaves out everything random and the masking, as nnU-Net does in validation. An affine
            that the loader gave to a sample is honoured either way.
    """

    def __init__(self, settings: AugmentationSettings, device: torch.device, *, is_augmenting: bool) -> None:
        self._settings = settings
        self._device = device
        self._is_augmenting = is_augmenting
        self._swap_table = build_swap_table(settings.mirroring, device)

    @torch.no_grad()
    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """Make a batch.

        Args:
            samples: at least one, all with the same channels. On return their arrays may be written over.

        Raises:
            ValueError: an untransformed sample does not have the size of the patch.
        """
        keys = [sample.key for sample in samples]
        data, labels = self._place(samples)
        if self._is_augmenting:
            data = apply_intensity(data, keys, self._settings)
            self._mirror(data, labels, keys)
            data = blank_outside(data, labels, self._settings.masked_channels)
        labels = remove_outside(labels)
        if self._settings.previous_labels:
            data = self._append_previous(data, labels[:, 1], keys)
        targets = make_targets(labels[:, :1].contiguous(), self._settings)
        return Batch(data=data, targets=targets, keys=keys, case_ids=[sample.case_id for sample in samples])

    def _place(self, samples: Sequence[Sample]) -> tuple[Tensor, Tensor]:
        """Bring the samples to the device, transformed where they say so."""
        patch = self._settings.patch
        shape = (len(samples), len(samples[0].data), *patch)
        data = torch.empty(shape, dtype=torch.float32, device=self._device)
        num_maps = len(samples[0].labels)
        labels = torch.empty((len(samples), num_maps, *patch), dtype=torch.int16, device=self._device)
        for place, sample in enumerate(samples):
            crop, crop_labels = self._upload(sample.data), self._upload(sample.labels)
            if sample.affine is not None:
                crop, crop_labels = transform_sample(crop, crop_labels, sample.affine, sample.center, patch)
            elif tuple(crop.shape[1:]) != patch:
                raise ValueError(f"sample of case '{sample.case_id}' has {tuple(crop.shape[1:])} voxels, not {patch}")
            data[place], labels[place] = crop, crop_labels
        return data, labels

    def _upload(self, array: NDArray[np.float32] | NDArray[np.int16]) -> Tensor:
        # torch shares the array's memory, and warns of an array that must not be written.
        tensor = torch.from_numpy(np.require(array, requirements=("C", "W")))
        if self._device.type != "cuda":
            return tensor.to(self._device)
        return tensor.pin_memory().to(self._device, non_blocking=True)

    def _mirror(self, data: Tensor, labels: Tensor, keys: Sequence[SampleKey]) -> None:
        mirroring = self._settings.mirroring
        for place, key in enumerate(keys):
            axes = draw_mirror_axes(key, self._settings)
            if axes:
                data[place], labels[place] = mirror_sample(
                    data[place], labels[place], axes, mirroring, self._swap_table
                )

    def _append_previous(self, data: Tensor, previous: Tensor, keys: Sequence[SampleKey]) -> Tensor:
        channels = encode_previous(previous, self._settings.previous_labels)
        if self._is_augmenting:
            channels = corrupt_previous(channels, keys, self._settings)
        return torch.cat((data, channels.to(data.dtype)), dim=1)

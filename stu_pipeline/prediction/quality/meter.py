"""Measure features of a prediction slab by slab, while the window runs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from stu_pipeline.inference.case_grid import Decision
from stu_pipeline.inference.slabs import Slab
from stu_pipeline.prediction.quality.features import LabelFeatures

Counts = npt.NDArray[np.float64]

_CHUNK_VALUES = 1 << 22
_NUM_AXES = 3


class QualityMeter:
    """Adds up features over the slabs of one case; memory is a few copies of one chunk of planes.

    Args:
        decision: how scores become labels.
        voxel_ml: volume of a voxel of the network's grid.
    """

    def __init__(self, decision: Decision, voxel_ml: float) -> None:
        self._sums = _Sums(decision.num_outputs)
        self._voxel_ml = voxel_ml
        self._is_regions = decision.region_values is not None
        self._agreement: _Agreement | None = None
        self._last: tuple[torch.Tensor, torch.Tensor] | None = None

    @torch.inference_mode()
    def add(self, slab: Slab, members: Sequence[torch.Tensor] = ()) -> None:
        """Take one more slab of logits on the network's grid.

        Args:
            slab: logits; they are not changed.
            members: what each member of the ensemble alone would say: label maps `(z, y, x)` of the slab, or
                booleans `(c, z, y, x)` for regions. None, or the same number with every slab.
        """
        axis = slab.axis
        num_planes = max(1, _CHUNK_VALUES * slab.scores.shape[1 + axis] // max(1, slab.scores.numel()))
        for start in range(0, slab.scores.shape[1 + axis], num_planes):
            count = min(num_planes, slab.scores.shape[1 + axis] - start)
            part = slab.scores.narrow(1 + axis, start, count)
            is_in, confidence = self._add_regions(part) if self._is_regions else self._add_labels(part)
            self._add_borders(is_in, confidence, axis)
        if members:
            self._agreement = self._agreement or _Agreement(len(members), len(slab.scores), self._is_regions)
            self._agreement.add(members)

    def finish(self) -> dict[int, LabelFeatures]:
        """Return the features by channel; of plain labels the background, channel 0, has none."""
        first = 0 if self._is_regions else 1
        agreement = None if self._agreement is None else self._agreement.finish()
        return {
            channel: self._describe(channel, None if agreement is None else agreement[channel])
            for channel in range(first, len(self._sums.voxels))
        }

    def _describe(self, channel: int, agreement: float | None) -> LabelFeatures:
        sums = self._sums
        voxels = float(sums.voxels[channel])
        if voxels == 0:
            return LabelFeatures(
                num_voxels=0, volume_ml=0.0, soft_dice=0.0, confidence=0.0, border_confidence=0.0, entropy=0.0,
                surface=0.0, agreement=None if agreement is None else 0.0,
            )  # fmt: skip
        faces = float(sums.faces[channel])
        return LabelFeatures(
            num_voxels=int(voxels),
            volume_ml=voxels * self._voxel_ml,
            soft_dice=2 * float(sums.confidence[channel]) / (voxels + float(sums.probability[channel])),
            confidence=float(sums.confidence[channel]) / voxels,
            # A label that fills the whole grid has no border.
            border_confidence=float(sums.face_confidence[channel]) / faces if faces else 1.0,
            entropy=float(sums.entropy[channel]) / voxels,
            surface=faces / voxels ** (2 / 3),
            agreement=agreement,
        )

    def _add_labels(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Add labels that exclude each other; return the label map and the probability of its label."""
        highest, labels = scores.max(dim=0)
        shifted = scores - highest
        odds = shifted.exp()
        total = odds.sum(dim=0)
        confidence = total.reciprocal()
        entropy = total.log() - torch.linalg.vecdot(odds, shifted, dim=0) * confidence
        sums = self._sums
        sums.probability += (odds.flatten(1) @ confidence.flatten()).double().cpu().numpy()
        sums.voxels += _count(labels, sums)
        sums.confidence += _count(labels, sums, confidence)
        sums.entropy += _count(labels, sums, entropy)
        return labels, confidence

    def _add_regions(self, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Add regions, which may overlap; return for each where it is, and its probability."""
        probability = scores.sigmoid()
        is_in = scores > 0
        entropy = -(probability * torch.nn.functional.logsigmoid(scores))
        entropy -= (1 - probability) * torch.nn.functional.logsigmoid(-scores)
        sums = self._sums
        sums.probability += _sum_channels(probability)
        sums.voxels += _sum_channels(is_in)
        sums.confidence += _sum_channels(probability * is_in)
        sums.entropy += _sum_channels(entropy * is_in)
        return is_in, probability

    def _add_borders(self, is_in: torch.Tensor, confidence: torch.Tensor, axis: int) -> None:
        """Add faces between different labels, those to the plane before included."""
        first = is_in.ndim - _NUM_AXES
        add = self._add_region_faces if self._is_regions else self._add_label_faces
        for along in range(first, is_in.ndim):
            size = is_in.shape[along]
            add(
                (is_in.narrow(along, 0, size - 1), is_in.narrow(along, 1, size - 1)),
                (confidence.narrow(along, 0, size - 1), confidence.narrow(along, 1, size - 1)),
            )
        along = first + axis
        if self._last is not None:
            add((self._last[0], is_in.narrow(along, 0, 1)), (self._last[1], confidence.narrow(along, 0, 1)))
        last = is_in.shape[along] - 1
        # Copies: the scores may be overwritten when the next slab comes.
        self._last = is_in.narrow(along, last, 1).clone(), confidence.narrow(along, last, 1).clone()

    def _add_label_faces(self, sides: Sequence[torch.Tensor], confidences: Sequence[torch.Tensor]) -> None:
        is_face = sides[0] != sides[1]
        for labels, confidence in zip(sides, confidences, strict=True):
            touched = labels[is_face]
            self._sums.faces += _count(touched, self._sums)
            self._sums.face_confidence += _count(touched, self._sums, confidence[is_face])

    def _add_region_faces(self, sides: Sequence[torch.Tensor], confidences: Sequence[torch.Tensor]) -> None:
        is_face = sides[0] != sides[1]
        for is_in, confidence in zip(sides, confidences, strict=True):
            touched = is_face & is_in
            self._sums.faces += _sum_channels(touched)
            self._sums.face_confidence += _sum_channels(confidence * touched)


class _Sums:
    """Sums over voxels, one entry per channel, in double precision."""

    def __init__(self, num_outputs: int) -> None:
        self.voxels: Counts = np.zeros(num_outputs)
        self.probability: Counts = np.zeros(num_outputs)
        self.confidence: Counts = np.zeros(num_outputs)
        self.entropy: Counts = np.zeros(num_outputs)
        self.faces: Counts = np.zeros(num_outputs)
        self.face_confidence: Counts = np.zeros(num_outputs)


class _Agreement:
    """Voxels that pairs of members share, per channel."""

    def __init__(self, num_members: int, num_outputs: int, is_regions: bool) -> None:
        self._pairs = list(itertools.combinations(range(num_members), 2))
        self._num_outputs = num_outputs
        self._is_regions = is_regions
        self._sizes: Counts = np.zeros((num_members, num_outputs))
        self._shared: Counts = np.zeros((len(self._pairs), num_outputs))

    def add(self, members: Sequence[torch.Tensor]) -> None:
        for index, member in enumerate(members):
            self._sizes[index] += self._measure(member)
        for index, (a, b) in enumerate(self._pairs):
            both = members[a] & members[b] if self._is_regions else members[a][members[a] == members[b]]
            self._shared[index] += self._measure(both)

    def finish(self) -> list[float]:
        """Return the mean Dice of the pairs per channel; two empty masks agree."""
        total = np.stack([self._sizes[a] + self._sizes[b] for a, b in self._pairs])
        dice = np.divide(2 * self._shared, total, out=np.ones_like(total), where=total > 0)
        return [float(value) for value in dice.mean(axis=0)]

    def _measure(self, member: torch.Tensor) -> Counts:
        if self._is_regions:
            return _sum_channels(member)
        return np.bincount(member.flatten().cpu().numpy(), minlength=self._num_outputs).astype(np.float64)


def _count(labels: torch.Tensor, sums: _Sums, weights: torch.Tensor | None = None) -> Counts:
    """Count voxels per label, or add up their weights."""
    flat = None if weights is None else weights.flatten().double()
    counted = torch.bincount(labels.flatten(), weights=flat, minlength=len(sums.voxels))
    result: Counts = counted.double().cpu().numpy()
    return result


def _sum_channels(values: torch.Tensor) -> Counts:
    result: Counts = values.flatten(1).sum(dim=1, dtype=torch.float64).cpu().numpy()
    return result

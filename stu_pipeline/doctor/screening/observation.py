"""What the doctor keeps of a case after its voxels were looked at once: small, picklable, comparable."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from stu_pipeline.datasets.volume import Grid
from stu_pipeline.doctor.screening.alignment import Alignment, Floats, measure_alignment
from stu_pipeline.doctor.screening.orientation import read_orientation, view_along_patient

SIGNATURE_SIZE = 12
# Larger volumes are looked at with every second, third, ... voxel per axis, which bounds memory and time.
_MAX_VOXELS = 2**22
# Components are counted at full resolution up to here (the numbering takes 4 bytes per voxel).
_MAX_COMPONENT_VOXELS = 2**28
_PERCENTILES = (1.0, 25.0, 50.0, 75.0, 99.0)
# Sizes of the smallest components kept per label; the count covers all of them.
_MAX_KEPT_SIZES = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelObservation:
    """Intensities of one channel. `foreground` is the median where there is a label, None without labels."""

    lowest: float
    highest: float
    percentiles: tuple[float, ...]
    """1, 25, 50, 75 and 99 %."""
    foreground: float | None = None

    @property
    def is_constant(self) -> bool:
        """Whether every voxel has the same value."""
        return self.lowest == self.highest


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelComponents:
    """Connected parts of one label, in voxels. `smallest` holds up to 64 sizes, ascending."""

    count: int
    largest: int
    smallest: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CaseObservation:
    """One case as the doctor knows it. Labels are the ids stored in the file, without background and ignore label."""

    orientation: str
    channels: tuple[ChannelObservation, ...]
    components: dict[int, LabelComponents] = field(default_factory=dict)
    alignment: Alignment | None = None
    """None when there is no foreground."""
    signature: Floats
    """12 x 12 x 12 block means along the patient's axes, mean 0 and length 1; zero for a constant image."""
    image_digest: str
    label_digest: str


def observe_case(
    image: npt.NDArray[np.float32], grid: Grid, label: npt.NDArray[Any], *, ignore_label: int | None = None
) -> CaseObservation:
    """Look at a sound case. Pure: no file is touched.

    Args:
        image: `(c, z, y, x)` float32, finite.
        grid: of the image.
        label: `(z, y, x)`, any unsigned integers, on the same grid.
        ignore_label: the stored id that means "not annotated"; it counts as background.
    """
    orientation = read_orientation(grid.direction)
    foreground = label if ignore_label is None else np.where(label == ignore_label, 0, label).astype(label.dtype)
    thin = (slice(None, None, _choose_step(label.size)),) * 3
    thin_label = foreground[thin]
    channels = tuple(_observe_channel(channel, thin, thin_label) for channel in image)
    scaled = np.stack([_scale(channel[thin], seen) for channel, seen in zip(image, channels, strict=True)])
    turned = np.stack([view_along_patient(channel, orientation) for channel in scaled])
    return CaseObservation(
        orientation=orientation.code,
        channels=channels,
        components=_count_components(foreground),
        alignment=measure_alignment(turned, np.ascontiguousarray(view_along_patient(thin_label, orientation))),
        signature=_make_signature(view_along_patient(image[0], orientation)),
        image_digest=_digest(image),
        label_digest=_digest(label),
    )


def _choose_step(num_voxels: int) -> int:
    step = 1
    while num_voxels > _MAX_VOXELS * step**3:
        step += 1
    return step


def _observe_channel(
    channel: npt.NDArray[np.float32], thin: tuple[slice, ...], thin_label: npt.NDArray[Any]
) -> ChannelObservation:
    sample = channel[thin]
    inside = sample[thin_label > 0]
    return ChannelObservation(
        lowest=float(channel.min()),
        highest=float(channel.max()),
        percentiles=tuple(float(value) for value in np.percentile(sample, _PERCENTILES)),
        foreground=float(np.median(inside)) if inside.size else None,
    )


def _scale(sample: npt.NDArray[np.float32], seen: ChannelObservation) -> Floats:
    """Scale a channel to 0 to 1 between its 1 and 99 % percentiles, or its extremes where these are one."""
    low, high = seen.percentiles[0], seen.percentiles[-1]
    if low == high:
        low, high = seen.lowest, seen.highest
    if low == high:
        return np.zeros(sample.shape, dtype=np.float32)
    return np.asarray(np.clip((sample - np.float32(low)) * np.float32(1 / (high - low)), 0, 1), dtype=np.float32)


def _count_components(label: npt.NDArray[Any]) -> dict[int, LabelComponents]:
    """Count the connected parts (26 neighbours) of every label in one pass, however many labels there are."""
    if label.size > _MAX_COMPONENT_VOXELS or not label.any():
        return {}
    from skimage.measure import label as number_components

    box = tuple(_find_extent(label, axis) for axis in range(3))
    numbered = number_components(label[box], background=0, connectivity=3)
    sizes = np.zeros(int(numbered.max()) + 1, dtype=np.int64)
    value_of = np.zeros(len(sizes), dtype=label.dtype)
    # Slice by slice: counting and indexing make 8-byte copies of what they are given.
    for numbers, names in zip(numbered, label[box], strict=True):
        sizes += np.bincount(numbers.ravel(), minlength=len(sizes))
        value_of[numbers] = names
    sizes, values = sizes[1:], value_of[1:]
    found = {}
    for value in np.flatnonzero(np.bincount(values)):
        own = np.sort(sizes[values == value])
        smallest = tuple(int(size) for size in own[:_MAX_KEPT_SIZES])
        found[int(value)] = LabelComponents(count=len(own), largest=int(own[-1]), smallest=smallest)
    return found


def _find_extent(label: npt.NDArray[Any], axis: int) -> slice:
    others = tuple(other for other in range(3) if other != axis)
    occupied = np.flatnonzero(label.any(axis=others))
    return slice(int(occupied[0]), int(occupied[-1]) + 1)


def _make_signature(channel: npt.NDArray[np.float32]) -> Floats:
    blocks: npt.NDArray[Any] = channel
    for axis, size in enumerate(channel.shape):
        starts = np.arange(SIGNATURE_SIZE) * size // SIGNATURE_SIZE
        # With fewer voxels than blocks a start repeats, and `reduceat` then gives that voxel again.
        lengths = np.maximum(1, np.diff(np.append(starts, size)))
        shape = [1, 1, 1]
        shape[axis] = SIGNATURE_SIZE
        blocks = np.add.reduceat(blocks, starts, axis=axis, dtype=np.float32) / lengths.reshape(shape)
    flat = blocks.ravel().astype(np.float64)
    flat -= flat.mean()
    length = float(np.linalg.norm(flat))
    return (flat / length if length > 0 else flat).astype(np.float32)


def _digest(array: npt.NDArray[Any]) -> str:
    digest = hashlib.blake2b(str(array.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()

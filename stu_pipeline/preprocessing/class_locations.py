"""Sample where each label lies in a case: nnU-Net's loader centres foreground patches there.

nnU-Net keeps up to 1 % of all voxels of a label, 33 MB for a body CT with a hundred labels, and reads it back
for every training sample. Here a label has at most 10,000 places, in 16 bit where they fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Key = int | tuple[int, ...]
Labels = npt.NDArray[np.signedinteger]
Indices = npt.NDArray[np.intp]

MAX_LOCATIONS = 10_000
_OUTSIDE = -1
_SEED = 1234
_SLAB_VOXELS = 1 << 22
# The loader adds the patch to a place without widening the number, so some room is left below 32768.
_LARGEST_SHORT_SIDE = 16_384


def list_location_keys(labels: Mapping[str, Any]) -> tuple[Key, ...]:
    """List what nnU-Net's loader looks up: every foreground label or region, and what is annotated.

    Args:
        labels: the entry of `dataset.json`: name to value, or to the values of a region.

    The last key, when there is an ignore label, is `(-1, 0, 1, ...)`: everything that is not ignored.
    """
    regions = {name: value for name, value in labels.items() if name != "ignore"}
    values = sorted({int(value) for region in regions.values() for value in as_labels(region)})
    keys: list[Key]
    if any(len(as_labels(region)) > 1 for region in regions.values()):
        wanted = [region for region in regions.values() if set(as_labels(region)) != {0}]
        keys = [as_labels(region) if isinstance(region, (list, tuple)) else int(region) for region in wanted]
    else:
        keys = [value for value in values if value != 0]
    if "ignore" in labels:
        keys.append((_OUTSIDE, *values))
    return tuple(keys)


def as_labels(value: Any) -> tuple[int, ...]:
    """Return the labels of a region, or of a single label."""
    return tuple(int(label) for label in value) if isinstance(value, (list, tuple)) else (int(value),)


def sample_class_locations(
    labels: Labels, keys: Sequence[Key], *, max_locations: int = MAX_LOCATIONS, seed: int = _SEED
) -> dict[Key, Any]:
    """Sample voxels of every key without replacement; the same input gives the same places.

    Args:
        labels: `(z, y, x)` as preprocessed, -1 outside.
        keys: labels, or tuples of labels whose voxels are one population.
        max_locations: per key; with fewer voxels all are taken.
        seed: of the sample.

    Returns:
        Per key an array `(n, 4)` of `(0, z, y, x)`, ascending, signed (nnU-Net subtracts from it); an empty
        list where there is no voxel. nnU-Net's random numbers differ; the distribution is the same.
    """
    counts = _count_labels(labels)
    generator = np.random.default_rng(seed)
    wanted = {key: _draw_ranks(as_labels(key), counts, max_locations, generator) for key in keys}
    found = _find_ranked(labels, wanted, len(counts))
    kind = np.int16 if max(labels.shape) <= _LARGEST_SHORT_SIDE else np.int32
    return {key: _to_places(flat, labels.shape, kind) if flat.size else [] for key, flat in found.items()}


def _slabs(labels: Labels) -> Iterator[tuple[int, Indices]]:
    """Yield the volume in slabs: the flat index of the first voxel, and `label + 1` of every voxel."""
    plane = labels[0].size
    step = max(1, _SLAB_VOXELS // max(1, plane))
    for start in range(0, len(labels), step):
        yield start * plane, labels[start : start + step].ravel().astype(np.intp) - _OUTSIDE


def _count_labels(labels: Labels) -> Indices:
    """Count the voxels of every label, at index `label + 1`."""
    counts = np.zeros(max(1, int(labels.max(initial=0)) - _OUTSIDE + 1), dtype=np.intp)
    for _, slab in _slabs(labels):
        counts += np.bincount(slab, minlength=len(counts))
    return counts


def _draw_ranks(
    values: tuple[int, ...], counts: Indices, max_locations: int, generator: np.random.Generator
) -> dict[int, Indices]:
    """Draw which voxels to take: for every `label + 1` their ranks in scan order, ascending."""
    indices = [value - _OUTSIDE for value in dict.fromkeys(values) if value - _OUTSIDE < len(counts)]
    ends = np.cumsum(counts[indices])
    total = int(ends[-1]) if indices else 0
    if total <= max_locations:
        picked = np.arange(total)
    else:
        picked = np.sort(generator.choice(total, max_locations, replace=False, shuffle=False))
    bounds = np.searchsorted(picked, np.concatenate([[0], ends]))
    return {
        index: picked[first:last] - (end - counts[index])
        for index, first, last, end in zip(indices, bounds, bounds[1:], ends, strict=False)
        if last > first
    }


def _find_ranked(labels: Labels, wanted: Mapping[Key, Mapping[int, Indices]], num_counts: int) -> dict[Key, Indices]:
    """Find the flat index of every wanted voxel, ascending, walking the volume once."""
    is_asked = np.zeros(num_counts, dtype=bool)
    is_asked[[index for ranks in wanted.values() for index in ranks]] = True
    parts: dict[Key, list[Indices]] = {key: [np.empty(0, dtype=np.intp)] for key in wanted}
    seen = np.zeros(num_counts, dtype=np.intp)
    for start, slab in _slabs(labels):
        places = np.flatnonzero(is_asked[slab])
        chosen = slab[places]
        # In 16 bits a stable sort takes one pass over the voxels.
        ordered = places[np.argsort(chosen.astype(np.uint16), kind="stable")] + start
        numbers = np.bincount(chosen, minlength=num_counts)
        firsts = np.cumsum(numbers) - numbers
        for key, ranks in wanted.items():
            for index, rank in ranks.items():
                inside = slice(*np.searchsorted(rank, (seen[index], seen[index] + numbers[index])))
                parts[key].append(ordered[firsts[index] + rank[inside] - seen[index]])
        seen += numbers
    return {key: np.sort(np.concatenate(found)) for key, found in parts.items()}


def _to_places(
    flat: Indices, shape: tuple[int, ...], kind: type[np.signedinteger[Any]]
) -> npt.NDArray[np.signedinteger[Any]]:
    places = np.zeros((len(flat), 4), dtype=kind)
    for axis, coordinates in enumerate(np.unravel_index(flat, shape), start=1):
        places[:, axis] = coordinates
    return places

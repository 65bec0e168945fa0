"""The anatomy of the phantom: where its organs lie and how bright they are.

Coordinates are shares of the nominal field of view, -1 to 1: x from the patient's right to the left,
y from front to back, z from feet to head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

LABELS = ("liver", "kidney_right", "kidney_left", "spine", "aorta")
_AIR = 25.0
_NOISE = 30.0
_BLUR_VOXELS = 0.6
_BIAS = 0.15
_WARP = 0.035

Field = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Organ:
    """One organ: an ellipsoid, or a tube along z when `is_tube`. Centre and radii are `(x, y, z)`."""

    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    intensity: float
    label: int = 0
    is_tube: bool = False


# Painted in this order; a later organ covers an earlier one. Intensities overlap within noise and bias:
# stomach and spleen look like the liver, both kidneys alike.
_ORGANS = (
    _Organ((0.0, 0.0, 0.0), (0.92, 0.76, 1.0), 240.0, is_tube=True),  # body
    _Organ((0.40, -0.28, 0.40), (0.27, 0.25, 0.32), 315.0),  # stomach
    _Organ((0.62, 0.18, 0.42), (0.16, 0.22, 0.28), 350.0),  # spleen
    _Organ((-0.36, -0.12, 0.36), (0.44, 0.44, 0.46), 400.0, label=1),
    _Organ((-0.40, 0.32, -0.34), (0.18, 0.16, 0.36), 470.0, label=2),
    _Organ((0.40, 0.32, -0.24), (0.18, 0.16, 0.36), 470.0, label=3),
    _Organ((0.10, 0.20, 0.0), (0.085, 0.085, 1.0), 570.0, label=5, is_tube=True),
    _Organ((0.0, 0.50, 0.0), (0.17, 0.15, 1.0), 140.0, label=4, is_tube=True),
)


def paint_case(
    axes: Sequence[Field], generator: np.random.Generator
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.uint8]]:
    """Paint one patient on a grid.

    Args:
        axes: the `z`, `y` and `x` coordinates of the voxels.
        generator: decides the patient, the contrast and the noise.

    Returns:
        image int16 and labels uint8, both `(z, y, x)`.
    """
    from scipy.ndimage import gaussian_filter

    z, y, x = _warp(np.meshgrid(*axes, indexing="ij"), generator)
    image = np.full(z.shape, _AIR)
    labels = np.zeros(z.shape, dtype=np.uint8)
    for organ in _ORGANS:
        inside = _locate(organ, (x, y, z), generator)
        image[inside] = organ.intensity + generator.normal(0, 12)
        labels[inside] = organ.label
    image = gaussian_filter(image, _BLUR_VOXELS) * _make_bias(axes, generator) * generator.uniform(0.85, 1.15)
    # The magnitude of a complex signal: MR noise is never negative.
    real = image + generator.normal(0, _NOISE, image.shape)
    imaginary = generator.normal(0, _NOISE, image.shape)
    return np.rint(np.hypot(real, imaginary)).astype(np.int16), labels


def _warp(coordinates: Sequence[Field], generator: np.random.Generator) -> list[Field]:
    """Bend space by one slow wave per axis, so that no organ is a true ellipsoid."""
    bent = []
    for coordinate in coordinates:
        direction = generator.normal(0, 1.6, 3)
        phase = generator.uniform(0, 2 * np.pi)
        wave = sum(step * other for step, other in zip(direction, coordinates, strict=True))
        bent.append(coordinate + _WARP * np.sin(wave + phase))
    return bent


def _locate(organ: _Organ, xyz: Sequence[Field], generator: np.random.Generator) -> npt.NDArray[np.bool_]:
    centre = np.array(organ.centre) + generator.normal(0, 0.025, 3)
    radii = np.array(organ.radii) * generator.uniform(0.88, 1.12, 3)
    tilt = generator.normal(0, 0.12, 2)
    x, y, z = (axis - middle for axis, middle in zip(xyz, centre, strict=True))
    if organ.is_tube:
        curve = 0.03 * np.sin(2.5 * z + generator.uniform(0, 2 * np.pi))
        return np.asarray(((x - curve) / radii[0]) ** 2 + (y / radii[1]) ** 2 <= 1)
    x, y = x + tilt[0] * z, y + tilt[1] * z
    return np.asarray((x / radii[0]) ** 2 + (y / radii[1]) ** 2 + (z / radii[2]) ** 2 <= 1)


def _make_bias(axes: Sequence[Field], generator: np.random.Generator) -> Field:
    """A smooth multiplicative field around 1, as a receive coil makes it."""
    slope = generator.uniform(-_BIAS, _BIAS, 3)
    bow = generator.uniform(-_BIAS, _BIAS, 3)
    z, y, x = np.meshgrid(*axes, indexing="ij")
    parts = zip(slope, bow, (z, y, x), strict=True)
    return np.asarray(1 + sum(a * axis + b * (axis**2 - 0.33) for a, b, axis in parts) / 2)

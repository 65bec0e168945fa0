"""The part of a plan that names the weights a training will start from, and what planning knew about them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from stu_pipeline.networks.scales import NUM_STAGES, SCALES, Scale

PRETRAINED_KEY = "pretrained"
_NUM_AXES = (2, 3)
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainedStart:
    """The weights that a plan was made for. Axes are (z, y, x) after transposing, or (y, x); None is not known."""

    file: str
    """Name of the file, without folders."""
    identity: str
    """SHA-256 of the tensors."""
    scale: Scale
    num_axes: int
    """Spatial axes of the kernels: 2 or 3."""
    num_input_channels: int
    strides: tuple[tuple[int, ...], ...] | None = None
    spacing_mm: tuple[float, ...] | None = None
    patch_voxels: tuple[int, ...] | None = None
    normalization_schemes: tuple[str, ...] | None = None
    use_mask_for_norm: tuple[bool, ...] | None = None
    transpose_forward: tuple[int, ...] | None = None
    source: str = ""
    """Where what is known of the training comes from."""
    takes_geometry: bool = False
    """Whether the plan has spacing, patch and strides of the pre-training instead of its own."""
    any_normalisation: bool = False
    """Whether the plan keeps its own normalisation whatever the weights saw."""
    accepts_other_strides: bool = False
    """Whether a configuration has other strides than the pre-training, or unknown ones, and that was said."""

    def to_json(self) -> dict[str, Any]:
        """Return the plan's form of it."""
        return {key: _plain(value) for key, value in asdict(self).items()}

    def is_same_start(self, other: PretrainedStart) -> bool:
        """Tell whether two plans start from the same tensors with the same knowledge; file names do not count."""
        return {**self.to_json(), "file": "", "source": ""} == {**other.to_json(), "file": "", "source": ""}


def pretrained_plan_name(scale: Scale) -> str:
    """Name the plan of a scale that is made for pretrained weights.

    >>> pretrained_plan_name("B")
    'stuBPretrainedPlans'
    """
    return f"stu{scale}PretrainedPlans"


def find_pretrained(story: Mapping[str, Any] | None) -> PretrainedStart | None:
    """Read the weights from our block of a plan; None for a plan that was made for none.

    Raises:
        ValueError: the block holds something else.
    """
    found = (story or {}).get(PRETRAINED_KEY)
    if found is None:
        return None
    try:
        return _parse(found)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else f"is malformed: {error}"
        raise ValueError(f"its description of the pretrained weights {what}") from error


def _parse(found: Mapping[str, Any]) -> PretrainedStart:
    scale, num_axes = found["scale"], found["num_axes"]
    if scale not in SCALES or num_axes not in _NUM_AXES:
        raise ValueError(f"scale '{scale}' with {num_axes} axes")
    strides = _read(found, "strides", lambda value: tuple(_read_numbers(stride, int) for stride in value))
    if strides is not None and (len(strides) != NUM_STAGES or any(len(stride) != num_axes for stride in strides)):
        raise ValueError(f"strides {[list(stride) for stride in strides]}")
    return PretrainedStart(
        file=str(found["file"]),
        identity=str(found["identity"]),
        scale=scale,
        num_axes=num_axes,
        num_input_channels=int(found["num_input_channels"]),
        strides=strides,
        spacing_mm=_read(found, "spacing_mm", lambda value: _read_numbers(value, float)),
        patch_voxels=_read(found, "patch_voxels", lambda value: _read_numbers(value, int)),
        normalization_schemes=_read(found, "normalization_schemes", lambda value: tuple(str(name) for name in value)),
        use_mask_for_norm=_read(found, "use_mask_for_norm", lambda value: tuple(bool(flag) for flag in value)),
        transpose_forward=_read(found, "transpose_forward", _read_transpose),
        source=str(found.get("source", "")),
        takes_geometry=found.get("takes_geometry", False) is True,
        any_normalisation=found.get("any_normalisation", False) is True,
        accepts_other_strides=found.get("accepts_other_strides", False) is True,
    )


def _read(found: Mapping[str, Any], key: str, parse: Callable[[Any], T]) -> T | None:
    value = found.get(key)
    return None if value is None else parse(value)


def _read_numbers(values: Any, kind: Callable[[Any], T]) -> tuple[T, ...]:
    """Read positive numbers, one per axis."""
    numbers = tuple(kind(value) for value in values)
    if len(numbers) not in _NUM_AXES or not all(0 < float(number) < math.inf for number in numbers):  # type: ignore[arg-type]
        raise ValueError(f"{list(values)} are not positive numbers for two or three axes")
    return numbers


def _read_transpose(values: Any) -> tuple[int, ...]:
    axes = tuple(int(axis) for axis in values)
    if sorted(axes) != [0, 1, 2]:
        raise ValueError(f"transpose_forward {list(axes)}")
    return axes


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value

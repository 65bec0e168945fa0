"""Published STU-Net weights: their keys in our names and back, and which scale they are of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeVar

from stu_pipeline.errors import ModelError
from stu_pipeline.networks.layout import NUM_LEVELS, build_layout, parameter_shapes
from stu_pipeline.networks.scales import NUM_STAGES, SCALES, Scale

Weight = TypeVar("Weight")

_PUBLISHED_HEADS = "seg_outputs."
_OUR_HEADS = "decoder.seg_layers."
_WRAPPER = re.compile(r"^(?:module\.|_orig_mod\.)+")
_BODY = ("conv_blocks_context.", "upsample_layers.", "conv_blocks_localization.")
_STEM = "conv_blocks_context.0.0.conv1.weight"
_LAST_HEAD = f"{_OUR_HEADS}{NUM_LEVELS - 1}.bias"
_MAX_LISTED = 5


class RecognisedNetwork(NamedTuple):
    """What the shapes of a state dict tell. Strides leave no trace in the weights, so they are not here."""

    scale: Scale
    num_input_channels: int
    num_classes: int


def from_published(state_dict: Mapping[str, Weight]) -> dict[str, Weight]:
    """Rename the published keys to ours, without `module.` and `_orig_mod.` prefixes, in the same order.

    Our own keys pass unchanged. An empty dict gives an empty dict.

    Raises:
        ModelError: a key does not belong to an STU-Net, or two keys become one.
    """
    return _rename(state_dict, _PUBLISHED_HEADS, _OUR_HEADS)


def to_published(state_dict: Mapping[str, Weight]) -> dict[str, Weight]:
    """Rename our keys to the published ones; the inverse of `from_published`.

    Raises:
        ModelError: as for `from_published`.
    """
    return _rename(state_dict, _OUR_HEADS, _PUBLISHED_HEADS)


def recognise_scale(state_dict: Mapping[str, object]) -> RecognisedNetwork:
    """Tell the scale, input channels and outputs of STU-Net weights, in published or in our names.

    Every key and shape is compared with the scale's, so that a recognised state dict loads completely.

    Raises:
        ModelError: no STU-Net, a network of no known scale, or tensors missing, extra or of other shapes.
    """
    shapes = {key: _read_shape(key, value) for key, value in from_published(state_dict).items()}
    stem, last_head = shapes.get(_STEM), shapes.get(_LAST_HEAD)
    if stem is None or last_head is None or len(stem) not in (4, 5) or len(last_head) != 1:
        raise ModelError(
            f"weights are no STU-Net, '{_STEM}' or the full-resolution head is missing",
            hint="stu weights inspect FILE",
        )
    scale = _find_scale(stem[0], shapes)
    found = RecognisedNetwork(scale, stem[1], last_head[0])
    _require_shapes(shapes, found, num_axes=len(stem) - 2)
    return found


def _find_scale(width: int, shapes: Iterable[str]) -> Scale:
    blocks = {key.split(".")[2] for key in shapes if key.startswith("conv_blocks_context.0.")}
    for letter, spec in SCALES.items():
        if (spec.width, spec.num_blocks) == (width, len(blocks)):
            return letter
    known = ", ".join(f"{letter} {spec.width}/{spec.num_blocks}" for letter, spec in SCALES.items())
    raise ModelError(
        f"weights have width '{width}' and '{len(blocks)}' blocks per stage, known: {known}",
        hint="stu weights inspect FILE",
    )


def _require_shapes(shapes: Mapping[str, tuple[int, ...]], found: RecognisedNetwork, *, num_axes: int) -> None:
    spec = SCALES[found.scale]
    layout = build_layout(
        [[1] * num_axes] * NUM_STAGES, spec.features_per_stage, spec.n_blocks_per_stage, f"{num_axes}d"
    )
    expected = dict(parameter_shapes(layout, found.num_input_channels, found.num_classes))
    problems = [f"'{key}' is missing" for key in expected if key not in shapes]
    problems += [f"'{key}' is unexpected" for key in shapes if key not in expected]
    problems += [
        f"'{key}' has shape {list(shapes[key])}, expected {list(shape)}"
        for key, shape in expected.items()
        if key in shapes and shapes[key] != shape
    ]
    if problems:
        raise ModelError(
            f"weights look like scale {found.scale} but {len(problems)} of {len(expected)} tensors differ",
            hint="stu weights inspect FILE",
            details=tuple(problems[:_MAX_LISTED]),
        )


def _rename(state_dict: Mapping[str, Weight], old: str, new: str) -> dict[str, Weight]:
    renamed: dict[str, Weight] = {}
    for key, weight in state_dict.items():
        bare = _WRAPPER.sub("", str(key))
        name = new + bare.removeprefix(old) if bare.startswith(old) else bare
        if not name.startswith((*_BODY, new)):
            raise ModelError(f"key '{key}' does not belong to an STU-Net", hint="stu weights inspect FILE")
        if name in renamed:
            raise ModelError(
                f"key '{key}' stands for '{name}', which is there already", hint="stu weights inspect FILE"
            )
        renamed[name] = weight
    return renamed


def _read_shape(key: str, value: object) -> tuple[int, ...]:
    shape = getattr(value, "shape", None)
    if shape is None:
        raise ModelError(f"'{key}' is a {type(value).__name__}, expected a tensor", hint="stu weights inspect FILE")
    return tuple(int(size) for size in shape)

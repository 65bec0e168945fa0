"""Choose along which axes a training mirrors, and which labels change sides by it.

Reads: the geometry of the preprocessed cases (`<case>.pkl`), only where labels come in left and right.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stu_pipeline.datasets.dataset_json import parse_dataset_json
from stu_pipeline.datasets.laterality import PAIRS_KEY, Mirroring, SideLabels, find_side_labels
from stu_pipeline.datasets.side_axis import SideAxis, choose_side_axis, read_side_cosines
from stu_pipeline.errors import UsageError
from stu_pipeline.planfile import PlanFile

_UNUSED_KEYS = ("dataset", "overwrite_image_reader_writer")
_MAX_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSides:
    """The left-right axis among the spatial axes of a network."""

    axis: int | None = None
    """None where none runs left-right, or where it cannot be told."""
    unclear: tuple[int, ...] = ()
    """Axes that may run left-right in some images."""
    reason: str = ""


def choose_mirroring(
    wanted: str,
    *,
    dataset_json: Mapping[str, Any],
    plan: PlanFile,
    configuration: str,
    data_folder: Path,
    case_ids: Sequence[str],
) -> tuple[Mirroring, str]:
    """Choose the mirroring of a training.

    `auto` mirrors all axes, as nnU-Net; where labels come in left and right, the left-right axis swaps them, and is
    left out when it cannot be told from the images or a label has no partner. `none` mirrors nothing, `all` mirrors
    all axes without swapping, as nnU-Net. Axes like `0,2` are mirrored as said, swapping where one is known to swap.

    Args:
        wanted: the value of `--mirror`.
        dataset_json: of the preprocessed dataset, with consecutive labels.
        plan: its transposition turns the images' axes into the network's.
        configuration: its patch has two or three axes.
        data_folder: holds `<case>.pkl` of every case; read only when labels have sides.
        case_ids: all training cases.

    Returns:
        The mirroring, and one line that says why it is not nnU-Net's; '' when it is.

    Raises:
        UsageError: `wanted` is none of these, or names an axis that the patch does not have.
        DataError: `left_right_pairs` in `dataset.json` cannot be used, or the properties of a case are damaged.
    """
    num_axes = plan.configuration(configuration).num_axes
    axes = _parse_wanted(wanted, num_axes)
    where = data_folder.parent / "dataset.json"
    # Neither the listed files nor the reader matter here, and stock nnU-Net knows readers that we refuse.
    content = {key: value for key, value in dataset_json.items() if key not in _UNUSED_KEYS}
    sides = find_side_labels(parse_dataset_json(content, where), where=where)
    if wanted == "all" and sides.has_sides:
        return Mirroring(axes=axes), f"left/right: all axes are mirrored as asked, and {_describe(sides)} not swapped"
    if not axes or wanted == "all" or not sides.has_sides:
        return Mirroring(axes=axes), ""
    cosines = read_side_cosines(data_folder / f"{case_id}.pkl" for case_id in case_ids)
    found = find_network_sides(choose_side_axis(cosines), plan.transpose_forward, num_axes)
    return plan_mirroring(axes, sides, found, is_asked=wanted != "auto")


def find_network_sides(side: SideAxis, transpose_forward: Sequence[int], num_axes: int) -> NetworkSides:
    """Turn axes of the images, `(z, y, x)`, into axes of the network.

    Args:
        side: the left-right axis of the images.
        transpose_forward: axis `k` of the network is axis `transpose_forward[k]` of the images.
        num_axes: 3, or 2 for a network that sees slices along its first axis.
    """
    place = {int(axis): index - (len(transpose_forward) - num_axes) for index, axis in enumerate(transpose_forward)}
    if side.axis is not None:
        axis = place[side.axis]
        return NetworkSides(axis=axis if axis >= 0 else None)
    unclear = sorted(place[axis] for axis in side.unclear if place[axis] >= 0)
    return NetworkSides(unclear=tuple(unclear), reason=side.reason)


def plan_mirroring(
    axes: tuple[int, ...], sides: SideLabels, found: NetworkSides, *, is_asked: bool
) -> tuple[Mirroring, str]:
    """Decide for labels with sides.

    Args:
        axes: what would be mirrored.
        sides: the labels that tell left from right.
        found: the left-right axis of the network.
        is_asked: whether the user named the axes, so that none is left out.

    Returns:
        The mirroring and one line about it; '' when no axis of the network runs left-right.
    """
    risky = set(found.unclear) if found.axis is None else {found.axis}
    concerned = tuple(axis for axis in axes if axis in risky)
    if not concerned:
        return Mirroring(axes=axes), ""
    cause = found.reason if found.axis is None else _describe_lone(sides)
    if is_asked or not cause:
        swapping = concerned if found.axis is not None and sides.pairs else ()
        mirroring = Mirroring(axes=axes, swapping_axes=swapping, pairs=sides.pairs if swapping else ())
        told = _describe_swap(mirroring) if swapping else ""
        warned = f"{_list_axes(concerned)} mirrored as asked although {cause}" if cause else ""
        return mirroring, "left/right: " + "; ".join(text for text in (told, warned) if text)
    kept = tuple(axis for axis in axes if axis not in concerned)
    hint = f"to decide otherwise, use --mirror or '{PAIRS_KEY}' in dataset.json"
    return Mirroring(axes=kept), f"left/right: {_list_axes(concerned)} not mirrored, because {cause} ({hint})"


def _parse_wanted(wanted: str, num_axes: int) -> tuple[int, ...]:
    everything = tuple(range(num_axes))
    if wanted in ("auto", "all"):
        return everything
    if wanted == "none":
        return ()
    parts = [part.strip() for part in wanted.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts) or len(set(parts)) < len(parts):
        raise UsageError(f"mirror must be auto, none, all, or axes like '0,1', got '{wanted}'")
    axes = sorted(int(part) for part in parts)
    if axes[-1] >= num_axes:
        raise UsageError(f"mirror names axis {axes[-1]}, the network has {', '.join(map(str, everything))}")
    return tuple(axes)


def _describe(sides: SideLabels) -> str:
    """Name pairs for a message; lone labels where there are no pairs."""
    if not sides.pairs:
        return f"{_list_names(sides.lone)} {'is' if len(sides.lone) == 1 else 'are'}"
    count = len(sides.names)
    return f"{count} pair{'s' if count > 1 else ''} of labels {'is' if count == 1 else 'are'}"


def _describe_swap(mirroring: Mirroring) -> str:
    count = len(mirroring.pairs)
    return f"{count} pair{'s' if count > 1 else ''} of labels swap along axis {mirroring.swapping_axes[0]}"


def _describe_lone(sides: SideLabels) -> str:
    if not sides.lone:
        return ""
    return f"{_list_names(sides.lone)} {'has' if len(sides.lone) == 1 else 'have'} no partner on the other side"


def _list_names(names: Iterable[str]) -> str:
    listed = [f"'{name}'" for name in names]
    more = f" and {len(listed) - _MAX_SHOWN} more" if len(listed) > _MAX_SHOWN else ""
    return ", ".join(listed[:_MAX_SHOWN]) + more


def _list_axes(axes: Sequence[int]) -> str:
    return f"axis {axes[0]} is" if len(axes) == 1 else f"axes {', '.join(map(str, axes))} are"

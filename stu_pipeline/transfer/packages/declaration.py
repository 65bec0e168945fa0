"""What the user declares about weights: facts that the file itself does not hold.

Reads: the file of `--labels`, and what is known of the released weights (`plans/published/`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stu_pipeline.datasets.dataset_fields import show_value
from stu_pipeline.datasets.dataset_json import read_strict_json
from stu_pipeline.errors import DataError, UsageError
from stu_pipeline.knowledge import read_knowledge
from stu_pipeline.networks.scales import NUM_STAGES
from stu_pipeline.transfer.files.sidecar import PUBLISHED_LABELS, PUBLISHED_PLAN
from stu_pipeline.transfer.packages.config import ConvertConfig
from stu_pipeline.transfer.weight_file import WeightFacts, WeightFile


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedPlan:
    """What is known of the released weights, beside their facts."""

    facts: WeightFacts
    median_voxels: tuple[float, ...]
    batch_size: int


def read_published_plan() -> PublishedPlan:
    """Read under which plan the released weights were trained, and what their outputs are."""
    plan = read_knowledge(PUBLISHED_PLAN)
    facts = WeightFacts(
        label_names=tuple(read_knowledge(PUBLISHED_LABELS)["names"]),
        channel_names=("CT",),
        strides=tuple(tuple(stride) for stride in plan["strides"]),
        spacing_mm=tuple(float(step) for step in plan["spacing"]),
        patch_voxels=tuple(plan["patch_size"]),
        normalization_schemes=tuple(plan["normalization_schemes"]),
        use_mask_for_norm=tuple(plan["use_mask_for_norm"]),
        transpose_forward=tuple(plan["transpose_forward"]),
        source="what is known of the released weights",
    )
    return PublishedPlan(
        facts=facts,
        median_voxels=tuple(float(size) for size in plan["median_image_size_in_voxels"]),
        batch_size=int(plan["batch_size"]),
    )


def find_median_voxels(facts: WeightFacts) -> tuple[float, ...] | None:
    """Return the median size of the training images in voxels; it is known of the released weights only."""
    known = read_published_plan()
    same = (facts.spacing_mm, facts.patch_voxels) == (known.facts.spacing_mm, known.facts.patch_voxels)
    return known.median_voxels if same else None


def looks_released(weights: WeightFile) -> bool:
    """Tell whether weights have the form, the channels and the outputs of the released ones."""
    known = read_published_plan().facts
    network = weights.network
    return (
        weights.form == "published"
        and weights.num_axes == len(known.spacing_mm or ())
        and network.num_input_channels == len(known.channel_names or ())
        and network.num_classes == len(known.label_names or ())
    )


def name_released_channel(weights: WeightFile) -> WeightFile:
    """Return released weights with the name of their channel, which their side-car does not tell."""
    known = read_published_plan().facts
    return replace(
        weights, facts=replace(weights.facts, channel_names=weights.facts.channel_names or known.channel_names)
    )


def declare_facts(config: ConvertConfig) -> WeightFacts | None:
    """Collect what the flags of a conversion declare; None where they declare nothing.

    Raises:
        DataError: the file of the labels cannot be used.
        UsageError: the strides are not six steps with the leading ones.
    """
    if config.published:
        known = read_published_plan().facts
        if config.labels is not None or config.strides is not None:
            raise UsageError("--published declares labels and strides, so neither is given with it")
        return known
    if config.labels is None and config.strides is None:
        return None
    names = None
    if config.labels is not None and not _is_dataset_json(read_labels_file(config.labels)):
        names = list_label_names(read_labels_file(config.labels), config.labels)
    strides = complete_strides(config.strides) if config.strides is not None else None
    return WeightFacts(label_names=names, strides=strides, source="what was declared")


def complete_strides(strides: tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
    """Put the leading ones before five strides; six pass unchanged.

    Raises:
        UsageError: another number of strides, or of axes.
    """
    num_axes = len(strides[0]) if strides else 0
    if any(len(stride) != num_axes or min(stride, default=0) < 1 for stride in strides) or num_axes not in (2, 3):
        raise UsageError(f"strides '{strides}' are not two or three positive steps each", hint=_STRIDES_HINT)
    if len(strides) == NUM_STAGES - 1:
        return ((1,) * num_axes, *strides)
    if len(strides) != NUM_STAGES or any(step != 1 for step in strides[0]):
        raise UsageError(f"{len(strides)} strides are given, an STU-Net has 5, or 6 with the leading ones",
                         hint=_STRIDES_HINT)  # fmt: skip
    return strides


_STRIDES_HINT = "--strides 2x2x2,2x2x2,2x2x2,2x2x2,1x1x2"


def read_labels_file(path: Path) -> Any:
    """Read the JSON of `--labels`.

    Raises:
        DataError: missing, or not strict JSON.
    """
    return read_strict_json(path)


def find_dataset_json(path: Path | None) -> dict[str, Any] | None:
    """Return the content of a `dataset.json` that was given as `--labels`; None where it is another form."""
    content = read_labels_file(path) if path is not None else None
    return content if _is_dataset_json(content) else None


def list_label_names(content: Any, path: Path) -> tuple[str, ...]:
    """Return label names in the order of the outputs.

    Args:
        content: `["background", "liver"]`, `{"0": "background", "1": "liver"}` or `{"background": 0, "liver": 1}`.
        path: for messages.

    Raises:
        DataError: another form, a gap, a name that is there twice, or a first name that is not 'background'.
    """
    names: list[Any] | None = None
    if isinstance(content, list):
        names = content
    elif isinstance(content, dict) and isinstance(content.get("names"), list):
        names = content["names"]
    elif isinstance(content, dict):
        table = _invert(content)
        names = [table[place] for place in range(len(table)) if place in table]
        names = names if len(names) == len(content) else None
    if not names or not all(isinstance(name, str) and name for name in names) or len(set(names)) < len(names):
        raise DataError(
            f"'{path.name}' does not name every output once",
            where=path,
            hint='expected ["background", "liver", ...], or {"0": "background", ...}, or a dataset.json',
        )
    if names[0] != "background":
        raise DataError(f"'{path.name}' begins with {show_value(names[0])}, expected 'background'", where=path)
    return tuple(names)


def _invert(content: dict[str, Any]) -> dict[int, Any]:
    """Turn either direction of a table of names and numbers into names by number."""
    table: dict[int, Any] = {}
    for key, value in content.items():
        number, name = (int(key), value) if key.isascii() and key.isdigit() else (value, key)
        if isinstance(number, int) and not isinstance(number, bool):
            table[number] = name
    return table


def _is_dataset_json(content: Any) -> bool:
    return isinstance(content, dict) and isinstance(content.get("labels"), dict)

"""Facts about weights: as JSON, joined from two sources, and compared with the tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stu_pipeline.errors import ModelError
from stu_pipeline.networks.layout import build_layout
from stu_pipeline.networks.scales import NUM_STAGES, SCALES
from stu_pipeline.networks.weights import RecognisedNetwork
from stu_pipeline.transfer.weight_file import WeightFacts

_SHOWN = 120
_MAX_ITEMS = 32768
_PER_CHANNEL = ("channel_names", "normalization_schemes", "use_mask_for_norm")
_PER_AXIS = ("spacing_mm", "patch_voxels")


def join_facts(found: WeightFacts, declared: WeightFacts | None, where: Path) -> WeightFacts:
    """Fill what a file does not tell with what the user declares.

    Raises:
        ModelError: the two contradict each other.
    """
    if declared is None:
        return found
    changes: dict[str, Any] = {}
    problems = []
    for name in list_fact_names():
        own, other = getattr(found, name), getattr(declared, name)
        if other is None:
            continue
        if own is None:
            changes[name] = other
        elif own != other:
            problems.append(f"{name.replace('_', ' ')}: declared '{_show(other)}', the file says '{_show(own)}'")
    if found.label_names is None and declared.label_names is not None:
        changes["has_regions"] = declared.has_regions
    if problems:
        raise ModelError(
            f"'{where.name}' contradicts what is declared for it",
            where=where.parent,
            hint=f"leave out what the file knows ({found.source}), or use other weights",
            details=tuple(problems),
        )
    return dataclasses.replace(found, **changes, source=f"{found.source}; {declared.source}") if changes else found


def require_fitting_facts(facts: WeightFacts, network: RecognisedNetwork, num_axes: int, where: Path) -> None:
    """Refuse facts that cannot be about these weights.

    Raises:
        ModelError: all differences are listed.
    """
    problems = check_facts(facts, network, num_axes)
    if problems:
        raise ModelError(
            f"'{where.name}' and what is said about it do not belong together: {problems[0]}",
            where=where.parent,
            hint=f"give the file that belongs to these weights, instead of: {facts.source}",
            details=tuple(problems[1:]),
        )


def check_facts(facts: WeightFacts, network: RecognisedNetwork, num_axes: int) -> list[str]:
    """Compare facts with what the tensors tell; one line per difference."""
    problems = []
    if facts.label_names is not None and len(facts.label_names) != network.num_classes:
        problems.append(f"{len(facts.label_names)} label names for {network.num_classes} outputs")
    for name in _PER_CHANNEL:
        values = getattr(facts, name)
        if values is not None and len(values) != network.num_input_channels:
            kind = name.replace("_", " ")
            problems.append(f"{kind} of {len(values)} channels for {network.num_input_channels} input channels")
    for name in _PER_AXIS:
        values = getattr(facts, name)
        if values is not None and len(values) != num_axes:
            problems.append(f"{name.partition('_')[0]} of {len(values)} axes for kernels of {num_axes}")
    return problems + _check_strides(facts, network, num_axes)


def describe_facts(facts: WeightFacts) -> dict[str, Any]:
    """Return facts as plain JSON values; unknown ones are null."""
    values = dataclasses.asdict(facts)
    return {name: _list(value) for name, value in values.items()}


def parse_facts(content: Mapping[str, Any], source: str) -> WeightFacts:
    """Read what `describe_facts` returned; what is missing is unknown.

    Raises:
        ValueError: naming the fact that is malformed.
    """
    facts: dict[str, Any] = {}
    for name, parse in _PARSERS.items():
        value = content.get(name)
        if value is not None:
            try:
                facts[name] = parse(value)
            except (TypeError, ValueError, OverflowError) as error:
                raise ValueError(f"{name} is malformed: {_show(value)}") from error
    has_regions = content.get("has_regions", False)
    if type(has_regions) is not bool:
        raise ValueError(f"has_regions is malformed: {_show(has_regions)}")
    first = content.get("source")
    if isinstance(first, str) and first.isprintable() and len(first) <= _SHOWN:
        source = f"{source}, which has it from {first}"
    return WeightFacts(has_regions=has_regions, source=source, **facts)


def list_fact_names() -> list[str]:
    """List the facts that may be unknown."""
    return list(_PARSERS)


def parse_texts(values: object) -> tuple[str, ...]:
    """Check a list of printable texts."""
    if any(not isinstance(value, str) or not value or not value.isprintable() for value in _require_list(values)):
        raise ValueError("not a list of texts")
    return tuple(_require_list(values))


def parse_whole(values: object) -> tuple[int, ...]:
    """Check a list of whole numbers from 0 to a million."""
    if any(type(value) is not int or not 0 <= value <= 1_000_000 for value in _require_list(values)):
        raise ValueError("not a list of whole numbers")
    return tuple(_require_list(values))


def parse_sizes(values: object) -> tuple[float, ...]:
    """Check a list of positive numbers."""
    for value in _require_list(values):
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6:
            raise ValueError("not a list of positive numbers")
    return tuple(float(value) for value in _require_list(values))


def parse_truths(values: object) -> tuple[bool, ...]:
    """Check a list of truth values."""
    if any(type(value) is not bool for value in _require_list(values)):
        raise ValueError("not a list of truth values")
    return tuple(_require_list(values))


def parse_strides(values: object) -> tuple[tuple[int, ...], ...]:
    """Check six strides with the leading ones."""
    strides = tuple(parse_whole(stride) for stride in _require_list(values))
    axes = {len(stride) for stride in strides}
    if len(strides) != NUM_STAGES or axes not in ({2}, {3}) or any(step < 1 for stride in strides for step in stride):
        raise ValueError("not six strides")
    if any(step != 1 for step in strides[0]):
        raise ValueError("the first stride is not all ones")
    return strides


def _require_list(values: object) -> Any:
    if not isinstance(values, list | tuple) or not 0 < len(values) <= _MAX_ITEMS:
        raise ValueError("not a list")
    return values


def _parse_text(value: object) -> str:
    return parse_texts([value])[0]


def _parse_count(value: object) -> int:
    return parse_whole([value])[0]


_PARSERS: dict[str, Callable[[object], Any]] = {
    "label_names": parse_texts,
    "channel_names": parse_texts,
    "strides": parse_strides,
    "spacing_mm": parse_sizes,
    "patch_voxels": parse_whole,
    "normalization_schemes": parse_texts,
    "use_mask_for_norm": parse_truths,
    "transpose_forward": parse_whole,
    "dataset_name": _parse_text,
    "num_epochs": _parse_count,
}


def _check_strides(facts: WeightFacts, network: RecognisedNetwork, num_axes: int) -> list[str]:
    if facts.strides is None:
        return []
    spec = SCALES[network.scale]
    try:
        build_layout(facts.strides, spec.features_per_stage, spec.n_blocks_per_stage, f"{num_axes}d")
    except ModelError as error:
        return [error.problem]
    return []


def _list(value: Any) -> Any:
    return [_list(item) for item in value] if isinstance(value, tuple) else value


def _show(value: object) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."

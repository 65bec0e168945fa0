"""The tables and the verdict of an inspection, as texts."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from stu_pipeline.transfer.inspection.inspect import Inspection
from stu_pipeline.transfer.inspection.layers import LayerStatistics

_MIB = 1 << 20
_SHOWN_LABELS = 4
_UNKNOWN = "not known"
_WEAK_SHARE = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectionTable:
    """Columns and rows of text."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def build_fact_table(inspection: Inspection) -> InspectionTable:
    """Say what the file is and what is known of it, one row each."""
    facts, source = inspection.facts, inspection.facts.source
    rows = [
        ("file", f"{inspection.what}, {_write_mib(inspection.file_bytes)}"),
        ("network", _describe_network(inspection)),
        ("weights", f"{inspection.num_parameters:,} numbers in {inspection.num_tensors} tensors, "
                    f"{', '.join(inspection.types)}, {_write_mib(inspection.tensor_bytes)}"),
        ("optimizer state", _describe_optimizer(inspection)),
        ("trained by", inspection.trainer_name or _UNKNOWN),
        ("epochs", str(facts.num_epochs) if facts.num_epochs is not None else _UNKNOWN),
        ("side-car", inspection.sidecar.name if inspection.sidecar is not None else "none"),
        ("dataset", facts.dataset_name or _UNKNOWN),
        ("labels", _describe_labels(inspection)),
        ("channels", ", ".join(facts.channel_names) if facts.channel_names else _UNKNOWN),
        ("strides", " ".join(_by(stride) for stride in facts.strides) if facts.strides else _UNKNOWN),
        ("spacing", f"{_by(facts.spacing_mm)} mm" if facts.spacing_mm else _UNKNOWN),
        ("patch", f"{_by(facts.patch_voxels)} voxels" if facts.patch_voxels else _UNKNOWN),
        ("normalisation", ", ".join(facts.normalization_schemes) if facts.normalization_schemes else _UNKNOWN),
        ("known from", source),
        ("identity", inspection.identity or _UNKNOWN),
    ]  # fmt: skip
    return InspectionTable(title=inspection.path.name, columns=("what", "value"), rows=tuple(rows))


def build_part_table(inspection: Inspection) -> InspectionTable:
    """Sum up the layers by part of the network."""
    parts = dict.fromkeys(layer.part for layer in inspection.layers)
    rows = [_sum_up(part, [layer for layer in inspection.layers if layer.part == part]) for part in parts]
    return InspectionTable(
        title="Beside a fresh network (1.00: as it began)",
        columns=("part", "convolutions", "weights, by He", "norm weights", "dead filters"),
        rows=tuple(rows),
    )


def build_layer_table(inspection: Inspection) -> InspectionTable:
    """List every layer."""
    rows = [
        (layer.name, layer.kind, _by(layer.shape), f"{layer.std:.4g}", f"{layer.ratio:.2f}", str(layer.num_dead))
        for layer in inspection.layers
    ]
    return InspectionTable(
        title="Layers",
        columns=("layer", "kind", "shape", "std, or mean of a norm", "by fresh", "dead filters"),
        rows=tuple(rows),
    )


def write_verdict(inspection: Inspection) -> list[str]:
    """Say in a few lines what to think of the file."""
    lines = [f"cannot be used: {problem}" for problem in inspection.problems]
    if inspection.looks_untrained:
        lines.append("looks untrained: every normalisation is as it began, weight 1 and bias 0")
    num_dead = sum(layer.num_dead for layer in inspection.layers)
    num_filters = sum(layer.num_filters for layer in inspection.layers)
    if num_dead > _WEAK_SHARE * num_filters:
        lines.append(f"{num_dead} of {num_filters} filters are dead")
    if inspection.optimizer_bytes:
        lines.append(f"momentum included: {_share(inspection)} of the file; stu weights export leaves it out")
    if inspection.network is not None and inspection.facts.strides is None:
        lines.append("strides are not known, and leave no trace in the weights: give the side-car, or declare them")
    if inspection.network is not None and inspection.facts.label_names is None:
        lines.append("label names are not known, so heads cannot be reused by name")
    if inspection.is_usable:
        lines.append("can be used")
    return lines


def _describe_network(inspection: Inspection) -> str:
    network = inspection.network
    if network is None:
        return "not recognised"
    channels = "1 input channel" if network.num_input_channels == 1 else f"{network.num_input_channels} input channels"
    return f"STU-Net {network.scale}, {inspection.num_axes}D, {channels}, {network.num_classes} outputs"


def _describe_optimizer(inspection: Inspection) -> str:
    if not inspection.optimizer_bytes:
        return "none"
    return f"{_write_mib(inspection.optimizer_bytes)}, {_share(inspection)} of the file"


def _describe_labels(inspection: Inspection) -> str:
    names = inspection.facts.label_names
    if names is None:
        return _UNKNOWN
    listed = ", ".join(names[:_SHOWN_LABELS])
    more = f", ... {names[-1]}" if len(names) > _SHOWN_LABELS else ""
    return f"{len(names)} {'regions' if inspection.facts.has_regions else 'with background'}: {listed}{more}"


def _sum_up(part: str, layers: Sequence[LayerStatistics]) -> tuple[str, ...]:
    convolutions = [layer.ratio for layer in layers if layer.kind == "convolution"]
    norms = [layer.ratio for layer in layers if layer.kind == "normalisation"]
    dead = sum(layer.num_dead for layer in layers)
    return (part, str(len(convolutions)), _write_range(convolutions), _write_range(norms), str(dead))


def _write_range(values: Sequence[float]) -> str:
    if not values:
        return "-"
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def _share(inspection: Inspection) -> str:
    return f"{inspection.optimizer_bytes / inspection.file_bytes:.0%}"


def _write_mib(num_bytes: int) -> str:
    return f"{num_bytes / _MIB:.1f} MiB"


def _by(sizes: Sequence[float]) -> str:
    return "x".join(f"{size:g}" for size in sizes)

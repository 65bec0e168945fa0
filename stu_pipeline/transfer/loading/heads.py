"""Which output of a trained network each output of the target starts from: by name, never across sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from stu_pipeline.datasets.dataset_fields import BACKGROUND
from stu_pipeline.datasets.label_names import change_sides, find_nearest_names, match_names
from stu_pipeline.errors import ModelError
from stu_pipeline.transfer.loading.mappings import HeadMapping

HEAD_PREFIX = "decoder.seg_layers."
_DECLARED, _BY_NAME = "declared", "same name"
_LONE = "kept only beside another label that is kept"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadRow:
    """One output of the target: what it starts from, and why."""

    target: str
    source: str | None
    """Output of the source; None where it starts anew."""
    source_index: int | None
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Return plain values for `run.json`."""
        return {"target": self.target, "source": self.source, "reason": self.reason}


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadLabels:
    """What is known of the outputs of one network."""

    names: tuple[str, ...] | None
    """One per output; None where they are not known."""
    num_outputs: int
    has_regions: bool = False

    @property
    def kind(self) -> str:
        """What the outputs are, for people."""
        return "regions" if self.has_regions else "labels"


def choose_heads(source: HeadLabels, target: HeadLabels, mapping: HeadMapping | None = None) -> tuple[HeadRow, ...]:
    """Decide for every output of the target which output of the source it starts from.

    A declared source comes first, then the output of the same name (`datasets/label_names.py`). Nothing is taken
    where the source's names are not known, or where one network has regions and the other labels: a sigmoid and a
    softmax do not understand each other.

    Raises:
        ModelError: the mapping names what is not there, cannot be applied, or maps by index where the numbers of
            outputs differ; all problems are listed.
    """
    mapping = mapping or HeadMapping()
    names = target.names or tuple(str(index) for index in range(target.num_outputs))
    is_declared = bool(mapping.names) or mapping.by_index
    reason = _find_obstacle(source, target, by_index=mapping.by_index)
    if reason and is_declared:
        raise ModelError(f"heads cannot be mapped: {reason}", hint="leave the head mapping out")
    if reason:
        return tuple(HeadRow(target=name, source=None, source_index=None, reason=reason) for name in names)
    if mapping.by_index:
        return _choose_by_index(source, names)
    return _choose_by_name(source.names or (), names, mapping)


def change_head(head: torch.Tensor, rows: Sequence[HeadRow], fresh: torch.Tensor) -> torch.Tensor:
    """Return the weight or bias of a head with the target's outputs along the first axis.

    Args:
        head: of the source, in the target's dimensions.
        rows: from `choose_heads`.
        fresh: the target's own, freshly initialised: what outputs without a source keep.
    """
    changed = fresh.clone()
    for index, row in enumerate(rows):
        if row.source_index is not None:
            changed[index] = head[row.source_index].to(fresh.dtype)
    return changed


def _find_obstacle(source: HeadLabels, target: HeadLabels, *, by_index: bool) -> str:
    if by_index and source.num_outputs != target.num_outputs:
        return f"the weights have {source.num_outputs} outputs, this network {target.num_outputs}"
    if source.names is not None and source.has_regions != target.has_regions:
        return f"the weights have {source.kind}, this dataset {target.kind}"
    if source.names is None and not by_index:
        return "the label names of the weights are not known"
    return ""


def _choose_by_index(source: HeadLabels, names: Sequence[str]) -> tuple[HeadRow, ...]:
    sources = source.names or tuple(f"output {index}" for index in range(source.num_outputs))
    return tuple(
        HeadRow(target=name, source=sources[index], source_index=index, reason="declared: by index")
        for index, name in enumerate(names)
    )


def _choose_by_name(sources: Sequence[str], targets: Sequence[str], mapping: HeadMapping) -> tuple[HeadRow, ...]:
    declared = _require_known(mapping, sources, targets)
    matched = match_names(targets, sources)
    rows = []
    for name in targets:
        source = declared.get(name, matched.get(name))
        reason = _DECLARED if name in declared else _BY_NAME if source else _explain_missing(name, sources)
        index = sources.index(source) if source is not None else None
        rows.append(HeadRow(target=name, source=source, source_index=index, reason=reason))
    return tuple(_free_lone_background(rows, is_declared=BACKGROUND in declared))


def _free_lone_background(rows: Sequence[HeadRow], *, is_declared: bool) -> list[HeadRow]:
    """Begin the background anew where no label is kept beside it.

    A trained background is far more certain than fresh outputs: it wins everywhere, and the first epochs go into
    unlearning it (docs/results/transfer.md). The authors of STU-Net drop all heads.
    """
    is_lone = not any(row.source is not None and row.target != BACKGROUND for row in rows)
    if is_declared or not is_lone:
        return list(rows)
    return [
        HeadRow(target=row.target, source=None, source_index=None, reason=_LONE) if row.target == BACKGROUND else row
        for row in rows
    ]


def _require_known(mapping: HeadMapping, sources: Sequence[str], targets: Sequence[str]) -> dict[str, str | None]:
    known_targets = match_names(list(mapping.names), targets)
    known_sources = match_names([name for name in mapping.names.values() if name is not None], sources)
    problems = [
        f"this dataset has no label '{name}'{_suggest(name, targets)}"
        for name in mapping.names
        if name not in known_targets
    ]
    problems += [
        f"the weights have no label '{name}'{_suggest(name, sources)}"
        for name in mapping.names.values()
        if name is not None and name not in known_sources
    ]
    if problems:
        raise ModelError(f"head mapping: {problems[0]}", hint="correct the mapping file", details=tuple(problems[1:]))
    return {
        known_targets[name]: known_sources[source] if source is not None else None
        for name, source in mapping.names.items()
    }


def _explain_missing(name: str, sources: Sequence[str]) -> str:
    if name == BACKGROUND:
        return "the weights have no background"
    # A near name of the other side is what people ask about first.
    nearest = next(
        (item for item in find_nearest_names(name, sources, across_sides=True) if change_sides(name, item)), None
    )
    return "not among the labels of the weights" + (f" ('{nearest}' is not the same side)" if nearest else "")


def _suggest(name: str, known: Sequence[str]) -> str:
    nearest = find_nearest_names(name, known)
    return f" (nearest: {', '.join(repr(item) for item in nearest)})" if nearest else ""

"""What a union will be, decided from the descriptions of its sources before anything is read or written."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stu_pipeline.datasets.dataset_fields import check_case_id, resolve_file
from stu_pipeline.datasets.listing import find_clashes
from stu_pipeline.datasets.partial_labels import PARTIAL_LABELS_KEY, PartialLabels
from stu_pipeline.datasets.union.label_space import LabelSpace, SourceLabels, join_labels
from stu_pipeline.datasets.union.mapping import parse_union_labels, read_union_labels
from stu_pipeline.datasets.union.request import UnionRequest
from stu_pipeline.datasets.union.rewriting import LabelTask
from stu_pipeline.datasets.union.sources import UnionSource, holds_pictures, open_sources
from stu_pipeline.errors import DataError, UsageError
from stu_pipeline.workspace import Workspace

# What nnU-Net normalises by name. Under any other name each image gets its own z-score, the published recipe.
_NAMES_WITH_MEANING = ("ct", "nonorm", "zscore", "rescale_to_0_1", "rgb_to_0_1")
_EXAMPLE = '{"Dataset101_Name": {"old name": "new name", "not used": null}}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """A union as it will be: everything but its name and its voxels."""

    sources: tuple[UnionSource, ...]
    space: LabelSpace
    channel_names: tuple[str, ...]
    union_labels: Any
    labels_of: tuple[str, ...] | None

    @property
    def file_ending(self) -> str:
        """The ending of the label maps that are written."""
        return ".png" if holds_pictures(self.sources) else ".nii.gz"

    @property
    def num_cases(self) -> int:
        """Cases of all sources."""
        return sum(len(source.cases) for source in self.sources)

    def identify(self) -> dict[str, Any]:
        """Return what makes it this union and no other: sources, channels and where each label goes.

        Where the sources lie is no part of it: data that were moved are the same.
        """
        return {
            "sources": [{"name": source.name, "channels": list(source.channels)} for source in self.sources],
            "channel_names": list(self.channel_names),
            "labels": self.space.describe(),
            "tables": {
                source.name: {name: self.space.tables[source.name][value] for name, value in source.labels.items()}
                for source in self.sources
            },
        }

    def describe(self) -> dict[str, Any]:
        """Return the content of `dataset.json`."""
        partial = self.find_partial_labels()
        return {
            "description": "union of " + ", ".join(source.name for source in self.sources),
            "channel_names": {str(index): name for index, name in enumerate(self.channel_names)},
            "labels": self.space.describe(),
            "numTraining": self.num_cases,
            "file_ending": self.file_ending,
            "dataset": {
                name_case(source, case.id): {
                    "images": [os.fspath(path) for path in case.image_files],
                    "label": f"labelsTr/{name_case(source, case.id)}{self.file_ending}",
                }
                for source in self.sources
                for case in source.cases
            },
            **({PARTIAL_LABELS_KEY: partial.to_json()} if partial else {}),
        }

    def find_partial_labels(self) -> PartialLabels | None:
        """Return which labels are marked where; None when every source marks all of them."""
        groups: dict[str, tuple[int, ...]] = {}
        cases: dict[str, str] = {}
        for source in self.sources:
            table = self.space.tables[source.name]
            for group, marked in _list_groups(source).items():
                hidden = {table[value] for value in source.labels.values() if value not in marked}
                groups[group] = tuple(v for v in self.space.list_marked(source.name) if v not in hidden)
            for case in source.cases:
                cases[name_case(source, case.id)] = _find_group(source, case.id)
        is_complete = all(len(marked) == len(self.space.names) for marked in groups.values())
        return None if is_complete else PartialLabels(sources=groups, cases=cases)

    def list_tasks(self, folder: Path) -> list[LabelTask]:
        """List the label maps to write below the folder of the union."""
        tasks = []
        for source in self.sources:
            ids = zip(source.description.label_values, source.description.stored_label_ids, strict=True)
            table = tuple((stored, self.space.tables[source.name][value]) for value, stored in ids)
            for case in source.cases:
                name = name_case(source, case.id)
                target = folder / "labelsTr" / f"{name}{self.file_ending}"
                # Every training case has a label map, list_training_cases saw to it.
                label = case.label_file or target
                tasks.append(LabelTask(case_id=name, source=label, target=target, table=table))
        return tasks


def draw_blueprint(request: UnionRequest, workspace: Workspace) -> Blueprint:
    """Decide what a union will be.

    Raises:
        DataError: the sources are faulty or do not fit together; all clashes of labels are in `details`.
        UsageError: the request does not fit the sources.
    """
    sources = open_sources(request, workspace)
    content = read_union_labels(request.union_labels)
    space = _join(sources, content, request)
    _require_usable_names(sources)
    return Blueprint(
        sources=tuple(sources),
        space=space,
        channel_names=_choose_channel_names(sources, keep=request.keep_channel_names),
        union_labels=content or None,
        labels_of=request.labels_of,
    )


def name_case(source: UnionSource, case_id: str) -> str:
    """Return the name of a case in the union."""
    return f"{source.name}__{case_id}"


def _join(sources: Sequence[UnionSource], content: Any, request: UnionRequest) -> LabelSpace:
    renames, problems = parse_union_labels(content, {source.name: tuple(source.labels) for source in sources})
    labels = [
        SourceLabels(
            name=source.name,
            labels=source.labels,
            unnamed=source.unnamed,
            ignore_value=source.description.ignore_label,
        )
        for source in sources
    ]
    space, clashes = join_labels(labels, renames, labels_of=request.labels_of or ())
    problems += clashes
    if not problems:
        return space
    where = request.union_labels
    raise DataError(
        "the labels of the sources cannot be joined: "
        + (problems[0] if len(problems) == 1 else f"{len(problems)} problems"),
        where=where,
        hint=f"correct '{where.name}'"
        if where
        else f"say what is meant in a file: --union-labels FILE with {_EXAMPLE}",
        details=tuple(problems) if len(problems) > 1 else (),
    )


def _require_usable_names(sources: Sequence[UnionSource]) -> None:
    """Refuse names of cases that are too long, and paths that `dataset.json` cannot list."""
    problems = []
    for source in sources:
        for case in source.cases:
            name = name_case(source, case.id)
            problems += [problem] if (problem := check_case_id(name)) else []
            problems += [problem for path in case.image_files if (problem := _check_path(name, path))]
    problems += find_clashes(name_case(source, case.id) for source in sources for case in source.cases)
    if problems:
        raise DataError(
            f"the files of the sources cannot be listed in one dataset: {problems[0]}",
            hint="move or rename them",
            details=tuple(problems) if len(problems) > 1 else (),
        )


def _check_path(case_id: str, path: Path) -> str:
    try:
        resolve_file(case_id, os.fspath(path), path.parent)
    except ValueError as error:
        return str(error)
    return ""


def _choose_channel_names(sources: Sequence[UnionSource], *, keep: bool) -> tuple[str, ...]:
    """Name the channels of the union; where names mean another normalisation than the z-score, they get an ending."""
    first = sources[0].channel_names
    are_equal = all(_fold(source.channel_names) == _fold(first) for source in sources)
    if keep:
        if not are_equal:
            raise UsageError(
                "the sources name their channels differently, so no names can be kept",
                hint="leave out --keep-channel-names",
                details=tuple(f"'{source.name}': {', '.join(source.channel_names)}" for source in sources),
            )
        return first
    if not are_equal:
        return tuple(f"channel_{index}" for index in range(len(first)))
    return tuple(f"{name}_zscore" if name.casefold() in _NAMES_WITH_MEANING else name for name in first)


def _fold(names: Sequence[str]) -> list[str]:
    return [name.casefold() for name in names]


def _list_groups(source: UnionSource) -> Mapping[str, tuple[int, ...]]:
    """Return the labels marked in each group of cases: one group, unless the source is a union itself."""
    if source.partial is None:
        return {source.name: tuple(source.labels.values())}
    return {f"{source.name}:{name}": marked for name, marked in source.partial.sources.items()}


def _find_group(source: UnionSource, case_id: str) -> str:
    if source.partial is None:
        return source.name
    source.partial.list_marked(case_id)  # raises for a case the table does not know
    return f"{source.name}:{source.partial.cases[case_id]}"

"""The labels of a union: joined by name, numbered in order of first appearance, and every clash found at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stu_pipeline.datasets.dataset_fields import BACKGROUND, IGNORE
from stu_pipeline.datasets.label_ids import MAX_NUM_LABELS
from stu_pipeline.datasets.union.label_keys import LabelKey, make_keys
from stu_pipeline.datasets.union.mapping import Renames

MODEL = "the trained model"
_MAX_SHOWN = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceLabels:
    """The labels of one source, as far as a union needs them."""

    name: str
    labels: Mapping[str, int]
    """Foreground labels in the order of their consecutive values."""
    unnamed: tuple[str, ...] = ()
    """Those that only regions name: `labels` has their id for a name."""
    ignore_value: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelSpace:
    """The foreground labels of a union, and where each label of a source goes."""

    names: tuple[str, ...]
    """Label 1 is the first."""
    has_ignore: bool
    tables: Mapping[str, Mapping[int, int]]
    """Source to consecutive value to label of the union; background, and what is not used, is 0."""

    @property
    def ignore_value(self) -> int | None:
        """The ignore label, which is the highest."""
        return len(self.names) + 1 if self.has_ignore else None

    def describe(self) -> dict[str, int]:
        """Return what `dataset.json` holds under `labels`."""
        labels = {BACKGROUND: 0, **{name: value for value, name in enumerate(self.names, start=1)}}
        return labels | ({IGNORE: len(self.names) + 1} if self.has_ignore else {})

    def list_marked(self, source: str) -> tuple[int, ...]:
        """List the labels of the union that a source marks, ascending."""
        return tuple(sorted(set(self.tables[source].values()) - {0, self.ignore_value}))


def join_labels(
    sources: Sequence[SourceLabels], renames: Mapping[str, Renames], *, labels_of: Sequence[str] = ()
) -> tuple[LabelSpace, list[str]]:
    """Join the labels of the sources by name.

    An ignore label of a source is the ignore label of the union, its highest value.

    Args:
        sources: in the order that numbers the labels.
        renames: what a mapping says, by source.
        labels_of: labels of a trained model, which come first.

    Returns:
        The label space and every clash, one sentence each. With clashes the label space is not to be used.
    """
    targets = {source.name: _choose_targets(source, renames.get(source.name, {})) for source in sources}
    keys = make_keys([*labels_of, *(name for chosen in targets.values() for name in _list_names(chosen))])
    names, values = list(labels_of), {keys[name]: value for value, name in reversed([*enumerate(labels_of, start=1)])}
    for name in (name for chosen in targets.values() for name in _list_names(chosen)):
        if keys[name] not in values:
            names.append(name)
            values[keys[name]] = len(names)
    has_ignore = any(source.ignore_value is not None or IGNORE in targets[source.name].values() for source in sources)
    # A model may know two labels whose names differ in spelling only: the exact name decides between them.
    places = {name: values[key] for name, key in keys.items()} | {name: labels_of.index(name) + 1 for name in labels_of}
    places[IGNORE] = len(names) + 1
    space = LabelSpace(
        names=tuple(names),
        has_ignore=has_ignore,
        tables={source.name: _make_table(source, targets[source.name], places) for source in sources},
    )
    problems = [
        problem
        for source in sources
        for problem in _check_source(source, renames.get(source.name, {}), targets[source.name], keys)
    ]
    problems += _check_sides(
        {MODEL: labels_of, **{name: _list_names(chosen) for name, chosen in targets.items()}}, keys
    )
    problems += _check_model(labels_of, targets, keys)
    if len(names) + 2 > MAX_NUM_LABELS:
        problems.append(f"the union has {len(names)} labels, the limit is {MAX_NUM_LABELS - 2}")
    return space, problems


def _choose_targets(source: SourceLabels, renames: Renames) -> dict[str, str | None]:
    """Return old name to new name, None for what is not used."""
    return {name: renames.get(name, name) for name in source.labels}


def _list_names(chosen: Mapping[str, str | None]) -> list[str]:
    return [name for name in chosen.values() if name is not None and name != IGNORE]


def _make_table(source: SourceLabels, chosen: Mapping[str, str | None], places: Mapping[str, int]) -> dict[int, int]:
    table = {0: 0, **{source.labels[old]: 0 if new is None else places[new] for old, new in chosen.items()}}
    if source.ignore_value is not None:
        table[source.ignore_value] = places[IGNORE]
    return table


def _check_source(
    source: SourceLabels, renames: Renames, chosen: Mapping[str, str | None], keys: Mapping[str, LabelKey]
) -> list[str]:
    problems = [
        f"label {name} of '{source.name}' has no name of its own, only regions hold it; the mapping must name it"
        for name in source.unnamed
        if name not in renames
    ]
    if not _list_names(chosen):
        problems.append(f"no label of '{source.name}' is used")
    together: dict[LabelKey, list[str]] = {}
    for old, new in chosen.items():
        if new is not None and new != IGNORE:
            together.setdefault(keys[new], []).append(old)
            if keys[new].rest == BACKGROUND:
                problems.append(f"'{source.name}' has a label '{old}' beside the background; map it to null or a name")
    for olds in together.values():
        undeclared = [old for old in olds if old not in renames]
        if len(olds) > 1 and undeclared:
            shown = " and ".join(f"'{old}'" for old in olds[:_MAX_SHOWN])
            problems.append(
                f"labels {shown} of '{source.name}' differ in spelling only"
                if len(undeclared) == len(olds)
                else f"labels {shown} of '{source.name}' become one, but the mapping does not name '{undeclared[0]}'"
            )
    return problems


def _check_sides(names: Mapping[str, Sequence[str]], keys: Mapping[str, LabelKey]) -> list[str]:
    """Find labels that have no side in one source and sides in another: they cannot be one label, nor two."""
    plain: dict[str, list[tuple[str, str]]] = {}
    sided: dict[str, list[tuple[str, str]]] = {}
    for source, labels in names.items():
        for name in labels:
            groups = plain if keys[name].side is None else sided
            groups.setdefault(keys[name].rest, []).append((source, name))
    problems = []
    for rest, group in plain.items():
        pair = next(((p, s) for p in group for s in sided.get(rest, ()) if p[0] != s[0]), None)
        if pair is not None:
            (source, name), (other, side_name) = pair
            problems.append(f"'{name}' of {_quote(source)} has no side, '{side_name}' of {_quote(other)} has one")
    return problems


def _check_model(
    labels_of: Sequence[str], targets: Mapping[str, Mapping[str, str | None]], keys: Mapping[str, LabelKey]
) -> list[str]:
    """Find labels that could be either of two labels of the model."""
    alike: dict[LabelKey, list[str]] = {}
    for name in labels_of:
        alike.setdefault(keys[name], []).append(name)
    return [
        f"'{name}' of '{source}' could be '{alike[keys[name]][0]}' or '{alike[keys[name]][1]}' of {MODEL}"
        for source, chosen in targets.items()
        for name in _list_names(chosen)
        if len(alike.get(keys[name], ())) > 1 and name not in labels_of
    ]


def _quote(source: str) -> str:
    return source if source == MODEL else f"'{source}'"

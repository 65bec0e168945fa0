"""What the doctor says about a dataset: findings, grouped by what to do about them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Severity = Literal["problem", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("problem", "warning", "note")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was found. `what` is a sentence with its numbers; it does not repeat the case."""

    action: str
    """A key of `ACTIONS`."""
    severity: Severity
    what: str
    cases: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    hint: str = ""
    """What to do in this case, where the action's own hint is not enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """What the reader is asked to do."""

    title: str
    hint: str
    about: Literal["image", "label", "both", "dataset"] = "dataset"
    """Which files of a case its findings concern."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionGroup:
    """All findings that ask for the same, the most severe first."""

    key: str
    severity: Severity
    title: str
    hint: str
    findings: tuple[Finding, ...]

    @property
    def cases(self) -> tuple[str, ...]:
        """Every case concerned, once, in order."""
        return tuple(dict.fromkeys(case for finding in self.findings for case in finding.cases))


# In the order they are shown within one severity.
ACTIONS: dict[str, Action] = {
    "describe": Action(
        title="correct dataset.json",
        hint="docs/how-to/prepare-a-dataset.md has an example; --fix mends old forms",
    ),
    "complete": Action(
        title="complete or rename files", hint="every case needs all its channels and one label map", about="dataset"
    ),
    "export": Action(
        title="export or copy these files again (damaged)", hint="no voxel of a damaged file can be trusted"
    ),
    "convert": Action(title="convert these files (a kind that cannot be used)", hint="the message of each says how"),
    "clean": Action(title="replace voxels that are NaN or infinite", hint="use a value of the background"),
    "regrid": Action(
        title="resample to the grid of the first channel",
        hint="labels with nearest neighbour; if only the header is wrong, copy the image's header",
    ),
    "relabel": Action(
        title="correct label values", hint="name the value in dataset.json, or save the labels again as integers"
    ),
    "repeat": Action(title="check these cases again (not finished)", hint="use fewer --workers, or free some memory"),
    "correct": Action(title="correct or remove these cases", hint="the message of each says what is wrong"),
    "mirrored": Action(
        title="look at these cases: the label map may be mirrored",
        hint="--html shows them; flip the label map back, or correct the header",
        about="both",
    ),
    "sides": Action(
        title="look at these cases: sides may be swapped",
        hint="the labels fit their image, but lie mirrored to the other cases: labels swapped, or all flipped",
        about="both",
    ),
    "shifted": Action(
        title="look at these cases: the label map may be moved",
        hint="--html shows them; was the label drawn on this image, and is its origin right?",
        about="both",
    ),
    "intensities": Action(
        title="look at the intensities",
        hint="wrong unit, wrong rescale slope or intercept, another sequence, or an empty export",
        about="image",
    ),
    "grid": Action(
        title="look at spacing, size or orientation", hint="a wrong header, or another protocol?", about="image"
    ),
    "duplicates": Action(
        title="merge or remove duplicates",
        hint="the same volume in training and validation makes scores too good; keep one, or use stu plan --group-by",
        about="both",
    ),
    "empty": Action(
        title="cases without foreground",
        hint="fine if there is nothing to see; otherwise label or remove",
        about="label",
    ),
    "components": Action(
        title="look at tiny parts of labels", hint="stray voxels of a brush; they cost surface scores", about="label"
    ),
    "rare": Action(
        title="plan for rare labels", hint="stu plan --stratify spreads them over the folds; drop labels nobody needs"
    ),
    "headers": Action(title="headers with noise", hint="repaired when read; --fix writes clean ones"),
    "know": Action(title="good to know", hint=""),
}


def group_findings(findings: Iterable[Finding]) -> list[ActionGroup]:
    """Group findings by action; groups with problems first, then warnings, then notes."""
    by_action: dict[str, list[Finding]] = {}
    for finding in findings:
        by_action.setdefault(finding.action, []).append(finding)
    groups = []
    for key, action in ACTIONS.items():
        if own := sorted(by_action.get(key, []), key=lambda finding: SEVERITIES.index(finding.severity)):
            groups.append(
                ActionGroup(
                    key=key, severity=own[0].severity, title=action.title, hint=action.hint, findings=tuple(own)
                )
            )
    return sorted(groups, key=lambda group: SEVERITIES.index(group.severity))


def count_findings(findings: Sequence[Finding], severity: Severity) -> int:
    """Count the findings of one severity."""
    return sum(1 for finding in findings if finding.severity == severity)


def name_some(names: Sequence[Any], limit: int = 8) -> str:
    """Join names for a line of text: the first few, and how many more there are.

    >>> name_some(["a", "b", "c"], limit=2)
    'a, b and 1 more'
    """
    shown = ", ".join(str(name) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"

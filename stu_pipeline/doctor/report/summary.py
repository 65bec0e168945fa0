"""An examination as plain values (`--json`) and as lines of text (the terminal)."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from stu_pipeline.datasets.inspection import CaseReport
from stu_pipeline.doctor.examine import Examination
from stu_pipeline.doctor.finding import ActionGroup, Finding, name_some
from stu_pipeline.doctor.screening.grids import describe_orientations
from stu_pipeline.doctor.screening.labels import count_label_voxels
from stu_pipeline.records import describe

SCHEMA = 1
# What a reader takes in at once; everything is in --json and --html.
_MAX_ROWS = 8
_MAX_CASES = 8
_MIN_WIDTH = 60
_INDENT = "  "


def describe_examination(examination: Examination) -> dict[str, Any]:
    """Return everything that is known about a dataset as plain JSON values."""
    return {
        "schema": SCHEMA,
        "name": examination.name,
        "folder": str(examination.folder),
        "num_cases": examination.num_cases,
        "num_problems": examination.num_problems,
        "num_warnings": examination.num_warnings,
        "actions": [
            {
                "action": group.key,
                "severity": group.severity,
                "title": group.title,
                "hint": group.hint,
                "cases": list(group.cases),
                "findings": [describe(finding) for finding in group.findings],
            }
            for group in examination.groups
        ],
        "labels": describe_labels(examination),
        "cases": [_describe_case(case) for case in examination.cases],
    }


def describe_labels(examination: Examination) -> list[dict[str, Any]]:
    """Return one row per foreground label: name, cases, voxels, share of all foreground voxels."""
    description = examination.description
    if description is None:
        return []
    totals = count_label_voxels(examination.cases, description)
    everything = max(1, sum(totals.values()))
    return [
        {
            "label": description.stored_label_ids[value],
            "name": description.find_name(value),
            "num_cases": sum(1 for case in examination.cases if value in case.labels),
            "voxels": total,
            "share": total / everything,
        }
        for value, total in totals.items()
    ]


def _describe_case(case: CaseReport) -> dict[str, Any]:
    seen = case.observation
    return {
        "case": case.case_id,
        "shape": case.shape,
        "spacing_mm": case.spacing_mm,
        "is_sound": seen is not None,
        "orientation": seen.orientation if seen else None,
        "channels": [describe(channel) for channel in seen.channels] if seen else [],
    }


def write_lines(examination: Examination, *, width: int) -> list[str]:
    """Write an examination for a terminal: one block per action, long lists cut, nothing wider than `width`."""
    lines = _wrap(f"{examination.name}: {say_size(examination)}", "", width)
    for group in examination.groups:
        lines += ["", *_write_group(group, width)]
    if not examination.findings:
        lines += ["", "nothing found that is wrong or odd"]
    return lines


def _write_group(group: ActionGroup, width: int) -> list[str]:
    count = f" ({len(group.cases)} cases)" if len(group.cases) > 1 else ""
    lines = _wrap(f"{group.severity.upper()}: {group.title}{count}", "", width)
    rows = _join_equal(group.findings)
    for finding in rows[:_MAX_ROWS]:
        lines += _wrap(_say(finding), f"{_INDENT}- ", width)
    if len(rows) > _MAX_ROWS:
        lines += _wrap(f"and {len(rows) - _MAX_ROWS} more, all in --json and --html", _INDENT, width)
    hints = dict.fromkeys([*[finding.hint for finding in rows if finding.hint], group.hint])
    for hint in list(hints)[:2]:
        lines += _wrap(hint, f"{_INDENT}> ", width) if hint else []
    return lines


def _join_equal(findings: Sequence[Finding]) -> list[Finding]:
    """Put findings that say the same into one row, with all their cases."""
    rows: dict[tuple[str, str, str], list[Finding]] = {}
    for finding in findings:
        rows.setdefault((finding.severity, finding.what, finding.hint), []).append(finding)
    return [
        Finding(
            action=own[0].action,
            severity=own[0].severity,
            what=own[0].what,
            cases=tuple(dict.fromkeys(case for finding in own for case in finding.cases)),
            files=tuple(dict.fromkeys(file for finding in own for file in finding.files)),
            hint=own[0].hint,
        )
        for own in rows.values()
    ]


def _say(finding: Finding) -> str:
    note = "" if finding.severity != "note" else "(note) "
    if not finding.cases:
        return note + finding.what
    if len(finding.cases) == 1 and finding.cases[0] in finding.what:
        return note + finding.what
    return f"{note}{name_some(finding.cases, _MAX_CASES)}: {finding.what}"


def say_size(examination: Examination) -> str:
    """Say in one sentence how many cases there are, how large, and how they are stored."""
    cases = [case for case in examination.cases if case.shape is not None and case.spacing_mm is not None]
    if not cases:
        return f"{examination.num_cases} cases"
    shape = np.median([case.shape for case in cases if case.shape], axis=0)
    spacing = np.median([case.spacing_mm for case in cases if case.spacing_mm], axis=0)
    return (
        f"{examination.num_cases} cases, usually {'x'.join(f'{size:.0f}' for size in shape)} voxels of "
        f"{' x '.join(f'{step:.4g}' for step in spacing)} mm (z, y, x), stored as {describe_orientations(cases)}"
    )


def _wrap(text: str, start: str, width: int) -> list[str]:
    return textwrap.wrap(
        text,
        max(_MIN_WIDTH, width),
        initial_indent=start,
        subsequent_indent=" " * len(start),
        break_on_hyphens=False,
    ) or [start]

"""The content of `predictions.json`: what was asked for, what became of every case, and sums.

Equal results give equal bytes, times and memory apart. Cases are sorted by id.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from stu_pipeline.records import read_versions

SCHEMA = 2
_READABLE = (1, 2)
_DONE, _FAILED = "done", "failed"


def is_ours(document: Any) -> bool:
    """Whether a JSON value is a report that can be read: of this schema or of schema 1."""
    return (
        isinstance(document, dict)
        and document.get("schema") in _READABLE
        and isinstance(document.get("cases"), dict)
    )  # fmt: skip


def build_document(
    *,
    recipe: Mapping[str, Any],
    recipe_sha256: str,
    entries: Mapping[str, Mapping[str, Any]],
    wanted: Iterable[str],
    forecast: Mapping[str, Any] | None = None,
    versions: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Build the report from one entry per case.

    Args:
        recipe: what decided the masks.
        recipe_sha256: its hash; an entry with another one is of an earlier run.
        entries: by case id, JSON values.
        wanted: the cases of this run; one without an entry is open.
        forecast: what the run was expected to take.
        versions: of the packages; None takes the installed ones.
    """
    wanted = set(wanted)
    return {
        "schema": SCHEMA,
        "versions": dict(versions) if versions is not None else read_versions(),
        "recipe": dict(recipe),
        "recipe_sha256": recipe_sha256,
        "forecast": dict(forecast) if forecast is not None else None,
        "totals": _sum_up(entries, wanted),
        "cases": {case_id: dict(entries[case_id]) for case_id in sorted(entries)},
    }


def _sum_up(entries: Mapping[str, Mapping[str, Any]], wanted: set[str]) -> dict[str, Any]:
    """Count cases and add up what they took; null where no case says it."""
    states = [entries.get(case_id, {}).get("status") for case_id in entries.keys() | wanted]
    peaks = [_read_number(entry, "peak_memory_gib") for entry in entries.values()]
    known = [peak for peak in peaks if peak is not None]
    return {
        "num_cases": len(states),
        "num_done": states.count(_DONE),
        "num_failed": states.count(_FAILED),
        "num_open": sum(state not in (_DONE, _FAILED) for state in states),
        "num_with_warnings": sum(bool(entry.get("warnings")) for entry in entries.values()),
        "seconds": round(sum(_read_number(entry, "seconds") or 0.0 for entry in entries.values()), 3),
        "peak_memory_gib": max(known, default=None),
        "forward_passes": int(sum(_read_number(entry, "forward_passes") or 0 for entry in entries.values())),
    }


def _read_number(entry: Mapping[str, Any], name: str) -> float | None:
    """Read a number of an entry; None when it has none, as in reports of schema 1 or changed by hand."""
    value = entry.get(name)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None

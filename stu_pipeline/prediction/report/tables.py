"""The report as tables: `predictions.csv` for programs and `predictions.md` for people.

Both are made from the content of `predictions.json` alone; equal reports give equal bytes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

CSV_COLUMNS = ("case", "status", "label", "volume_ml", "expected_dice", "accepted", "seconds", "warnings", "error")
_NUM_LARGEST = 4
_NOTHING = "-"
_NOT_ACCEPTED = "not accepted unseen: what to expect of it is too low, or too uncertain"
# A spreadsheet would run a text that starts so as a formula.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def format_csv(document: Mapping[str, Any]) -> str:
    """Return the text of the CSV table: one row per case and label, one per case that has no volumes.

    Args:
        document: the content of `predictions.json`.
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for case_id in sorted(document["cases"]):
        entry = document["cases"][case_id]
        expected = _read_expected(entry)
        accepted = {True: "yes", False: "no"}.get(_read_quality(entry).get("is_accepted", ""), "")
        volumes = _read_volumes(entry)
        for label in volumes or ("",):
            row = (case_id, _read_text(entry, "status"), label, volumes.get(label), expected.get(label), accepted)
            rest = (entry.get("seconds"), "; ".join(_read_list(entry, "warnings")), _read_text(entry, "error"))
            writer.writerow([_format_cell(value) for value in (*row, *rest)])
    return stream.getvalue()


def format_page(document: Mapping[str, Any]) -> str:
    """Return the text of the Markdown page: sums, then a table with the cases to look at first at the top.

    Args:
        document: the content of `predictions.json`.
    """
    cases: Mapping[str, Mapping[str, Any]] = document["cases"]
    has_quality = any(isinstance(entry.get("quality"), Mapping) for entry in cases.values())
    columns = ["case", "status", "time", f"volume in ml (largest {_NUM_LARGEST})"]
    columns += ["expected Dice"] if has_quality else []
    lines = ["# Predictions", "", _describe_totals(document["totals"]), ""]
    models = document.get("recipe", {}).get("models", [])
    lines += [f"- model: {_escape(_describe_model(model))}" for model in models]
    lines += ["", _format_row([*columns, "look at"]), _format_row(["---"] * (len(columns) + 1))]
    for case_id in rank_entries(cases):
        entry = cases[case_id]
        row = [case_id, _read_text(entry, "status"), _show_seconds(entry.get("seconds")), _show_volumes(entry)]
        row += [_show_expected(entry)] if has_quality else []
        lines.append(_format_row([*row, "; ".join(_list_remarks(entry)) or _NOTHING]))
    return "\n".join(lines) + "\n"


def rank_entries(cases: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """List case ids, those to look at first at the top: failed, unusual, not accepted, then by expected quality.

    Args:
        cases: entries of `predictions.json` by case id.
    """

    def rank(case_id: str) -> tuple[Any, ...]:
        entry = cases[case_id]
        quality = _read_quality(entry)
        priority = quality.get("priority")
        is_usual = not _list_reasons(quality) and not _read_list(entry, "warnings")
        is_accepted = quality.get("is_accepted") is not False
        shortfall = -float(priority) if isinstance(priority, (int, float)) else 0.0
        return entry.get("status") != "failed", is_usual, is_accepted, shortfall, case_id

    return sorted(cases, key=rank)


def _describe_totals(totals: Mapping[str, Any]) -> str:
    parts = [f"{totals['num_done']} of {totals['num_cases']} cases done"]
    parts += [f"{totals['num_failed']} failed"] if totals["num_failed"] else []
    parts += [f"{totals['num_open']} open"] if totals["num_open"] else []
    parts += [f"{totals['num_with_warnings']} with warnings"] if totals["num_with_warnings"] else []
    parts.append(f"{_show_seconds(totals['seconds'])} in all")
    if totals["peak_memory_gib"] is not None:
        parts.append(f"peak {totals['peak_memory_gib']:.2f} GiB")
    return ", ".join(parts) + "."


def _describe_model(model: Any) -> str:
    if not isinstance(model, Mapping):
        return str(model)
    folds = ", ".join(model.get("folds", {}))
    return f"{model.get('folder')}, folds {folds} ({model.get('checkpoint')})"


def _list_remarks(entry: Mapping[str, Any]) -> list[str]:
    error = _read_text(entry, "error")
    quality = _read_quality(entry)
    verdict = [_NOT_ACCEPTED] if quality.get("is_accepted") is False else []
    return [*([error] if error else []), *_read_list(entry, "warnings"), *_list_reasons(quality), *verdict]


def _list_reasons(quality: Mapping[str, Any]) -> list[str]:
    return [f"{label['name']}: {reason}" for label in _list_labels(quality) for reason in _read_list(label, "reasons")]


def _read_quality(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    quality = entry.get("quality")
    return quality if isinstance(quality, Mapping) else {}


def _list_labels(quality: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    labels = quality.get("labels")
    return [item for item in labels if isinstance(item, Mapping) and "name" in item] if isinstance(labels, list) else []


def _read_expected(entry: Mapping[str, Any]) -> dict[str, float]:
    """Return the expected Dice by label; labels without one are left out."""
    found = {}
    for label in _list_labels(_read_quality(entry)):
        value = label.get("expected_dice")
        if isinstance(value, (int, float)):
            found[str(label["name"])] = float(value)
    return found


def _read_volumes(entry: Mapping[str, Any]) -> dict[str, float]:
    volumes = entry.get("volumes_ml")
    if not isinstance(volumes, Mapping):
        return {}
    return {str(name): float(value) for name, value in volumes.items() if isinstance(value, (int, float))}


def _read_list(entry: Mapping[str, Any], name: str) -> list[str]:
    values = entry.get(name)
    return [str(value) for value in values] if isinstance(values, (list, tuple)) else []


def _read_text(entry: Mapping[str, Any], name: str) -> str:
    value = entry.get(name)
    return "" if value is None else str(value)


def _format_cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6f}".rstrip("0").rstrip(".")
    text = str(value)
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def _show_seconds(value: Any) -> str:
    if not isinstance(value, (int, float)):
        return _NOTHING
    if value < 60:
        return f"{value:.1f} s"
    minutes, seconds = divmod(round(value), 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {seconds:02d} s"


def _show_volumes(entry: Mapping[str, Any]) -> str:
    volumes = sorted(_read_volumes(entry).items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{name} {volume:.3g}" if volume < 1000 else f"{name} {volume:.0f}" for name, volume in volumes]
    more = len(shown) - _NUM_LARGEST
    return ", ".join(shown[:_NUM_LARGEST]) + (f" and {more} more" if more > 0 else "") or _NOTHING


def _show_expected(entry: Mapping[str, Any]) -> str:
    """Show the lowest and the mean expected Dice over the labels."""
    expected = _read_expected(entry)
    if not expected:
        return _NOTHING
    name, lowest = min(expected.items(), key=lambda item: (item[1], item[0]))
    mean = sum(expected.values()) / len(expected)
    return f"{mean:.3f} (lowest: {name} {lowest:.3f})" if len(expected) > 1 else f"{mean:.3f}"


def _format_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(_escape(cell) for cell in cells)} |"


def _escape(text: str) -> str:
    """Keep a text from ending a cell, a row, or from being read as markup."""
    return "".join(_escape_all(" ".join(text.split())))


def _escape_all(text: str) -> Iterable[str]:
    for character in text:
        yield f"\\{character}" if character in "|\\`*<[" else character

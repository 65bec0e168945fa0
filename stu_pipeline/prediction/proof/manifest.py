"""What is proven about an output folder: which mask came from which input, model and options.

Every mask is entered into a journal before it gets its final name, so a kill at any moment leaves no mask
that is not known. The journal is folded into `predictions.json` at the end.

Reads and writes: `predictions.json`, `.predictions.journal`. Writes: `predictions.csv`, `predictions.md`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from stu_pipeline import __version__
from stu_pipeline.datasets.cases import Case
from stu_pipeline.errors import DataError
from stu_pipeline.prediction.config import CaseReport
from stu_pipeline.prediction.outputs import Outputs
from stu_pipeline.prediction.proof.file_marks import (
    FileMark,
    check_path,
    find_changed_input,
    mark_inputs,
    mark_path,
    read_file_clock,
)
from stu_pipeline.prediction.proof.journal import Journal
from stu_pipeline.prediction.proof.recipe import describe_recipe, hash_recipe
from stu_pipeline.prediction.report.document import build_document, is_ours
from stu_pipeline.prediction.report.tables import format_csv, format_page
from stu_pipeline.records import describe
from stu_pipeline.storage import hash_file, read_json, write_json, write_text

__all__ = ["Manifest", "describe_recipe", "hash_inputs"]

# Kept apart in the entry, or put there when the mask is announced.
_NOT_COPIED = ("case", "status", "output", "outputs")

Entry = dict[str, Any]


def _describe_report(report: CaseReport) -> Entry:
    fields = [field.name for field in dataclasses.fields(report) if field.name not in _NOT_COPIED]
    facts: Entry = describe({name: getattr(report, name) for name in fields})
    return facts | {"seconds": round(report.seconds, 3)}


# Every entry has the same fields, whatever is known.
_EMPTY = _describe_report(CaseReport(case="", status="done"))


class Manifest:
    """The entries of one output folder, the ones of earlier runs included.

    Args:
        outputs: where the masks are.
        recipe: what decides the masks besides the images, as JSON values.
        is_thorough: whether to read every file again, where else an unchanged stamp stands for the content.
    """

    def __init__(self, outputs: Outputs, recipe: Mapping[str, Any], *, is_thorough: bool = False) -> None:
        self.outputs = outputs
        self.recipe = dict(recipe)
        self.recipe_sha256 = hash_recipe(self.recipe)
        self.is_thorough = is_thorough
        self._journal = Journal(outputs.journal) if outputs.journal is not None else None
        self._document = _read_document(outputs)
        # Every entry that was ever announced for a case, the newest last: which one holds, the mask decides.
        self._announced: dict[str, list[Entry]] = {name: [entry] for name, entry in self._document["cases"].items()}
        self._reports: dict[str, Entry] = {}
        self._num_own = 0
        self._take(self._journal.read() if self._journal is not None else ())
        self._clock = read_file_clock(outputs.folder)

    def is_there(self, case: Case) -> bool:
        """Whether the mask of a case exists, and what belongs to it.

        Where only files beside the mask are missing, the mask is made again with them; but not when it is another
        mask than the one that was made: that one is in the way, and `explain_unproven` says why.
        """
        mask = self.outputs.masks[case.id]
        if not mask.exists():
            return False
        if all((self.outputs.folder / name).exists() for name in self._list_extras(case.id)):
            return True
        entry = self._find_entry(case.id)
        return entry is None or not mask.is_file() or entry.get("output_sha256") != hash_file(mask)

    def explain_unproven(self, case: Case) -> str | None:
        """Say why an existing mask is not the proven result of this run; None when it is."""
        mask = self.outputs.masks[case.id]
        if not mask.is_file():
            return "not a file"
        entry = self._find_entry(case.id)
        if entry is None or entry.get("output_sha256") != hash_file(mask):
            return "not made by stu, or changed since"
        if entry.get("recipe_sha256") != self.recipe_sha256:
            return "made by another model or with other options"
        return self._explain_other_inputs(case, entry) or self._explain_other_extras(entry)

    def mark_inputs(self, case: Case) -> dict[str, FileMark]:
        """Mark the image files of a case. Call it before they are read; safe to call from any thread.

        Raises:
            DataError: a file is missing or cannot be read.
        """
        return mark_inputs(case, self._clock)

    def announce(
        self,
        case: Case,
        temporary: Path,
        inputs: Mapping[str, FileMark | str],
        facts: Mapping[str, Any],
        *,
        extras: Iterable[Path] = (),
    ) -> None:
        """Enter a finished mask into the journal, before it gets its final name.

        Args:
            case: whose mask it is.
            temporary: the complete mask under its temporary name.
            inputs: what `mark_inputs` said before the images were read.
            facts: what the report says about the case, as far as it is known.
            extras: files and folders that belong to the mask, complete under their final names.

        Raises:
            StorageError: the journal cannot be written.
            DataError: an extra cannot be read back.
        """
        marks = {path.relative_to(self.outputs.folder).as_posix(): mark_path(path, self._clock) for path in extras}
        sources = {name: FileMark.parse(mark) if isinstance(mark, str) else mark for name, mark in inputs.items()}
        entry = {
            "status": "done",
            **describe(dict(facts)),
            "output": self.outputs.masks[case.id].name,
            "output_sha256": hash_file(temporary),
            "outputs": {name: mark.describe() for name, mark in sorted(marks.items())},
            "inputs": {name: mark.describe() for name, mark in sources.items() if mark is not None},
            "recipe_sha256": self.recipe_sha256,
            "version": __version__,
        }
        if self._journal is not None:
            self._journal.append(case.id, entry)
        self._announced.setdefault(case.id, []).append(entry)
        self._num_own += 1

    def list_outputs(self, case_id: str) -> dict[str, str]:
        """Return the SHA-256 of the files beside a mask that was announced, by their paths in the output folder."""
        entries = self._announced.get(case_id)
        return {name: mark.sha256 for name, mark in _parse_marks(entries[-1].get("outputs")).items()} if entries else {}

    def add_report(self, report: CaseReport) -> None:
        """Keep what became of a case. A skipped one keeps its first report."""
        if report.status == "skipped":
            self._reports[report.case] = {"status": "done", "error": None}
            return
        self._reports[report.case] = {"status": report.status, **_describe_report(report)}

    def write(self, extra: Path | None = None, *, forecast: Mapping[str, Any] | None = None) -> None:
        """Write the report and its tables, the report also to `extra`, and drop the journal.

        Args:
            extra: a further place for the report.
            forecast: what the run was expected to take; None keeps that of the run before.

        Raises:
            StorageError: something cannot be written; the journal stays.
        """
        with self._fold_journal() as announced:
            self._take(announced)
            document = build_document(
                recipe=self.recipe,
                recipe_sha256=self.recipe_sha256,
                entries={case_id: self._finish_entry(case_id) for case_id in self._list_cases()},
                wanted=self.outputs.masks,
                forecast=describe(dict(forecast)) if forecast is not None else self._document.get("forecast"),
                # Of the run that made masks last; a run that finds them all done changes nothing.
                versions=self._document.get("versions") if self._num_own == 0 else None,
            )
            for place in (self.outputs.report, extra):
                if place is not None:
                    write_json(place, document)
            if self.outputs.tables is not None:
                table, page = self.outputs.tables
                write_text(table, format_csv(document))
                write_text(page, format_page(document))

    def _fold_journal(self) -> AbstractContextManager[list[tuple[str, Entry]]]:
        return self._journal.fold() if self._journal is not None else nullcontext([])

    def _take(self, announced: Iterable[tuple[str, Entry]]) -> None:
        """Add what other processes, or a run that was killed, have announced."""
        for case_id, entry in announced:
            known = self._announced.setdefault(case_id, [])
            if entry not in known:
                known.append(entry)
                self._num_own += 1

    def _find_entry(self, case_id: str) -> Entry | None:
        """Return the entry that the mask is of: a kill while a mask was replaced leaves two, and either mask."""
        entries = self._announced.get(case_id, [])
        mask = self.outputs.masks.get(case_id)
        if len(entries) > 1 and mask is not None and mask.is_file():
            sha256 = hash_file(mask)
            # The journal of a killed run and the report may know the same mask, the report more of it.
            merged: Entry = {}
            for entry in entries:
                merged |= entry if entry.get("output_sha256") == sha256 else {}
            entries[:] = [merged] if merged else entries
        return entries[-1] if entries else None

    def _list_extras(self, case_id: str) -> Sequence[str]:
        entry = self._find_entry(case_id) or {}
        if "outputs" in entry:
            return tuple(entry["outputs"])
        # Schema 1 did not list them.
        wants_probabilities = self.recipe.get("probabilities") == "npz"
        return (self.outputs.probabilities(case_id).name,) if wants_probabilities else ()

    def _explain_other_inputs(self, case: Case, entry: Entry) -> str | None:
        marks = _parse_marks(entry.get("inputs"))
        try:
            changed, found = find_changed_input(case, marks, self._clock, is_thorough=self.is_thorough)
        except DataError as error:
            return f"its image is not what it was: {error.problem}"
        if changed is not None:
            return "made from another image"
        entry["inputs"] = {name: mark.describe() for name, mark in found.items()}
        return None

    def _explain_other_extras(self, entry: Entry) -> str | None:
        found = {}
        for name, mark in _parse_marks(entry.get("outputs")).items():
            try:
                found[name] = check_path(self.outputs.folder / name, mark, self._clock, is_thorough=self.is_thorough)
            except DataError as error:
                return f"what belongs to it is not what it was: {error.problem}"
            if found[name].sha256 != mark.sha256:
                return f"what belongs to it was changed since: '{name}'"
        if found:
            entry["outputs"] = {name: mark.describe() for name, mark in found.items()}
        return None

    def _list_cases(self) -> list[str]:
        """List the cases of this run, and those of earlier ones whose mask is still there."""
        kept = [
            case_id
            for case_id, entries in list(self._announced.items())  # another thread may be adding one
            if case_id in self.outputs.masks or (self.outputs.folder / str(entries[-1].get("output"))).is_file()
        ]
        return sorted({*kept, *self._reports})

    def _finish_entry(self, case_id: str) -> Entry:
        entry = _EMPTY | (self._find_entry(case_id) or {}) | self._reports.get(case_id, {})
        mask = self.outputs.masks.get(case_id)
        if entry.get("status") == "done" and mask is not None and not mask.exists():
            # Announced, and the run ended before the mask had its name; or another thread is about to name it.
            return entry | {"status": "open"}
        return entry


def hash_inputs(case: Case) -> dict[str, str]:
    """Return the SHA-256 of the image files of a case, by name, as `Manifest.mark_inputs` does but without stamps.

    Raises:
        DataError: a file is missing or cannot be read.
    """
    return {name: mark.sha256 for name, mark in mark_inputs(case).items()}


def _parse_marks(value: Any) -> dict[str, FileMark]:
    marks = {name: FileMark.parse(item) for name, item in value.items()} if isinstance(value, dict) else {}
    return {name: mark for name, mark in marks.items() if mark is not None}


def _read_document(outputs: Outputs) -> dict[str, Any]:
    """Read the report of earlier runs; one that is damaged or newer proves nothing, and its masks are named so."""
    if outputs.report is not None and outputs.report.is_file():
        try:
            document = read_json(outputs.report)
        except DataError:
            document = None
        if is_ours(document):
            cases = {name: entry for name, entry in document["cases"].items() if isinstance(entry, dict)}
            return {**document, "cases": cases}
    return {"cases": {}}

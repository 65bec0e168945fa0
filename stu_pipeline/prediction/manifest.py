"""What is proven about an output folder: which mask came from which input, model and options.

Every mask is entered into a journal before it gets its final name, so a kill at any moment leaves no mask
that is not known. The journal is folded into `predictions.json` at the end.

Reads and writes: `predictions.json`, `.predictions.journal`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stu_pipeline.datasets.cases import Case
from stu_pipeline.errors import DataError
from stu_pipeline.prediction.config import CaseReport, PredictConfig
from stu_pipeline.prediction.model_folder import ModelFolder
from stu_pipeline.prediction.outputs import Outputs
from stu_pipeline.records import describe
from stu_pipeline.storage import hash_file, read_json, storage_errors, sync_file, write_json

SCHEMA = 1


class Manifest:
    """The entries of one output folder, the ones of earlier runs included.

    Args:
        outputs: where the masks are.
        recipe: what decides the masks besides the images, as JSON values.
    """

    def __init__(self, outputs: Outputs, recipe: Mapping[str, Any]) -> None:
        self.outputs = outputs
        self.recipe = dict(recipe)
        self.recipe_sha256 = _hash_json(self.recipe)
        self.entries = _read_entries(outputs)

    def explain_unproven(self, case: Case) -> str | None:
        """Say why an existing mask is not the proven result of this run; None when it is."""
        entry = self.entries.get(case.id)
        mask = self.outputs.masks[case.id]
        if not mask.is_file():
            return "not a file"
        if entry is None or entry.get("output_sha256") != hash_file(mask):
            return "not made by stu, or changed since"
        if entry.get("recipe_sha256") != self.recipe_sha256:
            return "made by another model or with other options"
        if entry.get("inputs") != hash_inputs(case):
            return "made from another image"
        return None

    def is_there(self, case: Case) -> bool:
        """Whether the mask of a case exists, and its probabilities when they are wanted."""
        wants_probabilities = self.recipe.get("probabilities") == "npz"
        has_probabilities = self.outputs.probabilities(case.id).is_file()
        return self.outputs.masks[case.id].exists() and (has_probabilities or not wants_probabilities)

    def announce(self, case: Case, temporary: Path, inputs: Mapping[str, str], facts: Mapping[str, Any]) -> None:
        """Enter a finished mask into the journal, before it gets its final name."""
        self.entries[case.id] = {
            "status": "done",
            **facts,
            "output": self.outputs.masks[case.id].name,
            "output_sha256": hash_file(temporary),
            "inputs": dict(inputs),
            "recipe_sha256": self.recipe_sha256,
        }
        if self.outputs.journal is None:
            return
        line = json.dumps({case.id: self.entries[case.id]}, ensure_ascii=False) + "\n"
        with storage_errors(self.outputs.journal):
            with self.outputs.journal.open("a", encoding="utf-8") as stream:
                stream.write(line)
            sync_file(self.outputs.journal)

    def add_report(self, report: CaseReport) -> None:
        """Keep what became of a case. A skipped one keeps its first report."""
        entry = self.entries.setdefault(report.case, {})
        if report.status != "skipped":
            entry |= {
                "status": report.status,
                "error": report.error,
                "seconds": round(report.seconds, 3),
                "volumes_ml": report.volumes_ml,
                "warnings": list(report.warnings),
            }

    def write(self, extra: Path | None = None) -> None:
        """Write the report, also to `extra`, and drop the journal.

        Raises:
            StorageError: it cannot be written; the journal stays.
        """
        document = {"schema": SCHEMA, "recipe": self.recipe, "recipe_sha256": self.recipe_sha256, "cases": self.entries}
        for place in (self.outputs.report, extra):
            if place is not None:
                write_json(place, describe(document))
        if self.outputs.journal is not None:
            self.outputs.journal.unlink(missing_ok=True)


def describe_recipe(config: PredictConfig, folders: Sequence[ModelFolder]) -> dict[str, Any]:
    """Describe what decides the masks: models by content, and options. Devices and workers are not part of it."""
    return {
        "models": [_describe_model(folder) for folder in folders],
        "model_weights": list(config.model_weights or [1.0] * len(folders)),
        "tta": config.tta,
        "step": config.step,
        "precision": config.precision,
        "probabilities": config.probabilities,
    }


def hash_inputs(case: Case) -> dict[str, str]:
    """Return the SHA-256 of every channel file of a case, by name."""
    return {file.name: hash_file(file) for file in case.image_files}


def _describe_model(folder: ModelFolder) -> dict[str, Any]:
    return {
        "folder": folder.path.name,
        "checkpoint": folder.checkpoint,
        "folds": {str(item.fold): item.identity for item in folder.folds},
        "plan_sha256": hash_file(folder.plan_file),
        "dataset_sha256": hash_file(folder.dataset_file),
        "previous": _describe_model(folder.previous) if folder.previous is not None else None,
    }


def _read_entries(outputs: Outputs) -> dict[str, dict[str, Any]]:
    entries: dict[str, dict[str, Any]] = {}
    if outputs.report is not None and outputs.report.is_file():
        try:
            document = read_json(outputs.report)
        except DataError:
            document = None  # then its masks are not proven, and are named as such
        if isinstance(document, dict) and document.get("schema") == SCHEMA:
            cases = document.get("cases")
            entries |= {name: entry for name, entry in (cases or {}).items() if isinstance(entry, dict)}
    if outputs.journal is not None and outputs.journal.is_file():
        for line in outputs.journal.read_text(encoding="utf-8", errors="replace").splitlines():
            entries |= _read_journal_line(line)
    return entries


def _read_journal_line(line: str) -> dict[str, dict[str, Any]]:
    try:
        found = json.loads(line)
    except json.JSONDecodeError:  # the last line of a killed run may be cut
        return {}
    return {name: entry for name, entry in found.items() if isinstance(entry, dict)} if isinstance(found, dict) else {}


def _hash_json(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()

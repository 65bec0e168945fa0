"""Studies made by hand: manifests, and cells that are done without a training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from stu_pipeline.storage import hash_file, write_json
from stu_pipeline.study.asking import describe_asked
from stu_pipeline.study.cell_record import CellRecord, make_digest, write_cell_record
from stu_pipeline.study.cells import Cell, list_cells
from stu_pipeline.study.folders import StudyFolder
from stu_pipeline.study.manifest import Manifest, read_manifest
from tests.synthetic import write_dataset_json

HEAD = """
name = "mine"
scales = ["S"]
seeds = [0, 1]
"""
CURVE = """
[learning_curve]
num_training_cases = [2, 3]
num_validation_cases = 2
"""
BUDGET = """
[budget]
epochs = 4
iterations = 2
device = "cpu"
workers = 0
"""
ARMS = """
[[arms]]
name = "scratch"
kind = "scratch"

[[arms]]
name = "tuned"
kind = "scratch"
train = { learning_rate = 0.003 }
"""


def write_listed_dataset(root: Path, number: int = 901, *, num_cases: int = 6, labels: int = 2) -> Path:
    """Write a dataset whose files are empty: enough for whoever only lists them."""
    folder = root / f"Dataset{number}_Listed"
    for index in range(num_cases):
        for path in (folder / "imagesTr" / f"case_{index}_0000.nii.gz", folder / "labelsTr" / f"case_{index}.nii.gz"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    names = {"background": 0, **{f"part {value}": value for value in range(1, labels + 1)}}
    write_dataset_json(folder, channel_names={"0": "CT"}, labels=names, numTraining=num_cases, file_ending=".nii.gz")
    return folder


def describe_dataset(folder: Path, **facts: object) -> str:
    """Return the table of a dataset in a manifest."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in {"dataset": str(folder), **facts}.items()]
    return "\n".join(["\n[[datasets]]", *lines, ""])


def write_manifest(path: Path, *parts: str) -> Path:
    """Write a manifest from its parts."""
    path.write_text("".join(parts), encoding="utf-8")
    return path


def write_usual_manifest(root: Path, **facts: object) -> Path:
    """Write a study of two arms, two seeds and two numbers of training cases on one listed dataset."""
    folder = write_listed_dataset(root)
    return write_manifest(root / "mine.toml", HEAD, CURVE, BUDGET, describe_dataset(folder, **facts), ARMS)


def finish_cell(
    manifest: Manifest, cell: Cell, dice: Mapping[str, Mapping[str, float | None]], *, flags: tuple[str, ...] = ()
) -> None:
    """Write what a finished cell leaves: its scores by case and label, and its record."""
    folder = StudyFolder(manifest.folder)
    names = manifest.find_dataset(cell.dataset).label_names
    keys = {name: str(index + 1) for index, name in enumerate(names)}
    known = [value for labels in dice.values() for value in labels.values() if value is not None]
    summary = folder.cell_summary(cell.name)
    write_json(
        summary,
        {
            "foreground_mean": {"Dice": sum(known) / len(known)},
            "metric_per_case": [
                {
                    "metrics": {
                        keys[label]: {"Dice": value, "NSD": value, "n_ref": 0 if value is None else 10, "n_pred": 10}
                        for label, value in labels.items()
                    },
                    "prediction_file": f"masks/{case}.nii.gz",
                    "reference_file": f"labels/{case}.nii.gz",
                }
                for case, labels in dice.items()
            ],
            "stu": {"labels": {key: {"name": name} for name, key in keys.items()}},
        },
    )
    asked = describe_asked(manifest, cell)
    record = CellRecord(
        state="done", digest=make_digest(asked), asked=asked, summary_sha256=hash_file(summary), elapsed_s=60.0,
        mean_dice=sum(known) / len(known), flags=flags,
    )  # fmt: skip
    write_cell_record(folder.cell_record(cell.name), record)


def finish_study(path: Path, *, bonus: Mapping[str, float], flags: Mapping[str, tuple[str, ...]] | None = None) -> None:
    """Finish every cell: the Dice of an arm is its bonus over what case, label, number and seed give."""
    manifest = read_manifest(path)
    for cell in list_cells(manifest):
        start = 0.4 + 0.02 * (cell.split.num_training_cases or 0) + 0.01 * cell.split.seed + bonus[cell.arm]
        labels = manifest.find_dataset(cell.dataset).label_names
        dice = {
            f"case_{case}": {label: start + 0.005 * case + 0.1 * place for place, label in enumerate(labels)}
            for case in range(4)
        }
        finish_cell(manifest, cell, dice, flags=(flags or {}).get(cell.name, ()))

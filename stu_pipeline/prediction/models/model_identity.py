"""Which model a folder holds, by the content of its files and without loading them.

A rerun on a finished folder compares identities only, so that nothing is loaded for nothing.
Reads: `plans.json`, `dataset.json`, and the list of contents of `fold_*/checkpoint_*.pth`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stu_pipeline.errors import DataError, ModelError
from stu_pipeline.nnunet.checkpoint_identity import identify_checkpoint
from stu_pipeline.plan_architecture import resolve_configuration
from stu_pipeline.prediction.config import Checkpoint, Folds
from stu_pipeline.prediction.models.folds import NAME_PARTS, choose_folds, find_checkpoint
from stu_pipeline.prediction.models.model_json import DATASET_FILE, PLAN_FILE
from stu_pipeline.storage import hash_file, read_json

if TYPE_CHECKING:
    from stu_pipeline.prediction.models.model_folder import ModelFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelIdentity:
    """What makes a model folder the same one again."""

    folder: str
    checkpoint: str
    folds: dict[str, str]
    """By fold, what identifies the content of its checkpoint."""
    plan_sha256: str
    dataset_sha256: str
    previous: ModelIdentity | None = None
    """The stage before a cascade."""

    def describe(self) -> dict[str, Any]:
        """Return the identity as JSON values."""
        return {
            "folder": self.folder,
            "checkpoint": self.checkpoint,
            "folds": dict(self.folds),
            "plan_sha256": self.plan_sha256,
            "dataset_sha256": self.dataset_sha256,
            "previous": self.previous.describe() if self.previous is not None else None,
        }


def identify_opened_model(folder: ModelFolder) -> ModelIdentity:
    """Return the identity of a model folder that was opened."""
    return ModelIdentity(
        folder=folder.path.name,
        checkpoint=folder.checkpoint,
        folds={str(item.fold): item.identity for item in folder.folds},
        plan_sha256=hash_file(folder.plan_file),
        dataset_sha256=hash_file(folder.dataset_file),
        previous=identify_opened_model(folder.previous) if folder.previous is not None else None,
    )


def find_model_identity(path: Path, folds: Folds, checkpoint: Checkpoint) -> ModelIdentity | None:
    """Return the identity that a model folder would have when opened, without loading a checkpoint.

    None where only opening tells: the folder is incomplete, has no usable fold, or its name does not say its
    configuration. Opening it then says what is wrong.

    Args:
        path: the model folder.
        folds: as for `open_model_folder`.
        checkpoint: as for `open_model_folder`.
    """
    try:
        chosen = choose_folds(path, folds, checkpoint)
        files = {str(fold): find_checkpoint(path, fold, checkpoint) for fold in chosen}
        previous = _find_previous(path)
        return ModelIdentity(
            folder=path.name,
            checkpoint=checkpoint,
            folds={fold: identify_checkpoint(file) for fold, file in files.items()},
            plan_sha256=hash_file(path / PLAN_FILE),
            dataset_sha256=hash_file(path / DATASET_FILE),
            previous=_require_previous(previous, tuple(chosen), checkpoint) if previous is not None else None,
        )
    except (ModelError, DataError, OSError, KeyError, TypeError, ValueError, AttributeError, StopIteration):
        return None


def _find_previous(path: Path) -> Path | None:
    """Return the folder of the stage before a cascade; None when the model is no cascade."""
    parts = path.name.split("__")
    if len(parts) != NAME_PARTS:
        raise KeyError(path.name)
    configuration = resolve_configuration(read_json(path / PLAN_FILE)["configurations"], parts[2])
    stage = configuration.get("previous_stage")
    return None if stage is None else path.with_name(f"{parts[0]}__{parts[1]}__{stage}")


def _require_previous(path: Path, folds: Any, checkpoint: Checkpoint) -> ModelIdentity:
    identity = find_model_identity(path, folds, checkpoint)
    if identity is None:
        raise KeyError(path.name)
    return identity

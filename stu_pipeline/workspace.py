"""Every path of the project: where datasets, preprocessed data, plans and runs live.

The layout is nnU-Net's (docs/reference/folders.md). No module but this one and `run_paths` joins these names.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from stu_pipeline.errors import DataError, UsageError
from stu_pipeline.run_paths import RunPaths, cross_validation_summary, fold_folder, next_stage_folder

__all__ = [
    "DEFAULT_WORKSPACE",
    "TRAINER_NAME",
    "WORKSPACE_VARIABLE",
    "DatasetPaths",
    "RunPaths",
    "Workspace",
    "cross_validation_summary",
    "find_dataset",
    "fold_folder",
    "import_record",
    "list_dataset_names",
    "next_stage_folder",
    "open_workspace",
    "split_dataset_name",
    "use_workspace",
]

# The trainer class carries the stock name, so that stock commands find the folder by default.
TRAINER_NAME = "nnUNetTrainer"
WORKSPACE_VARIABLE = "STU_WORKSPACE"
DEFAULT_WORKSPACE = "stu_workspace"
_DATASET_NAME = re.compile(r"Dataset(\d{3,})_([A-Za-z0-9][A-Za-z0-9_.-]*)\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """The three nnU-Net roots."""

    raw: Path
    preprocessed: Path
    results: Path

    @property
    def import_lock(self) -> Path:
        """Held while a dataset in another form is described among the raw ones."""
        return self.raw / ".import.lock"


_chosen: contextvars.ContextVar[Workspace | None] = contextvars.ContextVar("workspace", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetPaths:
    """Where one dataset's files are: raw input, preprocessed data, results."""

    name: str
    raw: Path
    preprocessed: Path
    results: Path
    workspace: Workspace

    @property
    def dataset_json(self) -> Path:
        """Raw `dataset.json`."""
        return self.raw / "dataset.json"

    @property
    def preprocessed_dataset_json(self) -> Path:
        """The copy of `dataset.json` that trainings read."""
        return self.preprocessed / "dataset.json"

    @property
    def plan_log(self) -> Path:
        """`plan.log`: what planning did, the engine's output included."""
        return self.preprocessed / "plan.log"

    @property
    def plan_lock(self) -> Path:
        """Held while a plan is made."""
        return self.preprocessed / ".plan.lock"

    @property
    def preprocess_lock(self) -> Path:
        """Held while cases are preprocessed."""
        return self.preprocessed / ".preprocess.lock"

    @property
    def inspections(self) -> Path:
        """What was found in each case when it was last read; without it the cases are read again."""
        return self.preprocessed / ".inspections"

    @property
    def fingerprint(self) -> Path:
        """`dataset_fingerprint.json` beside the preprocessed data."""
        return self.preprocessed / "dataset_fingerprint.json"

    @property
    def splits(self) -> Path:
        """`splits_final.json`."""
        return self.preprocessed / "splits_final.json"

    @property
    def provided_splits(self) -> Path:
        """`splits_final.json` beside the raw data: the user's own."""
        return self.raw / "splits_final.json"

    @property
    def splits_record(self) -> Path:
        """How the splits were made."""
        return self.preprocessed / "splits_final.manifest.json"

    @property
    def ground_truth(self) -> Path:
        """`gt_segmentations`: label maps on the original grid, for the validation."""
        return self.preprocessed / "gt_segmentations"

    @property
    def ground_truth_manifest(self) -> Path:
        """From which label maps `gt_segmentations` was copied."""
        return self.preprocessed / "gt_segmentations.manifest.json"

    def plan_file(self, plan_name: str) -> Path:
        """The plan file of `plan_name` (for example `stuBPlans`)."""
        return self.preprocessed / f"{plan_name}.json"

    def plan_record(self, plan_name: str) -> Path:
        """`<plan>.run.json`: how the plan was made."""
        return self.preprocessed / f"{plan_name}.run.json"

    def scratch_folder(self, data_identifier: str) -> Path:
        """Where cases of a data folder lie until they are complete."""
        return self.preprocessed / f".{data_identifier}.partial"

    def data_folder(self, data_identifier: str) -> Path:
        """The folder with the preprocessed cases of one data identifier."""
        return self.preprocessed / data_identifier

    def manifest(self, data_identifier: str) -> Path:
        """What is known to be complete in a data folder (beside it: nnU-Net reads every file inside)."""
        return self.preprocessed / f"{data_identifier}.manifest.json"

    def journal(self, data_identifier: str) -> Path:
        """Cases finished since the manifest was written, one line each; gone when nothing runs."""
        return self.preprocessed / f"{data_identifier}.manifest.jsonl"

    def model_folder(self, plan_name: str, configuration: str) -> Path:
        """The folder that holds all folds of one plan and configuration."""
        return self.results / f"{TRAINER_NAME}__{plan_name}__{configuration}"


def import_record(raw_folder: Path) -> Path:
    """What an imported dataset was made from; absent for others."""
    return raw_folder / "stu_import.json"


@contextlib.contextmanager
def use_workspace(root: Path) -> Iterator[Workspace]:
    """Keep everything below `root` inside the block, whatever the environment says."""
    workspace = Workspace(
        raw=root / "nnUNet_raw", preprocessed=root / "nnUNet_preprocessed", results=root / "nnUNet_results"
    )
    token = _chosen.set(workspace)
    try:
        yield workspace
    finally:
        _chosen.reset(token)


def open_workspace() -> Workspace:
    """Read the workspace from the environment, unless `use_workspace` chose one.

    `nnUNet_raw`, `nnUNet_preprocessed` and `nnUNet_results` win; what is not set lies under
    `$STU_WORKSPACE`, else `./stu_workspace`.
    """
    chosen = _chosen.get()
    if chosen is not None:
        return chosen
    root = Path(os.environ.get(WORKSPACE_VARIABLE) or DEFAULT_WORKSPACE).absolute()

    def place(name: str) -> Path:
        value = os.environ.get(name, "").strip()
        return Path(value).expanduser().absolute() if value else root / name

    return Workspace(
        raw=place("nnUNet_raw"), preprocessed=place("nnUNet_preprocessed"), results=place("nnUNet_results")
    )


def find_dataset(dataset: str, workspace: Workspace | None = None) -> DatasetPaths:
    """Find a dataset by id (`4`), name (`Dataset004_Hippocampus`) or path.

    A dataset whose raw folder is gone is still found through its preprocessed folder.

    Raises:
        DataError: nothing of that name exists, or an id fits several datasets.
        UsageError: the folder is not named `DatasetNNN_Name`.
    """
    workspace = workspace or open_workspace()
    if os.sep in dataset or dataset in (".", ".."):
        return _paths_of(Path(dataset).expanduser().absolute(), workspace)
    if dataset.isdecimal():
        return _paths_of(workspace.raw / _name_of_id(int(dataset), workspace), workspace)
    if (workspace.raw / dataset).is_dir() or (workspace.preprocessed / dataset).is_dir():
        return _paths_of(workspace.raw / dataset, workspace)
    if Path(dataset).is_dir():
        return _paths_of(Path(dataset).absolute(), workspace)
    raise _not_found(dataset, workspace)


def split_dataset_name(name: str) -> tuple[int, str] | None:
    """Split `Dataset004_Hippocampus` into 4 and 'Hippocampus'; None when it is no dataset's name."""
    match = _DATASET_NAME.match(name)
    return (int(match[1]), match[2]) if match else None


def _paths_of(raw: Path, workspace: Workspace) -> DatasetPaths:
    raw = Path(os.path.normpath(raw))
    if not _DATASET_NAME.match(raw.name):
        raise UsageError(
            f"'{raw.name}' is not a dataset name, expected 'DatasetNNN_Name'",
            where=raw.parent,
            hint="rename the folder, for example to Dataset701_Liver",
        )
    if not raw.is_dir() and not (workspace.preprocessed / raw.name).is_dir():
        raise _not_found(raw.name, workspace, where=raw.parent)
    return DatasetPaths(
        name=raw.name,
        raw=raw,
        preprocessed=workspace.preprocessed / raw.name,
        results=workspace.results / raw.name,
        # The engine looks for raw data in one root: the folder this dataset lies in.
        workspace=replace(workspace, raw=raw.parent),
    )


def fix_record(folder: Path) -> Path:
    """`stu_doctor_fix.json` in a corrected copy: what was mended, and from what."""
    return folder / "stu_doctor_fix.json"


def list_dataset_names(workspace: Workspace) -> list[str]:
    """List the datasets known to a workspace, raw or preprocessed, by name."""
    names = {
        entry.name
        for root in (workspace.raw, workspace.preprocessed)
        if root.is_dir()
        for entry in root.iterdir()
        if entry.is_dir() and _DATASET_NAME.match(entry.name)
    }
    return sorted(names)


def _name_of_id(dataset_id: int, workspace: Workspace) -> str:
    matches = [
        name
        for name in list_dataset_names(workspace)
        if (found := _DATASET_NAME.match(name)) and int(found[1]) == dataset_id
    ]
    if len(matches) > 1:
        raise DataError(
            f"dataset id {dataset_id} fits {len(matches)} datasets: {', '.join(matches)}", hint="give the name"
        )
    if not matches:
        raise _not_found(str(dataset_id), workspace)
    return matches[0]


def _not_found(dataset: str, workspace: Workspace, where: Path | None = None) -> DataError:
    known = list_dataset_names(workspace)
    hint = f"known datasets: {', '.join(known[:8])}" if known else "set nnUNet_raw, or give the dataset's path"
    return DataError(f"dataset '{dataset}' not found", where=where or workspace.raw, hint=hint)

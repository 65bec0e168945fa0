"""Make the model folder again that a `.safetensors` with its JSON was exported from.

Reads: `<name>.safetensors`, `<name>.json`. Writes: a model folder with one fold.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stu_pipeline.datasets.dataset_fields import show_value
from stu_pipeline.datasets.laterality import Mirroring
from stu_pipeline.errors import ModelError
from stu_pipeline.log import Listener, Progress
from stu_pipeline.records import write_record
from stu_pipeline.transfer.files.description import find_description_path
from stu_pipeline.transfer.files.reading import read_weight_file
from stu_pipeline.transfer.packages.archive_contents import MODEL_NAME
from stu_pipeline.transfer.packages.config import InstallConfig, InstallResult
from stu_pipeline.transfer.packages.model_check import read_model_json
from stu_pipeline.transfer.packages.model_writing import write_model
from stu_pipeline.transfer.packages.staging import open_staging, place_folders, require_free, require_space
from stu_pipeline.transfer.packages.tensor_files import MODEL_KEY
from stu_pipeline.workspace import open_workspace, split_dataset_name


def install_tensors(config: InstallConfig, *, listen: Listener) -> InstallResult:
    """Install one fold. The hash in the JSON is compared with the tensors first.

    Raises:
        ModelError: the two files do not belong together, are damaged, or describe no model folder.
        UsageError: the model is there already.
        StorageError: the disk is full or not writable.
        LockedError: another process puts models into the same folder.
    """
    weights = read_weight_file(config.file)
    described = find_description_path(config.file)
    if not described.is_file():
        raise ModelError(f"'{described.name}' not found, without it weights are no model", where=described.parent,
                         hint=f"stu weights convert {config.file}")  # fmt: skip
    model = _require_model(read_model_json(described).get(MODEL_KEY), config.file)
    root = (config.results or open_workspace().results).expanduser().absolute() / model["dataset"]
    target = root / model["folder"]
    require_free([target], overwrite=config.overwrite)
    num_bytes = sum(tensor.nbytes for tensor in weights.tensors.values())
    listen(Progress(step="models", done=0, total=1, item=target.name))
    with open_staging(root) as staging:
        require_space(staging, num_bytes)
        folder = staging / target.name
        write_model(
            folder,
            weights.tensors,
            plan=model["plans"],
            dataset_json=model["dataset_json"],
            configuration=model["configuration"],
            mirroring=Mirroring.from_json(model["mirroring"], where=described),
            fold=model["fold"],
            num_epochs=model.get("num_epochs"),
        )
        inputs = {"weights": config.file, "description": described}
        write_record(folder / "run.json", stage="install", config=config, inputs=inputs, identity=weights.identity)
        place_folders({folder: target}, staging, overwrite=config.overwrite)
    listen(Progress(step="models", done=1, total=1))
    return InstallResult(models=(target,), num_checkpoints=1, num_bytes=num_bytes, is_proven=True)


def _require_model(model: Any, path: Path) -> dict[str, Any]:
    """Check the entry that tells of the model folder; its plan is checked when the model is written.

    Raises:
        ModelError: there is none, or it is malformed.
    """
    if model is None:
        raise ModelError(
            f"'{path.name}' was exported from a file of weights, not from a model folder",
            where=path.parent,
            hint=f"stu weights convert {path}",
        )
    problems = []
    if not isinstance(model, dict):
        raise ModelError(f"the JSON of '{path.name}' describes no model: {show_value(model)}", where=path.parent)
    fold = model.get("fold")
    if split_dataset_name(str(model.get("dataset"))) is None:
        problems.append(f"'{show_value(model.get('dataset'))}' is no dataset name")
    if not isinstance(model.get("folder"), str) or not MODEL_NAME.match(model["folder"]):
        problems.append(f"'{show_value(model.get('folder'))}' is no name of a model folder")
    if fold != "all" and not (type(fold) is int and 0 <= fold < 10_000):
        problems.append(f"'{show_value(fold)}' is no fold")
    problems += [f"'{key}' is no object" for key in ("plans", "dataset_json") if not isinstance(model.get(key), dict)]
    if not isinstance(model.get("configuration"), str):
        problems.append("it does not say its configuration")
    if model.get("num_epochs") is not None and type(model["num_epochs"]) is not int:
        problems.append("'num_epochs' is no whole number")
    if problems:
        raise ModelError(
            f"the JSON of '{path.name}' describes no model: {problems[0]}", where=path.parent, details=tuple(problems)
        )
    return model

"""Put the models of a package among the results: checked to the last byte first, then all of them or none.

Reads: nnU-Net's zip, or a `.safetensors` with its `.json`. Writes: model folders below the results.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from stu_pipeline.errors import DataError, ModelError, NonFiniteError, StuError
from stu_pipeline.log import Listener, Notice, Progress, ignore_events
from stu_pipeline.storage import read_json
from stu_pipeline.transfer.packages.archive import UnpackedFile, open_package, require_manifest, unpack
from stu_pipeline.transfer.packages.archive_contents import CHECKPOINT, PackageContents
from stu_pipeline.transfer.packages.archive_structure import PACKAGE_HINT
from stu_pipeline.transfer.packages.config import InstallConfig, InstallResult
from stu_pipeline.transfer.packages.model_check import check_model_folder
from stu_pipeline.transfer.packages.staging import open_staging, place_folders, require_free, require_space
from stu_pipeline.workspace import open_workspace

_MAX_LISTED = 5


def install_weights(config: InstallConfig, *, listen: Listener = ignore_events) -> InstallResult:
    """Install the models of a package.

    Args:
        config: the package, and where the results are.
        listen: receives `Progress` and `Notice` events.

    Raises:
        ModelError: the package holds anything but sound models; nothing was put among the results then.
        NonFiniteError: a weight is NaN or infinite.
        UsageError: a model is there already.
        StorageError: the disk is full or not writable.
        LockedError: another process puts models into the same folder.
    """
    if config.file.name.endswith(".safetensors"):
        from stu_pipeline.transfer.packages.install_tensors import install_tensors

        return install_tensors(config, listen=listen)
    if not config.file.is_file():
        raise ModelError(f"package '{config.file.name}' not found", where=config.file.parent, hint=PACKAGE_HINT)
    with open_package(config.file) as (archive, contents):
        root = (config.results or open_workspace().results).expanduser().absolute() / contents.dataset
        targets = {model: root / model for model in contents.models}
        require_free(list(targets.values()), overwrite=config.overwrite)
        _tell_left_out(contents, listen)
        with open_staging(root) as staging:
            require_space(staging, contents.num_bytes)
            written = unpack(archive, contents, staging, path=config.file, listen=listen)
            is_proven = _check_models(staging, contents, written, path=config.file, listen=listen)
            moves = {staging / model: target for model, target in targets.items()}
            place_folders(moves, staging, overwrite=config.overwrite)
    return InstallResult(
        models=tuple(targets.values()),
        num_checkpoints=sum(bool(CHECKPOINT.match(name.partition("/")[2])) for name in written),
        num_bytes=contents.num_bytes,
        is_proven=is_proven,
        left_out=contents.left_out,
    )


def _check_models(
    staging: Path,
    contents: PackageContents,
    written: Mapping[str, UnpackedFile],
    *,
    path: Path,
    listen: Listener,
) -> bool:
    """Check every unpacked model; tell whether all of them came with hashes that fit."""
    proven = []
    for done, model in enumerate(contents.models):
        listen(Progress(step="models", done=done, total=len(contents.models), item=model))
        files = {name.partition("/")[2]: file for name, file in written.items() if name.partition("/")[0] == model}
        try:
            proven.append(require_manifest(staging / model, files, path=path))
            _check_model(staging / model, files)
        except (ModelError, NonFiniteError) as error:
            raise _locate(error, staging, path) from error
    listen(Progress(step="models", done=len(contents.models), total=len(contents.models)))
    return all(proven)


def _locate(error: StuError, staging: Path, path: Path) -> StuError:
    """Name the place inside the package instead of the one it was unpacked to, which goes."""
    where = Path(str(error.where)) if error.where is not None else path
    place = f"{path}: {where.relative_to(staging).as_posix()}" if where.is_relative_to(staging) else str(where)
    return type(error)(error.problem, where=place, hint=error.hint or PACKAGE_HINT, details=error.details)


def _check_model(folder: Path, files: Mapping[str, UnpackedFile]) -> None:
    for name in files:
        if name.endswith(".json"):
            _require_json(folder / name)
    model = check_model_folder(folder).model
    configuration = folder.name.split("__")[2]
    if model.configuration_name != configuration:
        raise ModelError(
            f"'{folder.name}' is named after the configuration '{configuration}', its weights are of "
            f"'{model.configuration_name}'",
            where=folder,
        )


def _require_json(path: Path) -> None:
    # nnU-Net's own summaries hold NaN, so these are read less strictly than the plan.
    try:
        read_json(path)
    except DataError as error:
        raise ModelError(error.problem, where=path) from error


def _tell_left_out(contents: PackageContents, listen: Listener) -> None:
    if not contents.left_out:
        return
    shown = ", ".join(f"'{name}'" for name in contents.left_out[:_MAX_LISTED])
    more = len(contents.left_out) - _MAX_LISTED
    listen(Notice(text=f"not installed, as no prediction needs it: {shown}" + (f" and {more} more" * (more > 0))))

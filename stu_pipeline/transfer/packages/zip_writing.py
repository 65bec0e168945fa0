"""Write chosen folds of a model folder as nnU-Net's own zip, with a list of hashes that nnU-Net does not look at.

Reads: a model folder. Writes: a zip that `stu weights install` and `nnUNetv2_install_pretrained_model_from_zip` take.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import torch

from stu_pipeline.log import Listener, Progress
from stu_pipeline.nnunet.checkpoint import read_checkpoint
from stu_pipeline.records import read_versions
from stu_pipeline.storage import write_atomically
from stu_pipeline.transfer.packages.archive import MANIFEST_SCHEMA, open_package
from stu_pipeline.transfer.packages.archive_contents import MANIFEST_FILE
from stu_pipeline.transfer.packages.archive_structure import refuse_archive
from stu_pipeline.transfer.packages.model_check import OPTIMIZER_KEYS

COMPANIONS = ("plans.json", "dataset.json", "dataset_fingerprint.json", "postprocessing.json", "quality.json")
"""What goes along beside the folds, where it is there. The record of the run stays: it names paths of this machine."""
FOLD_COMPANIONS = ("progress.png", "validation/summary.json")
"""What nnU-Net puts along with a fold, and asks for when a model is exported again."""
_BLOCK = 1 << 22
_TIME = (1980, 1, 1, 0, 0, 0)
_FILE_MODE = 0o100644


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedModel:
    """What is packed: a model folder, its name in the package, and one checkpoint per fold."""

    folder: Path
    name: str
    """`DatasetNNN_Name/<trainer>__<plan>__<configuration>`."""
    checkpoints: tuple[Path, ...]


def write_model_zip(path: Path, model: PackedModel, *, keep_optimizer: bool, listen: Listener) -> None:
    """Write a zip of one model and read it back before it gets its name. Equal models give equal bytes.

    Args:
        path: the zip.
        model: what is packed; its checkpoints were checked.
        keep_optimizer: pack the checkpoints as they are, instead of what a prediction needs.
        listen: receives `Progress`.

    Raises:
        StorageError: the disk is full or not writable.
        ModelError: what was written cannot be read back.
    """

    def write(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            _pack(archive, model, keep_optimizer=keep_optimizer, listen=listen)
        _require_readable(temporary)

    write_atomically(path, write)


def _pack(archive: zipfile.ZipFile, model: PackedModel, *, keep_optimizer: bool, listen: Listener) -> None:
    files: dict[str, dict[str, Any]] = {}
    for name in _list_companions(model):
        with (model.folder / name).open("rb") as source, _Member(archive, f"{model.name}/{name}") as member:
            while block := source.read(_BLOCK):
                member.write(block)
        files[name] = member.describe()
    for done, checkpoint in enumerate(model.checkpoints, start=1):
        name = checkpoint.relative_to(model.folder).as_posix()
        with _Member(archive, f"{model.name}/{name}") as member:
            if keep_optimizer:
                _copy_into(checkpoint, member)
            else:
                torch.save(strip_checkpoint(checkpoint), cast(IO[bytes], member))
        files[name] = member.describe()
        listen(Progress(step="folds", done=done, total=len(model.checkpoints), item=checkpoint.parent.name))
    manifest = {"schema": MANIFEST_SCHEMA, "what": "the files of this model", "versions": read_versions(),
                "files": dict(sorted(files.items()))}  # fmt: skip
    with _Member(archive, f"{model.name}/{MANIFEST_FILE}") as member:
        member.write(json.dumps(manifest, indent=2).encode())


def strip_checkpoint(path: Path) -> dict[str, Any]:
    """Return a checkpoint without its momentum: half the size, and all that a prediction needs.

    Raises:
        ModelError: damaged, or no checkpoint.
        NonFiniteError: a weight is NaN or infinite.
    """
    checkpoint = read_checkpoint(path, without=OPTIMIZER_KEYS)
    return {**checkpoint, "optimizer_state": {"state": {}, "param_groups": []}, "grad_scaler_state": None}


class _Member:
    """A file inside a zip that is written in pieces, with its hash."""

    def __init__(self, archive: zipfile.ZipFile, name: str) -> None:
        info = zipfile.ZipInfo(name, _TIME)
        info.compress_type = zipfile.ZIP_DEFLATED if name.endswith(".json") else zipfile.ZIP_STORED
        info.external_attr = _FILE_MODE << 16
        info.create_system = 3
        self._stream: IO[bytes] = archive.open(info, "w", force_zip64=True)
        self._digest = hashlib.sha256()
        self._size = 0

    def __enter__(self) -> _Member:
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.close()

    def write(self, data: bytes | memoryview) -> int:
        """Append bytes. `torch.save` calls this, too."""
        self._digest.update(data)
        self._size += len(data)
        return self._stream.write(data)

    def flush(self) -> None:
        """Do nothing: the zip is flushed as a whole."""

    def describe(self) -> dict[str, Any]:
        """Return hash and size for the list of files."""
        return {"sha256": self._digest.hexdigest(), "bytes": self._size}


def _copy_into(path: Path, member: _Member) -> None:
    with path.open("rb") as source:
        while block := source.read(_BLOCK):
            member.write(block)


def _list_companions(model: PackedModel) -> list[str]:
    folds = [checkpoint.parent.name for checkpoint in model.checkpoints]
    names = [*COMPANIONS, *(f"{fold}/{name}" for fold in folds for name in FOLD_COMPANIONS)]
    return [name for name in names if (model.folder / name).is_file()]


def _require_readable(path: Path) -> None:
    with open_package(path) as (archive, _):
        damaged = archive.testzip()
    if damaged is not None:
        raise refuse_archive(path, f"member '{damaged}' could not be read back")

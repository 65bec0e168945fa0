"""Zips of models, made for tests: good ones, and ones with members that no model has."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from stu_pipeline.transfer.packages.config import ExportConfig
from stu_pipeline.transfer.packages.export import export_weights
from tests.model_folders import write_model_folder

DATASET = "Dataset901_Tiny"
MODEL = "nnUNetTrainer__stuSPlans__3d_fullres"
PREFIX = f"{DATASET}/{MODEL}"


def write_tiny_package(folder: Path, *, name: str = "tiny.zip", **options: object) -> Path:
    """Export a tiny model, made without training, as nnU-Net's zip with our list of hashes."""
    model = write_model_folder(folder / "results", **options)
    export_weights(ExportConfig(source=model, output=folder / name))
    return folder / name


def read_members(path: Path) -> dict[str, bytes]:
    """Return the content of every member."""
    with zipfile.ZipFile(path) as archive:
        return {entry.filename: archive.read(entry) for entry in archive.infolist()}


def write_members(
    path: Path, members: Mapping[str, bytes] | Iterable[tuple[str | zipfile.ZipInfo, bytes]], *, packed: bool = False
) -> Path:
    """Write a zip of members as they are; pairs allow a name twice."""
    pairs = members.items() if isinstance(members, Mapping) else members
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        for member, data in pairs:
            archive.writestr(member, data)
    return path


def without_manifest(members: Mapping[str, bytes]) -> dict[str, bytes]:
    """Leave out our list of hashes, as nnU-Net's own packages have none."""
    return {name: data for name, data in members.items() if not name.endswith("stu_package.json")}

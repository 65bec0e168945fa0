"""Name the folder of the preprocessed data, so that scales share it exactly when the voxels agree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stu_pipeline.errors import DataError
from stu_pipeline.planfile import preprocessing_settings
from stu_pipeline.storage import read_json
from stu_pipeline.workspace import DatasetPaths

# nnU-Net names these folders after its default plan and its residual presets share them.
_SHARED = {"2d": "nnUNetPlans_2d", "3d_fullres": "nnUNetPlans_3d_fullres"}


def choose_data_identifier(
    dataset: DatasetPaths,
    draft: Mapping[str, Any],
    configuration: str,
    *,
    plan_name: str,
    existing: Mapping[str, Any] | None = None,
    is_default: bool = True,
) -> str:
    """Choose the data identifier of a configuration.

    An existing plan with equal settings keeps its identifier. Otherwise `2d` and `3d_fullres` take
    nnU-Net's name when no such folder holds data, or when our manifest beside it has equal settings; a
    folder without our manifest belongs to another tool and is never shared. Voxels that nnU-Net's default plan
    would not make do not take its name first. Everything else is `<plan name>_<configuration>`.

    Args:
        dataset: where the data would be.
        draft: a plan that has the configuration with its preprocessing settings.
        configuration: its name.
        plan_name: the plan to be written.
        existing: the plan of that name that is there already.
        is_default: whether the settings are those of nnU-Net's default plan for the dataset.
    """
    settings = preprocessing_settings(draft, configuration)
    kept = _find_kept(existing, configuration, settings)
    if kept is not None:
        return kept
    own = f"{plan_name}_{configuration}"
    shared = _SHARED.get(configuration)
    if shared is None:
        return own
    manifest = dataset.manifest(shared)
    if manifest.is_file():
        return shared if _read_settings(dataset, shared) == settings else own
    if not is_default:
        return own
    folder = dataset.data_folder(shared)
    is_taken = folder.is_dir() and any(folder.iterdir())
    return own if is_taken else shared


def _find_kept(existing: Mapping[str, Any] | None, configuration: str, settings: Mapping[str, Any]) -> str | None:
    found = (existing or {}).get("configurations", {}).get(configuration)
    if not isinstance(found, dict) or "data_identifier" not in found or existing is None:
        return None
    return str(found["data_identifier"]) if preprocessing_settings(existing, configuration) == settings else None


def _read_settings(dataset: DatasetPaths, identifier: str) -> Any:
    try:
        content = read_json(dataset.manifest(identifier))
    except DataError:
        return None
    return content.get("settings") if isinstance(content, dict) else None

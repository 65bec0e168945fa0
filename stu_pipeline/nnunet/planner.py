"""Ask nnU-Net's default planner for its plan of a dataset, without leaving anything behind.

The published STU-Net runs use the default plan's spacing, resampling, normalisation, patch and batch
(docs/decisions/0002-patch-and-batch-from-the-default-plan.md). Nothing of the user's is read or written:
the planner works in a scratch folder that holds a description of the dataset and its fingerprint.
"""

from __future__ import annotations

import contextlib
import copy
import json
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stu_pipeline.datasets.endings import PICTURE_ENDINGS, TIFF_ENDINGS
from stu_pipeline.errors import DataError
from stu_pipeline.nnunet.environment import engine_environment
from stu_pipeline.nnunet.output import engine_output
from stu_pipeline.workspace import Workspace

PLANNER_NAME = "ExperimentPlanner"
STOCK_PLAN_NAME = "nnUNetPlans"
_REFERENCE_MEMORY_GB = 8
# 1.03 per step: the image has become some 400 times smaller along each axis, so no patch will ever cover it.
_MAX_PROBES = 200


@contextlib.contextmanager
def import_engine_meanwhile() -> Iterator[None]:
    """Import nnU-Net's planner, which takes seconds, in a thread while the block waits for its workers."""
    thread = threading.Thread(target=_import_planner, daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _import_planner() -> None:
    # What fails here fails again, and is told, where the planner is used.
    with contextlib.suppress(ImportError):
        from nnunetv2.experiment_planning.experiment_planners import default_experiment_planner  # noqa: F401


def draft_plan(
    dataset_name: str,
    dataset_json: Mapping[str, Any],
    fingerprint: Mapping[str, Any],
    *,
    num_cases: int,
    reader_name: str,
    spacing_mm: Sequence[float] | None = None,
    log_path: Path | None = None,
) -> dict[str, Any]:
    """Return nnU-Net's default plan (its 8 GB reference) as plain JSON values.

    Args:
        dataset_name: `DatasetNNN_Name`.
        dataset_json: the parsed `dataset.json`; its `numTraining` is ignored.
        fingerprint: the parsed `dataset_fingerprint.json`.
        num_cases: how many training cases there really are; nnU-Net limits the batch by it.
        reader_name: nnU-Net's reader class (`find_reader_name`).
        spacing_mm: target spacing of 2d and 3d_fullres, (z, y, x) as in the images; None lets nnU-Net choose.
        log_path: where the planner's words go; None drops them.

    Returns:
        What `nnUNetv2_plan_experiment -pl ExperimentPlanner` would write: int, float, str, list, dict.

    Raises:
        DataError: nnU-Net cannot plan for this dataset.
    """
    with open_planner_folder(
        dataset_name,
        dataset_json=dataset_json,
        fingerprint=fingerprint,
        num_cases=num_cases,
        reader_name=reader_name,
        log_path=log_path,
    ):
        return _run_planner(dataset_name, spacing_mm)


@contextlib.contextmanager
def open_planner_folder(
    dataset_name: str,
    *,
    dataset_json: Mapping[str, Any],
    fingerprint: Mapping[str, Any],
    num_cases: int,
    reader_name: str,
    log_path: Path | None,
) -> Iterator[None]:
    """Let nnU-Net's planners find a dataset in a scratch folder, inside the block; its images are not opened.

    Args:
        dataset_name: `DatasetNNN_Name`.
        dataset_json: the parsed `dataset.json`; its `numTraining` is ignored.
        fingerprint: the parsed `dataset_fingerprint.json`.
        num_cases: how many training cases there really are.
        reader_name: nnU-Net's reader class.
        log_path: where the planner's words go; None drops them.
    """
    description = copy.deepcopy(dict(dataset_json))
    description["numTraining"] = num_cases
    # With a listed dataset and a named reader the planner opens no image.
    description["dataset"] = {"case": {"images": ["image"], "label": "label"}}
    description["overwrite_image_reader_writer"] = reader_name
    with tempfile.TemporaryDirectory(prefix="stu-plan-") as folder:
        scratch = Path(folder)
        workspace = Workspace(raw=scratch / "raw", preprocessed=scratch / "preprocessed", results=scratch / "results")
        _dump(workspace.raw / dataset_name / "dataset.json", description)
        _dump(workspace.preprocessed / dataset_name / "dataset_fingerprint.json", fingerprint)
        # One thread: nnU-Net hands this number to torch, which refuses the 0 that is legal for training.
        with engine_environment(workspace, num_workers=1), engine_output(log_path):
            yield


def find_reader_name(dataset_json: Mapping[str, Any], example: Path, *, log_path: Path | None = None) -> str:
    """Return the name of nnU-Net's reader class for a dataset.

    Args:
        dataset_json: the parsed `dataset.json`.
        example: one image, verified; of pictures, readers that cannot open it are passed over.
        log_path: where the engine's words go.

    Raises:
        DataError: no reader opens the example.
    """
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

    # Pictures tell only by their content whether they are flat. Other files were read before, by us, and ITK would
    # refuse a direction that was repaired then.
    tried = str(example) if dataset_json.get("file_ending") in (*PICTURE_ENDINGS, *TIFF_ENDINGS) else None
    with engine_output(log_path):
        try:
            reader = determine_reader_writer_from_dataset_json(dict(dataset_json), tried)
        except RuntimeError as error:
            raise DataError(
                f"image '{example.name}' cannot be opened by any reader for '{dataset_json.get('file_ending')}'",
                where=example.parent,
                hint="stu doctor checks every file of the dataset",
            ) from error
    return str(reader.__name__)


def _run_planner(dataset_name: str, spacing_mm: Sequence[float] | None) -> dict[str, Any]:
    try:
        try:
            plan = _make_planner(dataset_name, spacing_mm, with_low_resolution=True).plan_experiment()
        except _EndlessSearchError:
            plan = _make_planner(dataset_name, spacing_mm, with_low_resolution=False).plan_experiment()
    except (ArithmeticError, ValueError, AssertionError, RuntimeError) as error:
        raise DataError(
            f"nnU-Net cannot plan for '{dataset_name}': {error or type(error).__name__}",
            hint="check spacings and sizes with: stu doctor " + dataset_name,
        ) from error
    return {**_plain(plan), "experiment_planner_used": PLANNER_NAME}


def _make_planner(dataset_name: str, spacing_mm: Sequence[float] | None, *, with_low_resolution: bool) -> Any:
    import torch
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner

    class Planner(ExperimentPlanner):
        num_probes = 0

        def static_estimate_VRAM_usage(self, *args: Any, **kwargs: Any) -> Any:  # noqa: N802 - the engine's name
            # Only shapes are counted; on the meta device no weights are made (seconds per probe otherwise).
            with torch.device("meta"):
                return ExperimentPlanner.static_estimate_VRAM_usage(*args, **kwargs)

        def get_plans_for_configuration(self, spacing: Any, median_shape: Any, *args: Any) -> Any:
            self.num_probes += 1
            if self.num_probes > _MAX_PROBES or min(median_shape) < 1:
                raise _EndlessSearchError
            return super().get_plans_for_configuration(spacing, median_shape, *args)

        def save_plans(self, plans: Any) -> None:
            """Keep the plan in memory."""

    planner = Planner(
        dataset_name,
        gpu_memory_target_in_gb=_REFERENCE_MEMORY_GB,
        plans_name=STOCK_PLAN_NAME,
        overwrite_target_spacing=None if spacing_mm is None else tuple(spacing_mm),
    )
    if not with_low_resolution:
        planner.lowres_creation_threshold = 0.0
    return planner


class _EndlessSearchError(Exception):
    """The search for a low resolution runs away: a thin axis reaches no voxels (nnUNet#2809)."""


def _plain(value: Any) -> Any:
    """Turn NumPy scalars and arrays, tuples and integer keys into what JSON would read back."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy scalars and arrays
        return _plain(value.tolist())
    return value


def _dump(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")

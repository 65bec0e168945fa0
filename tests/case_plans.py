"""Plans that hold just what preprocessing reads, and nnU-Net's own result for a case."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stu_pipeline.datasets.cases import Case
from stu_pipeline.datasets.label_ids import LabelIds
from stu_pipeline.preprocessing.case import CaseJob

RESAMPLING = "resample_data_or_seg_to_shape"
STATISTICS = {
    "mean": 40.0,
    "median": 42.0,
    "std": 60.0,
    "min": -500.0,
    "max": 900.0,
    "percentile_00_5": -120.0,
    "percentile_99_5": 210.0,
}


def make_case_plan(
    *,
    spacing: Sequence[float],
    schemes: Sequence[str] = ("ZScoreNormalization",),
    within_mask: bool = False,
    transpose: Sequence[int] = (0, 1, 2),
    reader: str = "SimpleITKIO",
    patch_size: Sequence[int] = (32, 32, 32),
    force_separate_z: bool | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """Make a plan with one configuration `test`; `changes` replace entries of the configuration."""
    kwargs = {"order": 3, "order_z": 0, "force_separate_z": force_separate_z}
    configuration = {
        "data_identifier": "stuTestPlans_test",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(patch_size),
        "median_image_size_in_voxels": [40.0, 40.0, 40.0],
        "spacing": list(spacing),
        "normalization_schemes": list(schemes),
        "use_mask_for_norm": [within_mask] * len(schemes),
        "resampling_fn_data": RESAMPLING,
        "resampling_fn_seg": RESAMPLING,
        "resampling_fn_data_kwargs": {"is_seg": False, **kwargs},
        "resampling_fn_seg_kwargs": {"is_seg": True, **kwargs, "order": 1},
        "architecture": {"network_class_name": "", "arch_kwargs": {}, "_kw_requires_import": []},
        **changes,
    }
    return {
        "dataset_name": "Dataset901_Tiny",
        "plans_name": "stuTestPlans",
        "image_reader_writer": reader,
        "label_manager": "LabelManager",
        "transpose_forward": list(transpose),
        "transpose_backward": [list(transpose).index(axis) for axis in range(3)],
        "configurations": {"test": configuration},
        "foreground_intensity_properties_per_channel": {
            str(channel): dict(STATISTICS) for channel in range(len(schemes))
        },
    }


def make_job(
    case: Case,
    plan: dict[str, Any],
    labels: dict[str, Any],
    folder: Path,
    *,
    label_ids: LabelIds | None = None,
) -> CaseJob:
    """Make the job of one case, with a scratch folder inside `folder`."""
    return CaseJob(
        case=case,
        plan=plan,
        configuration="test",
        dataset_json=describe(plan, labels),
        label_ids=label_ids,
        data_folder=folder / "data",
        scratch_folder=folder / "scratch",
    )


def describe(plan: dict[str, Any], labels: dict[str, Any]) -> dict[str, Any]:
    """Make what the engine is told about the dataset."""
    channels = range(len(plan["configurations"]["test"]["normalization_schemes"]))
    has_regions = any(isinstance(value, list) for value in labels.values())
    num_regions = len(set(labels) - {"background", "ignore"})
    order = {"regions_class_order": list(range(1, num_regions + 1))} if has_regions else {}
    names = {str(channel): f"channel{channel}" for channel in channels}
    return {"channel_names": names, "labels": labels, "numTraining": 1, "file_ending": ".nii.gz", **order}


def run_stock(case: Case, plan: dict[str, Any], labels: dict[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
    """Return image, labels and properties that nnU-Net's own preprocessor makes of a case."""
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = PlansManager(copy.deepcopy(plan))
    return DefaultPreprocessor(verbose=False).run_case(
        [str(file) for file in case.image_files],
        str(case.label_file),
        plans,
        plans.get_configuration("test"),
        describe(plan, labels),
    )

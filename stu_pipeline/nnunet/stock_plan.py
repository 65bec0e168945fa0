"""Plans of stock networks (PlainConvUNet, ResEnc) for a dataset that is planned: what STU-Net is compared with.

nnU-Net's own planners decide, in a scratch folder; nothing of the user's is read or written. The plan is trained by
`stu train`: same loop, same data, same augmentation, and the network as the only difference.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from stu_pipeline.errors import DataError
from stu_pipeline.nnunet.plain import make_plain
from stu_pipeline.nnunet.planner import open_planner_folder

StockNetwork = Literal["PlainConvUNet", "ResEncM", "ResEncL", "ResEncXL"]
_PLANNERS = {
    "PlainConvUNet": "ExperimentPlanner",
    "ResEncM": "nnUNetPlannerResEncM",
    "ResEncL": "nnUNetPlannerResEncL",
    "ResEncXL": "nnUNetPlannerResEncXL",
}


def draft_stock_plan(
    network: StockNetwork,
    plan_name: str,
    dataset_json: Mapping[str, Any],
    fingerprint: Mapping[str, Any],
    *,
    dataset_name: str,
    num_cases: int,
    reader_name: str,
    log_path: Path | None = None,
) -> dict[str, Any]:
    """Return the plan that nnU-Net's planner of a network makes, as plain JSON values.

    Args:
        network: whose planner; each has the memory target it was published with.
        plan_name: what the plan is called.
        dataset_json: the parsed `dataset.json` of the preprocessed data.
        fingerprint: the parsed `dataset_fingerprint.json`.
        dataset_name: `DatasetNNN_Name`.
        num_cases: how many training cases there are; nnU-Net limits the batch by it.
        reader_name: nnU-Net's reader class, as in another plan of the dataset.
        log_path: where the planner's words go; None drops them.

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
        try:
            plan = _make_planner(network, dataset_name, plan_name)
        except (ArithmeticError, ValueError, AssertionError, RuntimeError) as error:
            raise DataError(
                f"nnU-Net cannot plan {network} for '{dataset_name}': {error or type(error).__name__}",
                hint="check spacings and sizes with: stu doctor " + dataset_name,
            ) from error
    return {**plan, "experiment_planner_used": _PLANNERS[network]}


def _make_planner(network: StockNetwork, dataset_name: str, plan_name: str) -> dict[str, Any]:
    """Run the planner and return what it would write."""
    import torch
    from nnunetv2.experiment_planning.experiment_planners import default_experiment_planner
    from nnunetv2.experiment_planning.experiment_planners.residual_unets import residual_encoder_unet_planners

    module = default_experiment_planner if network == "PlainConvUNet" else residual_encoder_unet_planners
    kind: Any = getattr(module, _PLANNERS[network])

    class Planner(kind):
        def static_estimate_VRAM_usage(self, *args: Any, **kwargs: Any) -> Any:  # noqa: N802 - the engine's name
            # Only shapes are counted; on the meta device no weights are made (seconds per probe otherwise).
            with torch.device("meta"):
                return kind.static_estimate_VRAM_usage(*args, **kwargs)

        def save_plans(self, plans: Any) -> None:
            """Keep the plan in memory."""

    planner = Planner(dataset_name, plans_name=plan_name)
    plain: dict[str, Any] = json.loads(json.dumps(make_plain(planner.plan_experiment())))
    return plain

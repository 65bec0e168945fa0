"""What only a CUDA device can show: the step in every precision, and forecast against measured memory."""

import pytest
import torch

from tests.bench.measure_gpu import NUM_LABELS, STRIDES, run_steps

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
CASE = {"scale": "S", "patch": [128, 128, 128], "batch": 2}


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
def test_a_step_of_s_runs_in_every_precision(precision):
    row = run_steps({**CASE, "precision": precision}, torch.device("cuda"))
    assert row["step_s"] > 0
    assert row["allocated_gib"] > 0.5


def test_the_forecast_is_not_below_what_a_training_allocates():
    from stu_pipeline.networks.cost import count_feature_map_elements, count_parameters
    from stu_pipeline.networks.scales import SCALES
    from stu_pipeline.planning.memory import read_memory_model

    spec, patch = SCALES["S"], tuple(CASE["patch"])
    features, blocks = spec.features_per_stage, spec.n_blocks_per_stage
    forecast = read_memory_model().forecast_gib(
        num_elements=count_feature_map_elements(
            patch, STRIDES, features, blocks, num_classes=NUM_LABELS, deep_supervision=True
        ),
        num_parameters=count_parameters(1, NUM_LABELS, features, blocks),
        patch_voxels=patch,
        batch=CASE["batch"],
        num_classes=NUM_LABELS,
    )
    row = run_steps({**CASE, "precision": "bf16"}, torch.device("cuda"))
    assert row["allocated_gib"] <= forecast

"""The memory forecast against the published table, term by term."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.optimize import nnls

from stu_pipeline.knowledge import read_knowledge
from stu_pipeline.networks.cost import count_feature_map_elements, count_parameters
from stu_pipeline.networks.scales import SCALES
from stu_pipeline.planning.memory import MemoryTerms, count_elements, read_memory_model

BYTES_PER_GB = 1e9
STRIDES = ((1, 1, 1), *((2, 2, 2),) * 5)
PATCH = (128, 128, 128)
PUBLISHED_GB = {"S": 5.2, "B": 8.8, "L": 26.5}
HELD_OUT = ("ResEnc M", "ResEnc L", "ResEnc XL")


def forecast(
    scale: str, *, batch: int = 2, num_classes: int = 3, checkpointing: bool = False, **more: Any
) -> MemoryTerms:
    spec = SCALES[scale]
    return read_memory_model().forecast(
        num_elements=count_elements(
            scale, PATCH, STRIDES, num_classes=num_classes, activation_checkpointing=checkpointing
        ),
        num_parameters=count_parameters(1, num_classes, spec.features_per_stage, spec.n_blocks_per_stage),
        patch_voxels=PATCH,
        batch=batch,
        num_classes=num_classes,
        **more,
    )


@pytest.mark.parametrize("scale", PUBLISHED_GB)
def test_published_scales_are_met(scale: str) -> None:
    assert forecast(scale).total_bytes == pytest.approx(PUBLISHED_GB[scale] * BYTES_PER_GB, rel=0.01)


@pytest.mark.parametrize("network", HELD_OUT)
def test_networks_that_the_fit_has_not_seen_are_within_five_percent(network: str) -> None:
    row = next(row for row in read_knowledge("memory.json")["checked_on"]["rows"] if row["network"] == network)
    terms = read_memory_model().forecast(
        num_elements=row["elements_per_step"],
        num_parameters=row["parameters"],
        patch_voxels=PATCH,
        batch=1,
        num_classes=3,
    )
    assert terms.total_bytes == pytest.approx(row["gb"] * BYTES_PER_GB, rel=0.05)


def test_coefficients_are_the_fit_of_the_stored_points_and_of_nothing_else() -> None:
    content = read_knowledge("memory.json")
    points = content["fitted_on"]["points"]
    assert [point["scale"] for point in points] == ["S", "B", "L"]
    specs = [SCALES[point["scale"]] for point in points]
    elements = [
        point["batch"]
        * count_feature_map_elements(
            point["patch"], STRIDES, spec.features_per_stage, spec.n_blocks_per_stage, num_classes=point["classes"]
        )
        for point, spec in zip(points, specs, strict=True)
    ]
    parameters = [count_parameters(1, 3, spec.features_per_stage, spec.n_blocks_per_stage) for spec in specs]
    peaks = np.array([point["gb"] for point in points])
    counted = content["bytes_per_parameter"]
    per_parameter = counted["weights"] + counted["sgd"] + counted["low_precision_copy"]
    matrix = np.stack([np.ones(3), np.array(elements) / 1e9], axis=1) / peaks[:, None]
    solution, _ = nnls(matrix, 1 - per_parameter * np.array(parameters) / 1e9 / peaks)
    assert solution * [1e9, 1] == pytest.approx(
        [content["constant_bytes"], content["bytes_per_element"]["fp16"]], rel=1e-6
    )


def test_memory_grows_with_batch_and_classes() -> None:
    assert forecast("B", batch=3).total_bytes > forecast("B", batch=2).total_bytes
    more_classes = forecast("B", num_classes=104)
    # 101 more classes: their heads, two samples of 101 x 128^3 elements, and the loss.
    heads = 101 * 128**3 * 2 * read_memory_model().bytes_per_element["bf16"]
    assert more_classes.activations - forecast("B").activations == pytest.approx(heads, rel=1e-6)
    assert more_classes.loss == pytest.approx(14 * 101 * 128**3 * 2)


def test_channels_cost_a_batch_in_float32_and_a_copy() -> None:
    assert forecast("S", num_channels=4).loss == pytest.approx(6 * 3 * 128**3 * 2)


def test_float32_needs_twice_the_activations_and_no_copy_of_the_weights() -> None:
    half, full = forecast("L"), forecast("L", precision="fp32")
    assert full.activations == pytest.approx(2 * half.activations)
    assert half.parameters / full.parameters == pytest.approx(10 / 8)


def test_the_second_moment_of_adamw_counts() -> None:
    parameters = count_parameters(1, 3, SCALES["L"].features_per_stage, SCALES["L"].n_blocks_per_stage)
    assert forecast("L", optimizer="adamw").parameters - forecast("L").parameters == pytest.approx(4 * parameters)


def test_accumulated_gradients_are_there_during_the_next_forward_pass() -> None:
    parameters = count_parameters(1, 3, SCALES["H"].features_per_stage, SCALES["H"].n_blocks_per_stage)
    accumulating = forecast("H", batch=1, is_accumulating=True)
    assert accumulating.parameters - forecast("H", batch=1).parameters == pytest.approx(4 * parameters)


def test_with_few_activations_the_optimizer_step_is_the_peak() -> None:
    model = read_memory_model()
    terms = model.forecast(num_elements=0, num_parameters=10**9, patch_voxels=(32,) * 3, batch=1, num_classes=2)
    assert terms.total_bytes == pytest.approx(model.constant_bytes + 16e9)


@pytest.mark.parametrize(("scale", "share"), [("S", 0.75), ("B", 0.75), ("L", 0.55), ("H", 0.46)])
def test_checkpointing_keeps_less_the_deeper_the_stages(scale: str, share: float) -> None:
    assert forecast(scale, checkpointing=True).activations / forecast(scale).activations == pytest.approx(
        share, abs=0.01
    )


def test_knowledge_says_what_was_not_measured_and_what_a_gb_is() -> None:
    content = read_knowledge("memory.json")
    assert "not measured" in content["status"]
    assert any("bytes_per_class_voxel" in text for text in content["assumed"])
    assert any("scale H" in text for text in content["not_measured"])
    assert "1e9 bytes" in content["unit"]["read_as"]
    assert read_memory_model().status == content["status"]

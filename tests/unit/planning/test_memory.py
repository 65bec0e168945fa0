"""The memory forecast against the published table."""

from __future__ import annotations

import numpy as np
import pytest

from stu_pipeline.networks.cost import count_feature_map_elements, count_parameters
from stu_pipeline.networks.scales import SCALES
from stu_pipeline.planning.knowledge import read_knowledge
from stu_pipeline.planning.memory import read_memory_model

BYTES_PER_GB = 1e9
BYTES_PER_GIB = 2**30
STRIDES = [[1, 1, 1], *[[2, 2, 2]] * 5]
PUBLISHED_GB = {"S": 5.2, "B": 8.8, "L": 26.5}


def count(scale: str, num_classes: int = 3) -> tuple[int, int]:
    spec = SCALES[scale]
    widths, blocks = spec.features_per_stage, spec.n_blocks_per_stage
    elements = count_feature_map_elements([128] * 3, STRIDES, widths, blocks, num_classes=num_classes)
    return elements, count_parameters(1, num_classes, widths, blocks)


def forecast_gb(scale: str, batch: int = 2, num_classes: int = 3) -> float:
    elements, parameters = count(scale, num_classes)
    gib = read_memory_model().forecast_gib(
        num_elements=elements,
        num_parameters=parameters,
        patch_voxels=(128, 128, 128),
        batch=batch,
        num_classes=num_classes,
    )
    return gib * BYTES_PER_GIB / BYTES_PER_GB


@pytest.mark.parametrize("scale", PUBLISHED_GB)
def test_published_scales_are_met(scale: str) -> None:
    assert forecast_gb(scale) == pytest.approx(PUBLISHED_GB[scale], abs=0.01)


def test_coefficients_are_the_exact_fit_of_the_stored_points() -> None:
    content = read_knowledge("memory.json")
    points = content["fitted_on"]["points"]
    rows = [[1.0, point["batch"] * count(point["scale"])[0], count(point["scale"])[1]] for point in points]
    solved = np.linalg.solve(np.array(rows), np.array([point["gb"] * BYTES_PER_GB for point in points]))
    stored = [content[name] for name in ("constant_bytes", "bytes_per_element", "bytes_per_parameter")]
    assert solved == pytest.approx(stored, rel=1e-5)


def test_networks_outside_the_fit_are_forecast_within_ten_percent_and_never_too_low() -> None:
    model = read_memory_model()
    for row in read_knowledge("memory.json")["checked_on"]["rows"]:
        gib = model.forecast_gib(
            num_elements=row["elements"],
            num_parameters=row["parameters"],
            patch_voxels=(128, 128, 128),
            batch=row["batch"],
            num_classes=3,
        )
        assert 1.0 <= gib * BYTES_PER_GIB / (row["gb"] * BYTES_PER_GB) < 1.1, row["network"]


def test_memory_grows_with_batch_and_classes() -> None:
    assert forecast_gb("B", batch=3) > forecast_gb("B", batch=2)
    # 101 more classes: their heads (2.1e8 elements) and the loss (14 bytes per class and voxel).
    assert forecast_gb("B", num_classes=104) - forecast_gb("B") == pytest.approx(8.1, abs=0.3)


def test_knowledge_says_what_was_not_measured() -> None:
    content = read_knowledge("memory.json")
    assert "not" in content["status"]
    assert any("bytes_per_class_voxel" in text for text in content["not_measured"])
    assert read_memory_model().status == content["status"]

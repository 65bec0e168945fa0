"""RAM, checkpoints and tiles, by hand-counted examples."""

from __future__ import annotations

import math

import pytest

from stu_pipeline.knowledge import read_knowledge
from stu_pipeline.planning.host_memory import (
    CaseSizes,
    count_tiles,
    enlarge_patch,
    forecast_checkpoints_gib,
    forecast_prediction_ram_gib,
    forecast_training_ram_gib,
)
from stu_pipeline.preprocessed_size import count_case_voxels, forecast_preprocessed_gib

HOST = read_knowledge("host.json")


def test_a_cubic_patch_is_enlarged_by_rotation_and_zoom() -> None:
    # 128 * (cos 30 + sin 30) / 0.85
    assert enlarge_patch((128, 128, 128)) == (205, 205, 205)


def test_a_thin_patch_keeps_its_thin_axis() -> None:
    assert enlarge_patch((20, 256, 256))[0] == 20
    assert min(enlarge_patch((20, 256, 256))) == 20


def test_a_flat_patch_turns_all_the_way() -> None:
    assert enlarge_patch((256, 256)) == (301, 301)


def test_training_memory_is_processes_and_samples_that_wait() -> None:
    tiny = forecast_training_ram_gib(HOST, patch=(8, 8, 8), batch=1, num_channels=1)
    assert tiny == pytest.approx(HOST["main_process_gib"] + 16 * HOST["worker_gib"], abs=0.01)
    large = forecast_training_ram_gib(HOST, patch=(128, 128, 128), batch=2, num_channels=1)
    patch = 128**3 * 6
    # 28 samples of 205^3 voxels are more than the limit, 12 validation patches are less.
    moving = 2**30 + (2 * 2 + 2 * 4) * patch + 3 * 2 * patch
    assert large - tiny == pytest.approx(moving / 2**30, abs=0.01)


def test_two_batches_always_fit_however_large() -> None:
    small, large = (
        forecast_training_ram_gib(HOST, patch=(128, 128, 128), batch=batch, num_channels=4) for batch in (32, 64)
    )
    assert large - small == pytest.approx(32 * (2 * 205**3 + (2 + 3) * 128**3) * 18 / 2**30, rel=0.01)


def test_prediction_memory_counts_logits_on_both_grids() -> None:
    same = CaseSizes(original_voxels=1e6, resampled_voxels=1e6, num_channels=1, num_outputs=10)
    held = 4 * 5e6 + 10 * 4e6 + 2e6
    assert forecast_prediction_ram_gib(HOST, same) == pytest.approx(HOST["main_process_gib"] + held / 2**30)
    coarser = CaseSizes(original_voxels=2e6, resampled_voxels=1e6, num_channels=1, num_outputs=10)
    held = 4 * 7e6 + 10 * (4e6 + 8e6 + 8e6) + 4e6
    assert forecast_prediction_ram_gib(HOST, coarser) == pytest.approx(HOST["main_process_gib"] + held / 2**30)


def test_four_checkpoints_and_one_without_momentum_are_kept() -> None:
    assert forecast_checkpoints_gib(HOST, 2**30) == 36


@pytest.mark.parametrize(
    ("shape", "patch", "expected"),
    [((128.0,), (128,), 1), ((100.0,), (128,), 1), ((129.0,), (128,), 2), ((256.0,), (128,), 3), ((110.0,), (64,), 3)],
)
def test_tiles_overlap_by_half(shape: tuple[float, ...], patch: tuple[int, ...], expected: int) -> None:
    assert count_tiles(shape, patch) == expected


def test_flat_configurations_store_whole_volumes() -> None:
    assert count_case_voxels((64.0, 64.0), (10.0, 128.0, 128.0)) == 10 * 64 * 64
    assert count_case_voxels((5.0, 64.0, 64.0), (10.0, 128.0, 128.0)) == 5 * 64 * 64


def test_preprocessed_data_is_float_channels_and_small_labels() -> None:
    size = forecast_preprocessed_gib(voxels_per_case=2**30, num_channels=2, num_cases=3)
    assert size == pytest.approx(3 * 10 * 0.7)
    assert not math.isnan(size)

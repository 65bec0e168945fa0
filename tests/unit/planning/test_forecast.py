"""What a configuration will use, and where every number comes from."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stu_pipeline.plan_execution import Execution
from stu_pipeline.planning.config import ConfigurationForecast
from stu_pipeline.planning.fit import Demand, fit_configuration
from stu_pipeline.planning.forecast import Coefficients, apply_measurement, forecast_configuration, read_coefficients
from stu_pipeline.planning.step_time import count_passes, parse_time_model

STRIDES = ((1, 1, 1), *((2, 2, 2),) * 5)
PUBLISHED_HOURS = {"S": 10, "B": 15, "L": 51}


@pytest.fixture(name="known", scope="module")
def read_known() -> Coefficients:
    return read_coefficients()


def make_forecast(
    known: Coefficients, scale: str = "B", memory_gib: float = 80.0, **demand: object
) -> ConfigurationForecast:
    asked = Demand(
        configuration="3d_fullres",
        patch=(128, 128, 128),
        batch=2,
        strides=STRIDES,
        spacing_mm=(1.0, 1.0, 1.0),
        median_shape=(256.0, 256.0, 256.0),
        num_channels=1,
        num_classes=3,
    )
    fit = fit_configuration(known.memory, replace(asked, **demand), scale, memory_gib)
    return forecast_configuration(
        fit, known, original_median_shape=(256, 256, 256), num_cases=100, data_identifier="data", decisions=("a", "b")
    )


@pytest.mark.parametrize("scale", PUBLISHED_HOURS)
def test_published_hours_are_met(known: Coefficients, scale: str) -> None:
    item = make_forecast(known, scale)
    assert item.hours_total == pytest.approx(PUBLISHED_HOURS[scale], rel=0.05)
    assert item.hours_total == pytest.approx(item.seconds_per_epoch * 1000 / 3600, rel=0.01)
    assert (item.provenance["vram_gib"], item.provenance["hours_total"]) == ("published", "published")
    assert item.device == "A100 PCIe 40 GB"


def test_checkpointing_costs_about_a_third_more_time(known: Coefficients) -> None:
    plain, checkpointed = make_forecast(known, "H", 80.0), make_forecast(known, "H", 36.0)
    assert checkpointed.execution.activation_checkpointing
    assert checkpointed.seconds_per_epoch / plain.seconds_per_epoch == pytest.approx(1.3, abs=0.03)


def test_batch_dice_of_a_batch_in_parts_costs_a_forward_pass_more(known: Coefficients) -> None:
    def measure_work(**execution: object) -> float:
        found = known.time.forecast_epoch_s(10**14, batch=2, execution=Execution(**execution))
        return found - known.time.overhead_s

    # 250 steps of 3 passes and 50 of 1; the sums are one more of each.
    whole = measure_work(micro_batch=2, batch_dice_scope="effective batch")
    assert measure_work(micro_batch=1) == pytest.approx(whole)
    split = measure_work(micro_batch=1, batch_dice_scope="effective batch")
    assert split == pytest.approx(whole * (250 * 4 + 50 * 2) / (250 * 3 + 50))


def test_a_plan_whose_batch_dice_takes_an_extra_pass_is_forecast_with_it(known: Coefficients) -> None:
    plain, split = (make_forecast(known, "L", 14.0, batch_dice=is_on) for is_on in (False, True))
    assert plain.execution == Execution(micro_batch=1, activation_checkpointing=True)
    assert split.execution == replace(plain.execution, batch_dice_scope="effective batch")
    work_s, split_s = (item.seconds_per_epoch - known.time.overhead_s for item in (plain, split))
    assert split_s == pytest.approx(work_s * (250 * 5 + 50 * 2) / (250 * 4 + 50), rel=0.01)


def test_the_measured_step_of_a_batch_in_parts_holds_the_extra_pass_and_validation_does_too(
    known: Coefficients,
) -> None:
    item = replace(make_forecast(known), execution=Execution(micro_batch=1, batch_dice_scope="effective batch"))
    after = apply_measurement(item, known.time, peak_gib=None, step_s=0.4, device="some GPU")
    assert after.seconds_per_epoch == pytest.approx(0.4 * (250 + 50 * 2 / 4), rel=0.01)


@pytest.mark.parametrize(
    ("micro_batch", "checkpointing", "scope", "expected"),
    [
        (2, False, "sample", (3, 1)),
        (1, False, "sample", (3, 1)),
        (2, True, "effective batch", (4, 1)),
        (1, False, "effective batch", (4, 2)),
        (1, True, "effective batch", (5, 2)),
        (1, False, "micro-batch", (3, 1)),
    ],
)
def test_passes_are_counted(micro_batch: int, checkpointing: bool, scope: str, expected: tuple[int, int]) -> None:
    execution = Execution(micro_batch=micro_batch, activation_checkpointing=checkpointing, batch_dice_scope=scope)
    passes = count_passes(execution, batch=2)
    assert (passes.training, passes.validation) == expected


@pytest.mark.parametrize(
    ("scale", "memory_gib", "demand"),
    [
        ("H", 80.0, {}),
        ("L", 17.0, {}),
        ("B", 80.0, {"patch": (64, 64, 64)}),
        ("B", 80.0, {"num_classes": 104}),
        ("B", 80.0, {"num_channels": 4}),
    ],
)
def test_what_nobody_published_is_called_inferred(
    known: Coefficients, scale: str, memory_gib: float, demand: dict[str, object]
) -> None:
    assert make_forecast(known, scale, memory_gib, **demand).provenance["vram_gib"] == "inferred"


def test_disk_counts_every_case(known: Coefficients) -> None:
    # 256^3 voxels of float32 and int16, 100 cases, 0.7 for compression.
    assert make_forecast(known).disk_gib == pytest.approx(256**3 * 6 * 100 * 0.7 / 2**30, abs=0.001)


def test_checkpoints_hold_weights_and_momentum(known: Coefficients) -> None:
    item = make_forecast(known, "L")
    assert item.checkpoint_gib == pytest.approx(item.num_parameters * 8 * 4.5 / 2**30, abs=0.01)


def test_the_memory_of_a_prediction_grows_with_its_outputs(known: Coefficients) -> None:
    few, many = make_forecast(known), make_forecast(known, num_classes=103)
    # Without resampling, float32 logits of 100 more outputs.
    assert many.predict_ram_gib - few.predict_ram_gib == pytest.approx(100 * 256**3 * 4 / 2**30, abs=0.1)
    assert make_forecast(known, num_channels=3).host_ram_gib > few.host_ram_gib


def test_channels_of_a_previous_stage_are_not_stored(known: Coefficients) -> None:
    plain, cascade = make_forecast(known), make_forecast(known, num_channels=11, num_mask_channels=10)
    assert cascade.disk_gib == plain.disk_gib
    # Three batches of ten float32 channels; samples that wait have one more label map.
    assert cascade.host_ram_gib - plain.host_ram_gib == pytest.approx(3 * 2 * 128**3 * 40 / 2**30, abs=0.2)
    assert cascade.predict_ram_gib - plain.predict_ram_gib == pytest.approx(2 * 40 * 256**3 / 2**30, abs=0.1)


def test_a_prediction_takes_every_tile_and_every_mirroring(known: Coefficients) -> None:
    item = make_forecast(known)
    assert item.predict_seconds == pytest.approx(
        27 * 8 * 497_058_578_432 * known.time.seconds_per_multiply_add, rel=0.01
    )


def test_a_measured_step_replaces_memory_and_time_and_says_so(known: Coefficients) -> None:
    before = make_forecast(known)
    after = apply_measurement(before, known.time, peak_gib=7.5, step_s=0.3, device="some GPU")
    # 250 training steps, and 50 validation steps of a third of the work.
    assert after.seconds_per_epoch == pytest.approx(0.3 * (250 + 50 / 3), rel=0.01)
    assert after.hours_total == pytest.approx(after.seconds_per_epoch / 3.6, rel=0.01)
    assert (after.vram_gib, after.device) == (7.5, "some GPU")
    assert {name for name, value in after.provenance.items() if value == "measured"} == {
        "vram_gib",
        "seconds_per_epoch",
        "hours_total",
    }
    assert after.host_ram_gib == before.host_ram_gib
    assert before.provenance["vram_gib"] == "published"


def test_a_device_without_memory_to_measure_leaves_the_forecast_of_it(known: Coefficients) -> None:
    before = make_forecast(known)
    after = apply_measurement(before, known.time, peak_gib=None, step_s=30.0, device="cpu")
    assert (after.vram_gib, after.provenance["vram_gib"]) == (before.vram_gib, "published")


def test_measured_coefficients_name_their_gpu(known: Coefficients) -> None:
    measured = parse_time_model(
        {
            "overhead_s": 1,
            "seconds_per_multiply_add": 1e-14,
            "train_steps": 250,
            "validation_steps": 50,
            "epochs": 1000,
            "device": "Some GPU 80 GB",
            "status": "measured",
            "provenance": "measured",
        }
    )
    item = make_forecast(replace(known, time=measured))
    assert (item.device, item.provenance["hours_total"]) == ("Some GPU 80 GB", "measured")

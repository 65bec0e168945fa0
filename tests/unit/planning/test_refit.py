"""Measured steps become coefficients, and nothing is made of too few of them."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest

from stu_pipeline.knowledge import find_knowledge_folder
from stu_pipeline.networks.cost import count_multiply_adds, count_parameters
from stu_pipeline.networks.scales import SCALES
from stu_pipeline.planning import memory as memory_module
from stu_pipeline.planning.memory import MemoryModel, count_elements, parse_memory_model, read_memory_model
from stu_pipeline.planning.refit import MIN_ROWS, build_measured_document, refit_memory, refit_time, select_rows
from stu_pipeline.planning.step_time import parse_time_model, read_time_model
from stu_pipeline.storage import read_json, write_json

STRIDES = ((1, 1, 1), *((2, 2, 2),) * 5)
STEP_OVERHEAD_S, SECONDS_PER_MULTIPLY_ADD = 0.02, 1e-14


def make_row(model: MemoryModel, scale: str, size: int, batch: int, **choice: Any) -> dict[str, Any]:
    precision, checkpointing = choice.get("precision", "bf16"), choice.get("checkpointing", False)
    spec, patch = SCALES[scale], (size,) * 3
    features, blocks = spec.features_per_stage, spec.n_blocks_per_stage
    elements = count_elements(scale, patch, STRIDES, num_classes=3, activation_checkpointing=checkpointing)
    terms = model.forecast(
        num_elements=elements,
        num_parameters=count_parameters(1, 3, features, blocks),
        patch_voxels=patch,
        batch=batch,
        num_classes=3,
        precision=precision,
    )
    work = count_multiply_adds(patch, STRIDES, features, blocks, input_channels=1, num_classes=3)
    passes = 4 if checkpointing else 3
    return {
        "scale": scale,
        "patch": list(patch),
        "batch": batch,
        "classes": 3,
        "channels": 1,
        "precision": precision,
        "checkpointing": checkpointing,
        "peak_bytes": terms.total_bytes,
        "step_s": STEP_OVERHEAD_S + SECONDS_PER_MULTIPLY_ADD * work * batch * passes,
        "gpu": "Some GPU 80 GB",
        "torch": "2.10.0",
        "date": "2026-01-01",
    }


@pytest.fixture(name="truth")
def make_truth() -> MemoryModel:
    model = read_memory_model()
    return replace(
        model,
        constant_bytes=0.9e9,
        bytes_per_element={"bf16": 4.2, "fp16": 4.4, "fp32": 7.7},
        bytes_per_parameter={**model.bytes_per_parameter, "overhead": 1.5},
    )


@pytest.fixture(name="rows")
def make_rows(truth: MemoryModel) -> list[dict[str, Any]]:
    return [
        make_row(truth, scale, size, batch, precision=precision, checkpointing=checkpointing)
        for scale, size, batch, precision, checkpointing in itertools.product(
            "SBLH", (96, 128), (2,), ("bf16", "fp16", "fp32"), (False, True)
        )
    ]


def test_the_coefficients_that_made_the_rows_are_found(truth: MemoryModel, rows: list[dict[str, Any]]) -> None:
    found = refit_memory(rows)
    assert found["constant_bytes"] == pytest.approx(truth.constant_bytes, rel=1e-3)
    assert found["bytes_per_element"] == pytest.approx(dict(truth.bytes_per_element), rel=1e-3)
    assert found["bytes_per_parameter"]["overhead"] == pytest.approx(1.5, rel=1e-2)
    assert found["provenance"] == "measured"
    assert "Some GPU 80 GB" in found["status"]
    assert max(map(abs, found["relative_errors"])) < 0.001
    assert found["precisions_without_rows"] == []


def test_rows_whose_peak_is_the_optimizer_step_are_not_fitted(rows: list[dict[str, Any]], truth: MemoryModel) -> None:
    assert refit_memory(rows)["num_rows_fitted"] == len(rows)
    tiny = make_row(truth, "H", 64, 1, checkpointing=True)
    again = refit_memory([*rows, tiny])
    assert again["num_rows_fitted"] == len(rows)
    assert len(again["relative_errors"]) == len(rows) + 1
    assert again["bytes_per_element"]["bf16"] == pytest.approx(4.2, rel=1e-3)


def test_coefficients_are_never_negative(rows: list[dict[str, Any]]) -> None:
    shrunk = [{**row, "peak_bytes": 0.8 * row["peak_bytes"]} for row in rows]
    found = refit_memory(shrunk)
    assert found["constant_bytes"] >= 0
    assert found["bytes_per_parameter"]["overhead"] >= 0


def test_precisions_without_rows_follow_the_others(rows: list[dict[str, Any]]) -> None:
    found = refit_memory([row for row in rows if row["precision"] == "bf16"])
    assert found["precisions_without_rows"] == ["fp16", "fp32"]
    assert found["bytes_per_element"]["fp16"] == found["bytes_per_element"]["bf16"]
    assert found["bytes_per_element"]["fp32"] == pytest.approx(2 * found["bytes_per_element"]["bf16"])


def test_time_is_found_from_16_bit_rows(rows: list[dict[str, Any]]) -> None:
    slow = [{**row, "step_s": 5 * row["step_s"]} if row["precision"] == "fp32" else row for row in rows]
    found = refit_time(slow)
    assert found["seconds_per_multiply_add"] == pytest.approx(SECONDS_PER_MULTIPLY_ADD, rel=1e-3)
    assert found["overhead_s"] == pytest.approx(300 * STEP_OVERHEAD_S, rel=1e-2)
    assert found["device"] == "Some GPU 80 GB"


def test_the_gpu_with_most_rows_counts_and_failed_rows_do_not(rows: list[dict[str, Any]]) -> None:
    other = [{**row, "gpu": "Another"} for row in rows[:5]]
    failed = [{**rows[0], "peak_bytes": None, "step_s": None}] * 100
    assert select_rows([*failed, *rows, *other]) == rows


def test_too_few_rows_give_no_coefficients(rows: list[dict[str, Any]]) -> None:
    document = build_measured_document(rows[: MIN_ROWS - 1])
    assert document == {"schema": 1, "rows": rows[: MIN_ROWS - 1]}


def test_what_is_measured_replaces_what_was_fitted(
    rows: list[dict[str, Any]], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = build_measured_document(rows)
    for name in ("memory.json", "time.json"):
        write_json(tmp_path / name, read_json(find_knowledge_folder() / name))
    write_json(tmp_path / memory_module.MEASURED_NAME, document)
    monkeypatch.setattr("stu_pipeline.knowledge.find_knowledge_folder", lambda: tmp_path)
    model, time = read_memory_model(), read_time_model()
    assert model.provenance == "measured"
    assert model.bytes_per_element["bf16"] == pytest.approx(4.2, rel=1e-3)
    assert model.bytes_per_class_voxel == 14.0
    assert (time.device, time.provenance) == ("Some GPU 80 GB", "measured")
    assert time.train_steps == 250
    write_json(tmp_path / memory_module.MEASURED_NAME, {"schema": 1, "rows": []})
    assert read_memory_model() == parse_memory_model(read_json(tmp_path / "memory.json"))
    assert read_time_model() == parse_time_model(read_json(tmp_path / "time.json"))

"""Turn measured training steps into the coefficients of the forecasts: rows in, coefficients and residuals out.

The rows are those of `plans/measured_gpu.json` (their keys are described in `plans/README.md`); `make gpu` measures
them and stores what comes out of here beside them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from stu_pipeline.knowledge import read_knowledge
from stu_pipeline.networks.cost import count_multiply_adds, count_parameters
from stu_pipeline.networks.scales import SCALES
from stu_pipeline.planning.memory import MemoryModel, MemoryTerms, count_elements, parse_memory_model
from stu_pipeline.planning.step_time import PASSES_PER_STEP, PASSES_WITH_CHECKPOINTING

Row = Mapping[str, Any]
Floats = npt.NDArray[np.float64]

MEASURED_SCHEMA = 1
# Fewer rows are met by any coefficients.
MIN_ROWS = 4
_NUM_ROUNDS = 5
_HALVINGS = 5


def build_measured_document(rows: Sequence[Row]) -> dict[str, Any]:
    """Build the content of `plans/measured_gpu.json`: all rows, and what the planner reads.

    Coefficients are fitted for the GPU with most rows. With too few usable rows of it there are none, and the
    planner goes on with the published numbers.
    """
    document: dict[str, Any] = {"schema": MEASURED_SCHEMA, "rows": [dict(row) for row in rows]}
    usable = select_rows(rows)
    if len(usable) < MIN_ROWS:
        return document
    memory, time = refit_memory(usable), refit_time(usable)
    return {**document, "gpu": usable[0]["gpu"], "memory": memory, "time": time}


def select_rows(rows: Sequence[Row]) -> list[Row]:
    """Select the rows that were measured to the end, of the GPU that has most of them."""
    measured = [row for row in rows if row.get("peak_bytes") and row.get("step_s")]
    if not measured:
        return []
    gpu = Counter(row["gpu"] for row in measured).most_common(1)[0][0]
    return [row for row in measured if row["gpu"] == gpu]


def refit_memory(rows: Sequence[Row]) -> dict[str, Any]:
    """Fit constant, bytes per element (by precision) and bytes per parameter beyond those that can be counted.

    Non-negative least squares of the relative errors, over the rows whose backward pass is their peak.

    Args:
        rows: of one GPU, at least four, with different scales.

    Returns:
        What replaces the coefficients of `plans/memory.json`, with provenance and the error of every row.
    """
    content = {**read_knowledge("memory.json")}
    content["bytes_per_parameter"] = {**content["bytes_per_parameter"], "overhead": 0.0}
    chosen = list(rows)
    for _ in range(_NUM_ROUNDS):
        content = _fit_memory_once(content, chosen)
        model = parse_memory_model(content)
        kept = [row for row in rows if _is_backward_bound(_forecast(model, row))]
        if kept == chosen or len(kept) < MIN_ROWS:
            break
        chosen = kept
    residuals = [_forecast(model, row).total_bytes / row["peak_bytes"] - 1 for row in rows]
    names = ("constant_bytes", "bytes_per_element", "bytes_per_parameter")
    return {
        **{name: content[name] for name in names},
        "provenance": "measured",
        "status": _describe(rows, residuals),
        "num_rows_fitted": len(chosen),
        "precisions_without_rows": sorted(set(content["bytes_per_element"]) - {row["precision"] for row in rows}),
        "relative_errors": [round(value, 4) for value in residuals],
    }


def refit_time(rows: Sequence[Row]) -> dict[str, Any]:
    """Fit seconds per multiply-add and the overhead of a step, on the 16-bit rows where there are enough of them.

    Returns:
        What replaces the coefficients of `plans/time.json`, with provenance and the error of every row. The overhead
        knows nothing of loading: measured steps find their batch on the GPU.
    """
    fast = [row for row in rows if row["precision"] != "fp32"]
    rows = fast if len(fast) >= MIN_ROWS else rows
    steps = read_knowledge("time.json")
    work = np.array([_count_work(row) for row in rows], dtype=np.float64)
    seconds = np.array([row["step_s"] for row in rows], dtype=np.float64)
    scale = work.max()
    overhead, slope = _solve(np.stack([np.ones_like(work), work / scale], axis=1), seconds, seconds)
    residuals = list((overhead + slope * work / scale) / seconds - 1)
    return {
        "overhead_s": float(overhead * (steps["train_steps"] + steps["validation_steps"])),
        "seconds_per_multiply_add": float(slope / scale),
        "device": rows[0]["gpu"],
        "provenance": "measured",
        "status": _describe(rows, residuals),
        "relative_errors": [round(float(value), 4) for value in residuals],
    }


def _fit_memory_once(content: dict[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    free = parse_memory_model(
        {
            **content,
            "constant_bytes": 0.0,
            "bytes_per_element": dict.fromkeys(content["bytes_per_element"], 0.0),
            "bytes_per_parameter": {**content["bytes_per_parameter"], "overhead": 0.0},
        }
    )
    precisions = sorted({row["precision"] for row in rows})
    columns = [np.ones(len(rows)), np.array([_count_parameters(row) for row in rows], dtype=np.float64)]
    elements = np.array([_count_elements(row) * row["batch"] for row in rows], dtype=np.float64)
    for precision in precisions:
        columns.append(elements * np.array([row["precision"] == precision for row in rows]))
    peaks = np.array([row["peak_bytes"] for row in rows], dtype=np.float64)
    counted = np.array([_count_known(_forecast(free, row)) for row in rows])
    units = np.array([column.max() for column in columns])
    solution = _solve(np.stack(columns, axis=1) / units, peaks - counted, peaks) / units
    slopes = {precision: float(value) for precision, value in zip(precisions, solution[2:], strict=True)}
    return {
        **content,
        "constant_bytes": float(solution[0]),
        "bytes_per_element": _fill_precisions(slopes, content["bytes_per_element"]),
        "bytes_per_parameter": {**content["bytes_per_parameter"], "overhead": float(solution[1])},
    }


def _fill_precisions(measured: Mapping[str, float], names: Mapping[str, float]) -> dict[str, float]:
    """Give precisions without rows what another one measured: the 16-bit types alike, float32 twice as much."""
    half = measured.get("bf16") or measured.get("fp16") or measured.get("fp32", 0.0) / 2
    return {name: measured.get(name, 2 * half if name == "fp32" else half) for name in names}


def _solve(matrix: Floats, values: Floats, weights: Floats) -> Floats:
    from scipy.optimize import nnls

    solution: Floats = nnls(matrix / weights[:, None], values / weights)[0]
    return solution


def _forecast(model: MemoryModel, row: Row) -> MemoryTerms:
    return model.forecast(
        num_elements=_count_elements(row),
        num_parameters=_count_parameters(row),
        patch_voxels=row["patch"],
        batch=row["batch"],
        num_classes=row["classes"],
        num_channels=row["channels"],
        precision=row["precision"],
    )


def _count_known(terms: MemoryTerms) -> float:
    return terms.parameters + terms.loss


def _is_backward_bound(terms: MemoryTerms) -> bool:
    return terms.activations + terms.parameters + terms.loss >= terms.optimizer_step


def _find_strides(row: Row) -> Any:
    halvings = [[1] * len(row["patch"]), *[[2] * len(row["patch"])] * _HALVINGS]
    return row.get("strides") or halvings


def _count_elements(row: Row) -> int:
    return count_elements(
        row["scale"],
        row["patch"],
        _find_strides(row),
        num_classes=row["classes"],
        activation_checkpointing=row["checkpointing"],
    )


def _count_parameters(row: Row) -> int:
    spec = SCALES[row["scale"]]
    conv_op = f"{len(row['patch'])}d"
    features, blocks = spec.features_per_stage, spec.n_blocks_per_stage
    return count_parameters(row["channels"], row["classes"], features, blocks, conv_op=conv_op)


def _count_work(row: Row) -> int:
    spec = SCALES[row["scale"]]
    multiply_adds = count_multiply_adds(
        row["patch"],
        _find_strides(row),
        spec.features_per_stage,
        spec.n_blocks_per_stage,
        input_channels=row["channels"],
        num_classes=row["classes"],
    )
    passes = PASSES_WITH_CHECKPOINTING if row["checkpointing"] else PASSES_PER_STEP
    return multiply_adds * int(row["batch"]) * passes


def _describe(rows: Sequence[Row], residuals: Sequence[float]) -> str:
    worst = max(abs(value) for value in residuals)
    return f"measured on {rows[0]['gpu']} ({len(rows)} rows, torch {rows[0]['torch']}, off by {worst:.1%} at most)"

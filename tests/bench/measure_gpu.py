"""Measure memory and time of real training steps on a GPU, and refit the planner's coefficients to them.

    make gpu                                       # or: python -m tests.bench.measure_gpu --minutes 20
    python -m tests.bench.measure_gpu --device cpu --rows 2 --tiny      # shows that it runs; measures no GPU

Every row is a plan of its own, run by `stu_pipeline.training.probing.probe`: the trainer's network, loss, optimizer,
precision and checkpointing. Rows come in order of what they tell, and `plans/measured_gpu.json` is written after every
row, so
that a run that is cut short keeps what it has and the next one continues. Rows that ran out of memory have no
`peak_bytes`; rows with `compiled` ran through torch.compile, as trainings on CUDA do by default.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from stu_pipeline.networks.scales import SCALES, Scale
from stu_pipeline.plan_architecture import NETWORK_CLASS
from stu_pipeline.plan_execution import Execution
from stu_pipeline.planfile import PlanFile, parse_plan
from stu_pipeline.planning.refit import build_measured_document
from stu_pipeline.records import read_versions
from stu_pipeline.storage import read_json, write_json
from stu_pipeline.training.probing.probe import DEFAULT_NUM_STEPS, probe_configuration

TARGET = Path(__file__).resolve().parents[2] / "plans" / "measured_gpu.json"
CUBES = (128, 96, 160, 64)
SHEET, SLICE = (32, 256, 256), (512, 512)
CONFIGURATION = "3d_fullres"
_MAX_POOLINGS, _MIN_POOLED = 5, 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One training step to measure."""

    scale: Scale
    patch: tuple[int, ...]
    batch: int = 2
    classes: int = 3
    channels: int = 1
    precision: str = "bf16"
    checkpointing: bool = False
    compiled: bool = False


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what time allows, and write the table after every row."""
    options = parse_options(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device: nothing measured")
        return
    target = options.output or choose_target(options.device)
    rows = list(list_tiny_rows() if options.tiny else list_rows())
    measured = measure_rows(
        rows[: options.rows], options.device, target, minutes=options.minutes, num_steps=options.steps
    )
    print(f"{measured} rows measured, table in {target}")


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no row after this time")
    parser.add_argument("--rows", type=int, help="only the first rows of the list")
    parser.add_argument("--steps", type=int, default=DEFAULT_NUM_STEPS, help="timed steps per row, after the warm-up")
    parser.add_argument("--tiny", action="store_true", help="two small rows that any machine can run")
    parser.add_argument("--output", type=Path, help=f"default: {TARGET.name} in plans/; on the CPU a temporary folder")
    return parser.parse_args(arguments)


def choose_target(device: str) -> Path:
    """Keep what a CPU measured away from what the planner knows about GPUs."""
    return TARGET if device == "cuda" else Path(tempfile.mkdtemp(prefix="stu-measured-")) / "measured_cpu.json"


def list_rows() -> Iterator[Row]:
    """List every row once, the ones that tell most first."""
    seen: set[Row] = set()
    for row in itertools.chain(_list_published(), _list_grid(), _list_shapes(), _list_extras(), _list_rest()):
        if row not in seen:
            seen.add(row)
            yield row


def list_tiny_rows() -> list[Row]:
    """List rows that run in seconds on a CPU, in fp32: bf16 gradients of tiny maps are wrong there (decision 0007)."""
    return [
        Row(scale="S", patch=(32, 32, 32), batch=2, precision="fp32", checkpointing=is_on) for is_on in (False, True)
    ]


def _list_published() -> Iterator[Row]:
    # The published points (S, B, L at 128, batch 2) eagerly and compiled, and H, which nobody published.
    for scale in SCALES:
        yield Row(scale=scale, patch=(128,) * 3)
        yield Row(scale=scale, patch=(128,) * 3, checkpointing=True)
    for scale in ("S", "B", "L"):
        yield Row(scale=scale, patch=(128,) * 3, compiled=True)


def _list_grid() -> Iterator[Row]:
    for size, scale, is_on in itertools.product(CUBES[1:], SCALES, (False, True)):
        yield Row(scale=scale, patch=(size,) * 3, checkpointing=is_on)
    for batch, size, scale in itertools.product((1, 4), CUBES[:2], SCALES):
        yield Row(scale=scale, patch=(size,) * 3, batch=batch)


def _list_shapes() -> Iterator[Row]:
    for scale, is_on in itertools.product(SCALES, (False, True)):
        yield Row(scale=scale, patch=SHEET, checkpointing=is_on)
        yield Row(scale=scale, patch=SLICE, batch=12, checkpointing=is_on)


def _list_extras() -> Iterator[Row]:
    for scale in ("S", "B", "L"):
        yield Row(scale=scale, patch=(128,) * 3, precision="fp16")
        yield Row(scale=scale, patch=(128,) * 3, precision="fp32")
        yield Row(scale=scale, patch=(128,) * 3, classes=40)
        yield Row(scale=scale, patch=(128,) * 3, classes=105)
        yield Row(scale=scale, patch=(128,) * 3, channels=4)
    yield Row(scale="B", patch=(128,) * 3, checkpointing=True, compiled=True)
    yield Row(scale="B", patch=(128,) * 3, classes=40, compiled=True)


def _list_rest() -> Iterator[Row]:
    for precision, size, scale, batch, is_on in itertools.product(
        ("bf16", "fp16"), CUBES, SCALES, (2, 1, 4), (False, True)
    ):
        yield Row(scale=scale, patch=(size,) * 3, batch=batch, precision=precision, checkpointing=is_on)


def measure_rows(
    rows: Sequence[Row],
    device: str,
    target: Path,
    *,
    minutes: float = float("inf"),
    num_steps: int = DEFAULT_NUM_STEPS,
) -> int:
    """Measure the rows that the table lacks, and return how many that were.

    A row is known by what it measures, the device and the PyTorch version.
    """
    entries: list[dict[str, Any]] = read_json(target)["rows"] if target.is_file() else []
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    known = {_identify(entry) for entry in entries}
    start, count = time.monotonic(), 0
    for row in rows:
        facts = {**_describe(row), "gpu": name, "torch": torch.__version__}
        if _identify(facts) in known:
            continue
        if time.monotonic() - start > 60 * minutes:
            print("time is up; the next run continues here")
            break
        measured = measure(row, device, num_steps=num_steps)
        if measured is None:
            continue
        entry = facts | measured | {"date": datetime.datetime.now(datetime.UTC).date().isoformat()}
        entries.append(entry)
        count += 1
        write_table(entries, target)
        print(_format(entry), flush=True)
    return count


def measure(row: Row, device: str, *, num_steps: int) -> dict[str, Any] | None:
    """Run the step of one row. Out of memory leaves `peak_bytes` and `step_s` empty; None: it cannot be compiled."""
    result = probe_configuration(
        build_plan(row),
        CONFIGURATION,
        device=device,
        precision=row.precision,
        compile="on" if row.compiled else "off",
        num_steps=num_steps,
        dataset_json=describe_dataset(row),
    )
    if row.compiled and not result.is_compiled and not result.is_out_of_memory:
        print(f"{row}: {result.note}")
        return None
    return {
        "peak_bytes": _to_bytes(result.peak_gib),
        "tensors_bytes": _to_bytes(result.tensors_gib),
        "step_s": result.step_s,
        "num_parameters": result.num_parameters,
        "is_out_of_memory": result.is_out_of_memory,
    }


def describe_dataset(row: Row) -> dict[str, Any]:
    """Return a `dataset.json` with the channels and classes of a row."""
    return {
        "channel_names": {str(index): "CT" for index in range(row.channels)},
        "labels": {"background": 0, **{f"label{value}": value for value in range(1, row.classes)}},
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }


def build_plan(row: Row) -> PlanFile:
    """Build a plan that trains exactly one row."""
    spec, num_axes = SCALES[row.scale], len(row.patch)
    execution = Execution(micro_batch=row.batch, activation_checkpointing=row.checkpointing)
    resampling = {"order": 1, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "measured",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": row.batch,
        "patch_size": list(row.patch),
        "median_image_size_in_voxels": list(row.patch),
        "spacing": [1.0] * num_axes,
        "normalization_schemes": ["ZScoreNormalization"] * row.channels,
        "use_mask_for_norm": [False] * row.channels,
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg_kwargs": resampling,
        "resampling_fn_probabilities_kwargs": resampling,
        "batch_dice": False,
        "architecture": {
            "network_class_name": NETWORK_CLASS,
            "arch_kwargs": {
                "strides": choose_strides(row.patch),
                "features_per_stage": spec.features_per_stage,
                "n_blocks_per_stage": spec.n_blocks_per_stage,
                "conv_op": f"{num_axes}d",
            },
            "_kw_requires_import": [],
        },
    }
    return parse_plan(
        {
            "dataset_name": "Dataset000_Measured",
            "plans_name": spec.plan_name,
            "image_reader_writer": "SimpleITKIO",
            "transpose_forward": [0, 1, 2],
            "transpose_backward": [0, 1, 2],
            "label_manager": "LabelManager",
            "foreground_intensity_properties_per_channel": {},
            "configurations": {CONFIGURATION: configuration},
            "stu": {"scale": row.scale, "execution": {CONFIGURATION: execution.to_json()}},
        }
    )


def choose_strides(patch: Sequence[int]) -> list[list[int]]:
    """Halve the longest axes up to five times, down to four voxels; the first stage has no stride."""
    sizes, strides = list(patch), [[1] * len(patch)]
    for _ in range(_MAX_POOLINGS):
        longest = max(sizes)
        step = [2 if size >= _MIN_POOLED and size % 2 == 0 and 2 * size > longest else 1 for size in sizes]
        sizes = [size // factor for size, factor in zip(sizes, step, strict=True)]
        strides.append(step)
    return strides


def write_table(rows: Sequence[dict[str, Any]], target: Path) -> None:
    """Write all rows, and the coefficients that the planner reads, fitted to them.

    Compiled rows are kept for comparison and left out of the fit, which is about eager steps.
    """
    fitted = build_measured_document([row for row in rows if not row["compiled"]])
    what = "memory and time of real training steps (tests/bench/measure_gpu.py); bytes as nvidia-smi shows them"
    write_json(target, {**fitted, "what": what, "versions": read_versions(), "rows": list(rows)})


def _describe(row: Row) -> dict[str, Any]:
    return asdict(row) | {"patch": list(row.patch), "strides": choose_strides(row.patch)}


def _identify(entry: dict[str, Any]) -> tuple[Any, ...]:
    keys = ("scale", "batch", "classes", "channels", "precision", "checkpointing", "compiled", "gpu", "torch")
    return (*entry["patch"], *(entry[key] for key in keys))


def _to_bytes(gib: float | None) -> int | None:
    return None if gib is None else round(gib * 2**30)


def _format(entry: dict[str, Any]) -> str:
    what = f"{entry['scale']} {'x'.join(map(str, entry['patch']))} batch {entry['batch']} {entry['precision']}"
    what += ", checkpointing" * entry["checkpointing"] + ", compiled" * entry["compiled"]
    what += f", {entry['classes']} classes, {entry['channels']} channels"
    if entry["is_out_of_memory"]:
        return f"{what}: out of memory"
    return f"{what}: {entry['peak_bytes'] / 2**30:.2f} GiB, {entry['step_s']:.3f} s"


if __name__ == "__main__":
    main()

"""The list of what is measured on a GPU, and the table it fills; measured here with a row of the CPU's size."""

import json
from dataclasses import asdict

import pytest

from stu_pipeline.networks.cost import count_parameters
from stu_pipeline.networks.layout import build_layout
from stu_pipeline.networks.scales import SCALES
from stu_pipeline.planning.memory import count_elements
from tests.bench.measure_gpu import Row, build_plan, choose_strides, list_rows, measure_rows, write_table

SMALL = [Row(scale="S", patch=(32, 32), batch=1, precision="fp32", checkpointing=is_on) for is_on in (False, True)]
KEYS = {
    "scale", "patch", "batch", "classes", "channels", "precision", "checkpointing", "peak_bytes", "step_s", "gpu",
    "torch", "date",
}  # fmt: skip


def test_the_first_rows_are_the_published_points_and_the_scale_that_nobody_published():
    first = list(list_rows())[:8]
    assert {row.scale for row in first} == set(SCALES)
    assert {row.patch for row in first} == {(128, 128, 128)}
    assert {row.checkpointing for row in first} == {False, True}
    assert {(row.batch, row.precision, row.compiled) for row in first} == {(2, "bf16", False)}


def test_the_list_covers_the_table_and_holds_no_row_twice():
    rows = list(list_rows())
    assert len(rows) == len(set(rows))
    for patch in [(size,) * 3 for size in (64, 96, 128, 160)]:
        there = {(row.scale, row.batch, row.checkpointing) for row in rows if row.patch == patch}
        assert there >= {(scale, batch, is_on) for scale in SCALES for batch in (1, 2, 4) for is_on in (False, True)}
    assert {row.precision for row in rows} == {"bf16", "fp16", "fp32"}
    assert {len(row.patch) for row in rows} == {2, 3}
    assert any(len(row.patch) == 3 and min(row.patch) < max(row.patch) for row in rows)
    assert {row.classes for row in rows} >= {3, 40} and {row.channels for row in rows} >= {1, 4}


def test_every_row_is_a_plan_whose_patch_fits_its_strides():
    for row in list_rows():
        configuration = build_plan(row).configuration("3d_fullres")
        spec = SCALES[row.scale]
        layout = build_layout(
            configuration.strides, spec.features_per_stage, spec.n_blocks_per_stage, f"{len(row.patch)}d"
        )
        layout.require_patch(row.patch)


def test_strides_halve_long_axes_first():
    assert choose_strides((128, 128, 128)) == [[1, 1, 1], *[[2, 2, 2]] * 5]
    assert choose_strides((32, 256, 256)) == [[1, 1, 1], *[[1, 2, 2]] * 3, *[[2, 2, 2]] * 2]
    assert choose_strides((16, 16)) == [[1, 1], [2, 2], [2, 2], *[[1, 1]] * 3]


def test_the_table_is_written_and_the_next_run_continues_it(tmp_path):
    target = tmp_path / "measured.json"
    assert measure_rows(SMALL[:1], "cpu", target, num_steps=1) == 1
    assert measure_rows(SMALL, "cpu", target, num_steps=1) == 1

    table = json.loads(target.read_text(encoding="utf-8"))
    assert table["schema"] == 1 and "torch" in table["versions"]
    assert [row["checkpointing"] for row in table["rows"]] == [False, True]
    for row in table["rows"]:
        assert set(row) >= KEYS
        # On the CPU the peak is what the process grew by, which is nothing when its memory was free before.
        assert row["peak_bytes"] >= 0 and row["step_s"] > 0 and row["gpu"] == "cpu"


def test_a_row_that_does_not_fit_is_kept_as_such(tmp_path):
    target = tmp_path / "measured.json"
    # 128 TiB of input: more than any address space gives.
    huge = Row(scale="S", patch=(32768,) * 3, batch=1, precision="fp32")
    assert measure_rows([huge], "cpu", target, num_steps=1) == 1
    row = json.loads(target.read_text(encoding="utf-8"))["rows"][0]
    assert row["is_out_of_memory"] and row["peak_bytes"] is None and row["step_s"] is None


def test_no_row_begins_after_the_time_is_up(tmp_path):
    assert measure_rows(SMALL, "cpu", tmp_path / "measured.json", minutes=-1) == 0
    assert not (tmp_path / "measured.json").exists()


def test_coefficients_are_fitted_to_the_eager_rows_as_soon_as_there_are_enough(tmp_path):
    """Made-up measurements of a known machine: 1 GB and 5 bytes per element, and compiled rows that lie."""
    rows = []
    for count, row in enumerate(list(list_rows())[:24]):
        spec, patch = SCALES[row.scale], list(row.patch)
        elements = count_elements(
            row.scale, patch, choose_strides(patch), num_classes=3, activation_checkpointing=row.checkpointing
        )
        parameters = count_parameters(1, 3, spec.features_per_stage, spec.n_blocks_per_stage)
        peak = 10**9 + 5 * elements * row.batch + 10 * parameters
        entry = asdict(row) | {"gpu": "made up", "torch": "2", "step_s": 0.1 + count, "strides": choose_strides(patch)}
        rows.append(entry | {"peak_bytes": 10 * peak if row.compiled else peak})
    write_table(rows, tmp_path / "measured.json")
    table = json.loads((tmp_path / "measured.json").read_text(encoding="utf-8"))
    assert len(table["rows"]) == 24 and any(row["compiled"] for row in rows)
    assert table["memory"]["constant_bytes"] == pytest.approx(10**9, rel=0.02)
    assert table["memory"]["bytes_per_element"]["bf16"] == pytest.approx(5, rel=0.02)

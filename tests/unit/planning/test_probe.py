"""A probe that answers, one that refuses, and one that dies."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from stu_pipeline import PlanConfig, plan
from stu_pipeline.errors import MemoryLimitError, ModelError, StuError
from stu_pipeline.planning.probe import MeasuredStep, measure_step
from stu_pipeline.workspace import use_workspace
from tests.synthetic import write_tiny_dataset

ANSWER = {
    "device_name": "some GPU",
    "precision": "bf16",
    "num_parameters": 1,
    "is_out_of_memory": False,
    "peak_gib": 7.5,
    "tensors_gib": 6.0,
    "step_s": 0.3,
    "note": "measured",
}


def ask(code: str) -> MeasuredStep:
    """Start a process that runs some code in place of the probe."""
    return measure_step({"plans_name": "stuSPlans"}, "3d_fullres", {}, command=(sys.executable, "-c", code))


def test_a_measured_step_is_read() -> None:
    measured = ask(f"import sys; sys.stderr.write('talk'); sys.stdout.write({json.dumps(ANSWER)!r})")
    assert (measured.peak_gib, measured.step_s, measured.device_name) == (7.5, 0.3, "some GPU")


def test_memory_of_a_cpu_is_not_taken_for_that_of_a_gpu() -> None:
    assert ask(f"print({json.dumps(ANSWER | {'tensors_gib': None})!r})").peak_gib is None


def test_the_probe_is_told_what_to_measure_and_whom_to_follow() -> None:
    code = "import json, os, sys; asked = json.load(sys.stdin); assert asked['parent'] == os.getppid(); "
    answer = json.dumps(ANSWER)
    measured = ask(code + f"print(json.dumps(json.loads({answer!r}) | {{'note': asked['configuration']}}))")
    assert measured.note == "3d_fullres"


def test_an_error_of_the_probe_is_raised_as_it_was() -> None:
    facts = {"kind": "ModelError", "problem": "plan is malformed", "where": "/somewhere", "hint": "stu plan"}
    with pytest.raises(ModelError, match="plan is malformed") as caught:
        ask(f"print({json.dumps({'error': facts})!r})")
    assert (caught.value.where, caught.value.hint) == (Path("/somewhere"), "stu plan")


def test_a_probe_that_was_killed_for_its_memory_is_a_memory_error() -> None:
    with pytest.raises(MemoryLimitError, match="killed by SIGKILL"):
        ask("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")


def test_a_probe_that_crashed_names_the_signal_and_its_last_words() -> None:
    with pytest.raises(StuError, match="was killed by SIGABRT: it broke") as caught:
        ask("import os, sys; sys.stderr.write('talk\\nit broke\\n'); sys.stderr.flush(); os.abort()")
    assert caught.value.exit_code == 1
    with pytest.raises(StuError, match="ended with exit code 3: it said nothing"):
        ask("raise SystemExit(3)")


@pytest.mark.slow
def test_plan_puts_what_was_measured_into_its_forecast(tmp_path: Path) -> None:
    with use_workspace(tmp_path) as workspace:
        raw = write_tiny_dataset(workspace.raw, num_cases=3, shape=(16, 16, 16), spacing_mm=(1.0, 1.0, 1.0))
        planned = plan(PlanConfig(dataset=str(raw), scale="S", num_workers=0, probe=True))
    measured = next(item for item in planned.configurations if item.name == planned.default_configuration)
    assert measured.provenance["seconds_per_epoch"] == "measured"
    assert measured.seconds_per_epoch > 0
    # This machine's device: with a GPU its memory is measured too.
    assert (measured.provenance["vram_gib"] == "measured") == (not measured.device.startswith("CPU"))

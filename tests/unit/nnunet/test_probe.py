"""The probe: real steps of a plan, measured; what does not fit is a result."""

import json
import mmap
import os
import subprocess
import sys

import pytest
import torch

from stu_pipeline.errors import DataError, ModelError, UsageError
from stu_pipeline.networks.cost import count_parameters
from stu_pipeline.nnunet.memory_meter import is_out_of_memory, open_meter
from stu_pipeline.nnunet.probe import probe_configuration
from stu_pipeline.planfile import read_plan_file
from tests.model_folders import write_model_folder


@pytest.fixture
def make_plan(tmp_path):
    def make(execution=None, **changes):
        folder = write_model_folder(tmp_path, folds=(), **changes)
        path = folder / "plans.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        name = next(iter(content["configurations"]))
        if execution is not None:
            content["stu"] = {"scale": "S", "execution": {name: execution}}
            path.write_text(json.dumps(content), encoding="utf-8")
        return read_plan_file(path), name

    return make


def probe(plan, configuration, **options):
    return probe_configuration(plan, configuration, device="cpu", precision="fp32", num_steps=1, **options)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"configuration": "2d", "patch": (32, 32), "spacing_mm": (1.0, 1.0)},
        {"num_channels": 3, "labels": {"background": 0, "a": 1, "ignore": 2}},
        {"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": (1, 2)},
        {"labels": {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}, "regions_class_order": (1, 2)},
        {"previous_stage": "3d_lowres"},
        {"network": "PlainConvUNet"},
    ],
    ids=["plain", "2d", "channels and ignore", "regions", "regions and ignore", "cascade", "stock network"],
)
def test_every_kind_of_plan_can_be_probed(make_plan, changes):
    plan, name = make_plan(**changes)
    result = probe(plan, name)
    assert not result.is_out_of_memory
    assert result.step_s > 0
    assert result.peak_gib >= 0
    assert result.precision == "fp32" and result.device_name.startswith("CPU")
    assert "says nothing about a GPU" in result.note


def test_parameters_are_those_of_the_network(make_plan):
    plan, name = make_plan()
    assert probe(plan, name).num_parameters == count_parameters(1, 3, [4, 4, 8, 8, 8, 8], [1] * 6)


MEASURE = """
import sys
from pathlib import Path
from stu_pipeline.nnunet.probe import probe_configuration
from stu_pipeline.planfile import read_plan_file
plan = read_plan_file(Path(sys.argv[1]))
print(probe_configuration(plan, "2d", device="cpu", precision="fp32", num_steps=1).peak_gib)
"""


@pytest.mark.slow
def test_micro_batches_and_checkpointing_take_less_memory(make_plan):
    """Measured in fresh processes: memory that this one freed earlier would not be seen as growth."""
    peaks = []
    for micro_batch, is_on in ((1, True), (16, False)):
        execution = {"micro_batch": micro_batch, "activation_checkpointing": is_on, "batch_dice_scope": "sample"}
        plan, _ = make_plan(execution, configuration="2d", patch=(128, 128), spacing_mm=(1.0, 1.0), batch_size=16)
        command = [sys.executable, "-c", MEASURE, str(plan.path)]
        peaks.append(float(subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout))
    assert peaks[0] < 0.75 * peaks[1]


def test_out_of_memory_is_a_result(make_plan):
    plan, name = make_plan(patch=(32768, 32768, 32768))
    result = probe(plan, name)
    assert result.is_out_of_memory
    assert result.peak_gib is None and result.step_s is None
    assert result.num_parameters > 0
    assert result.note.startswith("memory ran out: ")


def test_a_name_in_the_plan_cannot_lead_out_of_the_scratch_folder(make_plan, tmp_path):
    plan, name = make_plan()
    plan.raw["dataset_name"] = "../../escaped"
    before = sorted(tmp_path.rglob("*"))
    variables = dict(os.environ)
    assert not probe(plan, name).is_out_of_memory
    assert sorted(tmp_path.rglob("*")) == before
    assert dict(os.environ) == variables
    assert plan.raw["dataset_name"] == "../../escaped"


def test_problems_of_the_plan_are_errors_and_no_results(make_plan):
    plan, name = make_plan({"micro_batch": 1, "activation_checkpointing": False, "batch_dice_scope": "micro-batch"})
    with pytest.raises(ModelError, match="it is per sample"):
        probe(plan, name)
    with pytest.raises(UsageError, match="no configuration '9d'"):
        probe(plan, "9d")
    with pytest.raises(UsageError, match="num_steps must be at least 1"):
        probe_configuration(plan, name, device="cpu", num_steps=0)
    plan.path.with_name("dataset.json").unlink()
    with pytest.raises(DataError, match=r"dataset\.json"):
        probe(plan, name)


def test_the_labels_can_be_given_instead_of_read(make_plan):
    plan, name = make_plan()
    path = plan.path.with_name("dataset.json")
    content = json.loads(path.read_text(encoding="utf-8"))
    path.unlink()
    content["labels"]["label3"] = 3
    assert probe(plan, name, dataset_json=content).num_parameters == count_parameters(1, 4, [4, 4, 8, 8, 8, 8], [1] * 6)


def test_the_meter_of_the_cpu_sees_what_a_process_grows_by():
    meter = open_meter(torch.device("cpu"))
    # A mapping of its own: an allocator could hand out memory that the process holds already.
    with mmap.mmap(-1, 64 * 2**20) as held:
        for _ in range(64):
            held.write(b"x" * 2**20)
    assert 60 * 2**20 < meter.read().peak < 160 * 2**20


def test_errors_that_mean_no_memory_are_told_from_others():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**48)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))
    assert not is_out_of_memory(ValueError("out of memory"))

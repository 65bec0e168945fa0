"""The probe: real steps of a plan, measured; what does not fit is a result."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from stu_pipeline.errors import DataError, ModelError, UsageError
from stu_pipeline.networks.cost import count_parameters
from stu_pipeline.planfile import read_plan_file
from stu_pipeline.training.probing.probe import probe_configuration
from stu_pipeline.training.probing.scratch import make_random_batch, open_scratch_trainer
from stu_pipeline.training.run.assembly import build_step
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
from stu_pipeline.training.probing.probe import probe_configuration
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


def open_trainer(plan, name):
    content = json.loads(plan.path.with_name("dataset.json").read_text(encoding="utf-8"))
    return open_scratch_trainer(plan, content, name, device=torch.device("cpu"), precision="fp32")


def test_the_batch_has_the_shapes_and_types_a_training_sees(make_plan):
    plan, name = make_plan(num_channels=2, batch_size=3, labels={"background": 0, "a": 1, "ignore": 2})
    with open_trainer(plan, name) as trainer:
        batch = make_random_batch(trainer)
    assert batch.data.shape == (3, 2, 16, 16, 16) and batch.data.dtype == torch.float32
    assert [target.shape[2] for target in batch.targets] == [16, 8, 4, 4, 4]
    assert {target.dtype for target in batch.targets} == {torch.int16}
    assert batch.targets[0].unique().tolist() == [0, 1, 2]


@pytest.mark.parametrize("scope", ["effective batch", "micro-batch"])
def test_the_step_runs_as_the_plan_says(make_plan, scope):
    execution = {"micro_batch": 1, "activation_checkpointing": True, "batch_dice_scope": scope}
    plan, name = make_plan(execution, batch_dice=True)
    seen = []
    with open_trainer(plan, name) as trainer:
        trainer.network.register_forward_pre_hook(lambda module, given: seen.append(given[0].shape[0]))
        outcome = build_step(trainer, trainer.execution).run(make_random_batch(trainer))
    assert float(outcome.is_fault) == 0
    # Two parts; where Dice runs over both, its sums are a pass of their own.
    assert seen == [1] * (4 if scope == "effective batch" else 2)


def ask(request):
    command = [sys.executable, "-m", "stu_pipeline.training.probing.probe"]
    return subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, timeout=300, check=False)


def make_request(make_plan, **changes):
    plan, name = make_plan(**changes)
    content = json.loads(plan.path.with_name("dataset.json").read_text(encoding="utf-8"))
    return {"plan": plan.raw, "configuration": name, "dataset_json": content, "device": "cpu"}


def test_a_process_answers_with_the_error_that_a_user_can_act_on(make_plan):
    refused = ask(make_request(make_plan) | {"configuration": "9d", "parent": os.getpid()})
    assert refused.returncode == 2
    assert json.loads(refused.stdout)["error"]["problem"].startswith("plan 'stuSPlans' has no configuration '9d'")


@pytest.mark.slow
def test_a_process_answers_with_one_json_object(make_plan):
    done = ask(make_request(make_plan) | {"num_steps": 1, "precision": "fp32"})
    answer = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert answer["step_s"] > 0 and answer["peak_gib"] > 0 and not answer["is_out_of_memory"]


@pytest.mark.slow
def test_a_probe_ends_with_the_process_that_asked_for_it(make_plan, tmp_path):
    request = make_request(make_plan) | {"num_steps": 10**9, "precision": "fp32"}
    asked = tmp_path / "request.json"
    start = "import json, os, subprocess, sys; asked = json.load(open(sys.argv[1])); "
    start += "command = [sys.executable, '-m', 'stu_pipeline.training.probing.probe']; "
    start += "probe = subprocess.Popen(command, stdin=subprocess.PIPE); "
    start += "probe.stdin.write(json.dumps(asked | {'parent': os.getpid()}).encode()); probe.stdin.close(); "
    start += "print(probe.pid)"  # and so it ends
    asked.write_text(json.dumps(request), encoding="utf-8")
    done = subprocess.run([sys.executable, "-c", start, str(asked)], stdout=subprocess.PIPE, timeout=60, check=True)
    pid, end = int(done.stdout), time.monotonic() + 120
    while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
        time.sleep(0.2)
    assert not Path(f"/proc/{pid}").exists()

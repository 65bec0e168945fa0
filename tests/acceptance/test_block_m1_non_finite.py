"""Block M1: numbers that are not finite, in the data, in the loss or in the gradients, never reach the weights.

A step with them is skipped; three in a row end the training with 8, the cases named, and the last finite state saved.
"""

from __future__ import annotations

import json
import pickle
import re
import shutil
import signal

import blosc2
import numpy as np
import pytest
import torch

from tests.training_runs import NUM_EPOCHS, NUM_STEPS, Training, act_at, hash_files, read_intact

VALUES = {"nan": float("nan"), "inf": float("inf"), "minus inf": float("-inf")}
TRAINING_CASES = ("case_002", "case_003", "case_004")


def poison(dataset, case_ids, value):
    """Write a value into the middle of every patch that can be cut from preprocessed cases."""
    for case_id in case_ids:
        file = dataset.data / f"{case_id}.b2nd"
        image = blosc2.open(str(file), mode="r")[:]
        image[:, ::3, ::3, ::3] = value
        file.unlink()
        blosc2.asarray(np.ascontiguousarray(image), urlpath=str(file), mode="w")
    assert (dataset.data / f"{TRAINING_CASES[0]}.pkl").is_file()


def read_num_skipped(training):
    lines = (training.paths.folder / "metrics.jsonl").read_text().splitlines()
    return sum(json.loads(line)["num_skipped_steps"] for line in lines)


def require_stopped(training):
    """Run into three faults in a row: exit 8 with the cases, and a last state that is finite and loads."""
    output = training.finish(8)
    text = " ".join(output.split())
    assert "not finite 3 times in a row" in text and "the last finite state is saved" in text, output
    named = re.search(r"last cases: (case_\d+(?:, case_\d+)*)", text)
    assert named and set(named[1].split(", ")) <= set(TRAINING_CASES), output
    skipped = [line for line in training.read_log().splitlines() if "step skipped" in line][-3:]
    assert len(skipped) == 3 and all("case_" in line for line in skipped)
    assert not training.list_leftovers() and not training.paths.checkpoint("final").exists()
    training.require_intact()
    content = read_intact(training.paths.checkpoint("latest"))
    for state in content["optimizer_state"]["state"].values():
        assert torch.isfinite(state["momentum_buffer"]).all()
    return content


def mark_slow(values, num_fast=1):
    return [pytest.param(v, marks=pytest.mark.integration if i < num_fast else pytest.mark.slow)
            for i, v in enumerate(values)]  # fmt: skip


@pytest.mark.parametrize("value", mark_slow(VALUES))
@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_where_every_case_is_poisoned_no_step_counts(tiny, tmp_path, value, precision):
    dataset = tiny.copy(tmp_path / "dataset")
    poison(dataset, TRAINING_CASES, VALUES[value])
    training = Training(dataset, tmp_path / "results", {"--precision": precision})
    content = require_stopped(training)
    # Not one step counted: the weights are those of the start, which a run without a step shows.
    assert not content["stu"]["position"]["losses"] and content["stu"]["position"]["num_skipped"] == 3
    untouched = Training(tiny, tmp_path / "untouched", {"--precision": precision})
    stop = act_at("torch.optim.SGD.step 1", f"os.kill(os.getpid(), {int(signal.SIGTERM)})")
    poisoned_start = Training(dataset, tmp_path / "start", {"--precision": precision})
    assert poisoned_start.start(prelude=stop).wait() == 143
    assert untouched.start(prelude=stop).wait() == 143
    start = read_intact(poisoned_start.paths.checkpoint("latest"))
    assert start["network_weights"].keys() == content["network_weights"].keys()
    for name, weight in start["network_weights"].items():
        assert torch.equal(weight, content["network_weights"][name])
    moved = read_intact(untouched.paths.checkpoint("latest"))["network_weights"]
    assert any(not torch.equal(weight, moved[name]) for name, weight in start["network_weights"].items())


@pytest.mark.slow
def test_the_same_command_stops_again_until_the_data_is_repaired(tiny, tmp_path):
    dataset = tiny.copy(tmp_path / "dataset")
    poison(dataset, TRAINING_CASES, float("nan"))
    training = Training(dataset, tmp_path / "results")
    require_stopped(training)
    require_stopped(training)
    for case_id in TRAINING_CASES:
        (dataset.data / f"{case_id}.b2nd").write_bytes((tiny.data / f"{case_id}.b2nd").read_bytes())
    training.finish()
    training.require_clean()
    training.require_intact()


@pytest.mark.parametrize("value", mark_slow(VALUES))
def test_one_poisoned_case_costs_its_steps_and_is_named(tiny, tmp_path, value):
    dataset = tiny.copy(tmp_path / "dataset")
    poison(dataset, ["case_003"], VALUES[value])
    for seed in range(1, 30):
        one = Training(dataset, tmp_path / str(seed), {"--seed": seed})
        started = one.start()
        code = started.wait()
        assert code in (0, 8), started.output
        one.require_intact()
        skipped = [line for line in one.read_log().splitlines() if "step skipped" in line]
        assert all("case_003" in line for line in skipped), skipped
        if code == 0 and skipped:
            break
    else:
        pytest.fail("no training met the case, but not three times in a row")
    assert len(skipped) == read_num_skipped(one)
    losses = [loss for loss in one.read_checkpoint()["logging"]["train_losses"]]
    assert len(losses) == NUM_EPOCHS and np.isfinite(losses).all()


@pytest.mark.parametrize("precision", mark_slow(["fp32", "bf16"]))
def test_a_learning_rate_that_explodes_never_leaves_weights_that_are_not_finite(tiny, tmp_path, precision):
    training = Training(tiny, tmp_path, {"--lr": 1e9, "--epochs": 8, "--precision": precision})
    started = training.start()
    code = started.wait()
    assert code in (0, 8), started.output
    assert "Traceback" not in started.output and "bug" not in started.output
    training.require_intact()
    assert training.list_checkpoints() and not training.list_leftovers()


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 4, NUM_STEPS + 1])
def test_one_gradient_that_is_not_finite_costs_one_step(tiny, tmp_path, number):
    """Set right before the norm is taken, as an overflow in the backward pass would."""
    training = Training(tiny, tmp_path)
    prelude = (
        "import torch\n"
        "original_backward = torch.Tensor.backward\n"
        "count = 0\n"
        "def backward(tensor, *arguments, **options):\n"
        "    global count\n"
        "    count += 1\n"
        f"    return original_backward(tensor * float('inf') if count == {number} else tensor, *arguments, **options)\n"
        "torch.Tensor.backward = backward\n"
    )
    training.finish(prelude=prelude)
    assert read_num_skipped(training) == 1
    training.require_intact()
    training.require_clean()


@pytest.mark.slow
def test_logits_that_are_not_finite_write_no_mask(tiny, undisturbed, tmp_path):
    """The image of a validation case is poisoned after the training."""
    dataset = tiny.copy(tmp_path / "dataset")
    poison(dataset, ["case_001"], float("nan"))
    shutil.copytree(undisturbed.results, tmp_path / "results")
    training = Training(dataset, tmp_path / "results")
    shutil.rmtree(training.paths.folder / "validation")
    before = hash_files(training.paths.folder, without=("run.log", "status.json"))
    output = training.finish(8)
    assert "logits of validation case 'case_001' are not finite" in " ".join(output.split())
    assert not (training.paths.folder / "validation" / "case_001.nii.gz").exists()
    assert not training.paths.validation_summary.exists()
    after = hash_files(training.paths.folder, without=("run.log", "status.json", "validation/*"))
    assert after == before
    assert pickle.loads((dataset.data / "case_001.pkl").read_bytes())

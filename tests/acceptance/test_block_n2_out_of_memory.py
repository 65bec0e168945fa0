"""Block N2: memory runs out in a training, at any convolution and for good.

The step is run again with less memory at once: first with activations recomputed, then in smaller parts of the same
batch. That is said, recorded, and kept by whoever continues; the result stays what it was. At the foot of the ladder
the exit code is 6, and nothing that was saved is lost.
"""

from __future__ import annotations

import json
import random
import signal

import pytest
import torch

from tests.training_runs import NUM_STEPS, Training, act_at, read_outcome

NUM_RANDOM = 8
CONVOLUTION = "torch.nn.functional.conv3d {numbers}"
OUT = "raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 9.00 GiB')"
RECOMPUTED = "activations are recomputed from now on"
IN_PARTS = "the batch of 2 passes in parts of 1 from now on, not 2"
SAME = "the effective batch and its statistics stay the same"
# How the running sums of the losses may differ where the same numbers are added in another order.
TOLERANCE = {"rtol": 2e-4, "atol": 2e-5}


@pytest.fixture(scope="module")
def num_convolutions(tiny, tmp_path_factory):
    """Convolutions of one forward pass, by the network's own count."""
    training = Training(tiny, tmp_path_factory.mktemp("count"))
    file = training.results / "count"
    count = act_at("torch.nn.functional.conv3d range(1,10**6)", f"open({str(file)!r}, 'a').write('1')")
    stop = act_at("torch.optim.SGD.step 1", f"os.kill(os.getpid(), {int(signal.SIGKILL)})")
    training.start(prelude=f"exec({count!r}, {{}})\nexec({stop!r}, {{}})").wait()
    return file.stat().st_size


def run_out(numbers):
    return act_at(CONVOLUTION.format(numbers=numbers), OUT)


def read_warnings(output):
    text = " ".join(output.split())
    assert text.count("memory ran out") == text.count(SAME), text
    return text.count(RECOMPUTED), text.count(IN_PARTS)


def read_way(training):
    execution = training.read_record()["execution"]
    return execution["activation_checkpointing"], execution["micro_batch"], execution["num_accumulation_steps"]


def require_close(training, reference):
    """Require the result of a training that had enough memory, but for the order of additions."""
    found = read_outcome(training)
    for name, weight in reference.weights.items():
        torch.testing.assert_close(found.weights[name], weight, **TOLERANCE)
    for mine, theirs in zip(found.momentum, reference.momentum, strict=True):
        torch.testing.assert_close(mine, theirs, **TOLERANCE)
    for mine, theirs in zip(found.log["train_losses"], reference.log["train_losses"], strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4)
    training.require_clean()


def mark_slow(values, num_fast=1):
    return [pytest.param(v, marks=pytest.mark.integration if i < num_fast else pytest.mark.slow)
            for i, v in enumerate(values)]  # fmt: skip


@pytest.mark.parametrize("seed", mark_slow(range(NUM_RANDOM)))
def test_a_step_that_does_not_fit_is_run_again_with_activations_recomputed(
    tiny, reference, num_convolutions, tmp_path, seed
):
    number = 1 + random.Random(seed).randrange(NUM_STEPS * num_convolutions)
    training = Training(tiny, tmp_path)
    output = training.finish(prelude=run_out(number))
    assert read_warnings(output) == (1, 0), output
    assert read_way(training) == (True, 2, 1) and training.read_record()["memory_ran_out"] is True
    assert training.read_checkpoint()["stu"]["execution"]["activation_checkpointing"] is True
    require_close(training, reference)


@pytest.mark.integration
def test_twice_out_of_memory_cuts_the_batch_and_keeps_its_meaning(tiny, reference, num_convolutions, tmp_path):
    training = Training(tiny, tmp_path)
    # The second one is in the first pass of the same step, run again.
    output = training.finish(prelude=run_out(f"range({num_convolutions},{num_convolutions + 2})"))
    assert read_warnings(output) == (1, 1), output
    assert read_way(training) == (True, 1, 2)
    require_close(training, reference)


@pytest.mark.slow
def test_at_the_foot_of_the_ladder_it_ends_with_advice_and_can_be_continued(tiny, reference, tmp_path):
    training = Training(tiny, tmp_path)
    stop = act_at("torch.optim.SGD.step 3", f"os.kill(os.getpid(), {int(signal.SIGTERM)})")
    assert training.start(prelude=stop).wait() == 143
    before = {path.name: path.read_bytes() for path in training.list_checkpoints()}
    output = training.finish(6, prelude=run_out("range(1,1000000)"))
    text = " ".join(output.split())
    assert RECOMPUTED in text and IN_PARTS in text and "memory ran out" in text
    assert "stu plan" in text and "--gpu-memory" in text, "there is no advice"
    assert {path.name: path.read_bytes() for path in training.list_checkpoints()} == before
    assert not training.list_leftovers()
    # With memory again it goes on as if nothing had been: nothing of the lower rungs was saved.
    training.require_end(reference)


@pytest.mark.slow
def test_who_continues_begins_on_the_lower_rung(tiny, reference, num_convolutions, tmp_path):
    training = Training(tiny, tmp_path)
    short = run_out(f"range({num_convolutions},{num_convolutions + 2})")
    stop = act_at("torch.optim.SGD.step 3", f"os.kill(os.getpid(), {int(signal.SIGTERM)})")
    started = training.start(prelude=f"exec({short!r}, {{}})\nexec({stop!r}, {{}})")
    assert started.wait() == 143, started.output
    assert read_warnings(started.output) == (1, 1)
    output = training.finish()
    assert read_warnings(output) == (0, 0)
    assert read_way(training) == (True, 1, 2), "the record says how the steps of the plan run, not these"
    execution = training.read_checkpoint()["stu"]["execution"]
    assert (execution["activation_checkpointing"], execution["micro_batch"]) == (True, 1)
    require_close(training, reference)


@pytest.mark.slow
@pytest.mark.parametrize("error", ["MemoryError()", "RuntimeError('DefaultCPUAllocator: not enough memory: x')"])
def test_other_words_for_no_memory_are_understood(tiny, reference, tmp_path, error):
    training = Training(tiny, tmp_path)
    output = training.finish(prelude=act_at(CONVOLUTION.format(numbers=5), f"raise {error}"))
    assert read_warnings(output) == (1, 0)
    require_close(training, reference)


@pytest.mark.slow
def test_another_error_is_not_taken_for_no_memory(tiny, tmp_path):
    training = Training(tiny, tmp_path)
    started = training.start(prelude=act_at(CONVOLUTION.format(numbers=5), "raise RuntimeError('something else')"))
    assert started.wait() == 1 and "something else" in started.output
    assert "memory ran out" not in started.output


@pytest.mark.slow
@pytest.mark.parametrize("numbers", ["3", "range(1,1000000)"])
def test_memory_that_runs_out_in_a_validation_costs_no_step(tiny, reference, tmp_path, numbers):
    training = Training(tiny, tmp_path)
    started = training.start(prelude=act_at(f"torch.nn.functional.conv3d {numbers} no_grad", OUT))
    assert started.wait() == 6, started.output
    assert "Traceback" not in started.output
    epoch, step = training.require_intact()
    assert epoch * NUM_STEPS + step >= NUM_STEPS
    training.require_end(reference)


@pytest.mark.slow
def test_the_record_is_json_that_can_be_read(tiny, tmp_path):
    training = Training(tiny, tmp_path)
    training.finish(prelude=run_out(7))
    assert json.loads(training.paths.record.read_text())["execution"]["batch_dice_scope"] == "effective batch"

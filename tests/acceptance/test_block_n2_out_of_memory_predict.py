"""Block N2, prediction: memory that runs out costs time and no voxel, or ends in exit 6 with what is done kept."""

from __future__ import annotations

import pytest

from tests.prediction_runs import NUM_CASES, Prediction, open_tiny_task, read_outcome
from tests.training_runs import act_at

# Called once per layer, whichever way the convolutions take.
LAYER = "torch.nn.functional.leaky_relu {numbers}"
FULL = "raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 9.00 GiB')"
NO_MEMORY = 6
SEVERAL = 10


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    with open_tiny_task(tmp_path_factory.mktemp("task")) as opened:
        yield opened


@pytest.fixture(scope="module")
def reference(task, tmp_path_factory):
    prediction = Prediction(task, tmp_path_factory.mktemp("reference") / "out")
    prediction.finish()
    return read_outcome(prediction)


@pytest.mark.parametrize("numbers", [
    "1",
    pytest.param("9", marks=pytest.mark.slow),
    pytest.param("17", marks=pytest.mark.slow),
    pytest.param("range(5,7)", marks=pytest.mark.slow),
])  # fmt: skip
def test_a_pass_that_does_not_fit_is_run_again_with_the_same_masks(task, reference, tmp_path, numbers):
    prediction = Prediction(task, tmp_path / "out")
    prediction.finish(prelude=act_at(LAYER.format(numbers=numbers), FULL))
    found = read_outcome(prediction)
    masks = {name for name in reference.tree if name.endswith(".nii.gz")}
    assert len(masks) == NUM_CASES
    assert {name: found.tree[name] for name in masks} == {name: reference.tree[name] for name in masks}
    notes = [note for case in found.report["cases"].values() for note in case["notes"]]
    assert any("memory was full: the batch is" in note for note in notes)


@pytest.mark.slow
@pytest.mark.parametrize("error", [FULL, "raise MemoryError()"])
def test_where_nothing_fits_it_ends_in_exit_6_and_the_same_command_does_it_later(task, reference, tmp_path, error):
    prediction = Prediction(task, tmp_path / "out")
    said = prediction.finish(NO_MEMORY, prelude=act_at(LAYER.format(numbers="range(1,10**6)"), error))
    assert "not enough memory" in said
    assert prediction.list_masks() == {}
    prediction.require_end(reference)


@pytest.mark.slow
def test_memory_that_is_gone_after_the_first_case_keeps_that_case(task, reference, tmp_path):
    prediction = Prediction(task, tmp_path / "out")
    prelude = act_at(LAYER.format(numbers="range(12,10**6)"), "raise MemoryError()")
    started = prediction.start(prelude=prelude)
    assert started.wait() in (NO_MEMORY, SEVERAL), started.output
    finished = prediction.require_intact(reference)
    assert "Traceback" not in started.output
    prediction.require_end(reference, finished)


@pytest.mark.slow
def test_another_error_is_not_taken_for_no_memory(task, tmp_path):
    prediction = Prediction(task, tmp_path / "out")
    started = prediction.start(prelude=act_at(LAYER.format(numbers=3), "raise RuntimeError('something else')"))
    assert started.wait() == 1, started.output
    assert "something else" in started.output and "not enough memory" not in started.output
    assert prediction.list_masks() == {}

"""`stu train --pretrained`: what is loaded, recipes that go on exactly, refusals before any work, several processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stu_pipeline.workspace import Workspace
from tests.integration.stock import train_stock
from tests.planned import CONFIGURATION, PLAN_NAME
from tests.tiny_weights import PRELUDE, STRIDES, narrow_plan, write_weights
from tests.training_runs import TinyDataset, Training, act_at, open_tiny_dataset, read_outcome, require_equal

pytestmark = pytest.mark.integration

HEAD = "decoder.seg_layers.4.weight"
ENCODER = "conv_blocks_context.4.0.conv1.weight"
_STOP = "os.kill(os.getpid(), signal.SIGTERM)"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyDataset]:
    """A dataset with labels background, low, high whose plan is a narrow scale S. Read-only."""
    with open_tiny_dataset(tmp_path_factory.mktemp("fine_tuning")) as dataset:
        dataset.edit_plan(narrow_plan)
        yield dataset


@pytest.fixture(scope="module")
def weights(tiny: TinyDataset) -> Path:
    """Weights with labels background, high, other. Read-only."""
    path = tiny.root / "weights.pth"
    write_weights(path)
    return path


@pytest.fixture(scope="module")
def tuned(tiny: TinyDataset, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Training:
    """A finished training by the usual recipe. Read-only."""
    training = begin(tiny, tmp_path_factory.mktemp("tuned"), weights)
    training.finish(prelude=PRELUDE)
    return training


def begin(tiny: TinyDataset, results: Path, weights: Path | None, **options: Any) -> Training:
    flags = {f"--{name.replace('_', '-')}": value for name, value in options.items()}
    given = {} if weights is None else {"--pretrained": weights}
    return Training(tiny, results, {**given, **flags})


def test_a_training_begins_with_the_weights_and_says_so_everywhere(tuned: Training, weights: Path, tiny: TinyDataset):
    record = tuned.read_record()
    assert record["start"] == "pretrained" and record["settings"]["recipe"] == "warmup"
    found = record["pretrained"]
    assert (found["file"], found["scale"], found["recipe"]) == (weights.name, "S", "warmup")
    assert found["identity"] == record["settings"]["pretrained"]
    assert [(row["target"], row["source"]) for row in found["table"]["heads"]] == [
        ("background", "background"), ("low", None), ("high", "high"),
    ]  # fmt: skip
    assert found["table"]["shares"]["loaded"] > 0.9
    final = tuned.read_checkpoint()
    assert final["stu"]["start"]["kind"] == "pretrained" and len(final["optimizer_state"]["param_groups"]) == 1
    assert final["stu"]["settings"]["warmup_epochs"] == pytest.approx(0.1)
    rows = (tuned.paths.folder / "metrics.jsonl").read_text().splitlines()
    assert {json.loads(row)["start"] for row in rows} == {"pretrained"}
    log = tuned.read_log()
    assert "heads of the same name: background, high" in log and "recipe 'warmup'" in log


def test_almost_no_learning_leaves_the_weights_as_they_were_given(tiny: TinyDataset, weights: Path, tmp_path: Path):
    training = begin(tiny, tmp_path, weights, lr=1e-12, epochs=1, iterations=1)
    training.finish(prelude=PRELUDE)
    given = torch.load(weights, weights_only=True)["network_weights"]
    found = training.read_checkpoint()["network_weights"]
    for name, weight in given.items():
        if "seg_layers" not in name:
            torch.testing.assert_close(found[name], weight, msg=name)
    torch.testing.assert_close(found[HEAD][[0, 2]], given[HEAD][[0, 1]])
    assert (found[HEAD][1] - given[HEAD][2]).abs().max() > 1e-3


@pytest.mark.parametrize("recipe", ["discriminative", "decoder-first", "l2-start", "continual"])
def test_every_recipe_goes_on_to_the_last_bit_after_a_stop(
    tiny: TinyDataset, weights: Path, tmp_path: Path, recipe: str
):
    more = {"recipe": recipe, "epochs": 5, "iterations": 2, "ema": 0.9}
    whole = begin(tiny, tmp_path / "whole", weights, **more)
    output = whole.finish(prelude=PRELUDE)
    assert ("cannot be continued by stock" in output) is (recipe != "decoder-first")
    stopped = begin(tiny, tmp_path / "stopped", weights, **more)
    step = 1 if recipe == "decoder-first" else 5
    stopped.finish(143, prelude=PRELUDE + act_at(f"torch.optim.SGD.step {step}", _STOP))
    # The file of weights may be gone by then.
    Training(tiny, stopped.results, {f"--{name}": value for name, value in more.items()}).finish(prelude=PRELUDE)
    require_equal(read_outcome(stopped), read_outcome(whole))
    ends = [training.read_checkpoint("ema")["network_weights"] for training in (stopped, whole)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[1])
    assert stopped.read_record()["pretrained"]["recipe"] == recipe
    assert (stopped.paths.folder / "starting_weights.safetensors").is_file() is (recipe in ("l2-start", "continual"))


def test_starting_weights_that_are_gone_end_a_run_that_pulls_to_them(tiny: TinyDataset, weights: Path, tmp_path: Path):
    training = begin(tiny, tmp_path, weights, recipe="l2-start")
    training.finish(143, prelude=PRELUDE + act_at("torch.optim.SGD.step 3", _STOP))
    kept = training.paths.folder / "starting_weights.safetensors"
    assert training.read_record()["pretrained"]["starting_weights"]["file"] == kept.name
    kept.unlink()
    assert "'starting_weights.safetensors' is missing" in training.finish(4, prelude=PRELUDE)


def test_the_encoder_rests_and_then_moves(tiny: TinyDataset, weights: Path, tmp_path: Path):
    given = torch.load(weights, weights_only=True)["network_weights"]
    training = begin(tiny, tmp_path, weights, recipe="decoder-first", epochs=5, iterations=4, warmup=0)
    training.finish(143, prelude=PRELUDE + act_at("torch.optim.SGD.step 2", _STOP))  # half an epoch of rest
    resting = training.read_checkpoint("latest")
    assert resting["stu"]["position"]["step"] == 2
    assert torch.equal(resting["network_weights"][ENCODER], given[ENCODER])
    index = list(resting["network_weights"]).index(ENCODER)
    assert not resting["optimizer_state"]["state"][index]["momentum_buffer"].any()
    training.finish(prelude=PRELUDE)
    assert not torch.equal(training.read_checkpoint()["network_weights"][ENCODER], given[ENCODER])


def test_a_finished_fold_does_not_answer_for_another_start(
    tuned: Training, tiny: TinyDataset, weights: Path, tmp_path: Path
):
    other = tmp_path / "other.pth"
    write_weights(other, seed=9)
    before = tuned.paths.checkpoint("final").stat().st_mtime_ns
    assert "already complete" in tuned.finish(prelude=PRELUDE)
    output = begin(tiny, tuned.results, other).finish(4, prelude=PRELUDE)
    assert "began with the weights of 'weights.pth', not with those of 'other.pth'" in output and "--force" in output
    assert "goes by recipe 'warmup'" in begin(tiny, tuned.results, weights, recipe="paper").finish(2, prelude=PRELUDE)
    output = begin(tiny, tuned.results, None).finish(prelude=PRELUDE)
    assert "already complete" in output and "began with the weights of 'weights.pth'" in output
    assert tuned.paths.checkpoint("final").stat().st_mtime_ns == before


def test_a_run_that_was_begun_does_not_take_another_start(tiny: TinyDataset, weights: Path, tmp_path: Path):
    training = begin(tiny, tmp_path, None)
    training.finish(143, prelude=PRELUDE + act_at("torch.optim.SGD.step 3", _STOP))
    checkpoint = training.paths.checkpoint("latest").read_bytes()
    output = begin(tiny, tmp_path, weights).finish(4, prelude=PRELUDE)
    assert "fold 0 began from scratch, not with those of 'weights.pth'" in output
    assert training.paths.checkpoint("latest").read_bytes() == checkpoint
    training.finish(prelude=PRELUDE)
    assert training.read_record()["start"] == "scratch"


def test_what_is_refused_is_refused_before_the_run_folder_is_touched(tiny: TinyDataset, weights: Path, tmp_path: Path):
    files = {name: tmp_path / name for name in ("text.pth", "cut.pth", "strides.pth", "large.pth", "heads.json")}
    files["text.pth"].write_text("hello")
    files["cut.pth"].write_bytes(weights.read_bytes()[:-500])
    write_weights(files["strides.pth"], strides=(*STRIDES[:3], (2, 2, 2), *STRIDES[4:]))
    write_weights(files["large.pth"], width=32)  # scale B
    files["heads.json"].write_text(json.dumps({"schema": 1, "labels": {"low": "nothing"}}))
    refusals: list[tuple[int, str, dict[str, Any]]] = [
        (4, "missing.pth", {"pretrained": tmp_path / "missing.pth"}),
        (4, "text.pth", {"pretrained": files["text.pth"]}),
        (4, "cut.pth", {"pretrained": files["cut.pth"]}),
        (4, "stu plan Dataset901_Tiny --pretrained", {"pretrained": files["strides.pth"]}),
        (4, "scale B", {"pretrained": files["large.pth"]}),
        (3, "no label 'nothing'", {"pretrained": weights, "head_mapping": files["heads.json"]}),
        (4, "PET", {"pretrained": weights, "channel_mapping": "CT=PET"}),
        (2, "channel mapping", {"pretrained": weights, "channel_mapping": "CT"}),
        (2, "recipe must be one of", {"pretrained": weights, "recipe": "magic"}),
        (2, "recipe 'paper'", {"recipe": "paper"}),
        (2, "--pretrained FILE", {"head_mapping": files["heads.json"]}),
        (4, "takes no side-car", {"pretrained": weights, "sidecar": files["heads.json"]}),
    ]
    for code, words, options in refusals:
        training = begin(tiny, tmp_path / "results", None, **options)
        output = training.finish(code, prelude=PRELUDE)
        assert words in output, (words, output)
        assert not training.model_folder.exists(), words


def test_a_plan_made_for_weights_is_told_when_none_are_given(tiny: TinyDataset, weights: Path, tmp_path: Path):
    copy = tiny.copy(tmp_path / "copy")
    made_for = {"file": weights.name, "identity": "abc", "scale": "S", "num_axes": 3, "num_input_channels": 1}
    copy.edit_plan(lambda plan: plan["stu"].update(pretrained=made_for))
    output = begin(copy, tmp_path / "results", None, epochs=1, iterations=1).finish(prelude=PRELUDE)
    assert "was made for the weights of 'weights.pth', and the training begins from scratch" in output


@pytest.mark.parametrize("recipe", ["warmup", "discriminative"])
def test_stock_continues_recipes_with_one_group_and_no_others(
    tiny: TinyDataset, weights: Path, tmp_path: Path, recipe: str
):
    training = begin(tiny, tmp_path, weights, recipe=recipe)
    training.finish(143, prelude=PRELUDE + act_at("torch.optim.SGD.step 5", _STOP))
    workspace = Workspace(
        raw=tiny.root / "nnUNet_raw", preprocessed=tiny.root / "nnUNet_preprocessed", results=tmp_path
    )
    loaded = []

    def look(trainer: Any) -> None:
        loaded.append(trainer.current_epoch)
        raise InterruptedError  # what follows is stock's own

    expected = InterruptedError if recipe == "warmup" else ValueError
    with pytest.raises(expected):
        train_stock(workspace, tiny.raw.name, PLAN_NAME, continue_training=True, look=look)
    assert loaded == ([1] if recipe == "warmup" else [])


def test_two_processes_begin_with_the_same_weights_as_one(tiny: TinyDataset, tmp_path: Path):
    """True scale S at a tiny patch: processes that are started anew know the table of scales as it is."""
    copy = tiny.copy(tmp_path / "copy")
    copy.edit_plan(_widen)
    weights = tmp_path / "small.pth"
    write_weights(weights, width=16)
    more = {"recipe": "continual", "epochs": 1, "iterations": 2, "augment": "none", "mirror": "none"}
    checkpoints = []
    for name, gpus in (("alone", 1), ("together", 2)):
        training = begin(copy, tmp_path / name, weights, gpus=gpus, **more)
        training.finish()
        checkpoints.append(training.read_checkpoint())
    alone, together = (checkpoint["network_weights"] for checkpoint in checkpoints)
    given = torch.load(weights, weights_only=True)["network_weights"]
    for name, weight in alone.items():
        torch.testing.assert_close(together[name], weight, rtol=1e-3, atol=1e-5, msg=name)
    assert (together[ENCODER] - given[ENCODER]).abs().max() < 1e-4
    losses = [checkpoint["logging"]["train_losses"] for checkpoint in checkpoints]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-4)


def test_sharding_takes_recipes_whose_weights_move_alike_and_refuses_the_others(tiny: TinyDataset, tmp_path: Path):
    copy = tiny.copy(tmp_path / "copy")
    copy.edit_plan(_widen)
    weights = tmp_path / "small.pth"
    given = write_weights(weights, width=16)
    more = {"epochs": 1, "iterations": 1, "gpus": 2, "augment": "none", "mirror": "none", "lr": 1e-12, "shard": None}
    refused = begin(copy, tmp_path / "refused", weights, recipe="continual", **more)
    assert "--shard knows no recipe whose weights move apart, got 'continual'" in refused.finish(2)
    training = begin(copy, tmp_path / "taken", weights, **more)
    training.finish()
    torch.testing.assert_close(training.read_checkpoint()["network_weights"][ENCODER], given[ENCODER])


def _widen(plan: dict[str, Any]) -> None:
    arguments = plan["configurations"][CONFIGURATION]["architecture"]["arch_kwargs"]
    arguments["features_per_stage"] = [16, 32, 64, 128, 256, 256]

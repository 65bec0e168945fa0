"""Block K: checkpoints that are damaged, swapped, or belong to another training.

A damaged one is passed over, kept and named; the training goes on from the next best one and ends the same, to the
last bit. Where none is left, or they belong to something else, nothing is written and the exit code is 4.
"""

from __future__ import annotations

import random
import shutil
import signal

import pytest
import torch

from stu_pipeline.storage import previous_path
from tests.training_runs import NUM_STEPS, Training, act_at, hash_files, read_intact

NUM_CUTS, NUM_FLIPS = 60, 100
STEPS_DONE = 6
# What a run writes even when it refuses.
TALK = ("output-*.txt", "run.log", "status.json", "metrics.jsonl", ".lock")


@pytest.fixture(scope="module")
def stopped(tiny, tmp_path_factory):
    """A training that was killed in its second epoch, with the newest checkpoint and two older ones. Read-only."""
    training = Training(tiny, tmp_path_factory.mktemp("stopped"))
    kill = f"os.kill(os.getpid(), {int(signal.SIGKILL)})"
    started = training.start(prelude=act_at(f"torch.optim.SGD.step {STEPS_DONE + 1}", kill))
    assert started.wait() == -signal.SIGKILL, started.output
    return training


@pytest.fixture
def training(stopped, tmp_path):
    """A copy of it."""
    return copy_of(stopped, tmp_path / "results")


def copy_of(training, results, **options):
    shutil.copytree(training.results, results)
    return Training(training.dataset, results, {**training.options, **options})


def list_newest(training):
    latest = training.paths.checkpoint("latest")
    return [latest, previous_path(latest), previous_path(latest, 2)]


def count_steps(path):
    content = read_intact(path)
    return content["current_epoch"] * NUM_STEPS + content["stu"]["position"]["step"]


def mark_slow(values, num_fast=1):
    return [pytest.param(v, marks=pytest.mark.integration if i < num_fast else pytest.mark.slow)
            for i, v in enumerate(values)]  # fmt: skip


@pytest.mark.integration
def test_two_older_checkpoints_are_kept_beside_the_newest(stopped):
    assert [count_steps(path) for path in list_newest(stopped)] == [STEPS_DONE, STEPS_DONE - 1, STEPS_DONE - 2]


# -- K1: a damaged newest one --------------------------------------------------------------------


def require_passed_over(training, reference, damaged, *, step):
    """Continue; the damaged files stay as they are until the end of the training, and are named."""
    before = {path.name: path.read_bytes() for path in damaged}
    kept = act_at("os.replace 1 checkpoint_latest.pth", f"os.kill(os.getpid(), {int(signal.SIGTERM)})")
    started = training.start(prelude=kept)
    assert started.wait() == 143, started.output
    text = " ".join(started.output.split())
    for name in before:
        assert "damaged and passed over" in text and name in text, text
        assert f"'{name}' cannot be continued" in training.read_log()
    place = training.read_record()["continued_from"]
    assert place["epoch"] * NUM_STEPS + place["step"] == step
    for name, content in before.items():
        assert (training.paths.folder / f"{name}.damaged").read_bytes() == content, f"{name} was not kept"
    training.require_end(reference)
    assert not list(training.paths.folder.glob("*.damaged"))


@pytest.mark.parametrize("seed", mark_slow(range(NUM_CUTS)))
def test_a_newest_checkpoint_that_is_cut_is_passed_over(training, reference, seed):
    latest = list_newest(training)[0]
    whole = latest.read_bytes()
    latest.write_bytes(whole[: random.Random(seed).randrange(len(whole))])
    require_passed_over(training, reference, [latest], step=STEPS_DONE - 1)


@pytest.mark.parametrize("seed", mark_slow(range(NUM_FLIPS)))
def test_a_newest_checkpoint_with_a_flipped_bit_is_passed_over_or_unharmed(training, reference, seed):
    latest = list_newest(training)[0]
    content = bytearray(latest.read_bytes())
    generator = random.Random(2000 + seed)
    content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
    latest.write_bytes(content)
    if has_same_content(latest):
        training.require_end(reference)  # padding between the arrays, or a time stamp
    else:
        require_passed_over(training, reference, [latest], step=STEPS_DONE - 1)


def has_same_content(path):
    """Tell whether a file that was changed still says the same: not every byte of an archive means something."""
    from stu_pipeline.errors import StuError
    from stu_pipeline.nnunet.checkpoint import read_checkpoint

    try:
        content = read_checkpoint(path)
    except StuError:
        return False
    older = read_intact(previous_path(path))
    assert content.keys() == older.keys()
    assert content["current_epoch"] * NUM_STEPS + content["stu"]["position"]["step"] == STEPS_DONE
    return True


@pytest.mark.slow
@pytest.mark.parametrize(
    "content", [b"", b"\0" * 300_000, b"PK\x05\x06" + b"\0" * 18, b"{}", b"PK\x03\x04junk"],
    ids=["empty", "zeros", "empty archive", "json", "junk"],
)  # fmt: skip
def test_a_newest_checkpoint_of_another_kind_is_passed_over(training, reference, content):
    latest = list_newest(training)[0]
    latest.write_bytes(content)
    require_passed_over(training, reference, [latest], step=STEPS_DONE - 1)


@pytest.mark.slow
def test_two_damaged_ones_are_passed_over(training, reference):
    damaged = list_newest(training)[:2]
    for path in damaged:
        path.write_bytes(path.read_bytes()[:-100])
    require_passed_over(training, reference, damaged, step=STEPS_DONE - 2)


@pytest.mark.slow
def test_damaged_ones_never_take_the_place_of_the_last_good_one(training, reference):
    """Killed between save and rename, when the older copies have moved on already."""
    for path in list_newest(training)[:2]:
        path.write_bytes(path.read_bytes()[:-100])
    started = training.start(KILL_AT_CALL="replace before checkpoint_latest.pth 1")
    assert started.wait() == -signal.SIGKILL, started.output
    training.require_end(reference)


@pytest.mark.slow
def test_only_the_best_one_is_left_and_that_it_has_no_momentum_is_said(training, undisturbed):
    damaged = list_newest(training)
    for path in damaged:
        path.write_bytes(b"")
    output = training.finish()
    assert "holds no momentum" in " ".join(output.split())
    assert training.read_record()["continued_from"]["checkpoint"] == "checkpoint_best.pth"
    assert training.read_checkpoint()["current_epoch"] == undisturbed.read_checkpoint()["current_epoch"]


@pytest.mark.slow
@pytest.mark.parametrize("is_newest_gone", [False, True])
def test_the_farthest_one_counts_whatever_it_is_called(training, reference, is_newest_gone):
    latest, previous, oldest = list_newest(training)
    content = latest.read_bytes()
    shutil.move(previous, latest)
    oldest.write_bytes(content)
    if is_newest_gone:
        latest.unlink()
    assert f"after step {STEPS_DONE - NUM_STEPS}" in training.require_end(reference)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["epoch", "step", "text", "nothing"])
def test_a_checkpoint_with_a_wrong_place_in_it_is_passed_over(training, reference, place):
    latest = list_newest(training)[0]
    content = read_intact(latest)
    if place == "epoch":
        content["current_epoch"] = -3
    elif place == "step":
        content["stu"]["position"]["step"] = 4000
    elif place == "text":
        content["stu"]["position"] = "everywhere"
    else:
        del content["optimizer_state"]
    torch.save(content, latest)
    require_passed_over(training, reference, [latest], step=STEPS_DONE - 1)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["weights", "momentum"])
def test_a_checkpoint_with_numbers_that_are_not_finite_is_passed_over(training, reference, what):
    latest = list_newest(training)[0]
    content = read_intact(latest)
    if what == "weights":
        next(iter(content["network_weights"].values())).fill_(float("nan"))
    else:
        content["optimizer_state"]["state"][0]["momentum_buffer"].fill_(float("nan"))
    torch.save(content, latest)
    require_passed_over(training, reference, [latest], step=STEPS_DONE - 1)


@pytest.mark.slow
@pytest.mark.parametrize("is_validated", [False, True])
def test_a_damaged_final_checkpoint_is_written_again(tiny, undisturbed, tmp_path, is_validated):
    training = copy_of(undisturbed, tmp_path / "results")
    final = training.paths.checkpoint("final")
    final.write_bytes(final.read_bytes()[:-100])
    if is_validated:
        output = training.finish()
        assert "already complete" in output  # it is read by whoever needs it, and refused there
        return
    shutil.rmtree(training.paths.folder / "validation")
    output = " ".join(training.finish().split())
    assert "damaged and passed over: checkpoint_final.pth; continuing from checkpoint_best.pth" in output
    training.require_clean()
    weights = training.read_checkpoint()["network_weights"]
    for name, weight in undisturbed.read_checkpoint()["network_weights"].items():
        assert torch.equal(weights[name], weight)  # the best epoch was the last one


# -- K2: all of them damaged ---------------------------------------------------------------------


def require_refused(training, *words, hint="--resume never", code=4):
    """Refuse before the first step, keep every file, and say why."""
    before = hash_files(training.model_folder, without=TALK)
    output = training.finish(code)
    assert "epoch 1/" not in output and "starting" not in output and "continuing" not in output, output
    text = " ".join(output.split())
    assert all(word in text for word in words) and hint in text, output
    assert hash_files(training.model_folder, without=TALK) == before
    return output


@pytest.mark.parametrize("damage", mark_slow(["cut", "empty", "flipped", "mixed"]))
def test_where_every_checkpoint_is_damaged_nothing_is_begun(training, damage):
    for index, path in enumerate(training.list_checkpoints()):
        content = bytearray(path.read_bytes())
        kind = ["cut", "empty", "flipped"][index % 3] if damage == "mixed" else damage
        if kind == "flipped":
            # Bytes of an array, which only its checksum shows.
            content[len(content) // 2] ^= 255
        path.write_bytes({"cut": content[:-50], "empty": b"", "flipped": content}[kind])
    names = [path.name for path in training.list_checkpoints()]
    assert len(names) == 4
    require_refused(training, "no checkpoint of this run can be read", *names)


@pytest.mark.slow
def test_damaged_checkpoints_do_not_bar_a_new_start_that_is_asked_for(training, reference):
    for path in training.list_checkpoints():
        path.write_bytes(b"")
    options = {**training.options, "--resume": "never"}
    Training(training.dataset, training.results, options).require_end(reference)


# -- K3: of another training ---------------------------------------------------------------------


def change_plan(edit):
    return lambda dataset, options: dataset.edit_plan(edit)


def other_features(plan):
    plan["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["features_per_stage"] = [4, 4, 8, 8, 8, 16]


def other_spacing(plan):
    plan["configurations"]["3d_fullres"]["spacing"] = [2.0, 1.0, 1.0]


def other_dataset(plan):
    plan["dataset_name"] = "Dataset902_Other"


def edit_description(key, value):
    def edit(dataset, options):
        import json

        file = dataset.preprocessed / "dataset.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))

    return edit


OTHERS = {
    "architecture": (change_plan(other_features), "its arguments"),
    "spacing": (change_plan(other_spacing), "spacing"),
    "labels": (edit_description("labels", {"background": 0, "low": 1, "high": 2, "more": 3}), "labels"),
    "label names": (edit_description("labels", {"background": 0, "left": 1, "right": 2}), "labels"),
    "channels": (edit_description("channel_names", {"0": "MR"}), "channels"),
}


@pytest.mark.parametrize("name", mark_slow(OTHERS))
def test_a_checkpoint_of_another_training_is_refused(tiny, stopped, tmp_path, name):
    edit, word = OTHERS[name]
    dataset = tiny.copy(tmp_path / "dataset")
    edit(dataset, None)
    shutil.copytree(stopped.results, tmp_path / "results")
    training = Training(dataset, tmp_path / "results")
    require_refused(training, "belongs to another training", word, hint="--force")


def edit_checkpoints(training, edit):
    for path in training.list_checkpoints():
        content = read_intact(path)
        edit(content)
        torch.save(content, path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value"), [("fold", 1), ("configuration", "3d_lowres"), ("configuration", "2d")],
)  # fmt: skip
def test_a_checkpoint_of_another_fold_or_configuration_is_refused(training, name, value):
    edit_checkpoints(training, lambda content: content["init_args"].update({name: value}))
    require_refused(training, "belongs to another training", name, str(value), hint="--force")


@pytest.mark.slow
def test_a_checkpoint_of_another_dataset_is_refused(training):
    edit_checkpoints(training, lambda content: other_dataset(content["init_args"]["plans"]))
    require_refused(training, "belongs to another training", "Dataset902_Other", "Dataset901_Tiny", hint="--force")


@pytest.mark.slow
def test_another_network_in_the_checkpoint_is_refused(training):
    def rename(content):
        configuration = content["init_args"]["plans"]["configurations"]["3d_fullres"]
        configuration["architecture"]["network_class_name"] = "another.Network"

    edit_checkpoints(training, rename)
    require_refused(training, "belongs to another training", "another.Network", hint="--force")


@pytest.mark.slow
def test_weights_that_do_not_fit_the_plan_are_refused(training):
    def drop(content):
        content["network_weights"].popitem()

    edit_checkpoints(training, drop)
    require_refused(training, "does not fit the network", hint="--force")


@pytest.mark.slow
@pytest.mark.parametrize("schema", [3, 99, "two"])
def test_a_newer_schema_is_refused(training, schema):
    edit_checkpoints(training, lambda content: content["stu"].update(schema=schema))
    require_refused(training, f"schema {schema}", hint="the version of stu that wrote it")


@pytest.mark.slow
def test_a_newest_checkpoint_that_was_swapped_with_another_fold_s_is_refused(tiny, training, tmp_path):
    other = Training(tiny, tmp_path / "other", {"--fold": 1})
    started = other.start(prelude=act_at("torch.optim.SGD.step 8", f"os.kill(os.getpid(), {int(signal.SIGKILL)})"))
    assert started.wait() == -signal.SIGKILL
    shutil.copy(other.paths.checkpoint("latest"), training.paths.checkpoint("latest"))
    require_refused(training, "belongs to another training", "fold: '1' in the checkpoint, '0' here", hint="--force")

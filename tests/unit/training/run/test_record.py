"""What a training says about itself when it starts."""

import json

from stu_pipeline.training.run.record import describe_origin, describe_step, read_start
from stu_pipeline.workspace import RunPaths

TUNED = {
    "kind": "pretrained",
    "file": "small.model",
    "identity": "abc",
    "recipe": "l2-start",
    "tuning": {"groups": [{"parameters": ["a", "b"], "rate_factor": 1.0}]},
}


def describe(**changes):
    plain = {"effective_batch": 4, "micro_batch": 4, "num_accumulation_steps": 1, "activation_checkpointing": False}
    return describe_step(plain | changes)


def test_an_ordinary_step_is_not_talked_about():
    assert describe() == ""


def test_a_split_batch_and_recomputed_activations_are_named():
    text = describe(micro_batch=2, num_accumulation_steps=2, activation_checkpointing=True)
    assert text == ", batch 4 in parts of 2, activation checkpointing"


def test_the_start_is_recorded_with_its_groups_in_short_and_read_back(tmp_path):
    paths = RunPaths(tmp_path)
    assert read_start(paths) == {"kind": "unknown"}
    for start in ({"kind": "scratch"}, TUNED):
        paths.record.write_text(json.dumps(describe_origin(start)))
        found = read_start(paths)
        assert {name: found.get(name) for name in ("kind", "identity", "recipe")} == {
            name: start.get(name) for name in ("kind", "identity", "recipe")
        }
    assert found["groups"] == [{"parameters": 2, "rate_factor": 1.0}]


def test_a_record_from_before_there_were_starts_is_of_a_training_from_scratch(tmp_path):
    paths = RunPaths(tmp_path)
    paths.record.write_text("{}")
    assert read_start(paths) == {"kind": "scratch"}

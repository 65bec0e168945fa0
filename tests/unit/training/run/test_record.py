"""What a training says about itself when it starts."""

from stu_pipeline.training.run.record import describe_step


def describe(**changes):
    plain = {"effective_batch": 4, "micro_batch": 4, "num_accumulation_steps": 1, "activation_checkpointing": False}
    return describe_step(plain | changes)


def test_an_ordinary_step_is_not_talked_about():
    assert describe() == ""


def test_a_split_batch_and_recomputed_activations_are_named():
    text = describe(micro_batch=2, num_accumulation_steps=2, activation_checkpointing=True)
    assert text == ", batch 4 in parts of 2, activation checkpointing"

"""Every weight is in one group, and the groups are those that the recipe promises."""

import json

import pytest

from stu_pipeline.training.finetuning.groups import Tuning, measure_depth
from stu_pipeline.training.finetuning.recipes import DEFAULT_RECIPE, RECIPES
from tests.unit.training.finetuning.small_start import NUM_EPOCHS, WEIGHT_DECAY, build_network, plan

STEM = "conv_blocks_context.0.0.conv1.weight"
DEEPEST = "conv_blocks_context.5.0.conv1.weight"
FINEST = "conv_blocks_localization.4.0.conv1.weight"
HEAD = "decoder.seg_layers.4.weight"


@pytest.fixture(scope="module")
def network():
    return build_network()


def find_group(tuning, name):
    [group] = [group for group in tuning.groups if name in group.parameters]
    return group


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_weight_is_in_one_group_and_a_checkpoint_keeps_the_groups(network, recipe):
    tuning = plan(network, recipe, kept=(1, 2))
    named = [name for group in tuning.groups for name in group.parameters]
    assert sorted(named) == sorted(name for name, _ in network.named_parameters())
    assert Tuning.from_json(json.loads(json.dumps(tuning.to_json()))) == tuning


@pytest.mark.parametrize("recipe", ["paper", "warmup", "decoder-first"])
def test_recipes_that_move_all_weights_alike_keep_nnunets_optimizer(network, recipe):
    tuning = plan(network, recipe)
    assert len(tuning.groups) == 1
    assert list(tuning.groups[0].parameters) == [name for name, _ in network.named_parameters()]
    assert (tuning.groups[0].rate_factor, tuning.groups[0].weight_decay) == (1.0, WEIGHT_DECAY)
    assert tuning.is_plain is (recipe != "decoder-first")
    assert tuning.list_optimizer_groups(WEIGHT_DECAY) == []


def test_depth_is_counted_from_the_output():
    depths = [measure_depth(name) for name in (HEAD, FINEST, "conv_blocks_localization.0.0.norm1.bias", DEEPEST, STEM)]
    assert depths == [0, 1, 5, 6, 11]
    assert measure_depth("upsample_layers.4.conv.weight") == 1


def test_learning_rates_fall_from_the_heads_to_the_stem(network):
    tuning = plan(network, "discriminative")
    factors = [find_group(tuning, name).rate_factor for name in (HEAD, FINEST, DEEPEST, STEM)]
    assert factors == pytest.approx([1.0, 0.8, 0.8**6, 0.8**11])
    assert len(tuning.groups) == 12 and {group.weight_decay for group in tuning.groups} == {WEIGHT_DECAY}


def test_what_starts_anew_moves_freely_wherever_it_is(network):
    for recipe in ("discriminative", "continual"):
        group = find_group(plan(network, recipe, kept=(1,), conv_blocks_context="initialised"), STEM)
        assert (group.rate_factor, group.weight_decay, group.start_pull) == (1.0, WEIGHT_DECAY, 0.0)


def test_the_pull_to_the_start_takes_the_place_of_weight_decay(network):
    tuning = plan(network, "l2-start")
    body, head = find_group(tuning, STEM), find_group(tuning, HEAD)
    assert (body.weight_decay, body.start_pull, body.rate_factor) == (0.0, RECIPES["l2-start"].start_pull, 1.0)
    assert (head.weight_decay, head.start_pull) == (WEIGHT_DECAY, 0.0)
    assert tuning.pulls and tuning.kept_rows is None
    same_labels = plan(network, "l2-start", decoder="loaded")
    assert find_group(same_labels, HEAD).start_pull and len(same_labels.groups) == 1
    assert [decay for _, decay in same_labels.list_optimizer_groups(WEIGHT_DECAY)] == [0.0]


def test_only_the_encoder_that_was_loaded_as_it_is_rests_first(network):
    tuning = plan(network, "decoder-first", **{"conv_blocks_context.0.0": "adapted"})
    assert DEEPEST in tuning.frozen and STEM not in tuning.frozen and FINEST not in tuning.frozen
    assert tuning.frozen_epochs == pytest.approx(0.1 * NUM_EPOCHS)


def test_kept_heads_are_told_output_by_output(network):
    tuning = plan(network, "continual", kept=(1, 2))
    assert tuning.kept_rows[HEAD] == (1, 2) and tuning.kept_factor == 0.1
    head, body = find_group(tuning, HEAD), find_group(tuning, STEM)
    assert (head.rate_factor, head.weight_decay, head.start_pull) == (1.0, 0.0, body.start_pull)
    assert (body.rate_factor, body.weight_decay) == (0.1, 0.0)
    assert plan(network, "l2-start", kept=(1, 2)).kept_rows is None


def test_the_warm_up_takes_no_more_than_a_twentieth_of_a_schedule():
    recipe = RECIPES[DEFAULT_RECIPE]
    assert [recipe.choose_warmup_epochs(number) for number in (4000, 1000, 100, 10)] == pytest.approx([50, 50, 5, 0.5])
    assert RECIPES["paper"].choose_warmup_epochs(1000) == 0
    assert {recipe.learning_rate for recipe in RECIPES.values()} == {1e-3}

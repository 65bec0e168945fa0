"""What checkpoints say about their training, as facts, for plans of every age."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest

from stu_pipeline.errors import ModelError
from stu_pipeline.transfer.files.arguments import name_outputs, parse_arguments
from stu_pipeline.transfer.weight_file import WeightFacts
from tests.published_files import make_fork_arguments

PATH = Path("checkpoint_final.pth")
STRIDES = [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2], [1, 1, 1], [1, 1, 1]]


@pytest.fixture
def checkpoint():
    """A checkpoint as `stu train` writes it, without its tensors."""
    arguments = make_fork_arguments()
    configuration = arguments["plans"]["configurations"]["3d_fullres"]
    for key in [key for key in configuration if key.startswith(("UNet", "n_conv", "num_pool", "pool", "conv", "unet"))]:
        del configuration[key]
    configuration |= {"patch_size": [96, 160, 160], "spacing": [2.0, 1.5, 1.5]}
    configuration["architecture"] = {
        "network_class_name": "stu_pipeline.networks.stunet.STUNet",
        "arch_kwargs": {"strides": STRIDES},
        "_kw_requires_import": [],
    }
    return {"init_args": arguments, "trainer_name": "nnUNetTrainer", "current_epoch": 10}


def settings_of(checkpoint):
    return checkpoint["init_args"]["plans"]["configurations"]["3d_fullres"]


def test_our_plan_tells_everything(checkpoint):
    facts = parse_arguments(checkpoint, PATH)
    assert facts.strides == tuple(map(tuple, STRIDES))
    assert facts.label_names == ("background", "liver", "tumour")
    assert (facts.dataset_name, facts.num_epochs) == ("Dataset701_Liver", 10)
    assert facts.source == "settings inside 'checkpoint_final.pth'"


def test_a_configuration_inherits(checkpoint):
    plans = checkpoint["init_args"]["plans"]
    plans["configurations"]["3d_low"] = {"inherits_from": "3d_fullres", "spacing": [4, 3, 3]}
    checkpoint["init_args"]["configuration"] = "3d_low"
    facts = parse_arguments(checkpoint, PATH)
    assert (facts.spacing_mm, facts.patch_voxels) == ((4.0, 3.0, 3.0), (96, 160, 160))


@pytest.mark.parametrize(("pools", "strides"), [
    ([[1, 1, 1], [2, 2, 2], [1, 2, 2]], ((1, 1, 1), (2, 2, 2), (1, 2, 2), (1, 1, 1), (1, 1, 1), (1, 1, 1))),
    ([[1, 1, 1], *[[2, 2, 2]] * 6], ((1, 1, 1), *[(2, 2, 2)] * 5)),
])  # fmt: skip
def test_the_trainers_of_the_fork_force_five_poolings(pools, strides):
    arguments = make_fork_arguments(pools=pools)
    arguments["plans"]["configurations"]["3d_fullres"] |= {"patch_size": [8, 8, 8], "spacing": [1, 1, 1]}
    checkpoint = {"init_args": arguments, "trainer_name": "STUNetTrainer_small_ft"}
    assert parse_arguments(checkpoint, PATH).strides == strides


def test_strides_of_another_network_are_not_taken_for_ours(checkpoint):
    settings_of(checkpoint)["architecture"]["network_class_name"] = "some.PlainConvUNet"
    assert parse_arguments(checkpoint, PATH).strides is None


def test_regions_are_named_in_their_order(checkpoint):
    checkpoint["init_args"]["dataset_json"]["labels"] = {
        "background": 0, "whole": [1, 2], "core": [2], "ignore": 3,
    }  # fmt: skip
    facts = parse_arguments(checkpoint, PATH)
    assert (facts.label_names, facts.has_regions) == (("whole", "core"), True)


def test_labels_are_named_in_the_order_of_their_values():
    assert name_outputs({"b": 2, "background": 0, "a": 1, "ignore": 3}) == (("background", "a", "b"), False)


def test_a_second_stage_knows_its_channels_no_more(checkpoint):
    settings_of(checkpoint)["previous_stage"] = "3d_lowres"
    facts = parse_arguments(checkpoint, PATH)
    assert (facts.channel_names, facts.normalization_schemes, facts.use_mask_for_norm) == (None, None, None)


@pytest.mark.parametrize("arguments", [None, {}, {"plans": None}, []])
def test_without_plans_everything_is_unknown(arguments):
    assert parse_arguments({"init_args": arguments}, PATH) == WeightFacts()


@pytest.mark.parametrize(("change", "reason"), [
    (lambda c: c["init_args"].update(configuration="2d"), "'2d' is missing"),
    (lambda c: c["init_args"].update(configuration=["2d"]), "unhashable"),
    (lambda c: settings_of(c).update(spacing=[1, float("nan"), 1]), "positive numbers"),
    (lambda c: settings_of(c).update(inherits_from="3d_fullres"), "circle"),
    (lambda c: settings_of(c)["architecture"]["arch_kwargs"].update(strides=[[2, 2, 2]] * 6), "first stride"),
    (lambda c: settings_of(c).update(architecture={}), "'network_class_name' is missing"),
    (lambda c: c["init_args"]["dataset_json"].update(labels={"liver": 1}), "no 'background'"),
    (lambda c: c["init_args"]["dataset_json"].update(labels=7), "labels must be an object"),
])  # fmt: skip
def test_malformed_settings_are_refused_with_the_reason(checkpoint, change, reason):
    checkpoint = deepcopy(checkpoint)
    change(checkpoint)
    with pytest.raises(ModelError, match=f"'checkpoint_final.pth' holds settings that cannot be read: .*{reason}"):
        parse_arguments(checkpoint, PATH)

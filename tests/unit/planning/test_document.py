"""nnU-Net's draft becomes a plan of ours, and nothing else changes."""

from __future__ import annotations

import copy
import json
from typing import Any

from stu_pipeline.knowledge import find_knowledge_folder
from stu_pipeline.planning.document import (
    build_plan,
    fit_cascades,
    is_same_plan,
    is_same_recipe,
    keep_custom_configurations,
    read_demands,
)
from stu_pipeline.planning.fit import fit_configuration
from stu_pipeline.planning.memory import read_memory_model


def read_draft() -> dict[str, Any]:
    """A plan with four-stage strides, as nnU-Net drafts for small images."""
    draft = json.loads((find_knowledge_folder() / "reference" / "large_ct" / "plan.json").read_text())
    del draft["stu"]
    full = draft["configurations"]["3d_fullres"]
    full["patch_size"] = [40, 56, 40]
    full["architecture"]["arch_kwargs"]["strides"] = [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2]]
    return draft


def test_demands_have_five_poolings_and_a_patch_that_fits() -> None:
    demands = read_demands(read_draft(), num_channels=1, num_classes=3)
    assert set(demands) == {"2d", "3d_fullres", "3d_lowres"}
    assert demands["3d_fullres"].strides[3:] == ((2, 2, 2), (1, 1, 1), (1, 1, 1))
    assert demands["3d_fullres"].patch == (40, 56, 40)


def test_only_network_patch_batch_and_data_change() -> None:
    draft = read_draft()
    before = copy.deepcopy(draft)
    demands = read_demands(draft, num_channels=1, num_classes=3)
    fits = {name: fit_configuration(read_memory_model(), demand, "S", 80.0) for name, demand in demands.items()}
    plan = build_plan(draft, fits, plan_name="stuSPlans", identifiers=dict.fromkeys(fits, "data"))
    assert draft == before
    changed = {"architecture", "patch_size", "batch_size", "data_identifier"}
    for name in fits:
        same = {key: value for key, value in plan["configurations"][name].items() if key not in changed}
        assert same == {key: value for key, value in draft["configurations"][name].items() if key not in changed}
    assert plan["configurations"]["3d_cascade_fullres"] == draft["configurations"]["3d_cascade_fullres"]
    architecture = plan["configurations"]["2d"]["architecture"]
    assert architecture["arch_kwargs"]["conv_op"] == "2d"
    assert architecture["arch_kwargs"]["features_per_stage"] == [16, 32, 64, 128, 256, 256]
    assert architecture["_kw_requires_import"] == []


def test_a_cascade_has_the_patch_of_its_parent_and_a_channel_per_label() -> None:
    draft = read_draft()
    demands = read_demands(draft, num_channels=1, num_classes=3)
    fits = {name: fit_configuration(read_memory_model(), demand, "S", 80.0) for name, demand in demands.items()}
    cascades = fit_cascades(read_memory_model(), draft, fits, num_labels=2, memory_gib=80.0)
    assert list(cascades) == ["3d_cascade_fullres"]
    cascade = cascades["3d_cascade_fullres"]
    assert (cascade.patch, cascade.batch, cascade.demand.num_channels) == (fits["3d_fullres"].patch, 2, 3)
    assert cascade.demand.batch_dice
    assert cascade.forecast_gib > fits["3d_fullres"].forecast_gib
    tight = fit_cascades(read_memory_model(), draft, fits, num_labels=2, memory_gib=1.0)["3d_cascade_fullres"]
    assert (tight.fits, tight.patch) == (False, fits["3d_fullres"].patch)


def test_batch_dice_is_read_from_the_draft() -> None:
    demands = read_demands(read_draft(), num_channels=1, num_classes=3)
    assert {name: demand.batch_dice for name, demand in demands.items()} == {
        "2d": True,
        "3d_lowres": False,
        "3d_fullres": True,
    }


def test_a_plan_that_says_nothing_about_execution_equals_one_that_says_at_once() -> None:
    configurations = {"3d_fullres": {"batch_size": 2, "batch_dice": False}}
    silent = {"configurations": configurations, "stu": {"scale": "B"}}
    at_once = {"micro_batch": 2, "activation_checkpointing": False, "batch_dice_scope": "sample"}
    assert is_same_plan(silent, {**silent, "stu": {"scale": "B", "execution": {"3d_fullres": at_once}}})
    split = {**silent, "stu": {"scale": "B", "execution": {"3d_fullres": {**at_once, "micro_batch": 1}}}}
    assert not is_same_plan(silent, split)
    assert is_same_recipe(silent, split)


def test_an_execution_that_makes_no_sense_equals_none_that_is_planned() -> None:
    configurations = {"3d_fullres": {"batch_size": 2, "batch_dice": False}}
    silent = {"configurations": configurations, "stu": {"scale": "B"}}
    broken = {**silent, "stu": {"scale": "B", "execution": {"3d_fullres": {"micro_batch": 99}}}}
    assert not is_same_plan(silent, broken)
    assert is_same_recipe(silent, broken)


def test_splitting_batch_dice_is_another_recipe() -> None:
    configurations = {"3d_fullres": {"batch_size": 2, "batch_dice": True}}
    whole = {"configurations": configurations, "stu": {"scale": "B"}}
    part = {"micro_batch": 1, "activation_checkpointing": False, "batch_dice_scope": "micro-batch"}
    assert not is_same_recipe(whole, {**whole, "stu": {"scale": "B", "execution": {"3d_fullres": part}}})


def test_configurations_under_names_of_their_own_survive() -> None:
    existing = {"configurations": {"2d": {"batch_size": 99}, "3d_mine": {"inherits_from": "3d_fullres"}}}
    plan = keep_custom_configurations({"configurations": {"2d": {"batch_size": 1}}}, existing)
    assert plan["configurations"] == {"2d": {"batch_size": 1}, "3d_mine": {"inherits_from": "3d_fullres"}}


def test_the_story_does_not_make_a_plan_different_but_the_scale_does() -> None:
    plan = {"plans_name": "a", "stu": {"scale": "B", "gpu_memory_gib": 8.0}}
    assert is_same_plan(plan, {"plans_name": "a", "stu": {"scale": "B", "gpu_memory_gib": 24.0}})
    assert not is_same_plan(plan, {"plans_name": "a", "stu": {"scale": "L", "gpu_memory_gib": 8.0}})
    assert not is_same_plan(plan, {"plans_name": "b", "stu": {"scale": "B", "gpu_memory_gib": 8.0}})

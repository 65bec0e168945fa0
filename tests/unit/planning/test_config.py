"""A config is checked when it is made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stu_pipeline.errors import ModelError, UsageError
from stu_pipeline.planning.config import PlanConfig


def test_defaults_choose_automatically() -> None:
    config = PlanConfig(dataset="4")
    assert (config.wanted_scale, config.gpu_memory_gib, config.plan_name) == (None, None, None)


@pytest.mark.parametrize(("text", "scale"), [("B", "B"), ("b", "B"), ("large", "L"), ("auto", None), ("AUTO", None)])
def test_scales_are_read_by_letter_and_name(text: str, scale: str | None) -> None:
    assert PlanConfig(dataset="4", scale=text).wanted_scale == scale


def test_unknown_scale_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="unknown scale 'XL', known: S") as caught:
        PlanConfig(dataset="4", scale="XL")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("memory", [0.0, -1.0, float("nan"), float("inf")])
def test_gpu_memory_must_be_a_positive_number(memory: float) -> None:
    with pytest.raises(UsageError, match="GPU memory"):
        PlanConfig(dataset="4", gpu_memory_gib=memory)


def test_plan_name_with_two_underscores_is_refused_with_a_better_one() -> None:
    with pytest.raises(UsageError, match="'my__plan' holds '__'") as caught:
        PlanConfig(dataset="4", plan_name="my__plan")
    assert caught.value.hint == "--plan my_plan"


@pytest.mark.parametrize("name", ["", "../plan", "a/b", ".hidden", "plan.json", "pl an", "a" * 101])
def test_plan_name_must_be_a_file_name(name: str) -> None:
    with pytest.raises(UsageError, match="is not a name"):
        PlanConfig(dataset="4", plan_name=name)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"weights 'base\.model' not found"):
        PlanConfig(dataset="4", pretrained=tmp_path / "base.model")


@pytest.mark.parametrize("name", ["sidecar", "keep_geometry", "any_normalisation"])
def test_what_is_said_of_weights_needs_weights(tmp_path: Path, name: str) -> None:
    value = tmp_path / "side.pkl" if name == "sidecar" else True
    with pytest.raises(UsageError, match="need its weights"):
        PlanConfig(dataset="4", **{name: value})


@pytest.mark.parametrize("given", [{"spacing_mm": (1.0, 1.0, 1.0)}, {"patch_voxels": (64, 64, 64)}])
def test_the_geometry_of_the_weights_leaves_no_other(tmp_path: Path, given: dict[str, Any]) -> None:
    weights = tmp_path / "small.model"
    weights.touch()
    with pytest.raises(UsageError, match="so none can be given"):
        PlanConfig(dataset="4", pretrained=weights, keep_geometry=True, **given)
    assert PlanConfig(dataset="4", pretrained=weights, keep_geometry=True, patch_voxels=()).keep_geometry


@pytest.mark.parametrize("values", [(1.0,), (1.0,) * 4, (1.0, 0.0), (1.0, -1.0, 1.0), (float("nan"),) * 3])
def test_spacing_and_patch_are_positive_numbers_for_two_or_three_axes(values: tuple[float, ...]) -> None:
    with pytest.raises(UsageError, match="spacing must be two or three positive numbers"):
        PlanConfig(dataset="4", spacing_mm=values)
    with pytest.raises(UsageError, match="patch must be two or three positive numbers"):
        PlanConfig(dataset="4", patch_voxels=values)


def test_flags_of_a_union_need_one(tmp_path: Path) -> None:
    assert PlanConfig(union=("4", "9"), union_labels=tmp_path, keep_channel_names=True).dataset == ""
    for given in ({"union_labels": tmp_path}, {"keep_labels_of": tmp_path}, {"keep_channel_names": True}):
        with pytest.raises(UsageError, match="for a union of datasets"):
            PlanConfig(dataset="4", **given)


def test_a_union_is_not_given_with_a_dataset(tmp_path: Path) -> None:
    for given in ({"dataset": "4"}, {"images": tmp_path, "labels": tmp_path, "dataset_name": "A"}):
        with pytest.raises(UsageError, match="not both"):
            PlanConfig(union=("4", "9"), **given)


def test_negative_workers_are_refused() -> None:
    with pytest.raises(UsageError, match="workers"):
        PlanConfig(dataset="4", num_workers=-1)

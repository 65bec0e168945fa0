"""A config is checked when it is made."""

from __future__ import annotations

from pathlib import Path

import pytest

from stu_pipeline.errors import UsageError
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
    with pytest.raises(UsageError, match=r"weights 'base\.model' not found"):
        PlanConfig(dataset="4", pretrained=tmp_path / "base.model")


def test_negative_workers_are_refused() -> None:
    with pytest.raises(UsageError, match="workers"):
        PlanConfig(dataset="4", num_workers=-1)

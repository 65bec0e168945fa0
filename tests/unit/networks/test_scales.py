"""The table of scales."""

from __future__ import annotations

import subprocess
import sys

import pytest

from stu_pipeline.errors import UsageError
from stu_pipeline.networks.scales import SCALES, parse_scale


@pytest.mark.parametrize(
    ("text", "scale"),
    [("S", "S"), ("b", "B"), (" L ", "L"), ("huge", "H"), ("Small", "S"), ("BASE", "B"), ("large", "L")],
)
def test_letters_and_long_names_are_read_in_any_case(text: str, scale: str) -> None:
    assert parse_scale(text) == scale


@pytest.mark.parametrize("text", ["", "XL", "bas", "M", "auto"])
def test_unknown_scale_lists_the_known_ones(text: str) -> None:
    with pytest.raises(UsageError, match=r"known: S \(small\), B \(base\), L \(large\), H \(huge\)") as caught:
        parse_scale(text)
    assert f"'{text}'" in caught.value.problem


def test_widths_and_depths_are_the_published_ones() -> None:
    assert {letter: (spec.width, spec.num_blocks) for letter, spec in SCALES.items()} == {
        "S": (16, 1),
        "B": (32, 1),
        "L": (64, 2),
        "H": (96, 3),
    }
    assert SCALES["B"].features_per_stage == [32, 64, 128, 256, 512, 512]
    assert SCALES["H"].n_blocks_per_stage == [3, 3, 3, 3, 3, 3]


def test_plan_names_carry_the_letter_and_no_double_underscore() -> None:
    names = [spec.plan_name for spec in SCALES.values()]

    assert names == ["stuSPlans", "stuBPlans", "stuLPlans", "stuHPlans"]


def test_a_changed_feature_list_does_not_change_the_table() -> None:
    SCALES["S"].features_per_stage.append(1)

    assert len(SCALES["S"].features_per_stage) == 6


@pytest.mark.parametrize("module", ["scales", "layout", "cost"])
def test_planning_modules_import_no_torch(module: str) -> None:
    code = f"import sys, stu_pipeline.networks.{module}; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""When two grids are the same."""

from __future__ import annotations

import dataclasses
import math

import pytest

from stu_pipeline.datasets.volume import Grid, check_same_grid

GRID = Grid(shape=(10, 20, 30), spacing_mm=(3.0, 0.5, 0.5), origin=(-7.0, 8.0, 100.0))


def turn(angle):
    return (math.cos(angle), -math.sin(angle), 0.0, math.sin(angle), math.cos(angle), 0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"spacing_mm": (3.0, 0.5, 0.5 * (1 + 0.9e-3))},
        {"origin": (-7.0 + 0.049, 8.0, 100.0)},
        {"origin": (-7.0, 8.0, 100.29)},
        {"direction": turn(0.9e-3)},
        {"direction": turn(-1e-7)},
    ],
)
def test_differences_below_the_tolerances_are_none(change):
    assert check_same_grid(GRID, dataclasses.replace(GRID, **change)) == []


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"shape": (10, 20, 31)}, "shape 10x20x31 differs from 10x20x30"),
        ({"spacing_mm": (3.0, 0.5, 0.5 * (1 + 1.2e-3))}, "spacing"),
        ({"origin": (-7.0 + 0.051, 8.0, 100.0)}, "origin"),
        ({"origin": (-7.0, 8.0, 100.31)}, "origin"),
        ({"direction": turn(1.1e-3)}, "direction differs by 0.0011 rad"),
        ({"direction": (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)}, "180 degrees"),
    ],
)
def test_differences_above_the_tolerances_are_named(change, word):
    (problem,) = check_same_grid(GRID, dataclasses.replace(GRID, **change))
    assert word in problem


def test_several_differences_are_all_named():
    other = dataclasses.replace(GRID, spacing_mm=(3.0, 1.0, 1.0), origin=(0.0, 0.0, 0.0), direction=turn(0.5))
    assert len(check_same_grid(GRID, other)) == 3

"""A spacing and a patch that planning does not choose: whose they are, for which axes, and what follows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from stu_pipeline.errors import ModelError, UsageError
from stu_pipeline.plan_pretrained import PretrainedStart
from stu_pipeline.planning.config import PlanConfig
from stu_pipeline.planning.fit import Demand, fit_configuration
from stu_pipeline.planning.geometry import (
    Geometry,
    choose_geometry,
    complete_spacing,
    explain_geometry,
    set_patch,
    warn_of_padding,
)
from stu_pipeline.planning.memory import read_memory_model
from stu_pipeline.planning.topology import choose_strides, shrink_patch_on

STRIDES = ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2), (1, 1, 2))
VOLUMES = {"shapes_after_crop": [[30, 40, 50], [1, 40, 50]], "spacings": [[3.0, 1.0, 1.0], [3.0, 1.0, 1.0]]}
FLAT = {"shapes_after_crop": [[1, 40, 50]] * 2, "spacings": [[999.0, 1.0, 1.0], [1.0, 1.0, 1.0]]}


def make_start(**changes: Any) -> PretrainedStart:
    known = {
        "file": "base.model",
        "identity": "a",
        "scale": "B",
        "num_axes": 3,
        "num_input_channels": 1,
        "strides": STRIDES,
        "spacing_mm": (3.0, 1.0, 2.0),
        "patch_voxels": (32, 64, 96),
        "takes_geometry": True,
    }
    return PretrainedStart(**{**known, **changes})


def make_demands() -> dict[str, Demand]:
    full = Demand(
        configuration="3d_fullres",
        patch=(40, 56, 40),
        batch=9,
        strides=choose_strides((1.0, 1.0, 1.0), (40, 56, 40)),
        spacing_mm=(1.0, 1.0, 1.0),
        median_shape=(36.0, 50.0, 35.0),
        num_channels=1,
        num_classes=3,
    )
    flat = Demand(
        configuration="2d",
        patch=(56, 40),
        batch=100,
        strides=choose_strides((1.0, 1.0), (56, 40)),
        spacing_mm=(1.0, 1.0),
        median_shape=(50.0, 35.0),
        num_channels=1,
        num_classes=3,
    )
    return {"2d": flat, "3d_fullres": full}


@pytest.mark.parametrize(
    ("config", "story", "expected"),
    [
        (PlanConfig(dataset="4"), {}, (None, None)),
        (PlanConfig(dataset="4", spacing_mm=(1.0, 1.0, 2.0)), {}, ((1.0, 1.0, 2.0), None)),
        (PlanConfig(dataset="4"), {"spacing_mm": [2, 2, 2], "patch_voxels": [64, 64, 64]}, ((2, 2, 2), (64, 64, 64))),
        (PlanConfig(dataset="4", spacing_mm=()), {"spacing_mm": [2, 2, 2], "patch_voxels": [64, 64]}, (None, (64, 64))),
        (PlanConfig(dataset="4", patch_voxels=(8, 8)), {"patch_voxels": [64, 64]}, (None, (8, 8))),
        (PlanConfig(dataset="4"), {"spacing_mm": "wide", "patch_voxels": [True, 1]}, (None, None)),
    ],
    ids=["planned", "asked", "remembered", "chosen anew", "asked again", "not usable"],
)
def test_what_is_asked_for_wins_over_what_the_plan_remembers(
    config: PlanConfig, story: Mapping[str, Any], expected: tuple[Any, Any]
) -> None:
    geometry = choose_geometry(config, {"geometry": story}, None)
    assert (geometry.spacing_mm, geometry.patch_voxels, geometry.strides) == (*expected, None)


def test_a_plan_remembers_wishes_and_not_what_comes_from_weights() -> None:
    assert Geometry(spacing_mm=(1.0, 2.0)).to_json() == {"spacing_mm": [1.0, 2.0]}
    assert Geometry().to_json() is None
    assert choose_geometry(PlanConfig(dataset="4"), {}, make_start()).to_json() is None


def test_the_geometry_of_weights_is_turned_back_to_the_axes_of_the_images() -> None:
    # The pre-training put the last axis of its images first.
    geometry = choose_geometry(PlanConfig(dataset="4"), {}, make_start(transpose_forward=(2, 0, 1)))
    assert (geometry.spacing_mm, geometry.patch_voxels) == ((1.0, 2.0, 3.0), (64, 96, 32))
    assert geometry.strides is not None and geometry.strides[-1] == (1, 2, 1)
    demand = set_patch(make_demands(), geometry, (2, 0, 1))["3d_fullres"]
    assert (demand.patch, demand.strides) == ((32, 64, 96), STRIDES)


@pytest.mark.parametrize(
    ("key", "name"), [("spacing_mm", "spacing"), ("patch_voxels", "patch"), ("strides", "strides")]
)
def test_a_geometry_that_is_not_known_cannot_be_taken(key: str, name: str) -> None:
    with pytest.raises(ModelError, match=rf"^{name} of the pre-training of 'base\.model'") as caught:
        choose_geometry(PlanConfig(dataset="4"), {}, make_start(**{key: None}))
    assert "--sidecar" in caught.value.hint


def test_weights_whose_geometry_is_not_taken_leave_it_to_the_dataset() -> None:
    assert choose_geometry(PlanConfig(dataset="4"), {}, make_start(takes_geometry=False)) == Geometry()


def test_a_spacing_is_for_the_axes_of_the_images() -> None:
    assert complete_spacing(Geometry(), VOLUMES) is None
    assert complete_spacing(Geometry(spacing_mm=(3.0, 1.0, 1.0)), VOLUMES) == (3.0, 1.0, 1.0)
    assert complete_spacing(Geometry(spacing_mm=(2.0, 3.0)), FLAT) == (999.0, 2.0, 3.0)
    with pytest.raises(UsageError, match=r"a spacing of volumes is z,y,x, got '2,3'"):
        complete_spacing(Geometry(spacing_mm=(2.0, 3.0)), VOLUMES)
    with pytest.raises(UsageError, match=r"a spacing of flat images is y,x") as caught:
        complete_spacing(Geometry(spacing_mm=(1.0,) * 3, strides=STRIDES), FLAT)
    assert caught.value.hint == "leave out --pretrained-geometry"


def test_a_patch_is_rounded_up_to_its_strides_and_keeps_the_voxels_of_a_step() -> None:
    planned = make_demands()
    demands = set_patch(planned, Geometry(patch_voxels=(70, 64, 64)), (0, 1, 2))
    full = demands["3d_fullres"]
    assert full.patch == (80, 64, 64) and full.strides == choose_strides((1.0,) * 3, (70, 64, 64))
    assert full.batch == 2  # 9 of 40x56x40 have the voxels of 2.5 of 80x64x64
    assert (full.has_fixed_patch, full.has_fixed_strides) == (True, False)
    assert "rounded up" in full.patch_source
    assert demands["2d"] == planned["2d"]
    assert explain_geometry(full, planned["3d_fullres"], Geometry(patch_voxels=(70, 64, 64))) == [
        "batch: 2, about as many voxels as nnU-Net's 9 patches of 40x56x40"
    ]


def test_a_smaller_patch_gets_a_larger_batch() -> None:
    full = set_patch(make_demands(), Geometry(patch_voxels=(16, 16, 16)), (0, 1, 2))["3d_fullres"]
    assert (full.patch, full.batch) == ((16, 16, 16), round(9 * 40 * 56 * 40 / 16**3))


def test_a_flat_patch_is_for_the_flat_configuration() -> None:
    planned = make_demands()
    demands = set_patch(planned, Geometry(patch_voxels=(32, 48)), (2, 0, 1))
    assert demands["2d"].patch == (32, 48) and demands["3d_fullres"] == planned["3d_fullres"]
    with pytest.raises(UsageError, match="patch 8x8x8 is for 3d_fullres, planned: 2d"):
        set_patch({"2d": planned["2d"]}, Geometry(patch_voxels=(8, 8, 8)), (0, 1, 2))


def test_a_patch_that_is_mostly_padding_is_told() -> None:
    large, fitting = Geometry(patch_voxels=(128,) * 3), Geometry(patch_voxels=(32, 48, 32))
    assert "128x128x128 is mostly padding, the median image has 36x50x35" in warn_of_padding(
        set_patch(make_demands(), large, (0, 1, 2)), large
    )
    assert warn_of_padding(set_patch(make_demands(), fitting, (0, 1, 2)), fitting) == ""
    assert warn_of_padding(make_demands(), Geometry()) == ""


def test_memory_shrinks_the_patch_of_a_pretraining_under_its_strides() -> None:
    geometry = choose_geometry(PlanConfig(dataset="4"), {}, make_start(patch_voxels=(128,) * 3))
    demand = set_patch(make_demands(), geometry, (0, 1, 2))["3d_fullres"]
    model = read_memory_model()
    assert fit_configuration(model, demand, "S", 80.0).patch == (128, 128, 128)
    fit = fit_configuration(model, demand, "S", 2.5)
    assert fit.fits and fit.patch != (128, 128, 128) and fit.strides == STRIDES
    assert all(size % step == 0 for size, step in zip(fit.patch, (16, 16, 32), strict=True))


def test_memory_does_not_shrink_a_patch_that_was_asked_for() -> None:
    demand = set_patch(make_demands(), Geometry(patch_voxels=(128,) * 3), (0, 1, 2))["3d_fullres"]
    fit = fit_configuration(read_memory_model(), demand, "S", 1.9)
    assert (fit.fits, fit.patch) == (False, (128, 128, 128))


def test_strides_that_stay_end_the_shrinking() -> None:
    assert shrink_patch_on(STRIDES, (32, 32, 64), (100.0,) * 3, 32) == ((32, 32, 32), STRIDES)
    assert shrink_patch_on(STRIDES, (32, 32, 32), (100.0,) * 3, 32) is None
    # The deepest map would be one voxel, which instance normalisation cannot take.
    assert shrink_patch_on(STRIDES, (16, 32, 32), (100.0,) * 3, 1) is None

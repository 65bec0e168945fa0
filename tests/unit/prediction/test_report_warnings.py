"""What is worth a warning, and what is not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from stu_pipeline.datasets.volume import Grid
from stu_pipeline.prediction.report.case_facts import ModelFacts, describe_case
from stu_pipeline.prediction.report.training_data import (
    TrainingData,
    Usual,
    describe_training_data,
    find_fingerprint,
)
from stu_pipeline.prediction.report.warnings import (
    warn_of_cut_labels,
    warn_of_extent,
    warn_of_intensities,
    warn_of_spacing,
)

STANDARD = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
CT = {"percentile_00_5": -50.0, "percentile_99_5": 250.0, "mean": 90.0}
PLAN = {
    "original_median_spacing_after_transp": [1.0, 2.0, 5.0],
    "original_median_shape_after_transp": [100, 200, 40],
    "transpose_forward": [2, 1, 0],
    "transpose_backward": [2, 1, 0],
    "foreground_intensity_properties_per_channel": {"0": CT, "1": CT},
}
FINGERPRINT = {"spacings": [[5, 2, 1], [4, 2, 1]], "shapes_after_crop": [[40, 200, 100], [60, 200, 100]]}


# -- what is usual -----------------------------------------------------------------------------------


def test_medians_are_turned_into_the_images_axes():
    training = describe_training_data(PLAN, [])
    assert training.spacing_mm == (Usual(2.5, 10.0), Usual(1.0, 4.0), Usual(0.5, 2.0))
    assert training.extent_mm == (Usual(50.0, 800.0), Usual(100.0, 1600.0), Usual(25.0, 400.0))


def test_medians_of_axes_in_a_circle_are_not_mixed_up():
    plan = PLAN | {"transpose_forward": [2, 0, 1], "transpose_backward": [1, 2, 0]}
    # after = before[forward], so before = after[backward]: the file's axes are 2, 5 and 1 mm.
    assert [usual.low for usual in describe_training_data(plan, []).spacing_mm] == [1.0, 2.5, 0.5]


def test_a_fingerprint_says_more_than_the_median():
    training = describe_training_data(PLAN, [], FINGERPRINT)
    assert training.spacing_mm[0] == Usual(4 / 1.25, 5 * 1.25)
    assert training.extent_mm[0] == Usual(200 / 1.25, 240 * 1.25)


def test_only_intensities_with_a_scale_can_be_unusual():
    schemes = ["CTNormalization", "ZScoreNormalization", "CTNormalization"]
    assert describe_training_data(PLAN, schemes).intensities == (Usual(-50.0, 250.0), None, None)


@pytest.mark.parametrize(
    "plan",
    [
        {},
        PLAN | {"original_median_spacing_after_transp": [1.0, 2.0]},
        PLAN | {"original_median_spacing_after_transp": [1.0, 0.0, "x"]},
        PLAN | {"transpose_backward": [0, 0, 1]},
        PLAN | {"transpose_backward": None},
    ],
)
def test_a_plan_that_does_not_say_gives_no_warning(plan: dict):
    training = describe_training_data(plan, ["ZScoreNormalization"])
    assert training.spacing_mm == (None, None, None)
    assert warn_of_spacing((9, 9, 9), training) == warn_of_extent((1, 2, 3), (1, 1, 1), training) == []


@pytest.mark.parametrize("fingerprint", [{"spacings": 3}, {"spacings": [[1, 2]]}, {"spacings": [[1, 2, 3]]}])
def test_a_fingerprint_that_is_malformed_is_not_used(fingerprint: dict):
    assert describe_training_data(PLAN, [], fingerprint) == describe_training_data(PLAN, [])


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_fingerprint_that_cannot_be_read_is_none(tmp_path: Path, content: str | None):
    if content is not None:
        (tmp_path / "dataset_fingerprint.json").write_text(content)
    assert find_fingerprint(tmp_path) is None
    (tmp_path / "dataset_fingerprint.json").write_text(json.dumps(FINGERPRINT))
    assert find_fingerprint(tmp_path) == FINGERPRINT


# -- warnings ----------------------------------------------------------------------------------------


def test_an_unusual_voxel_size_is_said_with_its_axis_and_numbers():
    training = describe_training_data(PLAN, [])
    assert warn_of_spacing((5.0, 2.0, 1.0), training) == []
    assert warn_of_spacing((5.0, 4.01, 0.4), training) == [
        "unusual voxel size: 4.01 mm along y (usual: 1 to 4), 0.4 mm along x (usual: 0.5 to 2)"
    ]


def test_an_unusual_field_of_view_is_said_and_a_single_slice_is_none():
    training = describe_training_data(PLAN, [])
    assert warn_of_extent((40, 200, 100), (5, 2, 1), training) == []
    assert warn_of_extent((1, 200, 100), (5, 2, 1), training) == []
    assert warn_of_extent((9, 200, 100), (5, 2, 1), training) == [
        "unusual field of view: 45 mm along z (usual: 50 to 800)"
    ]


@pytest.mark.parametrize(
    ("face", "direction", "name"),
    [
        ((0, 0), STANDARD, "feet"),
        ((0, 1), STANDARD, "head"),
        ((1, 0), STANDARD, "front"),
        ((1, 1), STANDARD, "back"),
        ((2, 0), STANDARD, "right"),
        ((2, 1), STANDARD, "left"),
        ((2, 0), (-1, 0, 0, 0, -1, 0, 0, 0, 1), "left"),
        # The array's z runs along the world's x, its x along the world's z.
        ((0, 1), (0, 0, 1, 0, 1, 0, 1, 0, 0), "left"),
        ((2, 0), (0, 0, 1, 0, 1, 0, 1, 0, 0), "feet"),
        # Tilted by 30 degrees about x.
        ((0, 1), (1, 0, 0, 0, 0.866, -0.5, 0, 0.5, 0.866), "head"),
        ((0, 0), None, "first z"),
        ((2, 1), None, "last x"),
    ],
)
def test_faces_are_named_after_the_patient(face, direction, name):
    assert warn_of_cut_labels({"liver": (face,)}, direction) == [
        f"1 label touches the border of the image: liver ({name})"
    ]


def test_many_cut_labels_are_one_short_sentence():
    touched = {f"rib_{index}": ((0, 0), (0, 1)) for index in range(8)}
    [warning] = warn_of_cut_labels(touched, STANDARD)
    assert warning.startswith("8 labels touch the border of the image: rib_0 (feet, head), rib_1")
    assert warning.endswith("rib_4 (feet, head) and 3 more")
    everywhere = {"body": [(axis, end) for axis in range(3) for end in (0, 1)]}
    assert warn_of_cut_labels(everywhere) == ["1 label touches the border of the image: body (all sides)"]
    assert warn_of_cut_labels({}) == []


def make_ct(offset: float = 0.0):
    generator = np.random.default_rng(0)
    mask = np.zeros((8, 20, 20), dtype=np.uint8)
    mask[2:6, 5:15, 5:15] = 1
    image = np.where(mask, generator.uniform(-50, 250, mask.shape), -1000.0) + offset
    return image[None].astype(np.float32), mask


@pytest.mark.parametrize(("offset", "is_unusual"), [(0, False), (50, False), (150, True), (1024, True), (-400, True)])
def test_a_ct_that_is_shifted_is_said(offset: float, is_unusual: bool):
    image, mask = make_ct(offset)
    training = describe_training_data(PLAN, ["CTNormalization"])
    warnings = warn_of_intensities(image, mask, training, ["CT"])
    assert bool(warnings) == is_unusual
    if offset == 1024:
        assert warnings == [
            "unusual intensities: 100% of the foreground in channel 'CT' lies outside -50 to 250 (1 % in the training)"
        ]


@pytest.mark.parametrize(("offset", "is_unusual"), [(0, False), (-400, True), (1300, True)])
def test_without_a_mask_next_to_nothing_must_look_like_the_training(offset: float, is_unusual: bool):
    image, mask = make_ct(offset)
    training = describe_training_data(PLAN, ["CTNormalization"])
    warnings = warn_of_intensities(image, np.zeros_like(mask), training, ["CT"])
    assert bool(warnings) == is_unusual
    assert all("100% of the image in channel 'CT'" in warning for warning in warnings)


def test_an_mr_image_of_another_scale_is_fine_and_a_constant_one_is_not():
    image, mask = make_ct(1024)
    training = describe_training_data(PLAN, ["ZScoreNormalization"])
    assert warn_of_intensities(image, mask, training, ["T1"]) == []
    assert warn_of_intensities(np.full_like(image, 7), mask, training, ["T1"]) == [
        "channel 'T1' is constant or nearly so, its voxels are 7"
    ]


def test_all_facts_of_a_case_together():
    image, mask = make_ct(1024)
    mask[0, 10, 10] = 1
    grid = Grid(shape=mask.shape, spacing_mm=(20.0, 2.0, 1.0))
    model = ModelFacts(
        labels={"background": 0, "liver": 1},
        channel_names=("CT",),
        training=describe_training_data(PLAN, ["CTNormalization"]),
    )
    facts = describe_case(mask, image, grid, model)
    assert facts.volumes_ml == {"liver": 401 * 40 / 1000}
    assert [warning.split(":")[0] for warning in facts.warnings] == [
        "1 label touches the border of the image", "unusual intensities", "unusual voxel size",
        "unusual field of view",
    ]  # fmt: skip
    turned = describe_case(mask, image, grid, model, is_reoriented=True)
    assert turned.warnings[0].endswith("liver (first z)") and len(turned.warnings) == 2
    empty = describe_case(np.zeros_like(mask), image, grid, model)
    assert empty.warnings[0] == "the mask is empty" and empty.volumes_ml == {"liver": 0.0}


def test_a_flat_image_has_no_volumes_and_no_sides():
    mask = np.zeros((1, 20, 30), dtype=np.uint8)
    mask[0, 0, 3] = 1
    grid = Grid(shape=mask.shape, spacing_mm=(999.0, 1.0, 1.0), num_dimensions=2)
    model = ModelFacts(labels={"background": 0, "cell": 1}, channel_names=("grey",), training=TrainingData())
    facts = describe_case(mask, np.arange(600.0).reshape(1, 1, 20, 30), grid, model)
    assert facts.volumes_ml == {}
    assert facts.warnings == ("1 label touches the border of the image: cell (first y)",)

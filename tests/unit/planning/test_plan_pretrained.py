"""What a plan says of the weights it was made for: written, read back, and refused where it cannot be."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stu_pipeline.errors import ModelError
from stu_pipeline.knowledge import find_knowledge_folder
from stu_pipeline.plan_pretrained import PretrainedStart, find_pretrained, pretrained_plan_name
from stu_pipeline.planfile import parse_plan, read_plan_file

STRIDES = ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2), (1, 1, 2))


def make_start(**changes: Any) -> PretrainedStart:
    known = {
        "file": "base.model",
        "identity": "a" * 64,
        "scale": "B",
        "num_axes": 3,
        "num_input_channels": 1,
        "strides": STRIDES,
        "spacing_mm": (1.5, 1.5, 1.5),
        "patch_voxels": (128, 128, 128),
        "normalization_schemes": ("ZScoreNormalization",),
        "use_mask_for_norm": (False,),
        "transpose_forward": (0, 1, 2),
        "source": "side-car 'base.model.pkl'",
    }
    return PretrainedStart(**{**known, **changes})


def read_reference() -> dict[str, Any]:
    return json.loads((find_knowledge_folder() / "reference" / "pretrained_ct" / "plan.json").read_text())


@pytest.mark.parametrize(
    "start",
    [
        make_start(takes_geometry=True, accepts_other_strides=True, any_normalisation=True),
        PretrainedStart(file="bare.pth", identity="b", scale="H", num_axes=2, num_input_channels=3),
        make_start(num_axes=2, strides=tuple(step[1:] for step in STRIDES), spacing_mm=(1, 2), patch_voxels=(8, 9)),
    ],
    ids=["all known", "nothing known", "flat"],
)
def test_what_is_written_is_read_back(start: PretrainedStart) -> None:
    assert find_pretrained({"pretrained": json.loads(json.dumps(start.to_json()))}) == start


@pytest.mark.parametrize("story", [None, {}, {"scale": "B"}, {"pretrained": None}])
def test_a_plan_that_was_made_for_no_weights_has_none(story: Any) -> None:
    assert find_pretrained(story) is None


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"scale": "XL"}, "scale 'XL'"),
        ({"num_axes": 4}, "4 axes"),
        ({"strides": [[1, 1, 1]]}, "strides"),
        ({"strides": [[1, 1]] * 6}, "strides"),
        ({"strides": [[0, 1, 1]] * 6}, "positive"),
        ({"spacing_mm": [1.5, 1.5, float("inf")]}, "positive"),
        ({"spacing_mm": "1.5"}, "malformed"),
        ({"patch_voxels": [128, -128, 128]}, "positive"),
        ({"transpose_forward": [0, 1, 1]}, "transpose_forward"),
        ({"normalization_schemes": 3}, "malformed"),
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        find_pretrained({"pretrained": {**make_start().to_json(), **change}})


def test_a_plan_with_malformed_weights_is_refused_by_name() -> None:
    raw = read_reference()
    del raw["stu"]["pretrained"]["identity"]
    with pytest.raises(ModelError, match="pretrained weights lacks 'identity'"):
        parse_plan(raw)


def test_the_weights_are_part_of_the_view_of_a_plan() -> None:
    start = parse_plan(read_reference()).pretrained
    assert start is not None
    assert (start.scale, start.strides, start.accepts_other_strides) == ("B", STRIDES, True)


def test_another_name_of_the_file_is_the_same_start_and_other_tensors_are_not() -> None:
    start = make_start()
    assert start.is_same_start(make_start(file="copy.model", source="elsewhere"))
    assert not start.is_same_start(make_start(identity="b"))
    assert not start.is_same_start(make_start(takes_geometry=True))


def test_a_missing_plan_for_weights_says_how_it_is_made(tmp_path: Any) -> None:
    with pytest.raises(ModelError, match="no plan 'stuSPretrainedPlans'") as caught:
        read_plan_file(tmp_path / "Dataset901_Tiny" / f"{pretrained_plan_name('S')}.json")
    assert caught.value.hint == "stu plan Dataset901_Tiny --pretrained FILE"

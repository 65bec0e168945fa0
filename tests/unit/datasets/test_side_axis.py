"""The left-right axis of images, read from properties that may be large, damaged or hostile."""

from __future__ import annotations

import math
import os
import pickle

import numpy as np
import pytest

from stu_pipeline.datasets.side_axis import choose_side_axis, find_side_cosines, read_geometry, read_side_cosines
from stu_pipeline.errors import DataError

IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


def properties(direction=IDENTITY, **more):
    geometry = {"spacing": (1.0, 1.0, 1.0), "origin": (0.0, 0.0, 0.0), "direction": direction}
    return {"sitk_stuff": geometry, "spacing": [1.0, 1.0, 1.0], **more}


def turn(degrees):
    """A turn about the body's long axis, row by row."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return (c, -s, 0.0, s, c, 0.0, 0.0, 0.0, 1.0)


def test_the_axis_that_all_images_share_is_found():
    cosines = [find_side_cosines(properties(turn(angle))) for angle in (0, 10, -30, 180)]
    assert choose_side_axis(cosines).axis == 2


def test_oblique_images_leave_the_axes_between_which_they_lie_unclear():
    side = choose_side_axis([find_side_cosines(properties(turn(angle))) for angle in (0, 45)])
    assert side.axis is None and side.unclear == (1, 2) and "1 of 2 images lie oblique" in side.reason


def test_images_that_disagree_leave_both_axes_unclear():
    side = choose_side_axis([find_side_cosines(properties(turn(angle))) for angle in (0, 0, 90)])
    assert side.axis is None and side.unclear == (1, 2)
    assert "1 along axis 1 and 2 along axis 2" in side.reason


def test_one_image_without_geometry_leaves_every_axis_unclear():
    side = choose_side_axis([find_side_cosines(properties()), find_side_cosines({"spacing": (999, 1, 1)})])
    assert side.axis is None and side.unclear == (0, 1, 2) and "1 of 2 images" in side.reason


def test_no_images_tell_nothing():
    assert choose_side_axis([]).unclear == (0, 1, 2)


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"sitk_stuff": None},
        {"sitk_stuff": {"direction": (1.0, 0.0, 0.0, 1.0)}},
        {"sitk_stuff": {"direction": (math.nan,) * 9}},
        {"sitk_stuff": {"direction": (0.0,) * 9}},
        {"nibabel_stuff": {}},
        {"nibabel_stuff": {"original_affine": np.zeros((4, 4))}},
        {"nibabel_stuff": {"original_affine": np.eye(3)}},
        {"nibabel_stuff": {"original_affine": "identity"}},
    ],
)
def test_geometry_that_tells_nothing_is_none(odd):
    assert find_side_cosines(odd) is None


def test_a_reoriented_image_counts_as_it_was_handed_on():
    turned = np.diag([2.0, 2.0, 2.0, 1.0])[[1, 0, 2, 3]]
    stuff = {"original_affine": turned, "reoriented_affine": np.eye(4)}
    assert find_side_cosines({"nibabel_stuff": stuff}) == (0, 0, 1)
    assert find_side_cosines({"nibabel_stuff": {"original_affine": turned}}) == (0, 1, 0)


LOCATIONS = {label: np.arange(40_000).reshape(-1, 4) for label in range(1, 4)}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "content",
    [
        properties(turn(30), class_locations=LOCATIONS),
        {"class_locations": LOCATIONS, **properties(turn(30))},
        properties(turn(30)),
        {"nibabel_stuff": {"original_affine": np.eye(4)}, "class_locations": LOCATIONS},
    ],
    ids=["usual order", "geometry last", "no locations", "nibabel"],
)
def test_geometry_is_read_from_any_pickle_of_properties(tmp_path, content, protocol):
    file = tmp_path / "case.pkl"
    file.write_bytes(pickle.dumps(content, protocol=protocol))
    assert find_side_cosines(read_geometry(file)) == pytest.approx(find_side_cosines(content))


def test_what_lies_behind_the_geometry_is_not_read(tmp_path):
    whole = pickle.dumps(properties(class_locations=LOCATIONS), protocol=4)
    file = tmp_path / "case.pkl"
    file.write_bytes(whole[: len(whole) // 2])
    assert read_side_cosines([file]) == [(0.0, 0.0, 1.0)]


class Code:
    def __reduce__(self):
        return os.mkdir, ("made_by_a_pickle",)


@pytest.mark.parametrize("place", ["before", "behind"])
def test_a_pickle_with_code_runs_none(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "case.pkl"
    content = {"a": Code(), **properties(class_locations={})} if place == "before" else {**properties(), "z": Code()}
    file.write_bytes(pickle.dumps(content))
    with pytest.raises(DataError, match=r"'case\.pkl' is damaged or holds what is no data.*mkdir"):
        read_geometry(file)
    assert [path.name for path in tmp_path.iterdir()] == ["case.pkl"]


@pytest.mark.parametrize("content", [b"", b"\x80\x04", b"no pickle", pickle.dumps([1, 2])])
def test_what_is_no_dictionary_of_properties_is_refused(tmp_path, content):
    file = tmp_path / "case.pkl"
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"'case\.pkl'"):
        read_geometry(file)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"'case\.pkl' cannot be read"):
        read_geometry(tmp_path / "case.pkl")

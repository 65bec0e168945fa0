"""Voxels far from those the model computes at are told."""

from __future__ import annotations

import json

import pytest

from stu_pipeline.evaluation.model_spacing import find_model_spacing, warn_of_spacing


def write(folder, *, spacing=(1.5, 1.5, 1.5), order=(0, 1, 2), name="nnUNetTrainer__stuBPlans__3d_fullres", **more):
    configurations = {"3d_fullres": {"spacing": list(spacing)}} | more
    plan = {"configurations": configurations, "transpose_forward": list(order)}
    (folder / "plans.json").write_text(json.dumps(plan))
    (folder / "predictions.json").write_text(json.dumps({"recipe": {"models": [{"folder": name}]}}))
    return find_model_spacing(folder)


def test_the_spacing_is_that_of_the_configuration_in_the_order_of_the_image(tmp_path):
    assert write(tmp_path, spacing=(3, 1, 2), order=(2, 0, 1)) == (1.0, 2.0, 3.0)
    assert find_model_spacing(tmp_path / "case.nii.gz") == (1.0, 2.0, 3.0)


def test_inherited_and_2d_configurations_are_read(tmp_path):
    child = {"inherits_from": "3d_fullres"}
    assert write(tmp_path, name="a__b__child", child=child) == (1.5, 1.5, 1.5)
    assert write(tmp_path, name="a__b__2d", **{"2d": {"spacing": [0.5, 0.7]}}) == (None, 0.5, 0.7)


@pytest.mark.parametrize("changes", [{"name": "other"}, {"name": "a__b__2d"}, {"spacing": ["x"]}, {"order": (0, 1)}])
def test_what_does_not_tell_is_not_guessed(tmp_path, changes):
    assert write(tmp_path, **changes) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"recipe": {"models": []}}', '{"recipe": 3}'])
def test_a_report_of_something_else_is_no_error(tmp_path, text):
    write(tmp_path)
    (tmp_path / "predictions.json").write_text(text)
    assert find_model_spacing(tmp_path) is None


def test_only_far_cases_are_named():
    cases = [("near", (3.0, 0.75, 1.5)), ("thick", (5.0, 0.8, 0.8)), ("fine", (1.5, 0.5, 1.5))]
    (warning,) = warn_of_spacing(cases, (1.5, 1.5, 1.5))
    assert "2 of 3 cases" in warning and "'thick' (5 x 0.8 x 0.8 mm), 'fine'" in warning and "near" not in warning
    assert warn_of_spacing(cases[:1], (1.5, 1.5, 1.5)) == ()
    assert warn_of_spacing(cases, None) == ()
    assert warn_of_spacing([("flat", (9.0, 1.0, 1.0))], (None, 1.0, 1.0)) == ()

"""What an arm gets that trains on another arm's plan."""

from __future__ import annotations

import pytest

from stu_pipeline.study.prepare import share_plan

PLAN = {"plans_name": "stuS-tuned", "configurations": {}, "stu": {"scale": "S", "pretrained": {"identity": "1"}}}


@pytest.mark.parametrize("is_from_scratch", [True, False])
def test_a_shared_plan_names_the_weights_only_for_an_arm_that_has_some(is_from_scratch):
    shared = share_plan(PLAN, "stuS-other", is_from_scratch=is_from_scratch)
    assert shared["plans_name"] == "stuS-other" and shared["stu"]["scale"] == "S"
    assert ("pretrained" in shared["stu"]) != is_from_scratch
    assert PLAN["plans_name"] == "stuS-tuned" and "pretrained" in PLAN["stu"]

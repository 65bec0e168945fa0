"""A fold that began with something else is never silently taken for what is asked for."""

from pathlib import Path

import pytest

from stu_pipeline import TrainConfig
from stu_pipeline.errors import ModelError, UsageError
from stu_pipeline.training.finetuning.same_start import require_same_start, require_weights_for_recipe

SCRATCH = {"kind": "scratch"}
TUNED = {"kind": "pretrained", "identity": "abc", "file": "small_ep4k.model", "recipe": "warmup"}
FOLDER = Path("fold_0")


def compare(start, *, identity=None, recipe=None):
    """Compare, and return the warnings and the other notices."""
    pretrained = None if identity is None else Path("somewhere/other.pth")
    config = TrainConfig(dataset="4", pretrained=pretrained, recipe=recipe)
    told = []
    require_same_start(config, start, identity=identity, where=FOLDER, listen=told.append)
    return [notice.text for notice in told if notice.is_warning], [notice.text for notice in told]


def test_the_same_start_goes_on_without_a_word():
    assert compare(SCRATCH) == ([], [])
    assert compare(TUNED, identity="abc") == ([], [])
    assert compare(TUNED, identity="abc", recipe="warmup") == ([], [])


def test_a_fine_tuned_fold_is_told_where_nothing_is_asked_for():
    [warning], _ = compare(TUNED)
    assert "'small_ep4k.model'" in warning and "not from scratch" in warning
    assert compare(TUNED, recipe="warmup")[0] == []


@pytest.mark.parametrize(("start", "began"), [(SCRATCH, "from scratch"), (TUNED, "with the weights of 'small_ep4k")])
def test_another_start_is_refused_with_both_named_and_a_way_out(start, began):
    with pytest.raises(ModelError, match=f"fold 0 began {began}.*'other.pth'") as caught:
        compare(start, identity="def")
    assert "--plan NAME" in caught.value.hint and "--force" in caught.value.hint and caught.value.where == FOLDER


def test_another_recipe_is_refused():
    with pytest.raises(UsageError, match="goes by recipe 'warmup', not by 'paper'"):
        compare(TUNED, identity="abc", recipe="paper")
    with pytest.raises(UsageError, match="began from scratch, without a recipe"):
        compare(SCRATCH, recipe="paper")


def test_a_start_that_nobody_knows_is_told():
    assert compare({"kind": "unknown"}) == ([], [])
    [warning], _ = compare({"kind": "unknown"}, identity="abc")
    assert "does not say" in warning


def test_a_recipe_needs_weights():
    with pytest.raises(UsageError, match="recipe 'paper'") as caught:
        require_weights_for_recipe(TrainConfig(dataset="4", recipe="paper"))
    assert "--pretrained" in caught.value.hint
    require_weights_for_recipe(TrainConfig(dataset="4"))
    require_weights_for_recipe(TrainConfig(dataset="4", recipe="paper", pretrained=Path("a.pth")))

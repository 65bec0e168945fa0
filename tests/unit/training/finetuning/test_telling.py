"""What a training begins with is told in a few lines."""

import pytest

from stu_pipeline.nnunet.settings import TrainerSettings
from stu_pipeline.training.finetuning.telling import describe_beginning, shorten_table
from stu_pipeline.transfer.loading.heads import HeadRow
from stu_pipeline.transfer.loading.table import LoadRow, LoadTable
from tests.unit.training.finetuning.small_start import build_network, plan

PARTS = [f"encoder stage {stage}" for stage in range(6)]


def make_row(part, origin="loaded", how=""):
    return LoadRow(part=part, origin=origin, how=how, num_tensors=1, num_parameters=10, share=0.1)


@pytest.fixture
def table():
    rows = [
        make_row("stem", "adapted", "1 of 2 channels"),
        *map(make_row, PARTS),
        make_row("heads", how="1 of 2 outputs"),
    ]
    heads = (
        HeadRow(target="background", source="background", source_index=0, reason="same name"),
        HeadRow(target="liver", source=None, source_index=None, reason="not among the labels of the weights"),
    )
    return LoadTable(source="small.model", identity="abc", rows=tuple(rows), heads=heads, notes=("a note",))


def test_parts_that_became_the_same_share_a_line(table):
    lines = shorten_table(table)
    assert lines[:2] == ["adapted: stem (1 of 2 channels)", "loaded: encoder stage 0 to 5"]
    assert "from 'small.model': loaded 70.0%, adapted 10.0%" in lines
    assert any("not among the labels" in line and "liver" in line for line in lines)
    assert "a note" not in lines


def test_parts_of_other_numbers_are_not_joined(table):
    rows = (make_row("encoder stage 0"), make_row("encoder stage 2"), make_row("decoder level 3"))
    short = shorten_table(LoadTable(source="a", identity="b", rows=rows, heads=()))
    assert short[0] == "loaded: encoder stage 0, encoder stage 2, decoder level 3"


@pytest.mark.parametrize(("recipe", "num_groups"), [("warmup", 1), ("l2-start", 2)])
def test_the_recipe_is_told_with_its_numbers_and_what_stock_cannot(table, recipe, num_groups):
    settings = TrainerSettings(learning_rate=0.002, warmup_epochs=2.5, pretrained="abc", recipe=recipe)
    lines = list(describe_beginning(table, settings, plan(build_network(), recipe)))
    assert any(f"recipe '{recipe}'" in line and "0.002" in line and "2.5 epochs" in line for line in lines)
    assert any("nnUNetv2_train --c" in line for line in lines) is (num_groups > 1)

"""Cells have names that say what they are, and that patterns choose."""

from __future__ import annotations

import pytest

from stu_pipeline.errors import UsageError
from stu_pipeline.study.cells import choose_cells, list_cells
from stu_pipeline.study.manifest import read_manifest
from tests.study_files import BUDGET, HEAD, describe_dataset, write_listed_dataset, write_manifest, write_usual_manifest


def test_a_curve_has_a_cell_per_arm_number_and_seed(tmp_path):
    cells = list_cells(read_manifest(write_usual_manifest(tmp_path)))
    names = [cell.name for cell in cells]
    assert len(set(names)) == len(names) == 8
    assert names[:3] == [
        "Dataset901_Listed.scratch.S.n2.s0",
        "Dataset901_Listed.tuned.S.n2.s0",
        "Dataset901_Listed.scratch.S.n2.s1",
    ]
    assert cells[0].plan_name == "stuS-scratch"


def test_stock_networks_have_one_cell_for_all_scales(tmp_path):
    arms = '[[arms]]\nname = "stu"\nkind = "scratch"\n[[arms]]\nname = "nnunet"\nkind = "stock"\n'
    head = HEAD.replace('["S"]', '["S", "B"]').replace("[0, 1]", "[5]") + "folds = [0, 3]\n"
    path = write_manifest(tmp_path / "a.toml", head, BUDGET, arms, describe_dataset(write_listed_dataset(tmp_path)))
    cells = list_cells(read_manifest(path))
    assert [cell.name.partition(".")[2] for cell in cells] == [
        "stu.S.f0.s5", "stu.B.f0.s5", "nnunet.f0.s5", "stu.S.f3.s5", "stu.B.f3.s5", "nnunet.f3.s5",
    ]  # fmt: skip
    assert cells[2].plan_name == "nnunet" and cells[2].scale is None


def test_patterns_choose_cells_and_an_empty_choice_is_an_error(tmp_path):
    cells = list_cells(read_manifest(write_usual_manifest(tmp_path)))
    assert choose_cells(cells, ()) == cells
    chosen = choose_cells(cells, ("*.tuned.*.s0", "*.scratch.S.n3.s1"))
    assert [cell.name.partition(".")[2] for cell in chosen] == ["tuned.S.n2.s0", "tuned.S.n3.s0", "scratch.S.n3.s1"]
    with pytest.raises(UsageError, match=r"no cell is named .\*\.magic\.\*"):
        choose_cells(cells, ("*.tuned.*", "*.magic.*"))

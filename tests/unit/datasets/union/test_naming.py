"""Which name a union gets."""

from __future__ import annotations

import json

import pytest

from stu_pipeline.datasets.union.naming import choose_union_name
from stu_pipeline.errors import UsageError
from stu_pipeline.workspace import Workspace

MINE, OTHER = {"labels": 1}, {"labels": 2}


@pytest.fixture
def workspace(tmp_path):
    return Workspace(raw=tmp_path / "raw", preprocessed=tmp_path / "pre", results=tmp_path / "res")


def put(workspace, name, identity=None):
    (workspace.raw / name).mkdir(parents=True)
    if identity is not None:
        (workspace.raw / name / "stu_union.json").write_text(json.dumps({"identity": identity}))


def test_without_a_name_the_first_free_id_from_900_is_taken(workspace):
    assert choose_union_name(MINE, [workspace], None) == "Dataset900_Union"
    put(workspace, "Dataset900_Union", OTHER)
    (workspace.preprocessed / "Dataset901_Gone").mkdir(parents=True)
    assert choose_union_name(MINE, [workspace], None) == "Dataset902_Union"
    put(workspace, "Dataset950_Union", MINE)
    assert choose_union_name(MINE, [workspace], None) == "Dataset950_Union"


def test_a_name_finds_its_union_again_or_gets_a_free_id(workspace):
    assert choose_union_name(MINE, [workspace], "Organs") == "Dataset900_Organs"
    assert choose_union_name(MINE, [workspace], "Dataset007_Organs") == "Dataset007_Organs"
    put(workspace, "Dataset905_Organs", OTHER)
    assert choose_union_name(MINE, [workspace], "Organs") == "Dataset905_Organs"
    assert choose_union_name(MINE, [workspace], "Dataset007_Organs") == "Dataset007_Organs"


def test_a_dataset_that_is_no_union_is_in_the_way(workspace):
    put(workspace, "Dataset905_Organs")
    for wanted in ("Organs", "Dataset905_Organs", "Dataset905_Other"):
        with pytest.raises(UsageError, match="'Dataset905_Organs' is another dataset, not this union"):
            choose_union_name(MINE, [workspace], wanted)
    assert choose_union_name(MINE, [workspace], "Dataset906_Organs") == "Dataset906_Organs"


def test_names_of_all_workspaces_are_taken(workspace, tmp_path):
    put(workspace, "Dataset900_Union", OTHER)
    scratch = Workspace(raw=tmp_path / "a", preprocessed=tmp_path / "b", results=tmp_path / "c")
    assert choose_union_name(MINE, [scratch, workspace], None) == "Dataset901_Union"
    assert choose_union_name(OTHER, [scratch, workspace], None) == "Dataset900_Union"


def test_an_id_has_one_name(workspace):
    put(workspace, "Dataset905_Organs", MINE)
    with pytest.raises(UsageError, match="'Dataset905_Organs' is another dataset"):
        choose_union_name(MINE, [workspace], "Dataset905_Other")


@pytest.mark.parametrize("wanted", ["", "a/b", "-x", "a b"])
def test_a_name_that_is_none_is_refused(workspace, wanted):
    with pytest.raises(UsageError, match="is not allowed"):
        choose_union_name(MINE, [workspace], wanted)

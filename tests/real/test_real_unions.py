"""Real collections become one dataset: other formats, channels, orientations and labels."""

from __future__ import annotations

import json

import pytest

from stu_pipeline.datasets.check import check_dataset
from stu_pipeline.datasets.dataset_json import read_dataset_json
from stu_pipeline.datasets.partial_labels import find_partial_labels
from stu_pipeline.datasets.union.making import find_union, make_union
from stu_pipeline.datasets.union.request import UnionRequest
from stu_pipeline.errors import DataError
from stu_pipeline.workspace import Workspace
from tests.real_data import require

pytestmark = pytest.mark.real


@pytest.fixture
def workspace(tmp_path):
    return Workspace(raw=tmp_path / "raw", preprocessed=tmp_path / "pre", results=tmp_path / "res")


def test_four_collections_become_one_that_passes_the_check(workspace, tmp_path):
    names = (
        "Dataset112_TotalSegCT",
        "Dataset113_SpinalCordTiny",
        "Dataset115_PyRadiomicsNRRD",
        "Dataset107_MSlesion4ch",
    )
    sources = [str(require(name)) for name in names]
    with pytest.raises(DataError, match="different numbers of channels"):
        make_union(UnionRequest(sources=tuple(sources)), workspace=workspace)
    mapping = tmp_path / "labels.json"
    mapping.write_text(json.dumps({"Dataset113_SpinalCordTiny": {"cord": "SpinalCord"}}))
    request = UnionRequest(sources=(*sources[:3], f"{sources[3]}:0"), union_labels=mapping)
    folder = make_union(request, workspace=workspace)
    description = read_dataset_json(folder)
    assert len(description.foreground_values) == 61 + 1 + 1 and description.channel_names == {0: "channel_0"}
    partial = find_partial_labels(description.raw)
    assert partial is not None
    assert [len(labels) for labels in partial.sources.values()] == [61, 1, 1, 1]
    cord = description.labels["spinal_cord"]
    assert partial.list_marked("Dataset113_SpinalCordTiny__cord_t2") == (cord,)
    report = check_dataset(folder, num_workers=0)
    assert report.problems == () and report.num_cases == 11
    assert find_union(request, workspace=workspace) == folder

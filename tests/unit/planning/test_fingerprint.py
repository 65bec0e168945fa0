"""The fingerprint has nnU-Net's form, and says when it replaces another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stu_pipeline.datasets.inspection import CaseReport
from stu_pipeline.datasets.statistics import measure_case
from stu_pipeline.errors import DataError
from stu_pipeline.log import Notice
from stu_pipeline.planning.fingerprint import build_fingerprint, store_fingerprint
from stu_pipeline.storage import read_json
from stu_pipeline.workspace import DatasetPaths, Workspace


@pytest.fixture(name="dataset")
def make_dataset(tmp_path: Path) -> DatasetPaths:
    workspace = Workspace(raw=tmp_path / "raw", preprocessed=tmp_path / "pre", results=tmp_path / "res")
    name = "Dataset901_Tiny"
    raw = workspace.raw / name
    raw.mkdir(parents=True)
    pre, res = workspace.preprocessed / name, workspace.results / name
    return DatasetPaths(name=name, raw=raw, preprocessed=pre, results=res, workspace=workspace)


def report(case_id: str, *, foreground: bool = True) -> CaseReport:
    image = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    label = np.zeros((2, 3, 4), np.uint8)
    label[1] = foreground
    statistics = measure_case([image, -image], label)
    return CaseReport(case_id=case_id, shape=(2, 3, 4), spacing_mm=(3.0, 1.0, 1.0), statistics=statistics)


def test_it_has_nnunets_form() -> None:
    content = build_fingerprint([report("a"), report("b", foreground=False)])
    assert content["shapes_after_crop"] == [[2, 3, 4], [2, 3, 4]]
    assert content["spacings"] == [[3.0, 1.0, 1.0], [3.0, 1.0, 1.0]]
    assert content["median_relative_size_after_cropping"] == 1.0
    channels = content["foreground_intensity_properties_per_channel"]
    assert (channels["0"]["min"], channels["0"]["max"], channels["0"]["mean"]) == (12, 23, 17.5)
    assert (channels["1"]["min"], channels["1"]["max"]) == (-23, -12)


def test_no_foreground_anywhere_is_refused() -> None:
    with pytest.raises(DataError, match="no case has any foreground voxel"):
        build_fingerprint([report("a", foreground=False)])


def test_replacing_a_fingerprint_is_said(dataset: DatasetPaths) -> None:
    events: list[object] = []
    content = build_fingerprint([report("a")])
    for _ in range(2):
        store_fingerprint(dataset, content, listen=events.append)
    assert events == [] and read_json(dataset.fingerprint) == content
    store_fingerprint(dataset, {**content, "spacings": []}, listen=events.append)
    assert [isinstance(event, Notice) for event in events] == [True]

"""The fingerprint is reused exactly while the files are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stu_pipeline.datasets.cases import Case
from stu_pipeline.datasets.dataset_json import parse_dataset_json
from stu_pipeline.errors import DataError
from stu_pipeline.log import Notice
from stu_pipeline.planning.fingerprint import (
    Fingerprint,
    choose_num_workers,
    find_fingerprint,
    sign_sources,
    store_fingerprint,
)
from stu_pipeline.storage import write_json
from stu_pipeline.workspace import DatasetPaths, Workspace

FINGERPRINT = Fingerprint(
    content={"spacings": [[1.0, 1.0, 1.0]], "shapes_after_crop": [[8, 8, 8]]}, reader_name="SimpleITKIO"
)
OTHER = Fingerprint(content={**FINGERPRINT.content, "spacings": []}, reader_name="SimpleITKIO")
DESCRIPTION = {
    "channel_names": {"0": "x"},
    "labels": {"background": 0, "a": 1},
    "numTraining": 1,
    "file_ending": ".nii",
}


@pytest.fixture(name="dataset")
def make_dataset(tmp_path: Path) -> DatasetPaths:
    workspace = Workspace(raw=tmp_path / "raw", preprocessed=tmp_path / "pre", results=tmp_path / "res")
    name = "Dataset901_Tiny"
    raw = workspace.raw / name
    raw.mkdir(parents=True)
    pre, res = workspace.preprocessed / name, workspace.results / name
    return DatasetPaths(name=name, raw=raw, preprocessed=pre, results=res, workspace=workspace)


def write_case(dataset: DatasetPaths, content: bytes = b"image" * 100_000) -> Case:
    image, label = dataset.raw / "a_0000.nii", dataset.raw / "a.nii"
    image.write_bytes(content)
    label.write_bytes(b"label")
    return Case(id="a", image_files=(image,), label_file=label)


def sign(cases: list[Case], **changes: object) -> dict[str, Any]:
    return sign_sources(cases, parse_dataset_json(DESCRIPTION | changes, Path("dataset.json")))


def test_a_stored_fingerprint_is_found_again(dataset: DatasetPaths) -> None:
    sources = sign([write_case(dataset)])
    assert find_fingerprint(dataset, sources) is None
    store_fingerprint(dataset, FINGERPRINT, sources)
    assert find_fingerprint(dataset, sources) == FINGERPRINT


def test_rewriting_the_same_bytes_does_not_measure_again(dataset: DatasetPaths) -> None:
    store_fingerprint(dataset, FINGERPRINT, sign([write_case(dataset)]))
    assert find_fingerprint(dataset, sign([write_case(dataset)])) == FINGERPRINT


@pytest.mark.parametrize("content", [b"Image" + b"image" * 99_999, b"image" * 99_999 + b"imagE", b"image" * 100_001])
def test_a_changed_file_measures_again(dataset: DatasetPaths, content: bytes) -> None:
    store_fingerprint(dataset, FINGERPRINT, sign([write_case(dataset)]))
    assert find_fingerprint(dataset, sign([write_case(dataset, content)])) is None


def test_another_reader_measures_again(dataset: DatasetPaths) -> None:
    case = write_case(dataset)
    store_fingerprint(dataset, FINGERPRINT, sign([case]))
    assert find_fingerprint(dataset, sign([case], overwrite_image_reader_writer="NibabelIO")) is None


def test_a_fingerprint_that_another_tool_replaced_is_not_trusted(dataset: DatasetPaths) -> None:
    sources = sign([write_case(dataset)])
    store_fingerprint(dataset, FINGERPRINT, sources)
    write_json(dataset.fingerprint, OTHER.content)
    assert find_fingerprint(dataset, sources) is None


def test_replacing_a_fingerprint_is_said(dataset: DatasetPaths) -> None:
    events: list[object] = []
    sources = sign([write_case(dataset)])
    store_fingerprint(dataset, FINGERPRINT, sources, listen=events.append)
    assert events == []
    store_fingerprint(dataset, OTHER, sources, listen=events.append)
    assert [isinstance(event, Notice) for event in events] == [True]


def test_an_unreadable_case_is_named(dataset: DatasetPaths) -> None:
    with pytest.raises(DataError, match=r"'gone_0000\.nii' cannot be read"):
        sign([Case(id="gone", image_files=(dataset.raw / "gone_0000.nii",))])


def test_small_data_is_read_without_workers(dataset: DatasetPaths) -> None:
    case = write_case(dataset)
    assert choose_num_workers(None, [case]) == 0
    assert choose_num_workers(3, [case]) == 3

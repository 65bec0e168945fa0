"""Images that two sources hold both are told."""

from __future__ import annotations

import shutil

import pytest

from stu_pipeline.datasets.union.duplicates import find_duplicates
from stu_pipeline.datasets.union.request import UnionRequest
from stu_pipeline.datasets.union.sources import open_sources
from stu_pipeline.workspace import Workspace
from tests.synthetic import write_tiny_dataset


@pytest.fixture
def workspace(tmp_path):
    return Workspace(raw=tmp_path / "raw", preprocessed=tmp_path / "pre", results=tmp_path / "res")


def test_equal_images_of_two_sources_are_found_under_any_name(workspace):
    first, second = (
        write_tiny_dataset(workspace.raw, number, num_cases=3, shape=(5, 6, 7), seed=number) for number in (101, 102)
    )
    request = UnionRequest(sources=("101", "102"))
    assert find_duplicates(open_sources(request, workspace)) == []
    for old, new in ((0, 2), (1, 1)):
        shutil.copy(first / "imagesTr" / f"case_00{old}_0000.nii.gz", second / "imagesTr" / f"case_00{new}_0000.nii.gz")
    (found,) = find_duplicates(open_sources(request, workspace))
    assert found.startswith("Dataset101_Tiny and Dataset102_Tiny hold 2 equal images, ")
    assert "'case_000_0000.nii.gz' and 'case_002_0000.nii.gz'" in found


def test_files_of_one_size_that_differ_are_no_duplicates(workspace):
    for number in (101, 102):
        write_tiny_dataset(
            workspace.raw, number, num_cases=2, shape=(6, 7), file_ending=".bmp", seed=number, num_labels=1
        )
    assert find_duplicates(open_sources(UnionRequest(sources=("101", "102")), workspace)) == []

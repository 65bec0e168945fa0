"""The datasets of a union: found, and refused before any work when they do not fit together."""

from __future__ import annotations

import json

import pytest

from stu_pipeline.datasets.union.request import UnionRequest
from stu_pipeline.datasets.union.sources import holds_pictures, open_sources
from stu_pipeline.errors import DataError, UsageError
from stu_pipeline.workspace import Workspace
from tests.foreign_forms import write_task
from tests.synthetic import write_tiny_dataset


@pytest.fixture
def workspace(tmp_path):
    return Workspace(raw=tmp_path / "raw", preprocessed=tmp_path / "pre", results=tmp_path / "res")


def write(workspace, number, name="Tiny", **facts):
    return write_tiny_dataset(
        workspace.raw, number, **{"name": name, "num_cases": 2, "shape": (5, 6, 7), "seed": number, **facts}
    )


def open_all(workspace, *sources):
    return open_sources(UnionRequest(sources=sources), workspace)


def change(folder, **content):
    path = folder / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **content}))


def test_sources_are_found_by_id_name_and_path(workspace):
    folders = [write(workspace, number) for number in (101, 102, 103)]
    sources = open_all(workspace, "101", "Dataset102_Tiny", str(folders[2]))
    assert [source.folder for source in sources] == folders
    assert [len(source.cases) for source in sources] == [2, 2, 2]
    assert sources[0].labels == {"label1": 1, "label2": 2} and sources[0].unnamed == ()
    assert not holds_pictures(sources)


def test_channels_are_picked_in_the_order_given(workspace):
    write(workspace, 101, num_channels=2)
    write(workspace, 107, num_channels=4)
    sources = open_all(workspace, "101", "107:2,0")
    assert sources[1].channel_names == ("channel2", "channel0")
    assert [path.name[-11:-7] for path in sources[1].cases[0].image_files] == ["0002", "0000"]
    with pytest.raises(UsageError, match=r"'Dataset107_Tiny' has no channel 4, it has 4 channels \(0 channel0, "):
        open_all(workspace, "101", "107:1,4")


def test_other_numbers_of_channels_are_refused_with_what_to_pick(workspace):
    write(workspace, 101)
    write(workspace, 107, num_channels=4)
    write(workspace, 108, num_channels=3)
    with pytest.raises(DataError, match="different numbers of channels") as caught:
        open_all(workspace, "101", "107", "108:0,1")
    assert caught.value.hint == "pick channels, for example 'Dataset107_Tiny:0'"
    assert caught.value.details[0] == "'Dataset101_Tiny' has 1 channel (0 channel0)"
    assert caught.value.details[2].startswith("'Dataset108_Tiny' has 2 channels picked of 3 channels (0 channel0,")


def test_a_missing_file_is_named_and_all_faulty_sources_are_told_at_once(workspace):
    folders = [write(workspace, number) for number in (101, 102)]
    (folders[0] / "labelsTr" / "case_001.nii.gz").unlink()
    with pytest.raises(DataError, match=r"missing 'labelsTr/case_001\.nii\.gz'"):
        open_all(workspace, "101", "102")
    (folders[1] / "dataset.json").write_text("{")
    with pytest.raises(DataError, match="3 sources of the union cannot be used") as caught:
        open_all(workspace, "101", "102", "103")
    assert [word in text for word, text in zip(("case_001", "JSON", "'103'"), caught.value.details, strict=True)] == [
        True
    ] * 3


def test_one_dataset_twice_and_two_of_one_name_are_refused(workspace, tmp_path):
    write(workspace, 101)
    other = write_tiny_dataset(tmp_path / "other", 101, num_cases=1, shape=(5, 6, 7))
    with pytest.raises(UsageError, match="'Dataset101_Tiny' is given twice"):
        open_all(workspace, "101", "101:0")
    with pytest.raises(UsageError, match="two sources are named 'Dataset101_Tiny'"):
        open_all(workspace, "101", str(other))


def test_a_dataset_in_another_form_is_to_be_imported_first(workspace, tmp_path):
    write(workspace, 101)
    task = write_task(tmp_path / "Task04_Organs")
    with pytest.raises(DataError, match="'Task04_Organs' is in the form of") as caught:
        open_all(workspace, "101", str(task))
    assert caught.value.hint.startswith(f"stu plan {task}")


def test_a_dataset_without_raw_data_is_refused(workspace):
    write(workspace, 101)
    (workspace.preprocessed / "Dataset102_Gone").mkdir(parents=True)
    with pytest.raises(DataError, match="raw data of 'Dataset102_Gone' not found"):
        open_all(workspace, "101", "102")


def test_pictures_and_volumes_do_not_mix_and_tiff_is_refused(workspace):
    write(workspace, 101)
    write(workspace, 102, shape=(6, 7), file_ending=".png")
    write(workspace, 103, shape=(6, 7), file_ending=".bmp")
    write(workspace, 104, shape=(6, 7), file_ending=".tif")
    assert holds_pictures(open_all(workspace, "102", "103"))
    with pytest.raises(DataError, match="'Dataset102_Tiny' holds pictures and 'Dataset101_Tiny' volumes"):
        open_all(workspace, "101", "102")
    with pytest.raises(DataError, match="'Dataset104_Tiny' holds TIFF files"):
        open_all(workspace, "102", "104")


def test_channels_of_a_colour_picture_cannot_be_picked(workspace):
    write(workspace, 102, shape=(6, 7), file_ending=".png")
    colour = write(workspace, 103, shape=(6, 7), file_ending=".png")
    change(colour, channel_names={"0": "R", "1": "G", "2": "B"})
    with pytest.raises(DataError, match="channels of 'Dataset103_Tiny' cannot be picked"):
        open_all(workspace, "102", "103:1")


def test_what_only_regions_hold_has_its_id_for_a_name(workspace):
    folder = write(workspace, 101, regions=True)
    write(workspace, 102)
    source = open_all(workspace, "101", "102")[0]
    assert source.labels == {"1": 1, "core": 2}
    assert source.unnamed == ("1",) and source.region_names == ("region1",)
    change(folder, labels={"background": 0, "whole": [10, 20], "core": 20}, regions_class_order=[10, 20])
    assert open_all(workspace, "101", "102")[0].labels == {"10": 1, "core": 2}

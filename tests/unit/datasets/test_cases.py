"""Which files make up which case."""

from __future__ import annotations

import os
import shutil
import time

import pytest

from stu_pipeline.datasets.cases import list_input_cases, list_notes, list_training_cases
from stu_pipeline.datasets.dataset_json import read_dataset_json
from stu_pipeline.errors import DataError
from tests import synthetic


def make(tmp_path, *, channels=2, cases=3, ending=".nii.gz", **changes):
    """A dataset of empty files: listing never opens them."""
    for index in range(cases):
        for channel in range(channels):
            touch(tmp_path / "imagesTr" / f"c{index}_{channel:04d}{ending}")
        touch(tmp_path / "labelsTr" / f"c{index}{ending}")
    content = {
        "channel_names": {str(channel): "MR" for channel in range(channels)},
        "labels": {"background": 0, "organ": 1},
        "numTraining": cases,
        "file_ending": ending,
    }
    synthetic.write_dataset_json(tmp_path, **{**content, **changes})
    return tmp_path


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def list_training(folder):
    return list_training_cases(folder, read_dataset_json(folder))


def test_cases_are_sorted_and_channels_in_order(tmp_path):
    cases = list_training(make(tmp_path))
    assert [case.id for case in cases] == ["c0", "c1", "c2"]
    assert [path.name for path in cases[1].image_files] == ["c1_0000.nii.gz", "c1_0001.nii.gz"]
    assert cases[1].label_file == tmp_path / "labelsTr" / "c1.nii.gz" and cases[1].ending == ".nii.gz"


def test_junk_is_ignored(tmp_path):
    make(tmp_path)
    for name in (".DS_Store", "._c1_0000.nii.gz", "Thumbs.db", "notes.txt", "sub/x_0000.nii.gz"):
        touch(tmp_path / "imagesTr" / name)
        touch(tmp_path / "labelsTr" / name)
    assert len(list_training(tmp_path)) == 3


def test_all_layout_problems_come_together(tmp_path):
    make(tmp_path)
    (tmp_path / "imagesTr" / "c0_0001.nii.gz").unlink()
    (tmp_path / "labelsTr" / "c1.nii.gz").unlink()
    touch(tmp_path / "imagesTr" / "c2_0002.nii.gz")
    touch(tmp_path / "imagesTr" / "pa.nii.gz")
    touch(tmp_path / "imagesTr" / "c9_0000.nii")
    touch(tmp_path / "labelsTr" / "orphan.nii.gz")
    with pytest.raises(DataError, match="6 problems") as error:
        list_training(tmp_path)
    text = "\n".join(error.value.details)
    assert "case 'c0' has 1 of 2 channels, missing 'c0_0001.nii.gz'" in text
    assert "case 'c1' has no label map, missing 'labelsTr/c1.nii.gz'" in text
    assert "case 'c2' has unexpected channels 'c2_0002.nii.gz', expected 2" in text
    assert "'imagesTr/pa.nii.gz' has no channel number, expected 'pa_0000.nii.gz'" in text
    assert "'imagesTr/c9_0000.nii' ends in .nii but dataset.json says .nii.gz" in text
    assert "label map 'labelsTr/orphan.nii.gz' has no image" in text


def test_no_cases_is_an_error(tmp_path):
    make(tmp_path, cases=0, numTraining=1)
    (tmp_path / "imagesTr").mkdir()
    (tmp_path / "labelsTr").mkdir()
    with pytest.raises(DataError, match=r"no training cases found, expected '<case>_0000.nii.gz'"):
        list_training(tmp_path)
    shutil.rmtree(tmp_path / "imagesTr")
    with pytest.raises(DataError, match="folder 'imagesTr' not found"):
        list_training(tmp_path)


def test_a_wrong_count_is_a_note_and_no_fault(tmp_path):
    make(tmp_path, numTraining=4)
    description = read_dataset_json(tmp_path)
    cases = list_training_cases(tmp_path, description)
    assert list_notes(tmp_path, description, cases) == ["dataset.json says numTraining 4, found 3 cases"]
    assert description.describe_for_engine(len(cases))["numTraining"] == 3


def test_names_that_differ_only_in_case_or_encoding_are_refused(tmp_path):
    make(tmp_path, channels=1, cases=0, numTraining=4)
    for name in ("Liver", "liver", "\u00e4", "a\u0308"):
        touch(tmp_path / "imagesTr" / f"{name}_0000.nii.gz")
        touch(tmp_path / "labelsTr" / f"{name}.nii.gz")
    with pytest.raises(DataError, match="2 problems"):
        list_training(tmp_path)


def test_colour_pictures_hold_their_channels_in_one_file(tmp_path):
    make(tmp_path, channels=1, ending=".png", channel_names={"0": "R", "1": "G", "2": "B"})
    assert [len(case.image_files) for case in list_training(tmp_path)] == [1, 1, 1]


def test_listed_files_are_taken_and_missing_ones_named(tmp_path):
    listed = {f"x{i}": {"images": [f"imagesTr/c{i}_0000.nii.gz"], "label": f"labelsTr/c{i}.nii.gz"} for i in (0, 1)}
    make(tmp_path, channels=1, numTraining=2, dataset=listed)
    assert [case.id for case in list_training(tmp_path)] == ["x0", "x1"]
    (tmp_path / "labelsTr/c1.nii.gz").unlink()
    with pytest.raises(DataError, match=r"case 'x1' lists .*which is not there"):
        list_training(tmp_path)


def test_listing_takes_linear_time(tmp_path):
    make(tmp_path, channels=1, cases=3000)
    start = time.perf_counter()
    assert len(list_training(tmp_path)) == 3000
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize("name", ["scan.nii.gz", "scan_0000.nii.gz", "scan.nii", "scan.mha"])
def test_one_channel_takes_any_file_name(tmp_path, name):
    touch(tmp_path / name)
    for source in (tmp_path, tmp_path / name):
        (case,) = list_input_cases(source, 1, ".nii.gz")
        assert case.id == "scan" and case.image_files == (tmp_path / name,)
    assert case.ending == name[name.index(".") :]


def test_a_number_in_a_file_name_is_not_a_channel(tmp_path):
    touch(tmp_path / "scan_2023.nii.gz")
    assert list_input_cases(tmp_path, 1, ".nii.gz")[0].id == "scan_2023"


def test_inputs_that_would_get_one_name_are_refused(tmp_path):
    for name in ("a.nii.gz", "a_0000.nii.gz", "b.nii", "b.nii.gz", "C.nii.gz", "c.nii.gz"):
        touch(tmp_path / name)
    with pytest.raises(DataError, match="3 problems") as error:
        list_input_cases(tmp_path, 1, ".nii.gz")
    assert "'a.nii.gz' and 'a_0000.nii.gz' would both be written as 'a'" in error.value.details


def test_further_channels_for_a_one_channel_model_are_named(tmp_path):
    touch(tmp_path / "a_0000.nii.gz")
    touch(tmp_path / "a_0001.nii.gz")
    with pytest.raises(DataError, match=r"'a_0001.nii.gz' is a further channel of case 'a'"):
        list_input_cases(tmp_path, 1, ".nii.gz")


def test_several_channels_need_their_numbers(tmp_path):
    for name in ("a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz", "b_0001.nii.gz"):
        touch(tmp_path / name)
    assert [case.id for case in list_input_cases(tmp_path, 2, ".nii.gz")] == ["a", "b"]
    (case,) = list_input_cases(tmp_path / "b_0001.nii.gz", 2, ".nii.gz")
    assert [path.name for path in case.image_files] == ["b_0000.nii.gz", "b_0001.nii.gz"]
    (tmp_path / "a_0001.nii.gz").unlink()
    touch(tmp_path / "c.nii.gz")
    with pytest.raises(DataError, match="2 problems") as error:
        list_input_cases(tmp_path, 2, ".nii.gz")
    assert "case 'a' has 1 of 2 channels, missing 'a_0001.nii.gz'" in error.value.details
    assert "'c.nii.gz' has no channel number" in error.value.details[0]


def test_zero_cases_say_what_was_found_and_expected(tmp_path):
    with pytest.raises(DataError, match=r"the folder is empty, expected files like 'case_0000.nii.gz'"):
        list_input_cases(tmp_path, 1, ".nii.gz")
    touch(tmp_path / "a.dcm")
    with pytest.raises(DataError, match=r"found only 'a\.dcm'"):
        list_input_cases(tmp_path, 1, ".nii.gz")
    with pytest.raises(DataError, match="'nowhere' not found"):
        list_input_cases(tmp_path / "nowhere", 1, ".nii.gz")


def test_a_pipe_in_the_folder_does_not_hang_the_listing(tmp_path):
    os.mkfifo(tmp_path / "a.nii.gz")
    assert list_input_cases(tmp_path, 1, ".nii.gz")[0].id == "a"


def test_pipes_dead_links_and_missing_folders_are_listed_with_the_rest(tmp_path):
    make(tmp_path, channels=1)
    os.mkfifo(tmp_path / "imagesTr" / "p_0000.nii.gz")
    (tmp_path / "imagesTr" / "c0_0000.nii.gz").unlink()
    (tmp_path / "imagesTr" / "c0_0000.nii.gz").symlink_to(tmp_path / "nowhere")
    shutil.rmtree(tmp_path / "labelsTr")
    with pytest.raises(DataError, match="3 problems") as error:
        list_training(tmp_path)
    assert error.value.details == (
        "'imagesTr/c0_0000.nii.gz' is a link to a file that is not there",
        "'imagesTr/p_0000.nii.gz' is not a regular file",
        "folder 'labelsTr' not found",
    )


def test_ignored_files_are_noted(tmp_path):
    make(tmp_path, channels=1)
    touch(tmp_path / "imagesTr" / "._c0_0000.nii.gz")
    touch(tmp_path / "labelsTr" / "Thumbs.db")
    description = read_dataset_json(tmp_path)
    assert list_notes(tmp_path, description, list_training(tmp_path)) == [
        "1 hidden file in 'imagesTr' ignored: '._c0_0000.nii.gz'",
        "1 file without an image ending in 'labelsTr' ignored: 'Thumbs.db'",
    ]


def test_listed_files_must_be_images_and_regular(tmp_path):
    make(tmp_path, channels=1, cases=1)
    os.mkfifo(tmp_path / "pipe.nii.gz")
    touch(tmp_path / "notes.txt")
    listed = {"a": {"images": ["pipe.nii.gz"], "label": "labelsTr/c0.nii.gz"}}
    listed["b"] = {"images": ["imagesTr/c0_0000.nii.gz"], "label": "notes.txt"}
    make(tmp_path, channels=1, cases=1, dataset=listed)
    with pytest.raises(DataError, match="2 problems") as error:
        list_training(tmp_path)
    assert "which is not a regular file" in error.value.details[0]
    assert "which has no supported ending" in error.value.details[1]

"""Images and label maps of two folders, matched by name."""

from __future__ import annotations

import os

import numpy as np
import pytest

from stu_pipeline.datasets.forms.folder_pair import FolderPair, take_folder_pair
from stu_pipeline.errors import DataError, UsageError
from tests.foreign_forms import SHAPE, write_pair, write_series
from tests.synthetic import write_volume


def take(folders, *channels):
    return take_folder_pair(FolderPair(images=folders[0], labels=folders[1], channels=channels))


def files_of(found):
    return {case.id: ([path.name for path in case.images], case.label.name) for case in found.cases}


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha", ".tif", ".png"])
def test_equal_names_match_whatever_the_ending(tmp_path, ending):
    if ending == ".png":
        for name in ("a", "b"):
            write_volume(tmp_path / "A" / f"{name}.png", np.zeros((8, 9), np.uint8))
            write_volume(tmp_path / "B" / f"{name}.png", np.zeros((8, 9), np.uint8))
        found = take((tmp_path / "A", tmp_path / "B"))
    else:
        found = take(write_pair(tmp_path, ("a", "b"), ending=ending))
    assert files_of(found) == {name: ([f"{name}{ending}"], f"{name}{ending}") for name in ("a", "b")}
    assert found.file_ending == ending and found.channel_names == ("image",) and found.labels is None


def test_images_with_a_channel_number_match(tmp_path):
    found = take(write_pair(tmp_path, ("a", "b"), image_suffix="_0000"))
    assert files_of(found) == {name: ([f"{name}_0000.nii.gz"], f"{name}.nii.gz") for name in ("a", "b")}


def test_a_number_on_both_sides_is_taken_off_when_it_is_a_channel(tmp_path):
    assert list(files_of(take(write_pair(tmp_path, ("a",), image_suffix="_0000", label_suffix="_0000")))) == ["a"]


def test_a_year_in_the_name_is_part_of_it(tmp_path):
    names = ("scan_2022", "scan_2023")
    assert list(files_of(take(write_pair(tmp_path / "plain", names)))) == list(names)
    assert list(files_of(take(write_pair(tmp_path / "numbered", names, image_suffix="_0000")))) == list(names)


def test_several_channels_are_grouped_and_named(tmp_path):
    folders = write_pair(tmp_path, ("a", "b"), num_channels=2)
    found = take(folders)
    assert files_of(found)["b"] == (["b_0000.nii.gz", "b_0001.nii.gz"], "b.nii.gz")
    assert found.channel_names == ("image_0", "image_1")
    assert take(folders, "CT", "PET").channel_names == ("CT", "PET")
    with pytest.raises(UsageError, match="1 channels are named, the images have 2"):
        take(folders, "CT")


def test_different_endings_of_volumes_may_be_mixed(tmp_path):
    write_pair(tmp_path, ("a", "b"))
    write_pair(tmp_path, ("c",), ending=".mha")
    found = take((tmp_path / "A", tmp_path / "B"))
    assert found.file_ending == ".nii.gz" and len(found.cases) == 3


def test_pictures_and_volumes_do_not_mix(tmp_path):
    write_pair(tmp_path, ("a",))
    write_volume(tmp_path / "A" / "b.png", np.zeros((8, 9), np.uint8))
    write_volume(tmp_path / "B" / "b.png", np.zeros((8, 9), np.uint8))
    with pytest.raises(DataError, match="expected one ending"):
        take((tmp_path / "A", tmp_path / "B"))


def test_colour_pictures_have_three_channels_in_one_file(tmp_path):
    write_volume(tmp_path / "B" / "a.png", np.zeros((8, 9), np.uint8))
    (tmp_path / "A").mkdir()
    import imageio.v3

    imageio.v3.imwrite(tmp_path / "A" / "a.png", np.zeros((8, 9, 3), np.uint8))
    assert take((tmp_path / "A", tmp_path / "B")).channel_names == ("image_0", "image_1", "image_2")


def test_a_fourth_dimension_is_channels_only_when_they_are_named(tmp_path):
    folders = write_pair(tmp_path, ("a",))
    write_series(folders[0] / "a.nii.gz", [np.zeros(SHAPE, np.float32)] * 3)
    with pytest.raises(DataError, match="4D and holds 3 volumes") as error:
        take(folders)
    assert "--channels A,B" in error.value.hint
    found = take(folders, "x", "y", "z")
    assert found.must_split and found.channel_names == ("x", "y", "z")


def test_all_faults_come_together(tmp_path):
    folders = write_pair(tmp_path, ("a", "b", "c", "D", "d"))
    (folders[0] / "a.nii.gz").unlink()
    (folders[1] / "b.nii.gz").unlink()
    (folders[0] / "c.nii").touch()
    os.mkfifo(folders[1] / "e.nii.gz")
    with pytest.raises(DataError, match="5 problems") as error:
        take(folders)
    text = "\n".join(error.value.details)
    assert "label map 'B/a.nii.gz' has no image" in text
    assert "image 'A/b.nii.gz' has no label map, expected 'b' in 'B'" in text
    assert "'A/c.nii' and 'c.nii.gz' are two files of one name" in text
    assert "'B/e.nii.gz' is not a regular file" in text
    assert "cases 'D' and 'd' have names that some systems cannot tell apart" in text


def test_a_missing_channel_is_named(tmp_path):
    folders = write_pair(tmp_path, ("a", "b"), num_channels=2)
    (folders[0] / "b_0001.nii.gz").unlink()
    with pytest.raises(DataError, match="case 'b' has 1 of 2 channels, missing 1"):
        take(folders)


def test_two_files_for_one_channel_are_named(tmp_path):
    folders = write_pair(tmp_path, ("a", "b"))
    (folders[0] / "b_0000.nii.gz").touch()
    with pytest.raises(DataError, match=r"are the same channel of case 'b'"):
        take(folders)


def test_accents_spelled_in_two_ways_are_one_name(tmp_path):
    write_volume(tmp_path / "A" / "M\u00fcller.nii.gz", np.zeros(SHAPE, np.float32))
    write_volume(tmp_path / "B" / "Mu\u0308ller.nii.gz", np.zeros(SHAPE, np.uint8))
    assert list(files_of(take((tmp_path / "A", tmp_path / "B")))) == ["M\u00fcller"]


def test_empty_missing_and_equal_folders_are_refused(tmp_path):
    images, labels = write_pair(tmp_path, ("a",))
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "x.dcm").touch()
    with pytest.raises(DataError, match="folder 'empty' has no images, only 1 other files"):
        take((tmp_path / "empty", labels))
    with pytest.raises(DataError, match="folder 'nowhere' not found"):
        take((images, tmp_path / "nowhere"))
    with pytest.raises(UsageError, match="one folder"):
        take((images, tmp_path / "B" / ".." / "A"))
    with pytest.raises(UsageError, match="channel names must be words"):
        take((images, labels), "")

"""What lies in a folder, and what is passed over."""

from __future__ import annotations

import os

import pytest

from stu_pipeline.datasets.listing import find_clashes, list_folder, split_channel


def test_files_folders_and_hidden_files_are_told_apart(tmp_path):
    for name in ("b.nii.gz", "a.mha", "notes.txt", ".DS_Store", "._a.mha"):
        (tmp_path / name).touch()
    (tmp_path / "sub.nii.gz").mkdir()
    listing = list_folder(tmp_path)
    assert listing.names == ("a.mha", "b.nii.gz", "notes.txt") and listing.image_names == ("a.mha", "b.nii.gz")
    assert listing.problems == () and listing.irregular == {}
    folder = tmp_path.name
    assert listing.notes == (
        f"2 hidden files in '{folder}' ignored: '.DS_Store', '._a.mha'",
        f"1 sub-folder in '{folder}' ignored: 'sub.nii.gz'",
        f"1 file without an image ending in '{folder}' ignored: 'notes.txt'",
    )


def test_pipes_dead_links_and_circles_are_irregular(tmp_path):
    os.mkfifo(tmp_path / "pipe.nii.gz")
    (tmp_path / "dead.nii.gz").symlink_to(tmp_path / "nowhere")
    (tmp_path / "round.nii.gz").symlink_to(tmp_path / "round.nii.gz")
    (tmp_path / "device.nii.gz").symlink_to("/dev/zero")
    irregular = list_folder(tmp_path).irregular
    assert set(irregular) == {"pipe.nii.gz", "dead.nii.gz", "round.nii.gz", "device.nii.gz"}
    assert irregular["pipe.nii.gz"].endswith("is not a regular file")
    assert irregular["device.nii.gz"].endswith("is not a regular file")
    assert irregular["dead.nii.gz"].endswith("is a link to a file that is not there")


def test_links_to_files_are_files(tmp_path):
    (tmp_path / "there").touch()
    (tmp_path / "a.nii.gz").symlink_to(tmp_path / "there")
    assert "a.nii.gz" in list_folder(tmp_path).names


@pytest.mark.parametrize("name", [b"a\nb.nii.gz", b"a\x1b[2J.nii.gz", b"\xff\xfe.nii.gz", "a\u202eb.nii.gz".encode()])
def test_names_that_cannot_be_printed_are_problems_and_are_spelled_out(tmp_path, name):
    (tmp_path / os.fsdecode(name)).touch()
    listing = list_folder(tmp_path)
    assert listing.names == () and len(listing.problems) == 1
    assert listing.problems[0].isprintable() and "cannot be printed" in listing.problems[0]


def test_a_missing_folder_is_a_problem_and_no_crash(tmp_path):
    assert list_folder(tmp_path / "labelsTr").problems == ("folder 'labelsTr' not found",)
    (tmp_path / "file").touch()
    assert "cannot be read: Not a directory" in list_folder(tmp_path / "file").problems[0]
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    assert "cannot be read" in list_folder(tmp_path / "circle").problems[0]


@pytest.mark.parametrize(
    ("stem", "parts"),
    [
        ("a_0000", ("a", 0)),
        ("a_0012", ("a", 12)),
        ("a_00000", ("a_00000", None)),
        ("_0000", ("_0000", None)),
        ("a", ("a", None)),
        ("a_\u0660\u0660\u0660\u0660", ("a_\u0660\u0660\u0660\u0660", None)),
    ],
)
def test_channel_numbers_have_four_plain_digits(stem, parts):
    assert split_channel(stem) == parts


def test_names_that_some_systems_take_for_one_clash():
    assert find_clashes(["a", "b"]) == []
    assert len(find_clashes(["Liver", "liver", "\u00e4", "a\u0308"])) == 2

"""All or nothing: what is staged gets to its place completely, and what was there stays until then."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stu_pipeline.errors import LockedError, StorageError, UsageError
from stu_pipeline.transfer.packages import staging as module
from stu_pipeline.transfer.packages.staging import (
    open_staging,
    place_folders,
    require_free,
    require_space,
    write_blocks,
)


def fill(folder: Path, text: str) -> Path:
    (folder / "fold_0").mkdir(parents=True)
    (folder / "fold_0" / "weights").write_text(text)
    return folder


def read(folder: Path) -> str:
    return (folder / "fold_0" / "weights").read_text()


def list_names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def test_a_staged_folder_gets_to_its_place_and_nothing_else_is_left(tmp_path):
    root = tmp_path / "results"
    with open_staging(root) as staging:
        place_folders({fill(staging / "model", "new"): root / "model"}, staging, overwrite=False)
    assert list_names(root) == ["model"] and read(root / "model") == "new"


def test_a_failure_leaves_nothing_and_not_even_the_root(tmp_path):
    with pytest.raises(ZeroDivisionError), open_staging(tmp_path / "results") as staging:
        fill(staging / "model", "new")
        _ = 1 / 0
    assert list_names(tmp_path) == []


def test_a_root_that_was_there_stays_when_it_is_empty(tmp_path):
    with pytest.raises(ZeroDivisionError), open_staging(tmp_path):
        _ = 1 / 0
    assert tmp_path.is_dir() and list_names(tmp_path) == []


def test_what_is_there_is_replaced_only_when_asked_for(tmp_path):
    fill(tmp_path / "model", "old")
    with open_staging(tmp_path) as staging:
        new = fill(staging / "model", "new")
        with pytest.raises(UsageError, match="'model' is there already") as error:
            place_folders({new: tmp_path / "model"}, staging, overwrite=False)
        assert "--overwrite" in error.value.hint and read(tmp_path / "model") == "old"
        place_folders({new: tmp_path / "model"}, staging, overwrite=True)
    assert list_names(tmp_path) == ["model"] and read(tmp_path / "model") == "new"


def test_a_link_to_nowhere_is_in_the_way_too(tmp_path):
    (tmp_path / "model").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UsageError):
        require_free([tmp_path / "model"], overwrite=False)
    require_free([tmp_path / "other"], overwrite=False)


def test_a_failure_between_two_folders_puts_the_old_ones_back(tmp_path):
    fill(tmp_path / "a", "old a")
    fill(tmp_path / "b", "old b")
    with open_staging(tmp_path) as staging:
        moves = {fill(staging / "a", "new a"): tmp_path / "a", staging / "gone": tmp_path / "b"}
        with pytest.raises(OSError, match="gone"):
            place_folders(moves, staging, overwrite=True)
        assert (read(tmp_path / "a"), read(tmp_path / "b")) == ("old a", "old b")
    assert list_names(tmp_path) == ["a", "b"]


def test_a_killed_replacement_is_undone_by_the_next_run(tmp_path):
    aside = tmp_path / f"{module._ASIDE_PREFIX}x"
    fill(aside / "model", "old")
    fill(tmp_path / f"{module._STAGING_PREFIX}y" / "model", "half")
    with open_staging(tmp_path):
        assert read(tmp_path / "model") == "old"
    assert list_names(tmp_path) == ["model"]


def test_a_replacement_that_was_killed_after_its_last_move_stays_done(tmp_path):
    fill(tmp_path / f"{module._ASIDE_PREFIX}x" / "model", "old")
    fill(tmp_path / "model", "new")
    with open_staging(tmp_path):
        pass
    assert list_names(tmp_path) == ["model"] and read(tmp_path / "model") == "new"


def test_folders_of_others_are_not_cleaned_away(tmp_path):
    fill(tmp_path / ".stu-tmp-other", "theirs")
    fill(tmp_path / "nnUNetTrainer__a__b", "theirs")
    with open_staging(tmp_path):
        pass
    assert list_names(tmp_path) == [".stu-tmp-other", "nnUNetTrainer__a__b"]


def test_a_second_writer_is_kept_out(tmp_path):
    with open_staging(tmp_path), pytest.raises(LockedError), open_staging(tmp_path):
        pass


def test_too_little_room_is_told_before_anything_is_written(tmp_path):
    with pytest.raises(StorageError, match=r"no space left: 1073741824\.00 GiB are needed"):
        require_space(tmp_path, 1 << 60)
    require_space(tmp_path, 1)


def test_blocks_are_written_and_hashed(tmp_path):
    sha256, size = write_blocks(tmp_path / "a" / "file", [b"ab", b"", b"c"])
    assert (tmp_path / "a" / "file").read_bytes() == b"abc" and size == 3
    assert sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_file_that_is_there_is_not_written_over(tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(StorageError):
        write_blocks(tmp_path / "file", [b"new"])
    assert (tmp_path / "file").read_text() == "old"


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_not_writable_is_a_storage_error(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(StorageError), open_staging(tmp_path / "results"):
            pass
    finally:
        tmp_path.chmod(0o700)

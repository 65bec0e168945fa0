"""4D files are split bit by bit, or not at all."""

from __future__ import annotations

import gzip

import nibabel
import numpy as np
import pytest

from stu_pipeline.datasets.forms.volume_series import SplitTask, count_volumes, split_volumes
from stu_pipeline.datasets.reading import read_image
from stu_pipeline.errors import DataError, StorageError
from tests.foreign_forms import SHAPE, write_series
from tests.synthetic import write_volume

CHANNELS = [np.random.default_rng(index).normal(0, 1, SHAPE).astype(np.float32) for index in range(3)]


def make_task(folder, *, num_targets=3, **options):
    source = write_series(folder / "a.nii.gz", CHANNELS, **options)
    targets = tuple(folder / "out" / f"a_{index:04d}.nii.gz" for index in range(num_targets))
    return SplitTask(case_id="a", source=source, targets=targets)


def test_every_channel_becomes_a_file_with_the_same_voxels_and_grid(tmp_path):
    task = make_task(tmp_path)
    assert split_volumes(task)
    for channel, target in zip(CHANNELS, task.targets, strict=True):
        volume = read_image(target)
        assert np.array_equal(volume.array[0], channel) and volume.spacing_mm == (2.0, 1.0, 1.0)
        assert np.array_equal(nibabel.load(target).affine, nibabel.load(task.source).affine)


@pytest.mark.parametrize("dtype", ["<i2", ">i2", "u1", "<f8"])
def test_types_byte_order_and_scaling_are_kept(tmp_path, dtype):
    task = make_task(tmp_path, dtype=dtype, slope=0.5)
    split_volumes(task)
    whole = nibabel.load(task.source)
    for index, target in enumerate(task.targets):
        part = nibabel.load(target)
        assert part.header.get_data_dtype() == whole.header.get_data_dtype()
        assert np.array_equal(part.get_fdata(), whole.get_fdata()[..., index])


def test_what_was_made_from_the_same_file_is_not_made_again(tmp_path):
    task = make_task(tmp_path)
    split_volumes(task)
    before = [target.stat().st_mtime_ns for target in task.targets]
    assert not split_volumes(task)
    assert [target.stat().st_mtime_ns for target in task.targets] == before
    task.targets[1].unlink()
    assert split_volumes(task) and task.targets[1].is_file()
    write_series(task.source, CHANNELS[::-1])
    assert split_volumes(task)
    assert np.array_equal(read_image(task.targets[0]).array[0], CHANNELS[2])


def test_the_same_file_gives_the_same_bytes(tmp_path):
    first, second = make_task(tmp_path / "x"), make_task(tmp_path / "y")
    split_volumes(first)
    split_volumes(second)
    assert [t.read_bytes() for t in first.targets] == [t.read_bytes() for t in second.targets]


@pytest.mark.parametrize("position", [0.2, 0.6, 0.99])
def test_a_cut_file_is_refused_and_leaves_nothing(tmp_path, position):
    task = make_task(tmp_path)
    content = task.source.read_bytes()
    task.source.write_bytes(content[: int(len(content) * position)])
    with pytest.raises(DataError, match=r"'a\.nii\.gz'"):
        split_volumes(task)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("change", [-40, 40])
def test_a_wrong_length_is_refused(tmp_path, change):
    task = make_task(tmp_path)
    content = gzip.decompress(task.source.read_bytes())
    task.source.write_bytes(gzip.compress(content[:change] if change < 0 else content + bytes(change)))
    with pytest.raises(DataError, match="its header says"):
        split_volumes(task)
    assert not (tmp_path / "out").exists()


def test_another_number_of_volumes_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds 3 volumes, expected 4, one per channel"):
        split_volumes(make_task(tmp_path, num_targets=4))


def test_a_header_that_promises_too_much_is_refused(tmp_path):
    header = nibabel.Nifti1Header()
    header.set_data_shape((2000, 2000, 2000, 4))
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    (tmp_path / "bomb.nii.gz").write_bytes(gzip.compress(header.binaryblock + bytes(100)))
    with pytest.raises(DataError, match="the limit is"):
        count_volumes(tmp_path / "bomb.nii.gz")
    header.set_data_shape((500, 500, 500, 4))
    (tmp_path / "bomb.nii.gz").write_bytes(gzip.compress(header.binaryblock + bytes(100)))
    with pytest.raises(DataError, match="cannot hold"):
        count_volumes(tmp_path / "bomb.nii.gz")


def test_volumes_are_counted_from_the_header(tmp_path):
    assert count_volumes(make_task(tmp_path).source) == 3
    plain = write_volume(tmp_path / "b.nii.gz", CHANNELS[0])
    assert count_volumes(plain) == 1 and count_volumes(tmp_path / "x.mha") == 1
    (tmp_path / "c.nii.gz").write_bytes(b"no gzip")
    with pytest.raises(DataError, match="is damaged"):
        count_volumes(tmp_path / "c.nii.gz")


def test_a_target_that_cannot_be_written_is_a_storage_error(tmp_path):
    task = make_task(tmp_path)
    (tmp_path / "out").write_text("a file where the folder should be")
    with pytest.raises(StorageError):
        split_volumes(task)

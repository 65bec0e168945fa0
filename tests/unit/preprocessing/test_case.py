import errno
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stu_pipeline.datasets.cases import list_training_cases
from stu_pipeline.datasets.dataset_json import read_dataset_json
from stu_pipeline.datasets.label_ids import LabelIds
from stu_pipeline.datasets.reading import read_label_map
from stu_pipeline.errors import DataError, MemoryLimitError, StorageError
from stu_pipeline.preprocessing.case import case_files, estimate_case_memory_gib, write_case
from tests.case_plans import make_case_plan, make_job
from tests.synthetic import write_tiny_dataset, write_volume

LABELS = {"background": 0, "a": 1, "b": 2}
PLAN = make_case_plan(spacing=(1.5, 1.2, 1.0))


@pytest.fixture
def case(tmp_path):
    folder = write_tiny_dataset(tmp_path / "raw", num_cases=1)
    return list_training_cases(folder, read_dataset_json(folder / "dataset.json"))[0]


def read_all(files):
    return [file.read_bytes() for file in files]


def test_a_case_becomes_three_files_in_the_scratch_folder(case, tmp_path):
    job = make_job(case, PLAN, LABELS, tmp_path)
    assert write_case(job) == case_files(job.scratch_folder, case.id)
    assert sorted(file.name for file in job.scratch_folder.iterdir()) == [
        "case_000.b2nd",
        "case_000.pkl",
        "case_000_seg.b2nd",
    ]


def test_equal_input_gives_equal_bytes(case, tmp_path):
    first = read_all(write_case(make_job(case, PLAN, LABELS, tmp_path / "one")))
    assert read_all(write_case(make_job(case, PLAN, LABELS, tmp_path / "two"))) == first


def test_label_ids_with_gaps_give_the_same_files_as_consecutive_ones(case, tmp_path):
    expected = read_all(write_case(make_job(case, PLAN, LABELS, tmp_path / "one")))
    ids = LabelIds((0, 3, 300))
    write_volume(case.label_file, ids.to_original(read_label_map(case.label_file).array), spacing_mm=(2.0, 1.0, 1.0))
    assert read_all(write_case(make_job(case, PLAN, LABELS, tmp_path / "two", label_ids=ids))) == expected


def test_a_label_that_nobody_named_is_refused_and_counted(case, tmp_path):
    labels = read_label_map(case.label_file).array
    labels[0, 0, :4] = 9
    write_volume(case.label_file, labels, spacing_mm=(2.0, 1.0, 1.0))
    with pytest.raises(DataError, match="4 voxels of label 9"):
        write_case(make_job(case, PLAN, LABELS, tmp_path))


def test_a_label_map_on_another_grid_is_refused(case, tmp_path):
    write_volume(case.label_file, read_label_map(case.label_file).array, spacing_mm=(2.0, 1.5, 1.0))
    with pytest.raises(DataError, match="does not fit its image: spacing"):
        write_case(make_job(case, PLAN, LABELS, tmp_path))


def test_a_cut_image_is_refused_and_leaves_nothing(case, tmp_path):
    file = case.image_files[0]
    file.write_bytes(file.read_bytes()[:-40])
    job = make_job(case, PLAN, LABELS, tmp_path)
    with pytest.raises(DataError, match=r"case_000_0000\.nii\.gz"):
        write_case(job)
    assert not job.scratch_folder.exists()


def test_a_case_with_another_number_of_channels_is_named(case, tmp_path):
    plan = make_case_plan(spacing=(1.0, 1.0, 1.0), schemes=["ZScoreNormalization"] * 2)
    with pytest.raises(DataError, match="case 'case_000' has 1 channels, the plan is for 2"):
        write_case(make_job(case, plan, LABELS, tmp_path))


def test_a_spacing_at_which_nothing_is_left_is_refused(case, tmp_path):
    plan = make_case_plan(spacing=(400.0, 1.0, 1.0))
    with pytest.raises(DataError, match="case 'case_000' has no voxel left"):
        write_case(make_job(case, plan, LABELS, tmp_path))


def test_a_full_disk_is_said_and_leaves_nothing(case, tmp_path, monkeypatch):
    write = Path.write_bytes

    def fill_up(path, content):
        write(path, content[:10])
        if path.suffix == ".pkl":
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fill_up)
    job = make_job(case, PLAN, LABELS, tmp_path)
    with pytest.raises(StorageError, match=r"no space left to write 'case_000\.pkl'"):
        write_case(job)
    assert list(job.scratch_folder.iterdir()) == []


def test_too_little_memory_is_said_and_leaves_nothing(case, tmp_path, monkeypatch):
    def fail(*_given, **_more):
        raise MemoryError

    monkeypatch.setattr("stu_pipeline.preparation.prepare.resample_image", fail)
    with pytest.raises(MemoryLimitError, match="'case_000' does not fit the memory"):
        write_case(make_job(case, PLAN, LABELS, tmp_path))


def test_the_input_is_not_changed(case, tmp_path):
    files = (*case.image_files, case.label_file)
    before = read_all(files)
    write_case(make_job(case, PLAN, LABELS, tmp_path))
    assert read_all(files) == before


def test_the_memory_estimate_grows_with_what_is_read_and_written():
    small = estimate_case_memory_gib((64, 64, 64), (64, 64, 64), 1)
    assert small < estimate_case_memory_gib((256, 256, 256), (64, 64, 64), 1)
    assert small < estimate_case_memory_gib((64, 64, 64), (256, 256, 256), 1)
    assert estimate_case_memory_gib((256, 256, 256), (64, 64, 64), 1) < estimate_case_memory_gib(
        (256, 256, 256), (64, 64, 64), 4
    )


def test_a_worker_imports_neither_torch_nor_nnunet():
    code = (
        "import sys, stu_pipeline.preprocessing.case, blosc2\n"
        "print([name for name in ('torch', 'nnunetv2', 'skimage', 'batchgenerators') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_image_of_zeros_becomes_all_outside(case, tmp_path):
    import blosc2

    write_volume(case.image_files[0], np.zeros((20, 24, 28), dtype=np.float32), spacing_mm=(2.0, 1.0, 1.0))
    write_volume(case.label_file, np.zeros((20, 24, 28), dtype=np.uint8), spacing_mm=(2.0, 1.0, 1.0))
    plan = make_case_plan(spacing=(2.0, 1.0, 1.0), within_mask=True)
    files = write_case(make_job(case, plan, LABELS, tmp_path))
    assert (blosc2.open(str(files[0]), mode="r")[:] == 0).all()
    assert (blosc2.open(str(files[1]), mode="r")[:] == -1).all()

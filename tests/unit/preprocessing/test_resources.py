"""Workers, memory and disk, from headers."""

from __future__ import annotations

import pytest

from stu_pipeline.datasets.cases import Case
from stu_pipeline.errors import MemoryLimitError, StorageError
from stu_pipeline.planfile import read_plan_file
from stu_pipeline.preprocessing.resources import CaseSize, fit_workers, forecast_disk_gib, measure_cases, require_disk
from tests.planned import CONFIGURATION, PLAN_NAME, write_planned_dataset


def make_sizes(*memories_gib, num_voxels=2**20):
    return {
        f"case_{index}": CaseSize(case_id=f"case_{index}", num_voxels=num_voxels, memory_gib=gib)
        for index, gib in enumerate(memories_gib)
    }


def test_the_largest_case_decides_how_many_workers_fit():
    assert fit_workers(None, make_sizes(*[1.0] * 20), num_cores=8, free_gib=32.0) == 8
    assert fit_workers(None, make_sizes(*[1.0] * 20, 6.0), num_cores=8, free_gib=32.0) == 4


def test_there_are_no_more_workers_than_cases():
    assert fit_workers(None, make_sizes(1.0, 1.0), num_cores=8, free_gib=32.0) == 2
    assert fit_workers(None, {}, num_cores=8, free_gib=32.0) == 1


def test_what_the_user_asked_for_wins():
    assert fit_workers(5, make_sizes(4.0), num_cores=2, free_gib=8.0) == 5
    assert fit_workers(0, make_sizes(4.0), num_cores=2, free_gib=8.0) == 0


def test_one_worker_that_fits_is_enough():
    assert fit_workers(None, make_sizes(7.5), num_cores=8, free_gib=8.0) == 1


@pytest.mark.parametrize("wanted", [None, 0, 1, 4])
def test_a_case_that_does_not_fit_is_named_with_the_numbers(wanted):
    with pytest.raises(MemoryLimitError, match=r"case 'case_1' needs about 9\.5 GiB of memory, 8\.0 GiB are free"):
        fit_workers(wanted, make_sizes(1.0, 9.5, 2.0), num_cores=8, free_gib=8.0)


def test_sizes_come_from_the_headers_and_the_planned_spacing(tmp_path):
    dataset = write_planned_dataset(tmp_path, num_cases=2, shape=(12, 14, 16))
    plan = read_plan_file(dataset.plan_file(PLAN_NAME))
    cases = [
        Case(id=f"case_{index:03d}", image_files=(dataset.raw / "imagesTr" / f"case_{index:03d}_0000.nii.gz",))
        for index in (0, 1, 2)
    ]
    sizes = measure_cases(cases, plan.configuration(CONFIGURATION), plan.transpose_forward)
    # 12 and 13 slices of 2 mm at 1.5 mm; the third case has no file and is left out.
    assert {name: size.num_voxels for name, size in sizes.items()} == {
        "case_000": 16 * 14 * 16,
        "case_001": 17 * 14 * 16,
    }
    assert all(size.memory_gib > 0 for size in sizes.values())


def test_the_forecast_of_the_disk_grows_with_cases_and_channels():
    one = forecast_disk_gib(make_sizes(1.0), 1)
    assert forecast_disk_gib(make_sizes(1.0, 1.0), 1) == pytest.approx(2 * one)
    assert one < forecast_disk_gib(make_sizes(1.0), 2) < 2 * one


def test_too_little_disk_is_refused(tmp_path):
    require_disk(tmp_path, 0.0)
    with pytest.raises(StorageError, match=r"needs about 1000000000\.00 GiB"):
        require_disk(tmp_path, 1e9)

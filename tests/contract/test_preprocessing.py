"""Preprocessing: the same arrays as stock, committed case by case."""

import shutil

import blosc2
import numpy as np
import pytest

from stu_pipeline import PlanConfig, PreprocessConfig, plan, preprocess
from stu_pipeline.errors import DataError, LockedError
from stu_pipeline.nnunet.environment import engine_environment
from stu_pipeline.nnunet.output import engine_output
from stu_pipeline.nnunet.preprocessor import case_files
from stu_pipeline.storage import hash_file, hold_lock
from stu_pipeline.workspace import find_dataset, use_workspace
from tests.synthetic import write_tiny_dataset


@pytest.fixture(scope="module")
def planned_workspace(tmp_path_factory):
    root = tmp_path_factory.mktemp("planned")
    with use_workspace(root) as workspace:
        raw = write_tiny_dataset(workspace.raw, num_cases=3, shape=(16, 18, 20))
        plan(PlanConfig(dataset=str(raw), scale="S", num_workers=0))
    return root


@pytest.fixture
def planned(planned_workspace, tmp_path):
    root = tmp_path / "workspace"
    shutil.copytree(planned_workspace, root)
    with use_workspace(root) as workspace:
        yield find_dataset(str(workspace.raw / "Dataset901_Tiny")), "stuSPlans"


def run(dataset, plan_name, **changes):
    return preprocess(PreprocessConfig(dataset=str(dataset.raw), plan_name=plan_name, num_workers=0, **changes))


def test_arrays_equal_those_of_stock(planned):
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

    dataset, plan_name = planned
    folder = run(dataset, plan_name).folders["3d_fullres"]
    ours = {file.name: blosc2.open(str(file))[:] for file in folder.glob("*.b2nd")}
    with engine_environment(dataset.workspace), engine_output(None):
        DefaultPreprocessor(verbose=False).run(dataset.name, "3d_fullres", plan_name, 1)
    stock = {file.name: blosc2.open(str(file))[:] for file in folder.glob("*.b2nd")}
    assert set(ours) == set(stock)
    assert len(ours) == 6
    assert all(np.array_equal(ours[name], stock[name]) for name in ours)


def test_a_second_run_does_nothing(planned):
    dataset, plan_name = planned
    run(dataset, plan_name)
    again = run(dataset, plan_name)
    assert again.num_done == {"3d_fullres": 0}
    assert again.num_reused == {"3d_fullres": 3}


def test_a_changed_input_and_a_lost_file_are_done_again(planned):
    dataset, plan_name = planned
    folder = run(dataset, plan_name).folders["3d_fullres"]
    case_files(folder, "case_000")[1].unlink()
    first, second = (dataset.raw / "labelsTr" / f"case_00{index}.nii.gz" for index in (1, 2))
    second.write_bytes(first.read_bytes())
    result = run(dataset, plan_name)
    assert result.num_done == {"3d_fullres": 2}
    assert result.num_reused == {"3d_fullres": 1}


def test_half_written_cases_are_swept_away(planned):
    dataset, plan_name = planned
    folder = dataset.data_folder("nnUNetPlans_3d_fullres")
    result = run(dataset, plan_name)
    (folder / "case_009.b2nd").write_bytes(b"half")
    run(dataset, plan_name)
    assert sorted(file.name for file in folder.iterdir()) == sorted(
        file.name for index in range(3) for file in case_files(result.folders["3d_fullres"], f"case_00{index}")
    )


def test_a_damaged_case_costs_only_itself(planned):
    dataset, plan_name = planned
    image = dataset.raw / "imagesTr" / "case_001_0000.nii.gz"
    good = image.read_bytes()
    image.write_bytes(good[:-50])
    with pytest.raises(DataError, match="1 of 3 cases could not be preprocessed") as caught:
        run(dataset, plan_name)
    assert "case_001" in caught.value.details[0]
    image.write_bytes(good)
    assert run(dataset, plan_name).num_done == {"3d_fullres": 1}


def test_a_complete_folder_of_another_tool_is_used_and_not_touched(planned):
    dataset, plan_name = planned
    folder = run(dataset, plan_name).folders["3d_fullres"]
    dataset.manifest(folder.name).unlink()
    before = {file.name: hash_file(file) for file in folder.iterdir()}
    assert run(dataset, plan_name).num_reused == {"3d_fullres": 3}
    assert {file.name: hash_file(file) for file in folder.iterdir()} == before
    assert not dataset.manifest(folder.name).exists()


def test_an_incomplete_folder_of_another_tool_is_refused(planned):
    dataset, plan_name = planned
    folder = run(dataset, plan_name).folders["3d_fullres"]
    dataset.manifest(folder.name).unlink()
    case_files(folder, "case_002")[0].unlink()
    with pytest.raises(DataError, match="another tool lacks 1 of 3 cases"):
        run(dataset, plan_name)


def test_ground_truth_is_copied_for_the_validation(planned):
    dataset, plan_name = planned
    run(dataset, plan_name)
    for label in (dataset.raw / "labelsTr").iterdir():
        assert hash_file(label) == hash_file(dataset.ground_truth / label.name)


def test_a_second_run_at_the_same_time_is_refused(planned):
    dataset, plan_name = planned
    with hold_lock(dataset.preprocessed / ".preprocess.lock", what="test"), pytest.raises(LockedError):
        run(dataset, plan_name)

"""Which folds of a model folder are used, and what is said when none can be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from stu_pipeline.errors import ModelError, UsageError
from stu_pipeline.nnunet.checkpoint import read_checkpoint
from stu_pipeline.prediction.find_model import find_model
from stu_pipeline.prediction.models.model_folder import open_model_folder
from tests.model_folders import write_checkpoint, write_model_folder


def used(folder: Path, *arguments, **options) -> list:
    return [item.fold for item in open_model_folder(folder, *arguments, **options).folds]


def add_fold(folder: Path, fold: int | str, kind: str, **changes) -> None:
    weights = read_checkpoint(folder / "fold_0" / "checkpoint_final.pth")["network_weights"]
    write_checkpoint(folder / f"fold_{fold}" / f"checkpoint_{kind}.pth", weights, "3d_fullres", **changes)


def test_auto_takes_every_finished_fold_and_names_the_others(tmp_path: Path):
    folder = write_model_folder(tmp_path, folds=(0, 2))
    add_fold(folder, 3, "latest")
    opened = open_model_folder(folder)
    assert [item.fold for item in opened.folds] == [0, 2]
    assert opened.notices == (f"left out of '{folder.name}': fold 3",)


def test_fold_all_is_used_when_alone_or_asked_for(tmp_path: Path):
    folder = write_model_folder(tmp_path, folds=(0,))
    add_fold(folder, "all", "final")
    assert used(folder) == [0]
    assert used(folder, ("all",)) == ["all"]
    shutil.rmtree(folder / "fold_0")
    assert used(folder) == ["all"]


def test_an_unfinished_fold_is_refused_with_its_epoch_and_the_command(tmp_path: Path):
    folder = write_model_folder(tmp_path)
    add_fold(folder, 0, "latest", current_epoch=412, stu={"settings": {"num_epochs": 1000}})
    (folder / "fold_0" / "checkpoint_final.pth").unlink()
    with pytest.raises(ModelError) as caught:
        open_model_folder(folder)
    assert str(caught.value) == "fold 0 stopped at epoch 412 of 1000, so it cannot be used for prediction"
    assert caught.value.hint.startswith("stu train Dataset901_Tiny --scale S --fold 0")


@pytest.mark.parametrize("checkpoint", ["best", "latest"])
def test_an_unfinished_fold_is_used_and_named_when_asked_for(tmp_path: Path, checkpoint: str):
    folder = write_model_folder(tmp_path)
    add_fold(folder, 1, checkpoint, current_epoch=7)
    opened = open_model_folder(folder, (1,), checkpoint)  # type: ignore[arg-type]
    assert opened.notices == (f"fold 1 is not finished; its checkpoint_{checkpoint}.pth is of epoch 7",)


def test_latest_takes_the_final_state_of_finished_folds(tmp_path: Path):
    folder = write_model_folder(tmp_path)
    add_fold(folder, 1, "latest")
    opened = open_model_folder(folder, "auto", "latest")
    assert [item.path.name for item in opened.folds] == ["checkpoint_final.pth", "checkpoint_latest.pth"]


def test_a_missing_fold_lists_what_is_there(tmp_path: Path):
    folder = write_model_folder(tmp_path, folds=(0, 1), configuration="2d", patch=(16, 16), spacing_mm=(1.0, 1.0))
    with pytest.raises(ModelError, match="no fold 4, found: 0, 1") as caught:
        open_model_folder(folder, (0, 4))
    assert caught.value.hint == "stu train Dataset901_Tiny --scale S --configuration 2d --fold 4"


def test_a_folder_without_checkpoints_says_how_to_train(tmp_path: Path):
    folder = write_model_folder(tmp_path, folds=())
    with pytest.raises(ModelError, match="no checkpoint yet") as caught:
        open_model_folder(folder)
    assert caught.value.hint == "stu train Dataset901_Tiny --scale S --fold 0"


def test_a_missing_folder_lists_its_neighbours(tmp_path: Path):
    folder = write_model_folder(tmp_path)
    with pytest.raises(ModelError, match=f"not found, found: {folder.name}"):
        open_model_folder(folder.with_name("other"))


def test_a_dataset_folder_points_to_the_models_in_it(tmp_path: Path):
    folder = write_model_folder(tmp_path)
    with pytest.raises(ModelError, match=r"missing: plans\.json, dataset\.json") as caught:
        open_model_folder(folder.parent)
    assert folder.name in caught.value.hint


def test_a_plan_that_is_no_json_is_refused(tmp_path: Path):
    folder = write_model_folder(tmp_path)
    (folder / "plans.json").write_text("{")
    with pytest.raises(ModelError, match="not valid JSON"):
        open_model_folder(folder)


def test_another_configuration_than_asked_for_is_refused(tmp_path: Path):
    with pytest.raises(UsageError, match="is of configuration '3d_fullres', not '2d'"):
        open_model_folder(write_model_folder(tmp_path), configuration="2d")


def test_folds_of_different_configurations_are_refused(tmp_path: Path):
    folder = write_model_folder(tmp_path)
    add_fold(folder, 1, "final", init_args={"configuration": "2d"})
    with pytest.raises(ModelError, match="fold 0 is 3d_fullres, fold 1 is 2d"):
        open_model_folder(folder)


@pytest.mark.parametrize(("axes", "expected"), [(None, ()), ((), ()), ((2, 0), (0, 2))])
def test_the_checkpoint_says_what_may_be_mirrored(tmp_path: Path, axes, expected):
    assert open_model_folder(write_model_folder(tmp_path, mirror_axes=axes)).mirror_axes == expected


def test_mirroring_an_axis_that_is_not_there_is_refused(tmp_path: Path):
    folder = write_model_folder(tmp_path, mirror_axes=(0, 3))
    with pytest.raises(ModelError, match="mirrors the axes"):
        open_model_folder(folder)


def test_a_cascade_opens_its_previous_stage_with_the_same_folds(tmp_path: Path):
    write_model_folder(tmp_path, configuration="3d_lowres", folds=(0, 1, 2))
    cascade = write_model_folder(tmp_path, configuration="3d_cascade_fullres", previous_stage="3d_lowres", folds=(0, 1))
    previous = open_model_folder(cascade).previous
    assert previous is not None
    assert [item.fold for item in previous.folds] == [0, 1]


def test_a_cascade_without_its_previous_stage_says_how_to_train_it(tmp_path: Path):
    cascade = write_model_folder(tmp_path, configuration="3d_cascade_fullres", previous_stage="3d_lowres")
    with pytest.raises(ModelError, match="needs its previous stage") as caught:
        open_model_folder(cascade)
    assert caught.value.hint == "stu train Dataset901_Tiny --scale S --configuration 3d_lowres --fold 0"


def test_weights_that_do_not_fit_the_ram_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = write_model_folder(tmp_path, folds=(0, 1))
    kept = [dict(item.load()) for item in open_model_folder(folder).folds]
    monkeypatch.setattr("stu_pipeline.prediction.models.model_folder.measure_ram_bytes", lambda: 1000)
    folds = open_model_folder(folder).folds
    assert [item.kept is None for item in folds] == [False, True]
    for item, expected in zip(folds, kept, strict=True):
        assert all(bool((item.load()[name] == tensor).all()) for name, tensor in expected.items())


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("raw", "preprocessed", "results"):
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    (tmp_path / "raw" / "Dataset901_Tiny").mkdir(parents=True)
    return tmp_path / "results"


def test_a_model_is_found_by_scale_plan_or_alone(workspace: Path):
    small = write_model_folder(workspace)
    assert find_model("901") == small
    large = write_model_folder(workspace, plan_name="stuLPlans")
    assert find_model("901", scale="small") == small
    assert find_model("Dataset901_Tiny", plan="stuLPlans") == large
    with pytest.raises(UsageError, match="2 models of 'Dataset901_Tiny' fit"):
        find_model("901")


def test_the_full_resolution_is_found_unless_another_is_asked_for(workspace: Path):
    full = write_model_folder(workspace)
    flat = write_model_folder(workspace, configuration="2d", patch=(16, 16), spacing_mm=(1.0, 1.0))
    assert find_model("901", scale="S") == full
    assert find_model("901", configuration="2d") == flat


def test_a_model_that_is_not_there_lists_what_is(workspace: Path):
    folder = write_model_folder(workspace)
    with pytest.raises(ModelError, match=f"with plan 'stuBPlans', found: {folder.name}") as caught:
        find_model("901", scale="B")
    assert caught.value.hint == "stu train Dataset901_Tiny --scale B --fold 0"


def test_scale_and_plan_together_are_refused(workspace: Path):
    with pytest.raises(UsageError, match="not both"):
        find_model("901", scale="B", plan="stuBPlans")


def test_plans_are_left_as_they_are(tmp_path: Path):
    folder = write_model_folder(tmp_path)
    before = json.loads((folder / "plans.json").read_text())
    open_model_folder(folder)
    assert json.loads((folder / "plans.json").read_text()) == before

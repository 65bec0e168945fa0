import pytest

from stu_pipeline.errors import StorageError
from stu_pipeline.storage import previous_path
from stu_pipeline.training.run.space import forecast_new_gib, require_checkpoint_space
from stu_pipeline.workspace import RunPaths

SCALE_H = 1_457_000_000


def test_a_new_run_needs_its_newest_checkpoint_two_older_ones_and_one_in_the_making(tmp_path):
    # Four files of weights and momentum, and a best one without: 8 and 4 bytes per parameter.
    gib = forecast_new_gib(RunPaths(tmp_path), SCALE_H, keeps_average=False)
    assert gib == pytest.approx(SCALE_H * (4 * 8 + 4) / 2**30, abs=0.1)
    assert forecast_new_gib(RunPaths(tmp_path), SCALE_H, keeps_average=True) > gib + 20


def test_a_run_that_goes_on_needs_room_for_one_more(tmp_path):
    paths = RunPaths(tmp_path)
    latest = paths.checkpoint("latest")
    for path in (latest, previous_path(latest), previous_path(latest, 2), paths.checkpoint("best")):
        path.touch()
    assert forecast_new_gib(paths, SCALE_H, keeps_average=False) == pytest.approx(SCALE_H * 8 / 2**30, abs=0.1)


def test_too_little_room_is_said_with_both_numbers(tmp_path):
    with pytest.raises(StorageError, match=r"need [\d.]+ GiB more, [\d.]+ GiB are free"):
        require_checkpoint_space(RunPaths(tmp_path), 10**15, keeps_average=False)
    require_checkpoint_space(RunPaths(tmp_path), 10, keeps_average=False)


def test_a_recipe_that_pulls_to_its_start_keeps_the_weights_once_more(tmp_path):
    paths = RunPaths(tmp_path)
    plain = forecast_new_gib(paths, SCALE_H, keeps_average=False)
    pulling = forecast_new_gib(paths, SCALE_H, keeps_average=False, keeps_start=True)
    assert pulling - plain == pytest.approx(SCALE_H * 4 / 2**30)
    (tmp_path / "starting_weights.safetensors").touch()
    assert forecast_new_gib(paths, SCALE_H, keeps_average=False, keeps_start=True) == plain

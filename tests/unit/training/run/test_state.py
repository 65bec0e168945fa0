import pytest
import torch

from stu_pipeline.errors import ModelError
from stu_pipeline.storage import previous_path
from stu_pipeline.training.run.state import find_resume_point, is_finished, is_trained
from stu_pipeline.workspace import RunPaths


def write_checkpoint(path, epoch, *, weight=1.0, settings=None, step=None, momentum=True):
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "network_weights": {"weight": torch.full((64, 64), weight)},
        "optimizer_state": {"state": {0: {"momentum_buffer": torch.zeros(1)}} if momentum else {}, "param_groups": []},
        "logging": {},
        "current_epoch": epoch,
        "init_args": {},
        "trainer_name": "nnUNetTrainer",
    }
    if settings is not None:
        content["stu"] = {"settings": settings}
    if step is not None:
        content["stu"] = {"position": {"step": step}}
    torch.save(content, path)


@pytest.fixture
def paths(tmp_path):
    return RunPaths(tmp_path / "fold_0")


def test_an_empty_folder_is_a_new_run(paths):
    assert find_resume_point(paths) is None
    assert not is_trained(paths)


def test_the_checkpoint_with_the_highest_epoch_wins(paths):
    write_checkpoint(paths.checkpoint("best"), 7)
    write_checkpoint(paths.checkpoint("latest"), 5)
    assert find_resume_point(paths).path == paths.checkpoint("best")


def test_within_an_epoch_the_later_step_wins(paths):
    latest = paths.checkpoint("latest")
    write_checkpoint(previous_path(latest), 5, step=9)
    write_checkpoint(latest, 5, step=3)
    resume = find_resume_point(paths)
    assert resume.path == previous_path(latest)
    assert (resume.epoch, resume.position.step) == (5, 9)


def test_one_without_momentum_is_only_taken_when_there_is_no_other(paths):
    write_checkpoint(paths.checkpoint("best"), 7, momentum=False)
    assert not find_resume_point(paths).has_momentum
    write_checkpoint(paths.checkpoint("latest"), 5)
    assert find_resume_point(paths).epoch == 5


def test_the_older_of_two_older_copies_is_found_too(paths):
    latest = paths.checkpoint("latest")
    write_checkpoint(previous_path(latest, 2), 3)
    for path in (latest, previous_path(latest)):
        path.write_bytes(b"cut")
    resume = find_resume_point(paths)
    assert resume.epoch == 3
    assert set(resume.damaged) == {latest, previous_path(latest)}


def test_a_cut_latest_falls_back_to_the_previous_one(paths):
    latest = paths.checkpoint("latest")
    write_checkpoint(previous_path(latest), 4)
    write_checkpoint(latest, 5)
    latest.write_bytes(latest.read_bytes()[:-2000])
    resume = find_resume_point(paths)
    assert resume.epoch == 4
    assert resume.damaged == (latest,)


def test_a_flipped_bit_is_noticed(paths):
    best = paths.checkpoint("best")
    write_checkpoint(best, 3)
    data = bytearray(best.read_bytes())
    data[data.index(b"\x00\x00\x80\x3f" * 8) + 2] ^= 1
    best.write_bytes(bytes(data))
    with pytest.raises(ModelError, match="no checkpoint of this run can be read"):
        find_resume_point(paths)


def test_weights_that_are_not_finite_are_passed_over(paths):
    write_checkpoint(paths.checkpoint("latest"), 9, weight=float("nan"))
    write_checkpoint(paths.checkpoint("best"), 2)
    assert find_resume_point(paths).epoch == 2


def test_stored_settings_come_back(paths):
    write_checkpoint(paths.checkpoint("latest"), 1, settings={"num_epochs": 12})
    assert find_resume_point(paths).settings == {"num_epochs": 12}


def test_a_run_is_finished_with_weights_and_scores(paths):
    write_checkpoint(paths.checkpoint("final"), 1)
    assert is_trained(paths)
    assert not is_finished(paths)
    paths.validation_summary.parent.mkdir()
    paths.validation_summary.write_text("{}", encoding="utf-8")
    assert is_finished(paths)


def test_what_a_training_began_with_is_read_from_its_checkpoint(paths):
    write_checkpoint(paths.checkpoint("latest"), 1)
    assert find_resume_point(paths).start == {"kind": "unknown"}
    write_checkpoint(paths.checkpoint("latest"), 2, settings={"seed": 1})
    assert find_resume_point(paths).start == {"kind": "scratch"}
    content = torch.load(paths.checkpoint("latest"), weights_only=True)
    content["stu"]["start"] = {"kind": "pretrained", "identity": "abc"}
    torch.save(content, paths.checkpoint("latest"))
    assert find_resume_point(paths).start["identity"] == "abc"

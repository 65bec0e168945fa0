"""Block H4, prediction: an output that cannot be written to is said before any work, and nothing is touched."""

from __future__ import annotations

import pytest

from tests.acceptance.in_process import hash_tree
from tests.model_folders import write_model_folder
from tests.prediction_runs import Prediction, open_tiny_task
from tests.training_runs import act_at

USAGE, STORAGE = 2, 5


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    with open_tiny_task(tmp_path_factory.mktemp("task"), num_cases=2) as opened:
        yield opened


def refuse(prediction, code, **choices):
    """Run a prediction that must be refused without a mask, and with images and model as they were."""
    watched = [prediction.task.images, prediction.task.model]
    before = [hash_tree(folder) for folder in watched]
    said = prediction.finish(code, **choices)
    assert [hash_tree(folder) for folder in watched] == before
    assert "error: " in said and "0 of 2" not in said, "it began to work"
    return said


def test_an_output_that_is_a_file_is_refused(task, tmp_path):
    (tmp_path / "out").write_text("mine")
    assert "is a file" in refuse(Prediction(task, tmp_path / "out", said=tmp_path), USAGE)
    assert (tmp_path / "out").read_text() == "mine"


def test_an_output_below_a_file_is_refused(task, tmp_path):
    (tmp_path / "place").write_text("mine")
    inside = Prediction(task, tmp_path / "here" / "out", {"-o": tmp_path / "place" / "out"})
    refuse(inside, STORAGE)
    assert (tmp_path / "place").read_text() == "mine"


def test_an_output_that_is_a_link_to_nowhere_is_refused(task, tmp_path):
    (tmp_path / "out").symlink_to(tmp_path / "nowhere" / "deeper")
    refuse(Prediction(task, tmp_path / "out", said=tmp_path), STORAGE)
    assert (tmp_path / "out").is_symlink() and not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("as_link", [False, True])
def test_the_input_folder_is_no_output(task, tmp_path, as_link):
    output = task.images
    if as_link:
        output = tmp_path / "link"
        output.symlink_to(task.images)
    said = refuse(Prediction(task, output, said=tmp_path), USAGE)
    assert "output is the input folder" in said


@pytest.mark.parametrize(("number", "name"), [(30, "EROFS"), (13, "EACCES"), (1, "EPERM"), (28, "ENOSPC")])
def test_a_place_where_no_folder_can_be_made_is_refused(task, tmp_path, number, name):
    # Tests may run as root, whom no permission stops: the system's answer is given to it.
    prelude = act_at("os.mkdir 1", f"raise OSError({number}, os.strerror({number}))")
    said = refuse(Prediction(task, tmp_path / "new" / "out", said=tmp_path), STORAGE, prelude=prelude)
    assert "Traceback" not in said, name
    assert not (tmp_path / "new" / "out").exists()


@pytest.mark.parametrize("options", [{}, {"--probabilities": "npz"}])
def test_what_another_model_left_is_not_taken_for_ours(task, tmp_path, options):
    other = write_model_folder(tmp_path / "results", network="PlainConvUNet", mirror_axes=(2,), seed=7)
    Prediction(task, tmp_path / "out", {**options, "-m": other}).finish()
    theirs = list_results(tmp_path / "out")
    ours = Prediction(task, tmp_path / "out", dict(options))
    assert "--overwrite" in refuse(ours, USAGE)
    assert list_results(tmp_path / "out") == theirs
    Prediction(task, tmp_path / "out", {**options, "--overwrite": None}).finish()
    alone = Prediction(task, tmp_path / "alone", dict(options))
    alone.finish()
    assert list_results(tmp_path / "out") == list_results(tmp_path / "alone") != theirs


def list_results(folder):
    """Return masks and properties; the NPZ of NumPy is a zip with the time in it, so only its name."""
    tree = {name: entry for name, entry in hash_tree(folder).items() if name.startswith("case")}
    return {name: "" if name.endswith((".npz", ".pkl")) else entry for name, entry in tree.items()}

"""A manifest is read strictly: what it says is kept, what it says wrong is all listed at once."""

from __future__ import annotations

import pytest

from stu_pipeline.errors import DataError, UsageError
from stu_pipeline.study.manifest import read_manifest
from stu_pipeline.study.manifest_datasets import choose_size_bin
from tests.study_files import ARMS, BUDGET, CURVE, HEAD, describe_dataset, write_listed_dataset, write_manifest


def write(root, *parts, **facts):
    return write_manifest(root / "mine.toml", *parts, describe_dataset(write_listed_dataset(root), **facts))


def list_problems(path, kind=UsageError):
    with pytest.raises(kind) as caught:
        read_manifest(path)
    return [str(caught.value), *caught.value.details]


def test_a_whole_manifest_is_read(tmp_path):
    facts = {"modality": "CT", "region": "abdominal", "target": "structure", "seen": ["part 1"], "licence": "CC-BY"}
    manifest = read_manifest(write(tmp_path, HEAD, CURVE, BUDGET, ARMS, **facts, targets={}))
    dataset = manifest.datasets[0]
    assert manifest.name == "mine" and manifest.folder == tmp_path / "mine.study"
    assert manifest.scales == ("S",) and manifest.seeds == (0, 1) and manifest.folds == ()
    assert manifest.curve.num_training_cases == (2, 3) and manifest.curve.num_validation_cases == 2
    assert (manifest.budget.num_epochs, manifest.budget.learning_rate) == (4, 0.01)
    assert dataset.case_ids == tuple(f"case_{index}" for index in range(6))
    assert dataset.label_names == ("part 1", "part 2") and dataset.targets["part 2"] == "structure"
    assert dataset.seen == {"part 1": True} and dataset.size == "S" and dataset.licence == "CC-BY"
    assert manifest.find_arm("tuned").train == {"learning_rate": 0.003}
    assert [(pair.arm, pair.baseline) for pair in manifest.comparisons] == [("tuned", "scratch")]


def test_every_problem_is_listed_at_once(tmp_path):
    arms = """
[[arms]]
name = "a b"
kind = "magic"
[[arms]]
name = "net"
kind = "stock"
recipe = "paper"
colour = "red"
"""
    budget = '[budget]\niterations = 0\nprecision = "fp8"\n'
    path = write(tmp_path, 'name = "x y"\nscales = ["Q"]\nseeds = [1, 1]\nspeed = 3\n', CURVE, budget, arms, target="?")
    text = "\n".join(list_problems(path))
    for part in ("'name' must be", "holds 'Q'", "'seeds' holds a number twice", "'speed' is not known", "'magic'",
                 "'arms[0].name'", "recipe' is for arms of kind pretrained", "'arms[1].colour' is not known",
                 "'budget.epochs' is missing", "'budget.iterations'", "'fp8'", "'datasets[0].target'"):  # fmt: skip
        assert part in text, part


def test_a_missing_dataset_alone_is_bad_data(tmp_path):
    path = write_manifest(
        tmp_path / "a.toml", HEAD, CURVE, BUDGET, ARMS, describe_dataset(tmp_path / "Dataset777_Gone")
    )
    assert "Dataset777_Gone" in list_problems(path, DataError)[0]


def test_a_learning_curve_needs_the_cases(tmp_path):
    curve = "[learning_curve]\nnum_training_cases = [2, 5]\nnum_validation_cases = 2\n"
    problems = list_problems(write(tmp_path, HEAD, curve, BUDGET, ARMS), DataError)
    assert "has 6 cases, the learning curve needs 7" in problems[0]


def test_folds_and_a_learning_curve_exclude_each_other(tmp_path):
    problems = list_problems(write(tmp_path, HEAD, "folds = [0]\n", CURVE, BUDGET, ARMS))
    assert "'folds' and 'learning_curve' exclude each other" in problems[0]


def test_weights_must_be_there_for_every_scale(tmp_path):
    arm = '\n[[arms]]\nname = "tuned"\nkind = "pretrained"\nweights = { S = "none.model" }\n'
    problems = list_problems(write(tmp_path, HEAD.replace('["S"]', '["S", "B"]'), CURVE, BUDGET, arm))
    assert any("names 'none.model', which is not there" in problem for problem in problems)
    assert any("arm 'tuned' has no weights for scale B" in problem for problem in problems)


def test_a_pretrained_arm_keeps_its_recipe_and_options(tmp_path):
    (tmp_path / "small.model").write_bytes(b"x")
    arm = (
        '\n[[arms]]\nname = "tuned"\nkind = "pretrained"\nrecipe = "paper"\nweights = { small = "small.model" }\n'
        "plan = { keep_geometry = true }\n[[arms]]\nname = 'same'\nkind = 'scratch'\nplan_of = 'tuned'\n"
    )
    manifest = read_manifest(write(tmp_path, HEAD, CURVE, BUDGET, arm))
    tuned = manifest.find_arm("tuned")
    assert tuned.weights == {"S": tmp_path / "small.model"}
    assert tuned.plan == {"keep_geometry": True} and tuned.train == {"recipe": "paper"}
    assert manifest.find_arm("same").plan_of == "tuned"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ("train = { num_epochs = 3 }", "'arms[0].train.num_epochs' is not known"),
        ("train = { learning_rate = true }", "must be of the kind"),
        ("train = { warmup_epochs = -1 }", "'arms[0].train' is refused: warmup_epochs must not be negative"),
        ("plan = { spacing_mm = 3 }", "must be of the kind"),
        ("plan_of = 'nobody'", "must name another STU-Net arm"),
        ("weights = { S = 'x' }", "is for arms of kind pretrained"),
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path, options, problem):
    arm = f'\n[[arms]]\nname = "one"\nkind = "scratch"\n{options}\n'
    assert any(problem in text for text in list_problems(write(tmp_path, HEAD, CURVE, BUDGET, arm)))


def test_a_label_that_is_not_there_is_named(tmp_path):
    problems = list_problems(write(tmp_path, HEAD, CURVE, BUDGET, ARMS, seen=["liver"]))
    assert "'datasets[0].seen' names 'liver', which 'Dataset901_Listed' does not have: part 1, part 2" in problems[0]


def test_targets_can_differ_by_label(tmp_path):
    path = write(tmp_path, HEAD, CURVE, BUDGET, ARMS, target="structure")
    path.write_text(path.read_text() + '[datasets.targets]\n"part 2" = "lesion"\n', encoding="utf-8")
    assert read_manifest(path).datasets[0].targets == {"part 1": "structure", "part 2": "lesion"}


def test_what_is_not_toml_is_refused_with_its_line(tmp_path):
    problems = list_problems(write_manifest(tmp_path / "a.toml", "name = \n"))
    assert "is not valid TOML" in problems[0] and "line 1" in problems[0]
    with pytest.raises(UsageError, match=r"'b.toml' not found"):
        read_manifest(tmp_path / "b.toml")


def test_the_same_dataset_twice_is_refused(tmp_path):
    folder = write_listed_dataset(tmp_path)
    path = write_manifest(
        tmp_path / "a.toml", HEAD, CURVE, BUDGET, ARMS, describe_dataset(folder), describe_dataset(folder)
    )
    assert "dataset 'Dataset901_Listed' is listed twice" in list_problems(path)[0]


def test_size_bins_are_segbooks():
    assert [choose_size_bin(number) for number in (1, 120, 121, 303, 304)] == ["S", "S", "M", "M", "L"]

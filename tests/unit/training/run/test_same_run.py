import copy

import pytest

from stu_pipeline.errors import ModelError
from stu_pipeline.training.run.same_run import require_same_run

PLAN = {
    "dataset_name": "Dataset901_Tiny",
    "configurations": {
        "3d_fullres": {
            "spacing": [1.0, 1.0, 1.0],
            "architecture": {"network_class_name": "STUNet", "arch_kwargs": {"strides": [[1, 1, 1]], "n": (1, 2)}},
        }
    },
}
DATASET = {"labels": {"background": 0, "liver": 1}, "channel_names": {"0": "CT"}}


def make_checkpoint():
    arguments = {"plans": PLAN, "dataset_json": DATASET, "configuration": "3d_fullres", "fold": 0}
    return copy.deepcopy({"init_args": arguments, "stu": {"schema": 2}})


def require(checkpoint, tmp_path, *, plan=PLAN, dataset=DATASET, configuration="3d_fullres", fold=0):
    require_same_run(checkpoint, plan, dataset, configuration=configuration, fold=fold, where=tmp_path)


def test_the_same_training_goes_on_whatever_json_made_of_it(tmp_path):
    checkpoint = make_checkpoint()
    kwargs = checkpoint["init_args"]["plans"]["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    kwargs["n"] = [1, 2]
    require(checkpoint, tmp_path)


def test_a_stock_checkpoint_without_our_block_goes_on(tmp_path):
    checkpoint = make_checkpoint()
    del checkpoint["stu"]
    require(checkpoint, tmp_path)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda a: a["plans"].update(dataset_name="Dataset902_Other"), "dataset"),
        (lambda a: a["dataset_json"]["labels"].update(spleen=2), "labels"),
        (lambda a: a["dataset_json"]["channel_names"].update({"1": "PET"}), "channels"),
        (lambda a: a["dataset_json"].update(stu_partial_labels={"sources": {"A": [1]}, "cases": {}}), "marked labels"),
        (lambda a: a["plans"]["configurations"]["3d_fullres"].update(spacing=[2.0, 1.0, 1.0]), "spacing"),
        (
            lambda a: a["plans"]["configurations"]["3d_fullres"]["architecture"].update(network_class_name="UNet"),
            "network",
        ),
        (
            lambda a: a["plans"]["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"].update(strides=[]),
            "its arguments",
        ),
        (lambda a: a.update(fold=3), "fold"),
        (lambda a: a.update(configuration="2d"), "configuration"),
    ],
)
def test_another_training_is_refused_with_both_values(tmp_path, change, word):
    checkpoint = make_checkpoint()
    change(checkpoint["init_args"])
    with pytest.raises(ModelError, match=f"differs in {word}: .* in the checkpoint, .* here"):
        require(checkpoint, tmp_path)


@pytest.mark.parametrize("schema", [3, "new", None])
def test_a_newer_or_strange_schema_is_refused(tmp_path, schema):
    checkpoint = make_checkpoint()
    checkpoint["stu"]["schema"] = schema
    with pytest.raises(ModelError, match="schema"):
        require(checkpoint, tmp_path)

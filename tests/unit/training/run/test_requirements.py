"""The plan a training takes: the one named, the scale's, or the one that was made for its weights."""

import pytest

from stu_pipeline import TrainConfig
from stu_pipeline.errors import ModelError, UsageError
from stu_pipeline.networks.scales import SCALES
from stu_pipeline.plan_pretrained import PretrainedStart
from stu_pipeline.training.run.requirements import find_plan
from stu_pipeline.transfer.files.reading import read_weight_file
from tests.tiny_weights import edit_plan, make_narrow_scale, write_narrow_dataset, write_weights


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    monkeypatch.setitem(SCALES, "S", make_narrow_scale())
    return write_narrow_dataset(tmp_path)


@pytest.fixture
def file(tmp_path):
    write_weights(tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


def add_plan(dataset, name, *, scale="S", identity=None):
    def change(plan):
        plan["stu"]["scale"] = scale
        if identity is not None:
            start = PretrainedStart(file="f.pth", identity=identity, scale=scale, num_axes=3, num_input_channels=1)
            plan["stu"]["pretrained"] = start.to_json()

    edit_plan(dataset, change, name=name)


def find(dataset, **options):
    return find_plan(dataset, TrainConfig(dataset="901", **options)).name


def test_the_only_plan_is_taken_with_and_without_weights(dataset, file):
    assert find(dataset) == find(dataset, pretrained=file) == find(dataset, scale="S") == "stuSPlans"


def test_a_plan_made_for_weights_is_for_trainings_that_begin_with_some(dataset, file):
    add_plan(dataset, "stuSPretrainedPlans", identity="abc")
    assert find(dataset) == find(dataset, scale="S") == "stuSPlans"
    assert find(dataset, pretrained=file) == find(dataset, pretrained=file, scale="S") == "stuSPretrainedPlans"
    assert find(dataset, pretrained=file, plan_name="stuSPlans") == "stuSPlans"


def test_of_several_plans_made_for_weights_the_identity_decides_and_then_the_usual_name(dataset, file):
    add_plan(dataset, "stuSFirst", identity="abc")
    add_plan(dataset, "stuSPretrainedPlans", identity="def")
    assert find(dataset, pretrained=file) == "stuSPretrainedPlans"
    add_plan(dataset, "stuSFirst", identity=read_weight_file(file).identity)
    assert find(dataset, pretrained=file) == "stuSFirst"


def test_a_plan_of_another_scale_is_not_taken(dataset, file):
    add_plan(dataset, "stuBPretrainedPlans", scale="B", identity="abc")
    assert find(dataset, pretrained=file, scale="S") == "stuSPlans"
    assert find(dataset, pretrained=file) == "stuBPretrainedPlans"


def test_the_only_plan_of_a_scale_is_taken_even_when_it_was_made_for_weights(dataset):
    add_plan(dataset, "stuSPretrainedPlans", identity="abc")
    dataset.plan_file("stuSPlans").unlink()
    assert find(dataset) == find(dataset, scale="S") == "stuSPretrainedPlans"


def test_several_plans_need_a_choice_and_a_missing_one_is_named(dataset):
    add_plan(dataset, "stuBPlans", scale="B")
    with pytest.raises(UsageError, match="several plans: stuBPlans, stuSPlans"):
        find(dataset)
    with pytest.raises(ModelError, match="no plan for scale L"):
        find(dataset, scale="L")

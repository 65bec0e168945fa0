"""The side-car of released weights: the plans of nnU-Net v1 as facts, and nothing that is not said in it."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from stu_pipeline.errors import ModelError
from stu_pipeline.networks.weights import RecognisedNetwork
from stu_pipeline.storage import read_json
from stu_pipeline.transfer.files.sidecar import (
    check_sidecar,
    find_sidecar,
    is_published_plan,
    read_sidecar,
    require_own_sidecar,
)
from tests.published_files import make_published_plans, write_published_sidecar

FIXTURES = Path(__file__).resolve().parents[3] / "fixtures"


def test_the_side_car_that_was_released_is_read():
    sidecar = read_sidecar(FIXTURES / "published_base_ep4k.model.pkl")
    assert (sidecar.trainer_name, sidecar.scale) == ("STUNetTrainer_base", "B")
    assert (sidecar.num_input_channels, sidecar.num_classes) == (1, 105)
    facts = sidecar.facts
    assert facts.strides == ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2), (1, 1, 2))
    assert (facts.spacing_mm, facts.patch_voxels, facts.transpose_forward) == ((1.5,) * 3, (128,) * 3, (0, 1, 2))
    assert (facts.normalization_schemes, facts.use_mask_for_norm) == (("ZScoreNormalization",), (False,))


def test_the_released_plan_brings_the_released_names_in_their_order():
    sidecar = read_sidecar(FIXTURES / "published_base_ep4k.model.pkl")
    expected = read_json(FIXTURES / "totalsegmentator104_stunet_label_order.json")
    assert is_published_plan(sidecar)
    assert sidecar.facts.label_names == tuple(expected[str(number)] for number in range(105))


@pytest.mark.parametrize("changes", [
    {"use_mask_for_norm": {0: True}},
    {"normalization_schemes": {0: "CT"}},
    {"transpose_forward": [1, 0, 2]},
    {"plans_per_stage": make_published_plans(pools=[[2, 2, 2]] * 5)["plans_per_stage"]},
])  # fmt: skip
def test_another_plan_of_as_many_outputs_brings_no_names(tmp_path, changes):
    sidecar = read_sidecar(write_published_sidecar(tmp_path / "a.pkl", **changes))
    assert not is_published_plan(sidecar) and sidecar.facts.label_names is None


@pytest.mark.parametrize(("pools", "strides"), [
    ([[1, 2, 2], [2, 2, 2]], ((1, 1, 1), (1, 2, 2), (2, 2, 2), (1, 1, 1), (1, 1, 1), (1, 1, 1))),
    ([[2, 2, 2]] * 7, ((1, 1, 1), *[(2, 2, 2)] * 5)),
])  # fmt: skip
def test_strides_are_what_the_trainers_made_of_the_plans(tmp_path, pools, strides):
    stages = make_published_plans(pools=pools)["plans_per_stage"]
    assert read_sidecar(write_published_sidecar(tmp_path / "a.pkl", plans_per_stage=stages)).facts.strides == strides


def test_a_normalisation_that_nnunet_v2_lacks_is_unknown(tmp_path):
    sidecar = read_sidecar(write_published_sidecar(tmp_path / "a.pkl", normalization_schemes={0: "CT2"}))
    assert sidecar.facts.normalization_schemes is None


@pytest.mark.parametrize(("name", "scale"), [
    ("STUNetTrainer_large_ep4k", "L"), ("STUNetTrainer_huge_ft", "H"),
    ("STUNetTrainer", None), ("STUNetTrainer_ft", None),
])  # fmt: skip
def test_the_scale_is_the_one_in_the_name_of_the_trainer(tmp_path, name, scale):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"name": name, "init": (), "plans": make_published_plans()}))
    assert read_sidecar(path).scale == scale


def test_the_features_of_a_side_car_are_not_believed(tmp_path):
    # All four released ones say 32 features and two convolutions per stage.
    path = write_published_sidecar(tmp_path / "a.pkl", scale="H", base_num_features=32, conv_per_stage=2)
    assert check_sidecar(read_sidecar(path), RecognisedNetwork("H", 1, 105)) == []


def test_every_difference_to_the_weights_is_listed(tmp_path):
    sidecar = read_sidecar(write_published_sidecar(tmp_path / "a.pkl", scale="B", num_input_channels=2))
    with pytest.raises(ModelError, match=r"belongs to other weights than .*: it is of scale B") as caught:
        require_own_sidecar(sidecar, RecognisedNetwork("S", 1, 3), tmp_path / "b.model")
    assert len(caught.value.details) == 2


def test_the_side_car_lies_beside_the_weights(tmp_path):
    assert find_sidecar(tmp_path / "a.model") is None
    write_published_sidecar(tmp_path / "a.model.pkl")
    assert find_sidecar(tmp_path / "a.model") == tmp_path / "a.model.pkl"


@pytest.mark.parametrize(("content", "reason"), [
    ([1, 2], "no plans of nnU-Net v1"),
    ({"plans": make_published_plans()}, "'name' is missing"),
    ({"name": "nnUNetTrainerV2", "plans": make_published_plans()}, "of the trainer 'nnUNetTrainerV2'"),
    ({"name": "STUNetTrainer_base", "plans": {"num_classes": 3}}, "'num_modalities' is missing"),
    ({"name": "STUNetTrainer_base", "plans": make_published_plans() | {"num_classes": "3"}}, "whole numbers"),
    ({"name": "STUNetTrainer_base", "plans": make_published_plans() | {"num_classes": 10**5000}}, "whole numbers"),
    ({"name": "STUNetTrainer_base", "plans": make_published_plans() | {"plans_per_stage": {}}}, "plans_per_stage"),
    ({"name": "STUNetTrainer_base", "plans": make_published_plans() | {"plans_per_stage": None}}, "plans_per_stage"),
    ({"name": "STUNetTrainer_base", "plans": make_published_plans() | {"use_mask_for_norm": {0: "no"}}}, "truth"),
])  # fmt: skip
def test_a_malformed_side_car_is_refused_with_the_reason(tmp_path, content, reason):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(ModelError, match=f"side-car 'a.pkl' is damaged or none of released weights.*{reason}"):
        read_sidecar(tmp_path / "a.pkl")


def test_a_side_car_of_megabytes_is_not_opened(tmp_path):
    with (tmp_path / "a.pkl").open("wb") as stream:
        stream.truncate(5 << 20)
    with pytest.raises(ModelError, match="has 5 MiB, expected a few KiB"):
        read_sidecar(tmp_path / "a.pkl")


@pytest.mark.parametrize("share", [0.0, 0.2, 0.6, 0.99])
def test_a_side_car_that_is_cut_is_refused(tmp_path, share):
    path = write_published_sidecar(tmp_path / "a.pkl")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ModelError, match=r"side-car 'a\.pkl' is damaged"):
        read_sidecar(path)

"""Plans become networks through closed lists of names."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from stu_pipeline.errors import ModelError
from stu_pipeline.nnunet.checkpoint import read_checkpoint
from stu_pipeline.nnunet.model import EngineModel, build_empty_network, build_network, open_engine_model
from tests.model_folders import write_model_folder

NETWORKS = ["STUNet", "PlainConvUNet", "ResidualEncoderUNet", "ResidualUNet"]


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    return json.loads((folder / "plans.json").read_text()), json.loads((folder / "dataset.json").read_text())


def open_folder(folder: Path, **changes: Any) -> EngineModel:
    plan, dataset = read_folder(folder)
    plan["configurations"]["3d_fullres"] |= changes
    return open_engine_model(plan, dataset, "3d_fullres", where=folder / "plans.json")


@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_of_the_plan_is_built_with_the_given_weights(tmp_path: Path, name: str):
    folder = write_model_folder(tmp_path, network=name)
    weights = read_checkpoint(folder / "fold_0" / "checkpoint_final.pth")["network_weights"]
    network = build_network(open_folder(folder), weights, torch.device("cpu"))
    assert type(network).__name__ == name
    assert not network.training
    for key, tensor in network.state_dict().items():
        torch.testing.assert_close(tensor, weights[key])
    assert network(torch.zeros(1, 1, 16, 16, 16)).shape == (1, 3, 16, 16, 16)


def test_the_plan_given_is_not_changed(tmp_path: Path):
    plan, dataset = read_folder(write_model_folder(tmp_path))
    before = copy.deepcopy((plan, dataset))
    open_engine_model(plan, dataset, "3d_fullres", where=tmp_path / "plans.json")
    assert (plan, dataset) == before


def test_an_older_plan_is_understood(tmp_path: Path):
    folder = write_model_folder(tmp_path, network="PlainConvUNet")
    plan, dataset = read_folder(folder)
    configuration = plan["configurations"]["3d_fullres"]
    arguments = configuration.pop("architecture")["arch_kwargs"]
    configuration |= {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 4,
        "unet_max_num_features": 8,
        "n_conv_per_stage_encoder": [1, 1, 1],
        "n_conv_per_stage_decoder": [1, 1],
        "num_pool_per_axis": [2, 2, 2],
        "pool_op_kernel_sizes": arguments["strides"],
        "conv_kernel_sizes": arguments["kernel_sizes"],
    }
    del plan["label_manager"]
    model = open_engine_model(plan, dataset, "3d_fullres", where=folder / "plans.json")
    weights = read_checkpoint(folder / "fold_0" / "checkpoint_final.pth")["network_weights"]
    assert type(build_network(model, weights, torch.device("cpu"))).__name__ == "PlainConvUNet"


def test_a_cascade_sees_one_channel_more_per_label(tmp_path: Path):
    model = open_folder(write_model_folder(tmp_path), previous_stage="3d_lowres")
    assert (model.num_image_channels, model.num_network_channels) == (1, 3)


def test_an_unknown_network_is_refused_without_importing_it(tmp_path: Path):
    (tmp_path / "evil_module.py").write_text("raise SystemExit('imported')")
    folder = write_model_folder(tmp_path / "results")
    plan, dataset = read_folder(folder)
    plan["configurations"]["3d_fullres"]["architecture"]["network_class_name"] = "evil_module.Net"
    sys.path.insert(0, str(tmp_path))
    try:
        model = open_engine_model(plan, dataset, "3d_fullres", where=folder / "plans.json")
        with pytest.raises(ModelError, match=r"'evil_module\.Net', which is not supported"):
            build_empty_network(model)
    finally:
        sys.path.remove(str(tmp_path))
    assert "evil_module" not in sys.modules


@pytest.mark.parametrize(
    "value", ["os.system", "torch.nn.modules.module.register_module_forward_hook", "torch.hub.load", 7]
)
def test_an_unknown_layer_is_refused(tmp_path: Path, value: object):
    model = open_folder(write_model_folder(tmp_path, network="PlainConvUNet"))
    model.configuration.configuration["architecture"]["arch_kwargs"]["nonlin"] = value
    with pytest.raises(ModelError, match=r"layer .* which is not supported"):
        build_empty_network(model)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("preprocessor_name", "EvilPreprocessor"),
        ("resampling_fn_data", "recursive_find_resampling_fn_by_name"),
        ("resampling_fn_probabilities_kwargs", {"device": "cuda"}),
        ("normalization_schemes", ["ABC"]),
        ("normalization_schemes", []),
        ("patch_size", [16, 16, "16"]),
        ("patch_size", [16, 0, 16]),
        ("spacing", [1.0, 1.0]),
    ],
)
def test_a_plan_with_other_names_or_numbers_is_refused(tmp_path: Path, key: str, value: object):
    with pytest.raises(ModelError, match="plan cannot be used"):
        open_folder(write_model_folder(tmp_path), **{key: value})


@pytest.mark.parametrize(
    ("key", "value"), [("image_reader_writer", "Popen"), ("label_manager", "x"), ("transpose_forward", [0, 0, 1])]
)
def test_a_plan_with_another_reader_or_axes_is_refused(tmp_path: Path, key: str, value: object):
    plan, dataset = read_folder(write_model_folder(tmp_path))
    with pytest.raises(ModelError, match="plan cannot be used"):
        open_engine_model(plan | {key: value}, dataset, "3d_fullres", where=tmp_path / "plans.json")


def test_a_configuration_that_is_not_in_the_plan_is_refused(tmp_path: Path):
    plan, dataset = read_folder(write_model_folder(tmp_path))
    with pytest.raises(ModelError, match="no usable configuration '2d'"):
        open_engine_model(plan, dataset, "2d", where=tmp_path / "plans.json")


def test_a_dataset_json_without_labels_is_refused(tmp_path: Path):
    plan, dataset = read_folder(write_model_folder(tmp_path))
    with pytest.raises(ModelError, match="labels"):
        open_engine_model(plan, dataset | {"labels": {"liver": 1}}, "3d_fullres", where=tmp_path / "plans.json")


def test_weights_of_another_network_are_refused_with_the_differences(tmp_path: Path):
    model = open_folder(write_model_folder(tmp_path))
    weights = dict(build_empty_network(model).state_dict())
    name = next(iter(weights))
    weights["other"] = weights.pop(name)
    with pytest.raises(ModelError, match="2 tensors differ") as caught:
        build_network(model, weights, torch.device("cpu"))
    assert caught.value.details == (f"'{name}' is missing", "'other' is unexpected")


def test_wrapper_prefixes_are_dropped(tmp_path: Path):
    model = open_folder(write_model_folder(tmp_path))
    weights = {f"module._orig_mod.{key}": value for key, value in build_empty_network(model).state_dict().items()}
    build_network(model, weights, torch.device("cpu"))

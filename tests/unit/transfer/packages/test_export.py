"""What is exported comes back bit by bit: nnU-Net's zip, safetensors with hashes, and the published form."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import pickle
import resource
import shutil
import zipfile

import pytest
import torch
from safetensors.torch import load_file

from stu_pipeline.errors import ModelError, StorageError, UsageError
from stu_pipeline.networks.weights import to_published
from stu_pipeline.nnunet.checkpoint import read_checkpoint
from stu_pipeline.storage import hash_file
from stu_pipeline.transfer.files.reading import read_weight_file
from stu_pipeline.transfer.packages.config import ConvertConfig, ExportConfig, InstallConfig
from stu_pipeline.transfer.packages.convert import convert_weights
from stu_pipeline.transfer.packages.export import export_weights
from stu_pipeline.transfer.packages.install import install_weights
from tests.model_folders import write_model_folder
from tests.packages import DATASET, MODEL, PREFIX, read_members


@pytest.fixture(scope="module")
def model(released, tmp_path_factory):
    """A model folder of real size S, where results have it."""
    root = tmp_path_factory.mktemp("model")
    names = root / "names.json"
    names.write_text('["background", "liver", "spleen", "kidney_left"]')
    target = root / "Dataset802_Liver" / "nnUNetTrainer__stuSConvertedPlans__3d_fullres"
    return convert_weights(ConvertConfig(file=released[0], labels=names, output=target, mirror="all")).model_folder


def test_the_published_form_comes_back_bit_by_bit(model, released, tmp_path):
    result = export_weights(ExportConfig(source=model, output=tmp_path / "back.model"))
    assert [file.name for file in result.files] == ["back.model", "back.model.pkl"]
    content = torch.load(tmp_path / "back.model", weights_only=True)
    assert list(content["state_dict"]) == list(released[1])
    assert all(torch.equal(content["state_dict"][key], tensor) for key, tensor in released[1].items())
    # What nnU-Net v1 unpacks when it loads a model.
    assert len(content["plot_stuff"]) == 4 and len(content["best_stuff"]) == 3 and content["epoch"] == 4000
    first, second = read_weight_file(released[0]), read_weight_file(tmp_path / "back.model")
    assert first.identity == second.identity
    for name in ("strides", "spacing_mm", "patch_voxels", "normalization_schemes", "use_mask_for_norm"):
        assert getattr(first.facts, name) == getattr(second.facts, name), name


def test_the_side_car_holds_plain_values_only(model, tmp_path):
    export_weights(ExportConfig(source=model, output=tmp_path / "back.model"))

    class Plain(pickle.Unpickler):
        def find_class(self, module, name):
            raise AssertionError(f"{module}.{name}")

    data = (tmp_path / "back.model.pkl").read_bytes()
    content = Plain(io.BytesIO(data)).load()
    assert content["name"] == "STUNetTrainer_small" and content["plans"]["num_classes"] == 3
    stage = content["plans"]["plans_per_stage"][0]
    assert stage["pool_op_kernel_sizes"] == [[2, 2, 2]] * 4 + [[1, 1, 2]] and stage["num_pool_per_axis"] == [4, 4, 5]


def test_safetensors_hold_the_same_weights_and_their_hash(model, released, tmp_path):
    result = export_weights(ExportConfig(source=model, output=tmp_path / "liver.safetensors"))
    found = to_published(load_file(tmp_path / "liver.safetensors"))
    assert set(found) == set(released[1])
    assert all(torch.equal(found[key], tensor) for key, tensor in released[1].items())
    described = json.loads((tmp_path / "liver.json").read_text())
    assert described["sha256"] == hash_file(tmp_path / "liver.safetensors") == result.sha256["liver.safetensors"]
    assert described["model"]["folder"] == model.name and described["model"]["fold"] == 0


def test_safetensors_install_as_the_model_they_came_from(model, tmp_path):
    export_weights(ExportConfig(source=model, output=tmp_path / "liver.safetensors"))
    result = install_weights(InstallConfig(file=tmp_path / "liver.safetensors", results=tmp_path / "results"))
    assert result.models == (tmp_path / "results" / model.parent.name / model.name,) and result.is_proven
    for name in ("plans.json", "dataset.json"):
        assert json.loads((result.models[0] / name).read_text()) == json.loads((model / name).read_text())
    first, second = (read_checkpoint(folder / "fold_0" / "checkpoint_final.pth") for folder in (model, *result.models))
    assert first["inference_allowed_mirroring_axes"] == second["inference_allowed_mirroring_axes"] == (0, 1, 2)
    weights = first["network_weights"]
    assert all(torch.equal(second["network_weights"][key], tensor) for key, tensor in weights.items())
    with pytest.raises(UsageError, match="is there already"):
        install_weights(InstallConfig(file=tmp_path / "liver.safetensors", results=tmp_path / "results"))


@pytest.fixture(scope="module")
def safetensors(model, tmp_path_factory):
    """The same model as safetensors with its JSON; copied before it is changed."""
    path = tmp_path_factory.mktemp("safetensors") / "liver.safetensors"
    export_weights(ExportConfig(source=model, output=path))
    return path


@pytest.mark.parametrize("change", ["weights", "hash", "dataset", "folder", "fold", "plan", "gone", "model"])
def test_safetensors_that_were_tampered_with_are_refused(safetensors, tmp_path, change):
    path = tmp_path / "liver.json"
    described = json.loads(safetensors.with_suffix(".json").read_text())
    shutil.copyfile(safetensors, tmp_path / "liver.safetensors")
    if change == "weights":
        with (tmp_path / "liver.safetensors").open("rb+") as stream:
            stream.seek(-5, 2)
            stream.write(b"\x01")
    elif change == "hash":
        described["sha256"] = "0" * 64
    elif change == "plan":
        architecture = described["model"]["plans"]["configurations"]["3d_fullres"]["architecture"]
        architecture["network_class_name"] = "os.system"
    elif change == "model":
        described["model"] = ["x"]
    else:
        described["model"][change] = {"dataset": "../up", "folder": "../../up", "fold": "0/../../x"}.get(change)
    if change != "gone":
        path.write_text(json.dumps(described))
    with pytest.raises(ModelError):
        install_weights(InstallConfig(file=tmp_path / "liver.safetensors", results=tmp_path / "results"))
    assert not (tmp_path / "results").exists() and sorted(tmp_path.iterdir()) == sorted(
        file for file in (path, tmp_path / "liver.safetensors") if file.exists()
    )


def test_weights_without_a_model_become_one_by_converting(released, names_file, tmp_path):
    export_weights(ExportConfig(source=released[0], output=tmp_path / "w.safetensors"))
    with pytest.raises(ModelError, match="not from a model folder") as error:
        install_weights(InstallConfig(file=tmp_path / "w.safetensors", results=tmp_path / "results"))
    assert "stu weights convert" in error.value.hint
    config = ConvertConfig(file=tmp_path / "w.safetensors", labels=names_file, output=tmp_path / "model")
    assert convert_weights(config).strides[-1] == (1, 1, 2)
    export_weights(ExportConfig(source=tmp_path / "w.safetensors", output=tmp_path / "again.model"))
    state = torch.load(tmp_path / "again.model", weights_only=True)["state_dict"]
    assert list(state) == list(released[1])
    assert all(torch.equal(state[key], tensor) for key, tensor in released[1].items())


# -- nnU-Net's zip, with tiny networks ---------------------------------------------------------------------------


def test_the_zip_holds_chosen_folds_without_momentum(tmp_path):
    source = write_model_folder(tmp_path, folds=(0, 1, 2, "all"))
    result = export_weights(ExportConfig(source=source, output=tmp_path / "m.zip", folds=(2, 0)))
    assert result.folds == (0, 2)
    members = read_members(tmp_path / "m.zip")
    folds = [f"{PREFIX}/fold_{fold}/checkpoint_final.pth" for fold in (0, 2)]
    names = ("dataset.json", "plans.json", "stu_package.json")
    assert sorted(members) == sorted([*folds, *(f"{PREFIX}/{name}" for name in names)])
    checkpoint = torch.load(io.BytesIO(members[folds[1]]), weights_only=True)
    own = read_checkpoint(source / "fold_2" / "checkpoint_final.pth")
    assert checkpoint["optimizer_state"] == {"state": {}, "param_groups": []}
    assert all(torch.equal(checkpoint["network_weights"][key], value) for key, value in own["network_weights"].items())
    manifest = json.loads(members[f"{PREFIX}/stu_package.json"])["files"]
    assert {f"{PREFIX}/{name}" for name in manifest} == set(members) - {f"{PREFIX}/stu_package.json"}
    for name, entry in manifest.items():
        data = members[f"{PREFIX}/{name}"]
        assert entry == {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def test_all_numbered_folds_are_taken_by_default_and_fold_all_when_it_is_alone(tmp_path):
    several = write_model_folder(tmp_path / "a", folds=(0, 1, "all"))
    assert export_weights(ExportConfig(source=several, output=tmp_path / "a.zip")).folds == (0, 1)
    alone = write_model_folder(tmp_path / "b", folds=("all",))
    assert export_weights(ExportConfig(source=alone, output=tmp_path / "b.zip")).folds == ("all",)


def test_the_optimizer_is_kept_when_asked_for(tmp_path):
    source = write_model_folder(tmp_path)
    export_weights(ExportConfig(source=source, output=tmp_path / "m.zip", keep_optimizer=True))
    data = read_members(tmp_path / "m.zip")[f"{PREFIX}/fold_0/checkpoint_final.pth"]
    assert data == (source / "fold_0" / "checkpoint_final.pth").read_bytes()


def test_equal_models_give_equal_bytes(tmp_path):
    source = write_model_folder(tmp_path)
    hashes = {
        next(iter(export_weights(ExportConfig(source=source, output=tmp_path / f"{index}.zip")).sha256.values()))
        for index in range(2)
    }
    assert len(hashes) == 1


def test_what_a_prediction_uses_goes_along_and_what_names_this_machine_does_not(tmp_path):
    source = write_model_folder(tmp_path)
    for name in ("postprocessing.json", "quality.json", "dataset_fingerprint.json", "run.json", "fold_0/run.json",
                 "fold_0/validation/summary.json", "fold_0/run.log"):  # fmt: skip
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_text("{}")
    (source / "fold_0" / "progress.png").write_bytes(b"png")
    export_weights(ExportConfig(source=source, output=tmp_path / "m.zip"))
    names = {name.removeprefix(f"{PREFIX}/") for name in read_members(tmp_path / "m.zip")}
    assert names == {
        "plans.json", "dataset.json", "dataset_fingerprint.json", "postprocessing.json", "quality.json",
        "stu_package.json", "fold_0/checkpoint_final.pth", "fold_0/progress.png", "fold_0/validation/summary.json",
    }  # fmt: skip


@pytest.mark.parametrize("network", ["PlainConvUNet", "ResidualEncoderUNet"])
def test_a_stock_network_can_be_packed_and_installed(tmp_path, network):
    source = write_model_folder(tmp_path, network=network)
    export_weights(ExportConfig(source=source, output=tmp_path / "m.zip"))
    result = install_weights(InstallConfig(file=tmp_path / "m.zip", results=tmp_path / "results"))
    assert result.models[0] == tmp_path / "results" / DATASET / MODEL and result.num_checkpoints == 1
    with pytest.raises(ModelError):
        export_weights(ExportConfig(source=source, output=tmp_path / "m.safetensors"))


def test_the_plan_names_a_folder_that_was_renamed(tmp_path):
    renamed = tmp_path / "my model"
    write_model_folder(tmp_path / "results").rename(renamed)
    export_weights(ExportConfig(source=renamed, output=tmp_path / "m.zip"))
    assert f"{PREFIX}/plans.json" in read_members(tmp_path / "m.zip")


def test_several_folds_do_not_fit_a_file_of_weights(tmp_path):
    source = write_model_folder(tmp_path, folds=(0, 1))
    with pytest.raises(UsageError, match="holds one fold, the model has 0, 1") as error:
        export_weights(ExportConfig(source=source, output=tmp_path / "m.safetensors"))
    assert "--folds 0" in error.value.hint


@pytest.mark.parametrize("folds", [(3,), None])
def test_a_fold_that_is_not_there_is_named(tmp_path, folds):
    source = write_model_folder(tmp_path, folds=(0,), checkpoint="final" if folds else "best")
    with pytest.raises(ModelError, match="found: "):
        export_weights(ExportConfig(source=source, output=tmp_path / "m.zip", folds=folds))
    assert not (tmp_path / "m.zip").exists()


def test_a_damaged_model_is_not_packed(tmp_path):
    source = write_model_folder(tmp_path)
    with (source / "fold_0" / "checkpoint_final.pth").open("rb+") as stream:
        stream.seek(5000)
        stream.write(b"damaged")
    with pytest.raises(ModelError, match="damaged"):
        export_weights(ExportConfig(source=source, output=tmp_path / "m.zip"))
    assert not (tmp_path / "m.zip").exists()


def test_what_is_there_is_replaced_only_when_asked(tmp_path):
    source = write_model_folder(tmp_path)
    (tmp_path / "m.zip").write_text("mine")
    with pytest.raises(UsageError, match="is there already"):
        export_weights(ExportConfig(source=source, output=tmp_path / "m.zip"))
    assert (tmp_path / "m.zip").read_text() == "mine"
    export_weights(ExportConfig(source=source, output=tmp_path / "m.zip", overwrite=True))
    assert zipfile.is_zipfile(tmp_path / "m.zip")


def test_forms_and_endings_have_to_fit(tmp_path):
    with pytest.raises(UsageError, match="does not say a form"):
        _ = ExportConfig(source=tmp_path, output=tmp_path / "m.tar")
    with pytest.raises(UsageError, match=r"is written to a '\.zip'"):
        ExportConfig(source=tmp_path, output=tmp_path / "m.model", form="nnunet-zip")
    with pytest.raises(UsageError, match="keeps the optimizer"):
        ExportConfig(source=tmp_path, output=tmp_path / "m.safetensors", keep_optimizer=True)
    with pytest.raises(UsageError, match="unknown form"):
        ExportConfig(source=tmp_path, output=tmp_path / "m.onnx", form="onnx")


def test_a_file_of_weights_is_no_model_for_a_zip(released, tmp_path):
    with pytest.raises(UsageError, match="model folders") as error:
        export_weights(ExportConfig(source=released[0], output=tmp_path / "m.zip"))
    assert "stu weights convert" in error.value.hint


def test_a_source_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ModelError, match="'gone' not found"):
        export_weights(ExportConfig(source=tmp_path / "gone", output=tmp_path / "m.zip"))


@contextlib.contextmanager
def limit_files(num_bytes):
    """Let no file of this process grow beyond a size: the full disk that needs no rights."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("ending", "num_bytes"), [(".zip", 1 << 12), (".zip", 1 << 20), (".safetensors", 1 << 20), (".model", 1 << 20)]
)
def test_a_full_disk_is_a_storage_error_and_leaves_nothing(model, tmp_path, ending, num_bytes):
    with limit_files(num_bytes), pytest.raises(StorageError, match="no space left"):
        export_weights(ExportConfig(source=model, output=tmp_path / f"m{ending}"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", [".zip", ".safetensors"])
def test_a_full_disk_leaves_nothing_of_an_installation(safetensors, tmp_path, ending):
    file = safetensors
    if ending == ".zip":
        file = tmp_path / "m.zip"
        export_weights(ExportConfig(source=write_model_folder(tmp_path), output=file))
        assert file.stat().st_size > 1 << 15
    config = InstallConfig(file=file, results=tmp_path / "new")
    with limit_files(1 << 15), pytest.raises(StorageError, match="no space left"):
        install_weights(config)
    assert not (tmp_path / "new").exists()


def test_a_name_that_is_too_long_is_a_storage_error(tmp_path):
    source = write_model_folder(tmp_path)
    with pytest.raises(StorageError, match="too long"):
        export_weights(ExportConfig(source=source, output=tmp_path / f"{'a' * 300}.zip"))

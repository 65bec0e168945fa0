"""A released file becomes a model folder that says everything nnU-Net asks for, and holds the very same weights."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from stu_pipeline.errors import ModelError, UsageError
from stu_pipeline.networks.weights import to_published
from stu_pipeline.nnunet.checkpoint import read_checkpoint
from stu_pipeline.transfer.packages.config import ConvertConfig
from stu_pipeline.transfer.packages.convert import RELEASED_DATASET, convert_weights
from stu_pipeline.workspace import use_workspace
from tests.published_files import PUBLISHED_POOLS, write_published_model, write_published_sidecar

STRIDES = tuple(tuple(pool) for pool in PUBLISHED_POOLS)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A file in the layout of the released ones, with all of their outputs. Copied before it is changed."""
    path = tmp_path_factory.mktemp("whole") / "small_ep4k.model"
    return path, write_published_model(path, momentum=False)


@pytest.fixture(scope="module")
def converted(whole, tmp_path_factory):
    with use_workspace(tmp_path_factory.mktemp("workspace")):
        return convert_weights(ConvertConfig(file=whole[0]))


def read(path):
    return json.loads(path.read_text())


def test_the_released_plan_is_written_in_the_names_of_nnunet(converted):
    assert converted.model_folder.parent.name == RELEASED_DATASET
    assert converted.model_folder.name == "nnUNetTrainer__stuSPublishedPlans__3d_fullres"
    plan = read(converted.model_folder / "plans.json")
    configuration = plan["configurations"]["3d_fullres"]
    assert configuration["spacing"] == [1.5] * 3 and configuration["patch_size"] == [128] * 3
    # The channel is called CT, and all the same it is normalised as it was in the training.
    assert configuration["normalization_schemes"] == ["ZScoreNormalization"]
    assert read(converted.model_folder / "dataset.json")["channel_names"] == {"0": "CT"}
    assert configuration["use_mask_for_norm"] == [False] and plan["transpose_forward"] == [0, 1, 2]
    assert plan["image_reader_writer"] == "SimpleITKIO"
    arguments = configuration["architecture"]["arch_kwargs"]
    assert arguments["strides"] == [[1, 1, 1], *PUBLISHED_POOLS]
    assert arguments["features_per_stage"] == [16, 32, 64, 128, 256, 256]
    assert configuration["resampling_fn_data_kwargs"]["order"] == 3
    assert configuration["resampling_fn_probabilities_kwargs"]["order"] == 1
    assert plan["stu"]["scale"] == "S" and plan["stu"]["converted"]["file"] == "small_ep4k.model"


def test_the_names_keep_the_order_of_the_outputs(converted):
    labels = read(converted.model_folder / "dataset.json")["labels"]
    assert len(labels) == 105 and list(labels.values()) == list(range(105))
    assert labels["background"] == 0 and labels["adrenal_gland_left"] == 1 and labels["vertebrae_T9"] == 104


def test_the_weights_are_the_same_bit_by_bit(converted, whole):
    checkpoint = read_checkpoint(converted.model_folder / "fold_0" / "checkpoint_final.pth")
    found = to_published(checkpoint["network_weights"])
    assert list(found) == list(whole[1])
    assert all(torch.equal(found[key], tensor) for key, tensor in whole[1].items())
    assert checkpoint["trainer_name"] == "nnUNetTrainer"
    assert checkpoint["init_args"]["configuration"] == "3d_fullres"
    # The authors recommend to predict without mirrored copies.
    assert checkpoint["inference_allowed_mirroring_axes"] is None
    assert checkpoint["stu"]["mirroring"]["axes"] == []


def test_a_record_says_what_it_was_made_of(converted, whole):
    record = read(converted.model_folder / "run.json")
    assert record["stage"] == "convert" and len(record["inputs"]["weights"]["sha256"]) == 64
    assert record["facts"]["spacing_mm"] == [1.5] * 3 and record["network"]["scale"] == "S"
    assert record["versions"]["torch"] == torch.__version__


def test_the_user_is_told_what_differs_and_what_was_not_tried(converted):
    text = " ".join(converted.notes)
    assert "resampled before it normalised" in text and "no released file could be tried" in text
    assert "--mirror all" in text


def test_without_its_side_car_a_released_file_needs_a_declaration(whole, tmp_path):
    file = tmp_path / "small_ep4k.model"
    file.hardlink_to(whole[0])
    with pytest.raises(ModelError, match=r"strides of 'small_ep4k\.model' are unknown") as error:
        convert_weights(ConvertConfig(file=file, output=tmp_path / "model"))
    assert "--published" in error.value.hint and not (tmp_path / "model").exists()
    result = convert_weights(ConvertConfig(file=file, output=tmp_path / "model", published=True, mirror="all"))
    assert result.strides[1:] == STRIDES
    checkpoint = read_checkpoint(tmp_path / "model" / "fold_0" / "checkpoint_final.pth")
    assert checkpoint["inference_allowed_mirroring_axes"] == (0, 1, 2)
    assert "all eight mirrored copies" in " ".join(result.notes)


def test_a_side_car_with_other_strides_is_refused_unless_declared(whole, tmp_path, names_file):
    file = tmp_path / "small_ep4k.model"
    file.hardlink_to(whole[0])
    from tests.published_files import make_published_plans

    stages = make_published_plans(pools=[[2, 2, 2]] * 5)["plans_per_stage"]
    write_published_sidecar(tmp_path / "small_ep4k.model.pkl", plans_per_stage=stages)
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps(["background", *(f"part{index}" for index in range(104))]))
    config = ConvertConfig(file=file, output=tmp_path / "model", labels=labels)
    with pytest.raises(ModelError, match="wrong ones load without a word"):
        convert_weights(config)
    with pytest.raises(ModelError, match="contradicts what is declared"):
        convert_weights(ConvertConfig(file=file, output=tmp_path / "model", published=True))
    with pytest.raises(ModelError, match="contradicts what is declared"):
        convert_weights(ConvertConfig(file=file, output=tmp_path / "model", labels=labels, strides=STRIDES))
    assert not (tmp_path / "model").exists()
    said = ConvertConfig(file=file, output=tmp_path / "model", labels=labels, strides=((2, 2, 2),) * 5)
    assert convert_weights(said).strides == ((1, 1, 1), *((2, 2, 2),) * 5)


def test_a_network_of_ones_own_needs_its_names(released, names_file, tmp_path):
    with pytest.raises(ModelError, match="the names of its outputs: --labels FILE"):
        convert_weights(ConvertConfig(file=released[0], output=tmp_path / "model"))
    result = convert_weights(ConvertConfig(file=released[0], output=tmp_path / "model", labels=names_file))
    assert result.notes == () and result.num_labels == 4
    assert list(read(tmp_path / "model" / "dataset.json")["labels"]) == ["background", "liver", "spleen", "kidney_left"]
    assert read(tmp_path / "model" / "plans.json")["plans_name"] == "stuSConvertedPlans"


def test_too_many_names_are_refused(released, tmp_path):
    labels = tmp_path / "labels.json"
    labels.write_text('["background", "liver"]')
    with pytest.raises(ModelError, match="2 label names for 4 outputs"):
        convert_weights(ConvertConfig(file=released[0], output=tmp_path / "model", labels=labels))


def test_a_dataset_json_gives_regions_and_channels(released, tmp_path):
    labels = tmp_path / "dataset.json"
    content = {
        "channel_names": {"0": "MR"}, "labels": {"background": 0, "a": [1, 2, 3], "b": [2, 3], "c": 3, "d": [1, 3]},
        "regions_class_order": [1, 2, 3, 1], "numTraining": 3, "file_ending": ".nii.gz",
    }  # fmt: skip
    labels.write_text(json.dumps(content))
    convert_weights(ConvertConfig(file=released[0], output=tmp_path / "model", labels=labels))
    assert read(tmp_path / "model" / "dataset.json") == content


def test_a_model_of_ones_own_needs_a_place(released, names_file, tmp_path):
    with use_workspace(tmp_path):
        with pytest.raises(UsageError, match="under which dataset"):
            convert_weights(ConvertConfig(file=released[0], labels=names_file))
        result = convert_weights(ConvertConfig(file=released[0], labels=names_file, dataset_name="Dataset802_Liver"))
        assert result.model_folder.parent == tmp_path / "nnUNet_results" / "Dataset802_Liver"
        with pytest.raises(UsageError, match="'Dataset802_Other' has the number of 'Dataset802_Liver'"):
            convert_weights(ConvertConfig(file=released[0], labels=names_file, dataset_name="Dataset802_Other"))


def test_a_model_that_is_there_stays(released, names_file, tmp_path):
    target = tmp_path / "model"
    target.mkdir()
    (target / "mine").write_text("kept")
    with pytest.raises(UsageError, match="is there already"):
        convert_weights(ConvertConfig(file=released[0], labels=names_file, output=target))
    assert [path.name for path in target.iterdir()] == ["mine"]
    convert_weights(ConvertConfig(file=released[0], labels=names_file, output=target, overwrite=True))
    assert not (target / "mine").exists() and sorted(path.name for path in tmp_path.iterdir()) == [
        "model", "names.json",
    ]  # fmt: skip


def test_a_name_that_separates_parts_is_no_plan_name(released, names_file, tmp_path):
    with pytest.raises(UsageError, match="__"):
        convert_weights(
            ConvertConfig(file=released[0], labels=names_file, output=tmp_path / "model", plan_name="my__plan")
        )


def test_a_damaged_file_leaves_nothing(released, names_file, tmp_path):
    file = tmp_path / "cut.model"
    shutil.copyfile(released[0], file)
    with file.open("rb+") as stream:
        stream.truncate(file.stat().st_size // 2)
    with pytest.raises(ModelError):
        convert_weights(ConvertConfig(file=file, labels=names_file, output=tmp_path / "new" / "model", published=False))
    assert not (tmp_path / "new").exists()

"""Weights are read and checked against the plan before any work, and every refusal says what to do."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from stu_pipeline import TrainConfig
from stu_pipeline.errors import DataError, ModelError, UsageError
from stu_pipeline.networks.scales import SCALES
from stu_pipeline.networks.stunet import STUNet
from stu_pipeline.plan_pretrained import PretrainedStart
from stu_pipeline.training.finetuning.origin import find_origin, list_kept_outputs
from stu_pipeline.training.run.job import find_job
from stu_pipeline.transfer.files.reading import read_weight_file
from stu_pipeline.workspace import use_workspace
from tests.tiny_weights import STRIDES, edit_plan, make_narrow_scale, write_narrow_dataset, write_weights

OTHER_STRIDES = (*STRIDES[:3], (2, 2, 2), *STRIDES[4:])
HEAD = "decoder.seg_layers.4.weight"


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    monkeypatch.setitem(SCALES, "S", make_narrow_scale())
    return write_narrow_dataset(tmp_path)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "weights.pth"


def find(dataset, file, **options):
    with use_workspace(dataset.workspace.raw.parent):
        return find_origin(find_job(TrainConfig(dataset=str(dataset.raw), pretrained=file, **options)))


def declare(dataset, file, **changes):
    """Make the plan one that was made for these weights."""
    weights = read_weight_file(file)
    block = PretrainedStart(
        file=file.name, identity=weights.identity, scale="S", num_axes=3, num_input_channels=1, **changes
    )
    edit_plan(dataset, lambda plan: plan["stu"].update(pretrained=block.to_json()))


def write_mapping(path, **labels):
    path.write_text(json.dumps({"schema": 1, "labels": labels}), encoding="utf-8")
    return path


def test_without_weights_there_is_no_origin(dataset):
    assert find(dataset, None) is None


def test_weights_that_fit_are_put_into_the_fresh_network_by_label(dataset, file):
    given = write_weights(file)
    origin = find(dataset, file)
    fresh = STUNet(1, 3, STRIDES, [4, 8, 16, 32, 64, 64], 1).state_dict()
    adapted = origin.adapt(fresh)
    assert origin.warnings == () and list(adapted.tensors) == list(fresh)
    assert all(torch.equal(adapted.tensors[name], given[name]) for name in given if "seg_layers" not in name)
    # background, low, high here; background, high, other there.
    assert torch.equal(adapted.tensors[HEAD][[0, 2]], given[HEAD][[0, 1]])
    assert torch.equal(adapted.tensors[HEAD][1], fresh[HEAD][1])
    assert list_kept_outputs(adapted) == [2]


def test_weights_of_another_scale_are_refused_with_both(dataset, file, monkeypatch):
    write_weights(file, width=5)
    monkeypatch.setitem(SCALES, "B", dataclasses.replace(SCALES["B"], width=5))
    with pytest.raises(ModelError, match=r"scale B.*scale S"):
        find(dataset, file)


def test_other_strides_are_refused_until_the_plan_declares_them(dataset, file):
    write_weights(file, strides=OTHER_STRIDES)
    with pytest.raises(ModelError, match=r"trained with strides .* this plan has") as caught:
        find(dataset, file)
    assert caught.value.hint == f"stu plan Dataset901_Tiny --pretrained {file}"
    declare(dataset, file, strides=OTHER_STRIDES)
    with pytest.raises(ModelError, match="trained with strides"):
        find(dataset, file)
    declare(dataset, file, strides=OTHER_STRIDES, accepts_other_strides=True)
    assert find(dataset, file).warnings == ()


def test_a_declaration_for_other_weights_does_not_count(dataset, file, tmp_path):
    write_weights(file, strides=OTHER_STRIDES)
    write_weights(tmp_path / "first.pth", seed=8)
    declare(dataset, tmp_path / "first.pth", accepts_other_strides=True)
    with pytest.raises(ModelError, match="trained with strides"):
        find(dataset, file)


def test_unknown_strides_and_another_normalisation_are_told(dataset, file, tmp_path):
    weights = write_weights(file, schemes=["ZScoreNormalization"])
    [text] = find(dataset, file).warnings
    assert "ZScoreNormalization, this plan normalises with CTNormalization" in text and "--pretrained" in text
    declare(dataset, file, any_normalisation=True)
    assert find(dataset, file).warnings == ()
    bare = tmp_path / "bare.pth"
    torch.save({"network_weights": weights, "init_args": {}, "trainer_name": "nnUNetTrainer"}, bare)
    assert ["not known" in text for text in find(dataset, bare).warnings] == [True]


def test_a_plan_that_was_made_for_other_weights_is_told(dataset, file, tmp_path):
    write_weights(file)
    write_weights(tmp_path / "first.pth", seed=8)
    declare(dataset, tmp_path / "first.pth")
    [text] = find(dataset, file).warnings
    assert "'first.pth'" in text


def test_a_mapping_says_which_head_goes_where(dataset, file, tmp_path):
    write_weights(file)
    mapping = write_mapping(tmp_path / "heads.json", low="other", high=None)
    origin = find(dataset, file, head_mapping=mapping)
    rows = [row.source for row in origin.adapt(origin.target.tensors).table.heads]
    assert rows == ["background", "other", None]


def test_a_mapping_with_unknown_names_is_bad_data(dataset, file, tmp_path):
    write_weights(file)
    with pytest.raises(DataError, match="no label 'nothing'"):
        find(dataset, file, head_mapping=write_mapping(tmp_path / "heads.json", low="nothing"))


def test_a_mapping_for_weights_without_names_is_refused(dataset, file, tmp_path):
    torch.save({"network_weights": write_weights(file), "init_args": {}, "trainer_name": "nnUNetTrainer"}, file)
    with pytest.raises(ModelError, match=r"label names of 'weights.pth' are not known"):
        find(dataset, file, head_mapping=write_mapping(tmp_path / "heads.json", low="other"))


def test_channels_are_mapped_as_told_or_refused(dataset, file):
    write_weights(file, channels=("T1", "T2"), schemes=["CTNormalization"] * 2)
    origin = find(dataset, file, channel_mapping="CT=T2")
    assert origin.adapt(origin.target.tensors).origins["conv_blocks_context.0.0.conv1.weight"] == "adapted"
    with pytest.raises(UsageError, match="channel mapping"):
        find(dataset, file, channel_mapping="CT")
    with pytest.raises(ModelError, match="PET"):
        find(dataset, file, channel_mapping="CT=PET")


def test_keeping_heads_needs_a_head_to_keep(dataset, file, tmp_path):
    write_weights(file, labels={"background": 0, "liver": 1})
    with pytest.raises(UsageError, match="no label of this dataset"):
        find(dataset, file, recipe="continual")
    assert find(dataset, file, recipe="warmup") is not None
    mapping = write_mapping(tmp_path / "heads.json", low="liver")
    assert find(dataset, file, recipe="continual", head_mapping=mapping) is not None


def test_damaged_missing_and_non_finite_files_are_refused(dataset, file, tmp_path):
    weights = write_weights(file)
    with pytest.raises(ModelError, match=r"nothing\.pth"):
        find(dataset, tmp_path / "nothing.pth")
    (tmp_path / "cut.pth").write_bytes(file.read_bytes()[:-900])
    with pytest.raises(ModelError, match=r"cut\.pth"):
        find(dataset, tmp_path / "cut.pth")
    weights[HEAD][0] = float("nan")
    torch.save({"network_weights": weights, "init_args": {}, "trainer_name": "nnUNetTrainer"}, file)
    with pytest.raises(ModelError, match="NaN or infinite"):
        find(dataset, file)


def test_a_plan_of_another_network_takes_none(dataset, file):
    write_weights(file)

    def change(plan):
        architecture = plan["configurations"]["3d_fullres"]["architecture"]
        architecture["network_class_name"] = "dynamic_network_architectures.architectures.unet.PlainConvUNet"

    edit_plan(dataset, change)
    with pytest.raises(ModelError, match="'PlainConvUNet'"):
        find(dataset, file)


def test_nothing_is_written_while_weights_are_checked(dataset, file):
    write_weights(file)
    before = sorted(Path(dataset.workspace.raw.parent).rglob("*"))
    find(dataset, file)
    assert sorted(Path(dataset.workspace.raw.parent).rglob("*")) == before

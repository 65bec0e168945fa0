"""Files of weights come back bit for bit in our names, and anything doubtful is refused with the reason."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from safetensors.torch import save_file

from stu_pipeline.errors import ModelError
from stu_pipeline.networks.weights import RecognisedNetwork, from_published, to_published
from stu_pipeline.transfer.files.description import find_description_path, write_description
from stu_pipeline.transfer.files.reading import read_weight_file
from stu_pipeline.transfer.weight_file import WeightFacts
from tests.published_files import (
    make_published_state,
    shrink_scale,
    write_fork_checkpoint,
    write_published_model,
    write_published_sidecar,
)

PUBLISHED_STRIDES = ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2), (1, 1, 2))


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A released file of scale S at real size, with momentum and side-car, and its tensors."""
    path = tmp_path_factory.mktemp("released") / "small_ep4k.model"
    return path, write_published_model(path)


@pytest.fixture
def small(monkeypatch):
    """Let files of scale S be small."""
    shrink_scale(monkeypatch)


@pytest.fixture
def weights(small, tmp_path):
    write_published_model(tmp_path / "small_ep4k.model")
    return read_weight_file(tmp_path / "small_ep4k.model")


@pytest.fixture
def write_small(tmp_path, small):
    """Write a released file without momentum, and return its path."""

    def write(name="small_ep4k.model", **options):
        write_published_model(tmp_path / name, **{"momentum": False, "num_classes": 3, "sidecar": False} | options)
        return tmp_path / name

    return write


def require_equal(found, state):
    expected = from_published(state)
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_released_file_comes_back_bit_for_bit(released):
    weights = read_weight_file(released[0])
    require_equal(weights.tensors, released[1])
    assert (weights.form, weights.num_axes) == ("published", 3)
    assert weights.network == RecognisedNetwork("S", 1, 105)


def test_the_side_car_beside_it_tells_the_plan_and_the_names(weights):
    facts = weights.facts
    assert facts.strides == PUBLISHED_STRIDES
    assert (facts.spacing_mm, facts.patch_voxels) == ((1.5,) * 3, (128,) * 3)
    assert (facts.normalization_schemes, facts.use_mask_for_norm) == (("ZScoreNormalization",), (False,))
    assert facts.label_names is not None and len(facts.label_names) == 105
    assert facts.label_names[1] == "adrenal_gland_left" and facts.label_names[104] == "vertebrae_T9"
    assert facts.num_epochs == 4000 and "small_ep4k.model.pkl" in facts.source


def test_what_was_read_does_not_hang_on_the_file(small, tmp_path):
    state = write_published_model(tmp_path / "a.model", momentum=False, num_classes=2, sidecar=False)
    found = read_weight_file(tmp_path / "a.model")
    (tmp_path / "a.model").write_bytes(b"")
    require_equal(found.tensors, state)


def test_without_a_side_car_nothing_is_guessed(write_small):
    facts = read_weight_file(write_small(num_classes=105)).facts
    assert facts == WeightFacts(num_epochs=4000)


def test_prefixes_of_wrappers_are_taken_off(write_small):
    found = read_weight_file(write_small(prefix="module._orig_mod."))
    assert next(iter(found.tensors)) == "conv_blocks_context.0.0.conv1.weight"


def test_a_side_car_of_another_name_can_be_given(write_small, tmp_path):
    path = write_small(num_classes=3)
    sidecar = write_published_sidecar(tmp_path / "other.pkl", num_classes=3)
    facts = read_weight_file(path, sidecar=sidecar).facts
    assert facts.strides == PUBLISHED_STRIDES
    assert facts.label_names is None  # three outputs are not the published ones


@pytest.mark.parametrize(("changes", "reason"), [
    ({"scale": "B"}, "of scale B"),
    ({"num_classes": 105}, "105 outputs, the weights have 3"),
    ({"num_input_channels": 2}, "2 channels, the weights take 1"),
])  # fmt: skip
def test_the_side_car_of_other_weights_is_refused(write_small, tmp_path, changes, reason):
    sidecar = write_published_sidecar(tmp_path / "other.pkl", **{"num_classes": 3} | changes)
    with pytest.raises(ModelError, match=f"'other.pkl' belongs to other weights than 'small_ep4k.model'.*{reason}"):
        read_weight_file(write_small(), sidecar=sidecar)


def test_a_checkpoint_of_the_fork_tells_its_plan(small, tmp_path):
    state = write_fork_checkpoint(tmp_path / "fork.pth")
    found = read_weight_file(tmp_path / "fork.pth")
    require_equal(found.tensors, state)
    assert found.form == "checkpoint"
    assert found.facts == WeightFacts(
        label_names=("background", "liver", "tumour"),
        channel_names=("CT0",),
        strides=PUBLISHED_STRIDES,
        spacing_mm=(2.0, 1.5, 1.5),
        patch_voxels=(96, 160, 160),
        normalization_schemes=("CTNormalization",),
        use_mask_for_norm=(False,),
        transpose_forward=(0, 1, 2),
        dataset_name="Dataset701_Liver",
        num_epochs=1000,
        source="settings inside 'fork.pth'",
    )


def test_two_dimensions_are_recognised(small, tmp_path):
    torch.save({"state_dict": make_published_state(num_axes=2, num_classes=2)}, tmp_path / "flat.model")
    assert read_weight_file(tmp_path / "flat.model").num_axes == 2


@pytest.fixture
def described(weights, tmp_path):
    """The released weights as safetensors with their JSON."""
    path = tmp_path / "small.safetensors"
    save_file(weights.tensors, path)
    write_description(path, weights)
    return path


def test_safetensors_hold_the_same_weights_and_facts(weights, described):
    found = read_weight_file(described)
    require_equal(found.tensors, to_published(weights.tensors)) if list(found.tensors) == list(
        weights.tensors
    ) else None
    assert {name: True for name in weights.tensors} == {
        name: torch.equal(found.tensors[name], weights.tensors[name]) for name in weights.tensors
    }
    assert (found.form, found.identity, found.network) == ("safetensors", weights.identity, weights.network)
    assert dataclasses.replace(found.facts, source="") == dataclasses.replace(weights.facts, source="")
    assert "small.json" in found.facts.source and "small_ep4k.model.pkl" in found.facts.source


def test_safetensors_without_a_json_have_no_facts(described):
    find_description_path(described).unlink()
    assert read_weight_file(described).facts == WeightFacts()


def test_safetensors_that_were_changed_are_refused(described):
    data = bytearray(described.read_bytes())
    data[-1] ^= 1
    described.write_bytes(data)
    with pytest.raises(ModelError, match=r"not the file that 'small\.json' describes"):
        read_weight_file(described)


@pytest.mark.parametrize(("key", "value"), [("identity", "0" * 64), ("num_classes", 5), ("scale", "B")])
def test_a_json_that_says_other_things_is_refused(described, key, value):
    path = find_description_path(described)
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(ModelError, match="describes other weights"):
        read_weight_file(described)


def test_the_identity_follows_the_tensors_and_nothing_else(weights, tmp_path):
    bare = dict(weights.tensors)
    torch.save({"state_dict": to_published(dict(reversed(bare.items())))}, tmp_path / "a.model")
    assert read_weight_file(tmp_path / "a.model").identity == weights.identity
    name = "conv_blocks_context.0.0.norm1.bias"
    changed = bare | {name: bare[name] + 1e-6}
    torch.save({"state_dict": to_published(changed)}, tmp_path / "b.model")
    assert read_weight_file(tmp_path / "b.model").identity != weights.identity


def test_a_declaration_fills_what_is_unknown(write_small):
    declared = WeightFacts(strides=PUBLISHED_STRIDES, label_names=("background", "a", "b"), source="declared by hand")
    facts = read_weight_file(write_small(), declared=declared).facts
    assert (facts.strides, facts.label_names, facts.num_epochs) == (PUBLISHED_STRIDES, declared.label_names, 4000)
    assert facts.source == "the weights alone; declared by hand"


def test_a_declaration_must_not_contradict_the_file(weights):
    declared = WeightFacts(strides=((1, 1, 1), *[(2, 2, 2)] * 5), spacing_mm=(1.5,) * 3)
    with pytest.raises(ModelError, match="contradicts what is declared") as caught:
        read_weight_file(weights.path, declared=declared)
    assert [line.partition(":")[0] for line in caught.value.details] == ["strides"]


@pytest.mark.parametrize(("declared", "reason"), [
    (WeightFacts(label_names=("background", "a")), "2 label names for 3 outputs"),
    (WeightFacts(channel_names=("CT", "PET")), "channel names of 2 channels for 1 input channels"),
    (WeightFacts(strides=((1, 1),) * 6), "stride"),
    (WeightFacts(spacing_mm=(1.0, 1.0)), "spacing of 2 axes for kernels of 3"),
])  # fmt: skip
def test_a_declaration_must_fit_the_weights(write_small, declared, reason):
    with pytest.raises(ModelError, match=f"do not belong together: .*{reason}"):
        read_weight_file(write_small(), declared=declared)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_as_a_bad_file(write_small, value):
    def spoil(state):
        state["conv_blocks_context.1.0.norm2.bias"][:] = value

    with pytest.raises(ModelError, match=r"norm2\.bias' hold 2 of 2 values") as caught:
        read_weight_file(write_small(change_state=spoil))
    assert caught.value.exit_code == 4


def test_a_missing_tensor_and_a_width_of_no_scale_are_named(write_small):
    with pytest.raises(ModelError, match="1 of 130 tensors differ") as caught:
        read_weight_file(write_small(change_state=lambda state: state.pop("upsample_layers.2.conv.bias")))
    assert caught.value.details == ("'upsample_layers.2.conv.bias' is missing",)


def test_a_width_of_no_scale_is_named(tmp_path):
    write_published_model(tmp_path / "a.model", tiny=True, sidecar=False)
    with pytest.raises(ModelError, match="width '1' and '1' blocks per stage, known: S 16/1"):
        read_weight_file(tmp_path / "a.model")


@pytest.mark.parametrize(("name", "network"), [
    ("encoder.stages.0.0.convs.0.conv.weight", "PlainConvUNet"),
    ("module.encoder.stages.0.blocks.0.conv1.conv.weight", "ResidualEncoderUNet"),
    ("conv_blocks_context.0.blocks.0.conv.weight", "Generic_UNet"),
    ("tu.0.weight", "Generic_UNet"),
    ("swinViT.patch_embed.proj.weight", "SwinUNETR"),
    ("features.0.weight", "does not belong to an STU-Net"),
])  # fmt: skip
def test_weights_of_another_network_are_named(tmp_path, name, network):
    torch.save({"network_weights": {name: torch.zeros(2, 2)}, "init_args": {}}, tmp_path / "other.pth")
    with pytest.raises(ModelError, match=f"'other.pth' is no STU-Net: .*{network}"):
        read_weight_file(tmp_path / "other.pth")


def test_a_file_that_is_cut_or_flipped_is_refused(tmp_path):
    path = tmp_path / "a.model"
    write_published_model(path, tiny=True, sidecar=False)
    data = path.read_bytes()
    for share in (0.0, 0.3, 0.9, 0.999):
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(ModelError):
            read_weight_file(path)
    place = data.index(make_published_state(tiny=True)["conv_blocks_context.5.0.conv1.weight"].numpy().tobytes())
    path.write_bytes(data[: place + 40] + bytes([data[place + 40] ^ 1]) + data[place + 41 :])
    with pytest.raises(ModelError, match="damaged"):
        read_weight_file(path)


@pytest.mark.parametrize(("data", "reason"), [
    (b"", "empty"), (b"<!DOCTYPE html><html>", "a web page"), (b"\x1f\x8b\x08", "compressed with gzip"),
    (b"version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS"), (b"\x80\x04]q.", "a plain pickle"),
    (b"weights", "unknown"),
])  # fmt: skip
def test_other_files_are_named(tmp_path, data, reason):
    (tmp_path / "a.model").write_bytes(data)
    with pytest.raises(ModelError, match=f"'a.model' is no file of weights: .*{reason}"):
        read_weight_file(tmp_path / "a.model")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"'none\.model' not found"):
        read_weight_file(tmp_path / "none.model")
    write_published_model(tmp_path / "a.model", tiny=True, sidecar=False)
    with pytest.raises(ModelError, match=r"side-car 'none\.pkl' not found"):
        read_weight_file(tmp_path / "a.model", sidecar=tmp_path / "none.pkl")


def test_only_a_released_file_takes_a_side_car(tmp_path):
    write_fork_checkpoint(tmp_path / "a.pth", tiny=True)
    write_published_sidecar(tmp_path / "a.pkl")
    with pytest.raises(ModelError, match="takes no side-car"):
        read_weight_file(tmp_path / "a.pth", sidecar=tmp_path / "a.pkl")


@pytest.mark.parametrize(
    "content", [[torch.zeros(1)], torch.zeros(2), {"state_dict": {}}, {"state_dict": {"a": 1}}, {}]
)
def test_archives_without_named_tensors_are_refused(tmp_path, content):
    torch.save(content, tmp_path / "a.model")
    with pytest.raises(ModelError, match=r"'a\.model'"):
        read_weight_file(tmp_path / "a.model")


def test_tensors_that_unfold_from_a_few_bytes_are_refused(tmp_path):
    torch.save({"state_dict": {"conv_blocks_context.0": torch.zeros(1).expand(1 << 40)}}, tmp_path / "a.model")
    with pytest.raises(ModelError, match="larger than the file"):
        read_weight_file(tmp_path / "a.model")

"""The pickle of a checkpoint is looked through before anything is made of it."""

from __future__ import annotations

import io
import pickle
import zipfile

import numpy as np
import pytest
import torch

from stu_pipeline.nnunet.checkpoint_pickle import ALLOWED_NAMES, require_plain_names


def pickle_of(content: object) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    with zipfile.ZipFile(stream) as archive:
        return archive.read("archive/data.pkl")


def test_what_checkpoints_hold_passes():
    kinds = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool, torch.uint8)
    content = {
        "tensors": [torch.zeros(2, dtype=kind) for kind in kinds],
        "parameter": torch.nn.Parameter(torch.ones(1)),
        "plain": [None, True, 1, -5, 70_000, 1 << 40, 0.5, "text" * 100, (1,), (1, 2), (1, 2, 3, 4), {}, {1: 2}, [1]],
        "numpy": [np.float32(1), np.arange(3.0), np.int64(2)],
        "torch": [torch.device("cuda:0"), torch.float32, torch.Size([1, 2])],
        "bytes": b"\x00\xff" * 10,
    }
    require_plain_names(pickle_of(content))


def test_optimizers_and_networks_of_training_pass():
    network = torch.nn.Sequential(torch.nn.Conv3d(1, 2, 3), torch.nn.InstanceNorm3d(2, affine=True))
    state = {"state": {0: {"momentum_buffer": torch.ones(2), "step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1}]}
    require_plain_names(pickle_of({"network_weights": network.state_dict(), "optimizer_state": state}))


@pytest.mark.parametrize("data", [
    b"\x80\x02cos\nsystem\nq\x00.", b"\x80\x02cbuiltins\nbytearray\n.", b"\x80\x02ctorch\nload\n.",
    b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\n.", b"\x80\x02ctorch FloatStorage\n\n.",
    b"\x80\x02c\ntorch FloatStorage\n.",
])  # fmt: skip
def test_other_names_are_refused(data):
    with pytest.raises(pickle.UnpicklingError, match=r"GLOBAL .* is no data"):
        require_plain_names(data)


@pytest.mark.parametrize("data", [
    b"\x80\x02(ios\nsystem\n.", b"\x80\x02\x82\x01.", b"\x80\x02\x8c\x02os\x8c\x06system\x93.", b"\x80\x02P1\n.",
])  # fmt: skip
def test_other_instructions_are_refused(data):
    with pytest.raises(pickle.UnpicklingError, match="instruction"):
        require_plain_names(data)


@pytest.mark.parametrize(
    "data", [b"", b"\x80", b"\x80\x02]", b"\x80\x02X\xff\xff\xff\xffabc", b"\x80\x02ctorch", b"\x8a"]
)
def test_a_pickle_that_is_cut_is_refused(data):
    with pytest.raises(pickle.UnpicklingError, match="cut"):
        require_plain_names(data)


@pytest.mark.parametrize("protocol", [0, 1, 3, 4, 5])
def test_other_protocols_are_refused(protocol):
    with pytest.raises(pickle.UnpicklingError, match=r"none of torch\.save"):
        require_plain_names(pickle.dumps({"a": 1}, protocol))


def test_a_name_inside_a_text_is_no_name():
    require_plain_names(pickle_of({"note": "cos\nsystem\n", "more": "ctorch\nload\n."}))


def test_no_allowed_name_can_be_read_in_two_ways():
    assert all(name.count(" ") == 1 for name in ALLOWED_NAMES)

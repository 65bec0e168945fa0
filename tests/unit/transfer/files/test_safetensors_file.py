"""Safetensors are read from the first byte to the last, or not at all."""

from __future__ import annotations

import json
import struct
import zipfile

import pytest
import torch
from safetensors.torch import save

from stu_pipeline.errors import ModelError
from stu_pipeline.transfer.files.safetensors_file import looks_like_safetensors, read_safetensors

DATA = save({"a": torch.arange(4.0), "b": torch.ones(2, 2)})


def with_header(header: str | bytes, tensors: bytes = b"\0" * 16) -> bytes:
    header = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(header)) + header + tensors


def entry(**changes):
    return {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} | changes


def test_tensors_come_back(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(DATA)
    assert looks_like_safetensors(tmp_path / "a.safetensors")
    found = read_safetensors(tmp_path / "a.safetensors")
    assert torch.equal(found["a"], torch.arange(4.0)) and found["b"].shape == (2, 2)


@pytest.mark.parametrize("data", [
    DATA[:-1], DATA + b"\0", DATA + DATA, DATA[:20], DATA[:4], struct.pack("<Q", 1 << 62) + b"{}",
    struct.pack("<Q", 0) + b"{}", with_header("{"), with_header("[]"), with_header("{" * 30_000),
    with_header(b"\xff\xfe{"), with_header(json.dumps({"a": entry(data_offsets=[0, 1 << 40])})),
    with_header(json.dumps({"a": entry(data_offsets=[16, 0])})), with_header(json.dumps({"a": entry(shape=[1 << 62])})),
    with_header(json.dumps({"a": entry(shape=[-4])})), with_header(json.dumps({"a": entry(dtype="O")})),
    with_header(json.dumps({"a": entry(), "b": entry()})),
    with_header('{"a": %s, "a": %s}' % ((json.dumps(entry()),) * 2)),
], ids=lambda data: data[8:24].hex())  # fmt: skip
def test_anything_else_is_refused(tmp_path, data):
    (tmp_path / "a.safetensors").write_bytes(data)
    with pytest.raises(ModelError, match=r"'a\.safetensors' is damaged or no file of weights"):
        read_safetensors(tmp_path / "a.safetensors")


def test_an_archive_behind_the_tensors_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(DATA)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("data.pkl", b"x")
    with pytest.raises(ModelError, match="damaged"):
        read_safetensors(path)

"""Checkpoints are data: damage and code are refused, stock nnU-Net's NumPy scalars are not."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from stu_pipeline.errors import ModelError, NonFiniteError
from stu_pipeline.nnunet.checkpoint import read_checkpoint
from stu_pipeline.nnunet.checkpoint_identity import identify_checkpoint
from tests.model_folders import write_checkpoint


def write_plain(path: Path, **changes: object) -> Path:
    return write_checkpoint(path, {"conv.weight": torch.arange(64.0)}, "3d_fullres", **changes)


def test_weights_and_settings_come_back(tmp_path: Path):
    checkpoint = read_checkpoint(write_plain(tmp_path / "checkpoint_final.pth"))
    assert checkpoint["init_args"]["configuration"] == "3d_fullres"
    torch.testing.assert_close(checkpoint["network_weights"]["conv.weight"], torch.arange(64.0))


@pytest.mark.parametrize("home", ["numpy._core", "numpy.core"])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_stock_checkpoints_with_numpy_scalars_load(tmp_path: Path, kind: type, home: str):
    path = write_plain(tmp_path / "checkpoint_final.pth", _best_ema=kind(0.25), logging={"dice": [[kind(0.5)]]})
    rewrite(path, lambda data: data.replace(b"numpy._core.multiarray", f"{home}.multiarray".encode()))
    checkpoint = read_checkpoint(path)
    assert checkpoint["_best_ema"] == 0.25
    assert checkpoint["logging"]["dice"][0][0] == 0.5


class Bomb:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (str(self.canary),)


class Evaluation(Bomb):
    def __reduce__(self):
        return eval, (f"__import__('os').mkdir({str(self.canary)!r})",)


@pytest.mark.parametrize("bomb", [Bomb, Evaluation])
@pytest.mark.parametrize("key", ["network_weights", "logging", "extra"])
def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path: Path, bomb: type[Bomb], key: str):
    canary = tmp_path / "canary"
    path = write_plain(
        tmp_path / "checkpoint_final.pth", **{key: {"x": bomb(canary)}} if key != "network_weights" else {}
    )
    if key == "network_weights":
        write_checkpoint(path, {"x": bomb(canary)}, "3d_fullres")  # type: ignore[dict-item]
    with pytest.raises(ModelError, match="more than weights and plain values"):
        read_checkpoint(path)
    assert not canary.exists()


def test_whole_networks_are_refused(tmp_path: Path):
    path = tmp_path / "checkpoint_final.pth"
    torch.save(torch.nn.Conv2d(1, 1, 1), path)
    with pytest.raises(ModelError):
        read_checkpoint(path)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_cut_files_are_refused(tmp_path: Path, share: float):
    path = write_plain(tmp_path / "checkpoint_final.pth")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ModelError, match="damaged"):
        read_checkpoint(path)


def test_a_flipped_bit_in_a_weight_is_refused(tmp_path: Path):
    path = write_plain(tmp_path / "checkpoint_final.pth")
    data = bytearray(path.read_bytes())
    place = data.index(torch.arange(64.0).numpy().tobytes()) + 41
    data[place] ^= 4
    path.write_bytes(bytes(data))
    assert (
        torch.load(path, weights_only=True)["network_weights"]["conv.weight"].isfinite().all()
    )  # torch does not see it
    with pytest.raises(ModelError, match="damaged"):
        read_checkpoint(path)


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"PK\x03\x04" + b"\0" * 200])
def test_other_files_are_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "checkpoint_final.pth"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="damaged or not a checkpoint"):
        read_checkpoint(path)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(ModelError, match=r"'checkpoint_final\.pth' not found"):
        read_checkpoint(tmp_path / "checkpoint_final.pth")


def test_missing_keys_are_named(tmp_path: Path):
    path = tmp_path / "checkpoint_final.pth"
    torch.save({"network_weights": {"a": torch.zeros(1)}}, path)
    with pytest.raises(ModelError, match="missing: init_args, trainer_name"):
        read_checkpoint(path)
    assert read_checkpoint(path, required=("network_weights",))


@pytest.mark.parametrize("weights", [{}, {"a": 1.0}, [torch.zeros(1)]])
def test_weights_that_are_no_tensors_are_refused(tmp_path: Path, weights: object):
    path = write_checkpoint(tmp_path / "checkpoint_final.pth", weights, "3d_fullres")  # type: ignore[arg-type]
    with pytest.raises(ModelError):
        read_checkpoint(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_name_the_tensor(tmp_path: Path, value: float):
    weights = {"good": torch.ones(3), "count": torch.tensor(5), "bad": torch.tensor([1.0, value, value])}
    path = write_checkpoint(tmp_path / "checkpoint_final.pth", weights, "3d_fullres")
    with pytest.raises(NonFiniteError, match="'bad' hold 2 of 3"):
        read_checkpoint(path)


def test_large_finite_weights_whose_sum_overflows_pass(tmp_path: Path):
    weights = {"big": torch.full((4,), 1e308, dtype=torch.float64)}
    assert read_checkpoint(write_checkpoint(tmp_path / "c.pth", weights, "3d_fullres"))


def test_what_was_read_survives_a_file_written_over_in_place(tmp_path: Path):
    path = write_plain(tmp_path / "checkpoint_final.pth")
    checkpoint = read_checkpoint(path)
    path.write_bytes(b"")
    torch.testing.assert_close(checkpoint["network_weights"]["conv.weight"], torch.arange(64.0))


def test_keys_that_are_not_wanted_are_left_out(tmp_path: Path):
    checkpoint = read_checkpoint(write_plain(tmp_path / "checkpoint_final.pth"), without=("optimizer_state",))
    assert "optimizer_state" not in checkpoint
    assert "network_weights" in checkpoint


def test_identity_follows_the_content_and_not_the_name(tmp_path: Path):
    first, second = write_plain(tmp_path / "a.pth"), write_plain(tmp_path / "b.pth")
    other = write_plain(tmp_path / "c.pth", current_epoch=4)
    assert identify_checkpoint(first) == identify_checkpoint(second)
    assert identify_checkpoint(first) != identify_checkpoint(other)


@pytest.mark.parametrize("value", [{1, 2}, bytearray(3), torch.zeros(2).to_sparse()])
def test_what_torch_would_allow_and_no_checkpoint_needs_is_refused(tmp_path: Path, value: object):
    path = write_plain(tmp_path / "checkpoint_final.pth", more=value)
    assert torch.load(path, weights_only=True)["more"] is not None
    with pytest.raises(ModelError, match="more than weights and plain values"):
        read_checkpoint(path)


def test_numpy_arrays_become_lists(tmp_path: Path):
    checkpoint = read_checkpoint(write_plain(tmp_path / "checkpoint_final.pth", more=np.arange(4.0).reshape(2, 2)))
    assert checkpoint["more"] == [[0.0, 1.0], [2.0, 3.0]]


def test_an_archive_that_torch_would_not_write_is_refused(tmp_path: Path):
    path = write_plain(tmp_path / "checkpoint_final.pth")
    sound = path.read_bytes()
    path.write_bytes(b"#!/bin/sh\n" + sound)
    with pytest.raises(ModelError, match="something is before the archive"):
        read_checkpoint(path)
    path.write_bytes(sound)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("other/data.pkl", b"\x80\x02N.")
    with pytest.raises(ModelError, match="it has 2 files"):
        read_checkpoint(path)
    data = bytearray(sound)
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(ModelError, match="it is encrypted"):
        read_checkpoint(path)


def test_members_that_lie_over_one_another_are_refused(tmp_path: Path):
    path = tmp_path / "checkpoint_final.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02N.")
        archive.writestr("archive/data/0", b"\0" * 1000)
        first = archive.filelist[1]
        for number in range(1, 50):
            again = zipfile.ZipInfo(f"archive/data/{number}")
            archive.filelist.append(again)
            again.header_offset, again.CRC = first.header_offset, first.CRC
            again.file_size = again.compress_size = first.file_size
    with pytest.raises(ModelError, match="longer than the file"):
        read_checkpoint(path)


def rewrite(path: Path, change) -> None:
    """Change the pickle inside a checkpoint, with right checksums."""
    with zipfile.ZipFile(path) as archive:
        content = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in content.items():
            archive.writestr(name, change(data) if name.endswith("/data.pkl") else data)

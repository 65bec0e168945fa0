"""What a member of an ensemble does when memory or numbers run out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from stu_pipeline.datasets.cases import Case
from stu_pipeline.errors import MemoryLimitError, ModelError, NonFiniteError
from stu_pipeline.nnunet.case import RawCase, read_raw_case
from stu_pipeline.prediction.ensemble import InferenceSettings, Member, require_same_labels
from stu_pipeline.prediction.model_folder import ModelFolder, open_model_folder
from tests.model_folders import write_model_folder
from tests.synthetic import make_image, make_label_map, write_volume


class Picky(nn.Module):
    """A network that fits the memory only with few tiles at a time, or overflows in 16 bit."""

    def __init__(self, inner: nn.Module, *, max_tiles: int = 1000, overflows: bool = False) -> None:
        super().__init__()
        self.inner = inner
        self.max_tiles = max_tiles
        self.overflows = overflows

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > self.max_tiles:
            raise torch.OutOfMemoryError("out of memory")
        output = self.inner(x)
        return output * float("inf") if self.overflows and torch.is_autocast_enabled("cpu") else output


@pytest.fixture
def folder(tmp_path: Path) -> ModelFolder:
    return open_model_folder(write_model_folder(tmp_path, network="PlainConvUNet", mirror_axes=()))


@pytest.fixture
def raw(tmp_path: Path, folder: ModelFolder) -> RawCase:
    path = write_volume(tmp_path / "case.nii.gz", make_image(make_label_map((18, 20, 24))), spacing_mm=(2, 1, 1))
    return read_raw_case(folder.model, Case(id="case", image_files=(path,)))


def predict(member: Member, raw: RawCase, warnings: list[str] | None = None) -> np.ndarray:
    return member.predict_logits(raw, None, [] if warnings is None else warnings, lambda done, total: None)[0]


def open_member(folder: ModelFolder, autocast: torch.dtype | None = None, *, may_repeat: bool = False) -> Member:
    settings = InferenceSettings(device=torch.device("cpu"), autocast=autocast, may_repeat_in_fp32=may_repeat)
    return Member(folder, settings)


def test_a_full_memory_steps_down_to_one_tile_with_the_same_result(folder: ModelFolder, raw: RawCase):
    expected = predict(open_member(folder), raw)
    member = open_member(folder)
    member._network = Picky(member._network, max_tiles=1)
    np.testing.assert_allclose(predict(member, raw), expected, atol=1e-4)


def test_too_little_memory_for_one_tile_says_what_did_not_fit(folder: ModelFolder, raw: RawCase):
    member = open_member(folder)
    member._network = Picky(member._network, max_tiles=0)
    with pytest.raises(MemoryLimitError, match="3 outputs of 18x20x24 voxels"):
        predict(member, raw)


def test_an_overflow_in_16_bit_is_computed_again_and_said(folder: ModelFolder, raw: RawCase):
    expected = predict(open_member(folder), raw)
    member = open_member(folder, torch.bfloat16, may_repeat=True)
    member._network = Picky(member._network, overflows=True)
    warnings: list[str] = []
    np.testing.assert_allclose(predict(member, raw, warnings), expected, atol=1e-4)
    assert warnings == ["fold 0: 16-bit numbers overflowed, computed again in float32"]


def test_an_overflow_in_the_precision_asked_for_is_an_error(folder: ModelFolder, raw: RawCase):
    member = open_member(folder, torch.bfloat16)
    member._network = Picky(member._network, overflows=True)
    with pytest.raises(NonFiniteError, match=r"fold 0 .* computed numbers that are NaN or infinite"):
        predict(member, raw)


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"labels": {"background": 0, "label1": 1, "label2": 2, "label3": 3}}, "'label3' is absent"),
        ({"num_channels": 2}, "channels differ: 1, 2"),
        (
            {"labels": {"background": 0, "label1": [1, 2], "label2": 2}, "regions_class_order": (1, 2)},
            "'label1' is 1 in",
        ),
    ],
)
def test_models_of_other_labels_or_channels_are_refused(tmp_path: Path, folder: ModelFolder, changes, difference):
    other = open_model_folder(write_model_folder(tmp_path, plan_name="otherPlans", **changes))
    with pytest.raises(ModelError) as caught:
        require_same_labels([folder, other])
    assert any(difference in detail for detail in caught.value.details)


def test_regions_in_another_order_are_refused(tmp_path: Path):
    labels = {"background": 0, "whole": [1, 2], "core": 2}
    turned = {"background": 0, "core": 2, "whole": [1, 2]}
    folders = [
        open_model_folder(
            write_model_folder(tmp_path, plan_name=f"p{index}Plans", labels=names, regions_class_order=(1, 2))
        )
        for index, names in enumerate((labels, turned))
    ]
    with pytest.raises(ModelError, match="different labels"):
        require_same_labels(folders)

"""How models become one: logits averaged on a shared grid, probabilities on the image's, axes turned as needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from stu_pipeline.datasets.cases import Case
from stu_pipeline.errors import ModelError
from stu_pipeline.inference.slabs import Slab
from stu_pipeline.prediction.combining.ensemble import Ensemble, Prediction, Sinks
from stu_pipeline.prediction.combining.group import Watch, group_folders
from stu_pipeline.prediction.models.model_folder import ModelFolder, open_model_folder
from stu_pipeline.prediction.models.networks import InferenceSettings
from stu_pipeline.prediction.models.same_labels import require_same_labels
from tests.model_folders import write_model_folder
from tests.synthetic import make_image, make_label_map, write_volume

CPU = InferenceSettings(device=torch.device("cpu"))


class Keep:
    """Collects all slabs of a case."""

    def __init__(self) -> None:
        self.parts: list[torch.Tensor] = []
        self.axis = 0

    def add(self, slab: Slab) -> None:
        self.axis = slab.axis
        self.parts.append(slab.scores.clone())

    @property
    def whole(self) -> torch.Tensor:
        return torch.cat(self.parts, dim=1 + self.axis)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    path = write_volume(tmp_path / "case.nii.gz", make_image(make_label_map((18, 20, 24))), spacing_mm=(2, 1, 1))
    return Case(id="case", image_files=(path,))


@pytest.fixture
def folder(tmp_path: Path) -> ModelFolder:
    return open_model_folder(write_model_folder(tmp_path, network="PlainConvUNet", mirror_axes=()))


def open_model(results: Path, name: str, **changes: object) -> ModelFolder:
    options = {"network": "PlainConvUNet", "mirror_axes": (), "plan_name": f"{name}Plans", **changes}
    return open_model_folder(write_model_folder(results, **options))


def predict(
    folders: Sequence[ModelFolder], case: Case, weights: Sequence[float] | None = None
) -> tuple[Prediction, torch.Tensor, torch.Tensor]:
    """Return the prediction, its logits on the first grid, and its probabilities on the image's."""
    ensemble = Ensemble(folders, CPU, weights)
    logits, probabilities = Keep(), Keep()
    found = ensemble.predict(
        ensemble.load(case), Watch(), lambda prepared, raw: Sinks(logits=(logits,), probabilities=(probabilities,))
    )
    return found, logits.whole, probabilities.whole


def test_models_on_one_grid_average_their_logits(tmp_path: Path, case: Case):
    first, second = open_model(tmp_path, "a"), open_model(tmp_path, "b", seed=7, patch=(12, 20, 16))
    assert group_folders([first, second]) == [[0, 1]]
    alone = [predict([item], case)[1] for item in (first, second)]
    together = predict([first, second], case, weights=(1, 3))[1]
    torch.testing.assert_close(together, alone[0] / 4 + alone[1] * 3 / 4, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(alone[0], alone[1], atol=1e-2)


@pytest.mark.parametrize("transpose", [(0, 1, 2), (1, 2, 0), (2, 1, 0)])
def test_models_on_other_grids_average_their_probabilities_on_the_images(tmp_path: Path, case: Case, transpose):
    spacing = [(2.0, 1.0, 1.0)[axis] for axis in transpose]
    first = open_model(tmp_path, "a")
    second = open_model(tmp_path, "b", seed=7, transpose=transpose, spacing_mm=[1.5 * step for step in spacing])
    assert group_folders([first, second]) == [[0], [1]]
    alone = []
    for item in (first, second):
        found, _, probabilities = predict([item], case)
        backward = found.prepared.grid.transpose_backward
        alone.append(probabilities.permute(0, *(1 + axis for axis in backward)))
    found, _, together = predict([first, second], case, weights=(3, 1))
    expected = alone[0] * 0.75 + alone[1] * 0.25
    torch.testing.assert_close(together, expected, atol=1e-5, rtol=1e-5)
    np.testing.assert_array_equal(found.mask, expected.argmax(dim=0).numpy())


def test_a_flat_and_a_deep_model_are_one_ensemble(tmp_path: Path, case: Case):
    deep = open_model(tmp_path, "a", spacing_mm=(2.0, 1.5, 1.5))
    flat = open_model(tmp_path, "b", configuration="2d", patch=(16, 16), spacing_mm=(1.0, 1.0))
    mask = predict([deep, flat], case)[0].mask
    np.testing.assert_array_equal(mask, predict([flat, deep], case)[0].mask)


def test_a_weight_of_nothing_is_a_model_left_out(tmp_path: Path, case: Case):
    first, second = open_model(tmp_path, "a"), open_model(tmp_path, "b", seed=7)
    alone, both = predict([second], case)[1], predict([first, second], case, weights=(0, 1))[1]
    torch.testing.assert_close(both, alone)


def test_scores_that_only_the_engine_resamples_take_the_dense_way(tmp_path: Path, case: Case):
    changes = {
        "resampling_fn_probabilities": "resample_torch_fornnunet",
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "force_separate_z": False},
    }
    folder = open_model(tmp_path, "a", spacing_mm=(2.0, 1.5, 1.5), **changes)
    found = predict([folder], case)[0]
    assert found.prepared.needs_engine_export
    ours = predict([open_model(tmp_path, "b", spacing_mm=(2.0, 1.5, 1.5))], case)[0].mask
    assert (found.mask == ours).mean() > 0.999


def test_a_cascade_sees_the_mask_of_its_previous_stage(tmp_path: Path, case: Case):
    write_model_folder(tmp_path, configuration="3d_lowres", spacing_mm=(2.0, 1.5, 1.5))
    folder = open_model_folder(
        write_model_folder(tmp_path, configuration="3d_cascade_fullres", previous_stage="3d_lowres")
    )
    ensemble = Ensemble([folder], CPU)
    loaded = ensemble.load(case)
    assert loaded.prepared == (None,)
    seen = []
    ensemble.predict(loaded, Watch(), lambda prepared, raw: seen.append(prepared.data) or Sinks())
    assert seen[0].shape[0] == 3
    assert set(np.unique(seen[0][1:])) <= {0.0, 1.0}


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

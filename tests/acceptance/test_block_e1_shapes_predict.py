"""Block E1, prediction: images of odd shapes get a mask on their own grid."""

from __future__ import annotations

import numpy as np
import pytest

from stu_pipeline.cli import run
from stu_pipeline.datasets.reading import check_same_grid, read_header, read_label_map
from tests.acceptance.test_block_e1_shapes import PARAMETERS, SHAPES
from tests.model_folders import write_model_folder
from tests.synthetic import write_volume


@pytest.mark.parametrize("name", PARAMETERS)
def test_odd_shapes_get_a_mask_on_their_own_grid(name, tmp_path, capfd):
    shapes, spacing = SHAPES[name]
    model = write_model_folder(
        tmp_path / "results", network="PlainConvUNet", mirror_axes=(2,), spacing_mm=(1.0, 1.0, 1.0)
    )
    generator = np.random.default_rng(0)
    for index, shape in enumerate(shapes):
        image = generator.normal(50, 20, shape).astype(np.float32)
        write_volume(tmp_path / "images" / f"case_{index}_0000.nii.gz", image, spacing_mm=spacing)
    arguments = ("-i", tmp_path / "images", "-o", tmp_path / "out", "-m", model, "--device", "cpu", "--step", 1)
    assert run(["predict", *(str(argument) for argument in arguments)]) == 0, capfd.readouterr().err
    for index, shape in enumerate(shapes):
        mask = read_label_map(tmp_path / "out" / f"case_{index}.nii.gz")
        assert mask.shape == shape
        assert check_same_grid(read_header(tmp_path / "images" / f"case_{index}_0000.nii.gz"), mask) == []
        assert set(np.unique(mask.array)) <= {0, 1, 2}

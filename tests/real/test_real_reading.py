"""Real files: the grid is SimpleITK's to the last bit, and every odd file ends as its kind demands."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from stu_pipeline.datasets.reading import read_header, read_image, read_label_map
from stu_pipeline.errors import DataError
from tests.image_files import grid_of, read_itk_grid
from tests.real_data import DATASETS, require

pytestmark = pytest.mark.real

# How each file of edge_cases reads as an image and as a label map; None: it is read.
NOT_FINITE, NOT_WHOLE = "voxels that are NaN or infinite, first at", "voxels whose label is not a whole number"
EDGE_CASES = {
    "fmri_fmri": ("4D and holds 30 volumes of 68x68x6", "4D and holds 30 volumes"),
    "fmri_fmri_tsnr": (f"408 {NOT_FINITE} (z, y, x) = (0, 0, 0)", f"408 {NOT_FINITE}"),
    "mt_mtr": (f"633 {NOT_FINITE} (z, y, x) = (0, 0, 39)", f"633 {NOT_FINITE}"),
    "mt_warp_t22mt1": ("5D and holds 3 volumes", "5D and holds 3 volumes"),
    "qmri_venc": ("4D and holds 3 volumes of 256x256x1", "4D and holds 3 volumes"),
    "rgb_dtype": ("is an RGB image", "is an RGB image"),
    "t2_t2": (None, None),
    "t2_t2_seg-deepseg_rootlets-manual": (None, None),
    "t2_t2_seg-manual_labeled": (None, None),
    "t2s_t2s": (None, NOT_WHOLE),
    "t2s_t2s_gmseg_manual": (None, None),
    "t2s_t2s_seg-deepseg": (None, None),
}


@pytest.mark.parametrize("name", DATASETS)
def test_every_real_grid_is_simpleitks_and_nothing_is_repaired(name):
    paths = [path for path in require(name).rglob("*") if path.name.endswith((".nii.gz", ".nrrd"))]
    assert paths
    for path in paths:
        grid = read_header(path)
        assert grid_of(grid) == read_itk_grid(path) and grid.notes == (), path


@pytest.mark.parametrize("name", EDGE_CASES)
def test_every_odd_file_is_read_exactly_or_refused_for_the_right_reason(name):
    path = require(f"edge_cases/{name}.nii.gz")
    for read, reason in zip((read_image, read_label_map), EDGE_CASES[name], strict=True):
        if reason is None:
            expected = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
            assert np.array_equal(np.squeeze(read(path).array), np.squeeze(expected))
        else:
            with pytest.raises(DataError) as error:
                read(path)
            assert reason in error.value.problem and error.value.hint

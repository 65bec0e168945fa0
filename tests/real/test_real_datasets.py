"""Real volumes: the small sets pass the check, the odd files are refused for the right reason."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from stu_pipeline.datasets.check import check_dataset
from stu_pipeline.datasets.reading import read_image, read_label_map
from stu_pipeline.errors import DataError
from tests.real_data import require

pytestmark = pytest.mark.real


@pytest.mark.parametrize(
    ("name", "num_cases"),
    [
        ("Dataset004_Hippocampus", 200),
        ("Dataset107_MSlesion4ch", 1),
        ("Dataset108_MouseBrain", 8),
        ("Dataset112_TotalSegCT", 1),
        ("Dataset113_SpinalCordTiny", 6),
        ("Dataset115_PyRadiomicsNRRD", 3),
        ("Dataset117_SpleenCrop", 1),
    ],
)
def test_a_real_dataset_passes(name, num_cases):
    report = check_dataset(require(name), num_workers=2)
    assert report.num_cases == num_cases and report.warnings == ()


@pytest.mark.parametrize(
    "name",
    [
        "Dataset113_SpinalCordTiny/imagesTr/cord_t1_0000.nii.gz",
        "Dataset115_PyRadiomicsNRRD/imagesTr/brain1_0000.nrrd",
        "Dataset117_SpleenCrop/imagesTr/spleen_2_0000.nii.gz",
        "edge_cases/t2s_t2s.nii.gz",
    ],
)
def test_real_voxels_and_grids_equal_simpleitks(name):
    path = require(name)
    volume, image = read_image(path), sitk.ReadImage(str(path))
    assert np.array_equal(volume.array[0], sitk.GetArrayFromImage(image).astype(np.float32))
    assert volume.spacing_mm == image.GetSpacing()[::-1]
    assert volume.origin == image.GetOrigin() and volume.direction == image.GetDirection()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fmri_fmri", "4D and holds 30 volumes"),
        ("qmri_venc", "4D and holds 3 volumes of 256x256x1"),
        ("mt_warp_t22mt1", "5D and holds 3 volumes"),
        ("rgb_dtype", "RGB"),
        ("fmri_fmri_tsnr", "408 voxels that are NaN or infinite"),
        ("mt_mtr", "633 voxels that are NaN or infinite"),
    ],
)
def test_odd_real_files_are_refused_for_the_right_reason(name, message):
    with pytest.raises(DataError, match=message):
        read_image(require(f"edge_cases/{name}.nii.gz"))


@pytest.mark.parametrize(
    "name", ["t2_t2_seg-manual_labeled", "t2s_t2s_seg-deepseg", "t2_t2_seg-deepseg_rootlets-manual"]
)
def test_float_and_wide_integer_label_maps_are_read(name):
    volume = read_label_map(require(f"edge_cases/{name}.nii.gz"))
    assert volume.array.dtype == np.uint8 and volume.array.max() > 0

"""A5: NaN and infinite voxels are refused with their number, the first place and its value."""

from __future__ import annotations

import numpy as np
import pytest

from stu_pipeline.datasets.reading import read_image, read_label_map
from stu_pipeline.errors import DataError
from tests.image_files import make_affine, make_header, write_nifti
from tests.synthetic import write_volume

PLACES = [(1, 2, 3), (1, 2, 5), (3, 0, 0)]
SHOWN = "first at (z, y, x) = (1, 2, 3)"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha", ".tif"])
def test_stored_values_that_are_not_finite_are_counted_and_located(tmp_path, dtype, value, ending):
    array = np.ones((5, 6, 7), dtype)
    for place in PLACES:
        array[place] = value
    path = write_volume(tmp_path / f"a{ending}", array)
    for read in (read_image, read_label_map):
        with pytest.raises(DataError) as error:
            read(path)
        assert f"'a{ending}' has 3 voxels that are NaN or infinite, {SHOWN}: {value:g}" == error.value.problem
        assert error.value.exit_code == 3 and error.value.hint


@pytest.mark.parametrize("value", [1e39, -1e300])
def test_float64_values_beyond_float32_are_infinite(tmp_path, value):
    array = np.zeros((5, 6, 7))
    for place in PLACES:
        array[place] = value
    with pytest.raises(DataError) as error:
        read_image(write_volume(tmp_path / "a.nii.gz", array))
    assert f"3 voxels that are NaN or infinite, {SHOWN}: {np.copysign(np.inf, value):g}" in error.value.problem
    assert "float32" in error.value.hint


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
@pytest.mark.parametrize(("slope", "intercept"), [(1e38, 0), (1, 3.4e38), (-3e38, -3e38)])
def test_infinities_made_by_the_slope_are_found(tmp_path, dtype, slope, intercept):
    array = np.zeros((7, 6, 5), dtype)
    for place in PLACES:
        array[place[::-1]] = 30_000
    if intercept == 3.4e38:
        array = array.astype(np.float32) * np.float32(1e34)
    header = make_header(array.shape, array.dtype, sform=make_affine(np.eye(3)), codes=(1, 0))
    header["scl_slope"], header["scl_inter"] = slope, intercept
    with pytest.raises(DataError) as error:
        read_image(write_nifti(tmp_path / "a.nii.gz", header, array))
    assert f"3 voxels that are NaN or infinite, {SHOWN}" in error.value.problem and "scl_slope" in error.value.hint


@pytest.mark.parametrize("field", ["scl_slope", "scl_inter"])
def test_an_infinite_scaling_is_refused(tmp_path, field):
    header = make_header(sform=make_affine(np.eye(3)), codes=(1, 0))
    header[field] = np.inf
    with pytest.raises(DataError, match="scaled by"):
        read_image(write_nifti(tmp_path / "a.nii.gz", header))

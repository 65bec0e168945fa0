"""Files per label are binary, complete, named safely, and lie on the grid of the image."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from stu_pipeline.datasets.reading import Grid, check_same_grid, read_label_map
from stu_pipeline.errors import StorageError
from stu_pipeline.prediction.writing.label_files import name_label_files, write_label_files

DIRECTION = (0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
GRID = Grid(shape=(4, 5, 6), spacing_mm=(3.0, 0.5, 0.7), origin=(1.0, -2.0, 3.0), direction=DIRECTION)
LABELS = {"background": 0, "liver": 1, "left kidney": 300, "both": (1, 300), "absent": 5, "ignore": 301}


@pytest.fixture
def mask():
    return np.random.default_rng(2).choice([0, 1, 300], GRID.shape).astype(np.uint16)


def test_every_label_has_its_file_on_the_grid_of_the_image(tmp_path, mask):
    files = write_label_files(mask, GRID, LABELS, tmp_path / "case")
    assert [file.name for file in files] == ["liver.nii.gz", "left_kidney.nii.gz", "both.nii.gz", "absent.nii.gz"]
    assert sorted((tmp_path / "case").iterdir()) == sorted(files)
    for file, values in zip(files, [(1,), (300,), (1, 300), ()], strict=True):
        found = read_label_map(file)
        assert found.array.dtype == np.uint8 and np.array_equal(found.array, np.isin(mask, values))
        assert check_same_grid(GRID, found) == []


def test_a_flat_image_has_flat_files(tmp_path):
    grid = Grid(shape=(1, 5, 6), spacing_mm=(999.0, 0.5, 0.7), origin=(1.0, 2.0, 0.0), num_dimensions=2)
    (file,) = write_label_files(np.ones(grid.shape, np.uint8), grid, {"background": 0, "cell": 1}, tmp_path)
    assert sitk.ReadImage(str(file)).GetSize() == (6, 5)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a/b", "../c", ".hidden", "x" * 300], ["a_b", "c", "hidden", "x" * 100]),
        (["Liver", "liver", "LIVER"], ["Liver", "liver_2", "LIVER_3"]),
        (["nul", "con.1", "com1", "comb"], ["nul_", "con.1_", "com1_", "comb"]),
        (["\u809d\u81d3", "***", "a b\n"], ["label", "label_2", "a_b"]),
        (["a", "a_3", "A"], ["a", "a_3", "A_3_"]),
    ],
)
def test_file_names_are_safe_and_never_two_alike(names, expected):
    found = name_label_files({name: index + 1 for index, name in enumerate(names)})
    assert list(found) == names and [file.removesuffix(".nii.gz") for file in found.values()] == expected


def test_a_file_that_does_not_hold_its_label_is_not_left(tmp_path, mask, monkeypatch):
    write = sitk.WriteImage

    def write_cut(image, path, *options):
        write(image, path, *options)
        with open(path, "r+b") as stream:  # noqa: PTH123
            stream.truncate(60)

    monkeypatch.setattr(sitk, "WriteImage", write_cut)
    with pytest.raises(StorageError, match="could not be verified"):
        write_label_files(mask, GRID, LABELS, tmp_path)
    assert list(tmp_path.iterdir()) == []

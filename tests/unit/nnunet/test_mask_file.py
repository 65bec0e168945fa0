"""A mask is on the disk only when reading it back proves it."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from stu_pipeline.datasets.cases import Case
from stu_pipeline.errors import StorageError
from stu_pipeline.nnunet.mask_file import write_mask
from stu_pipeline.nnunet.model import EngineModel
from stu_pipeline.nnunet.raw_case import RawCase, read_raw_case
from stu_pipeline.prediction.models.model_folder import open_model_folder
from tests.model_folders import write_model_folder
from tests.synthetic import write_volume

SHAPE = (9, 17, 13)
OBLIQUE = (0.0, -1.0, 0.0, 0.0, 0.0, -1.0, 1.0, 0.0, 0.0)


def open_case(
    place: Path, *, reader: str = "SimpleITKIO", ending: str = ".nii.gz", **grid: object
) -> tuple[EngineModel, RawCase]:
    folder = write_model_folder(place / "results", reader=reader, file_ending=ending)
    image = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    path = write_volume(place / f"case_0000{ending}", image, **grid)
    model = open_model_folder(folder).model
    return model, read_raw_case(model, Case(id="case", image_files=(path,)))


def make_mask(model: EngineModel, raw: RawCase, highest: int = 2) -> np.ndarray:
    mask = np.zeros(raw.array.shape[1:], dtype=np.uint16)
    mask[2:5, 3:7, 1:4] = 1
    mask[-1, -1, -1] = highest
    return mask


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
@pytest.mark.parametrize("highest", [2, 255, 300, 65535])
def test_a_mask_has_the_grid_of_its_image_and_every_label(tmp_path: Path, ending: str, highest: int):
    grid = {"spacing_mm": (3.0, 0.7, 0.9), "origin": (-11.0, 4.5, 7.0), "direction": OBLIQUE}
    model, raw = open_case(tmp_path, ending=ending, **grid)
    mask = make_mask(model, raw, highest)
    target = tmp_path / "out" / f"case{ending}"
    seen: list[bool] = []
    write_mask(model, mask, target, raw, before_commit=lambda temporary: seen.append(not target.exists()))
    assert seen == [True]
    image, written = sitk.ReadImage(str(tmp_path / f"case_0000{ending}")), sitk.ReadImage(str(target))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(written), mask)
    assert written.GetSpacing() == pytest.approx(image.GetSpacing())
    assert written.GetOrigin() == pytest.approx(image.GetOrigin())
    assert written.GetDirection() == pytest.approx(image.GetDirection())
    assert [entry.name for entry in target.parent.iterdir()] == [target.name]


@pytest.mark.parametrize("reader", ["SimpleITKIOWithReorient", "NibabelIO", "NibabelIOWithReorient"])
def test_every_reader_of_nnunet_writes_a_mask_that_is_proven(tmp_path: Path, reader: str):
    model, raw = open_case(tmp_path, reader=reader, spacing_mm=(3.0, 0.7, 0.9), direction=OBLIQUE)
    mask = make_mask(model, raw)
    write_mask(model, mask, tmp_path / "out" / "case.nii.gz", raw)
    written = sitk.ReadImage(str(tmp_path / "out" / "case.nii.gz"))
    image = sitk.ReadImage(str(tmp_path / "case_0000.nii.gz"))
    assert written.GetSize() == image.GetSize()
    assert written.GetDirection() == pytest.approx(image.GetDirection(), abs=1e-6)
    assert sorted(sitk.GetArrayFromImage(written).ravel()) == sorted(mask.ravel())


def test_a_tiff_stack_gets_its_spacing_beside_it(tmp_path: Path):
    model, raw = open_case(tmp_path, reader="Tiff3DIO", ending=".tif")
    write_mask(model, make_mask(model, raw), tmp_path / "out" / "case.tif", raw)
    assert sorted(entry.name for entry in (tmp_path / "out").iterdir()) == ["case.json", "case.tif"]


@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIO"])
@pytest.mark.parametrize("limit", [0, 1, 100, 300])
def test_a_full_disk_is_an_error_and_leaves_nothing(
    tmp_path: Path, reader: str, limit: int, capfd: pytest.CaptureFixture[str]
):
    model, raw = open_case(tmp_path, reader=reader)
    mask = np.random.default_rng(1).integers(0, 3, raw.array.shape[1:]).astype(np.uint8)
    target = tmp_path / "out" / "case.nii.gz"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(StorageError):
            write_mask(model, mask, target, raw)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(target.parent.iterdir()) == []
    write_mask(model, mask, target, raw)
    assert target.is_file()


def test_a_mask_that_is_cut_on_the_way_is_not_believed(tmp_path: Path):
    model, raw = open_case(tmp_path)
    target = tmp_path / "case.nii.gz"
    target.write_bytes(b"the old one")

    class Cutting(model.plans.image_reader_writer_class):  # type: ignore[misc, name-defined]
        def write_seg(self, seg: np.ndarray, name: str, properties: dict) -> None:
            super().write_seg(seg, name, properties)
            data = Path(name).read_bytes()
            Path(name).write_bytes(data[: len(data) // 2])

    model.plans.__class__ = type(
        "Plans", (type(model.plans),), {"image_reader_writer_class": property(lambda _: Cutting)}
    )
    with pytest.raises(StorageError, match="could not be verified"):
        write_mask(model, make_mask(model, raw), target, raw)
    assert target.read_bytes() == b"the old one"

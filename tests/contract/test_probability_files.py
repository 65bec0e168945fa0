"""What we write slab by slab is what nnU-Net's ensembling reads."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk  # noqa: N813
import torch
from nnunetv2.ensembling.ensemble import average_probabilities, merge_files
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from stu_pipeline.datasets.volume import Grid
from stu_pipeline.inference.case_grid import CaseGrid
from stu_pipeline.inference.slabs import Slab
from stu_pipeline.nnunet.reader_properties import make_reader_properties
from stu_pipeline.prediction.writing.probability_files import ProbabilityTarget, ProbabilityWriter


class Labels:
    """The one thing `merge_files` asks a label manager."""

    def convert_probabilities_to_segmentation(self, probabilities):
        return probabilities.argmax(0).astype(np.uint8)


def write(path, probabilities, box):
    shape = tuple(high - low for low, high in box)
    full = (9, 12, 8)  # (z, y, x) in the plan's axes; the image's are (y, z, x)
    case_grid = CaseGrid(
        network_shape=shape, cropped_shape=shape, full_shape=full, box=box, transpose_backward=(1, 0, 2)
    )
    grid = Grid(shape=(12, 9, 8), spacing_mm=(3.0, 0.5, 0.7), origin=(1.0, -2.0, 3.0))
    target = ProbabilityTarget(
        path=path,
        kind="npz",
        grid=grid,
        names=("background", "a", "b"),
        properties=make_reader_properties(grid, "SimpleITKIO"),
    )
    with ProbabilityWriter(target, case_grid) as writer:
        for start in range(0, shape[0], 2):
            writer.add(Slab(start=start, axis=0, scores=probabilities[:, start : start + 2]))
        return writer.finish()


def test_nnunet_averages_our_files_and_writes_the_mask_of_the_average(tmp_path):
    boxes = ((1, 8), (0, 12), (2, 8)), ((0, 9), (3, 11), (0, 8))
    files, expected = [], np.zeros((3, 12, 9, 8), np.float32)
    for index, box in enumerate(boxes):
        generator = torch.Generator().manual_seed(index)
        inside = torch.softmax(2 * torch.randn((3, *(high - low for low, high in box)), generator=generator), dim=0)
        full = np.zeros((3, 9, 12, 8), np.float32)
        full[0] = 1
        full[(slice(None), *(slice(*ends) for ends in box))] = inside
        expected += full.transpose(0, 2, 1, 3) / 2
        files.append(str(write(tmp_path / f"m{index}" / "case.npz", inside, box)[0]))
    assert np.allclose(average_probabilities(files), expected, atol=1e-6)
    merge_files(files, str(tmp_path / "case"), ".nii.gz", SimpleITKIO(), Labels(), False)
    image = sitk.ReadImage(str(tmp_path / "case.nii.gz"))
    assert np.array_equal(sitk.GetArrayFromImage(image), expected.argmax(0))
    assert np.allclose(image.GetSpacing(), (0.7, 0.5, 3.0)) and image.GetOrigin() == (1.0, -2.0, 3.0)

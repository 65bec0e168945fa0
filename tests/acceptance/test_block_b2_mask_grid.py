"""B2: a mask has the grid of its image, and a known label map comes back exactly through the path of a prediction."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest
import torch

from stu_pipeline.datasets.cases import Case
from stu_pipeline.datasets.reading import check_same_grid, read_label_map
from stu_pipeline.inference.case_grid import Decision
from stu_pipeline.inference.mask_exporter import MaskExporter
from stu_pipeline.inference.slabs import Slab
from stu_pipeline.nnunet.mask_file import write_mask
from stu_pipeline.nnunet.prepared_case import prepare_raw_case
from stu_pipeline.nnunet.raw_case import read_raw_case
from stu_pipeline.prediction.models.model_folder import open_model_folder
from tests.image_files import make_affine, make_header, write_nifti
from tests.model_folders import write_model_folder

SHAPE_XYZ = (13, 17, 9)
ORIGIN = (-120.0, 35.5, 410.25)
FLIPS = tuple(itertools.product((1, -1), repeat=3))
# Spacing (x, y, z) in mm, and the order in which the plan sees the axes (z, y, x).
SPACINGS = {
    "isotropic": ((1.0, 1.0, 1.0), (0, 1, 2)),
    "anisotropic": ((0.75, 0.75, 5.0), (0, 2, 1)),
    "mixed": ((0.7, 3.1, 1.3), (1, 2, 0)),
}
TYPES = (np.int16, np.float32)
TOLERANCE_MM = 1e-4
NUM_LABELS = 3


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """One opened model per spacing; its plan keeps the spacing."""
    found = {}
    for kind, (spacing, order) in SPACINGS.items():
        place = tmp_path_factory.mktemp(kind)
        kept = [spacing[::-1][axis] for axis in order]
        folder = write_model_folder(place, network="PlainConvUNet", spacing_mm=kept, transpose=order)
        found[kind] = open_model_folder(folder).model
    return found


def make_labels(seed):
    """A label map (x, y, z) of noise, so that no flip or swap of axes leaves it as it is; its border is background."""
    labels = np.zeros(SHAPE_XYZ, np.uint8)
    inside = labels[2:-1, 1:-3, 1:-2]
    inside[...] = np.random.default_rng(seed).integers(0, NUM_LABELS, inside.shape)
    labels[2, 1, 1] = labels[-2, -4, -3] = 1
    return labels


def make_identity_logits(model, labels_zyx, prepared):
    """Logits of a network that knows the answer, on the grid it sees."""
    box = tuple(slice(*map(int, sides)) for sides in prepared.properties["bbox_used_for_cropping"])
    seen = labels_zyx.transpose(model.plans.transpose_forward)[box]
    assert seen.shape == prepared.data.shape[1:] and seen.size < labels_zyx.size, "resampled, or not cropped"
    return torch.from_numpy(np.eye(NUM_LABELS, dtype=np.float32)[seen].transpose(3, 0, 1, 2).copy())


@pytest.mark.parametrize("dtype", TYPES, ids=lambda dtype: dtype.__name__)
@pytest.mark.parametrize("kind", SPACINGS)
@pytest.mark.parametrize("flips", FLIPS, ids=lambda flips: "".join("+-"[sign < 0] for sign in flips))
def test_a_known_label_map_comes_back_on_the_grid_of_its_image(tmp_path, models, flips, kind, dtype):
    model, spacing = models[kind], SPACINGS[kind][0]
    labels = make_labels(seed=FLIPS.index(flips))
    affine = make_affine(np.diag(np.array(flips, float)), spacing, ORIGIN)
    header = make_header(SHAPE_XYZ, dtype, sform=affine, qform=affine, codes=(1, 1), spacing=spacing)
    # Not zero where a label is, and zero on the border: the plan crops there.
    voxels = (labels.astype(dtype) * 100 + 7) * (np.pad(np.ones((10, 13, 6), dtype), ((2, 1), (1, 3), (1, 2))))
    image = write_nifti(tmp_path / "case_0000.nii.gz", header, voxels)
    raw = read_raw_case(model, Case(id="case", image_files=(image,)))
    prepared = prepare_raw_case(model, raw)
    logits = make_identity_logits(model, labels.transpose(), prepared)
    exporter = MaskExporter(prepared.grid, Decision(num_outputs=NUM_LABELS), axis=0, device=torch.device("cpu"))
    exporter.add(Slab(start=0, axis=0, scores=logits))
    mask = exporter.finish()
    target = tmp_path / "masks" / "case.nii.gz"
    write_mask(model, mask, target, raw)

    written, source = nib.load(target), nib.load(image)
    assert written.shape == source.shape == SHAPE_XYZ
    np.testing.assert_allclose(written.affine, source.affine, rtol=0, atol=TOLERANCE_MM)
    np.testing.assert_allclose(written.affine, affine, rtol=0, atol=TOLERANCE_MM)
    for form in ("get_qform", "get_sform"):  # other tools read either
        np.testing.assert_allclose(getattr(written, form)(), affine, rtol=0, atol=TOLERANCE_MM)
    np.testing.assert_array_equal(np.asanyarray(written.dataobj), labels)
    found = read_label_map(target)
    assert check_same_grid(raw.grid, found) == []
    np.testing.assert_array_equal(found.array, labels.transpose())

"""Every real case at hand becomes the arrays that nnU-Net makes of it, on its own grid and on others."""

from __future__ import annotations

import pickle

import blosc2
import numpy as np
import pytest

from stu_pipeline.datasets.cases import list_training_cases
from stu_pipeline.datasets.dataset_json import read_dataset_json
from stu_pipeline.datasets.reading import read_header
from stu_pipeline.preprocessing.case import write_case
from tests.case_plans import make_case_plan, make_job, run_stock
from tests.real_data import DATASETS, require

pytestmark = pytest.mark.real

GRIDS = ("3d_fullres", "3d_lowres", "2d", "coarser", "finer in plane", "separate axis")
# Relative to the standard deviation of the channel; what is asked for is 1e-4.
TOLERANCE = 5e-6


def choose_spacing(grid, planned, own):
    """Return the target spacing: of the dataset, or changed from the case's own so that every case is resampled."""
    z, y, x = own
    finest = min(own)
    return {
        "3d_fullres": planned,
        "3d_lowres": [1.6 * step for step in planned],
        "2d": planned[1:],
        "coarser": (1.7 * z, 1.3 * y, 1.45 * x),
        "finer in plane": (1.25 * z, 0.9 * y, 0.9 * x),
        "separate axis": (3.7 * finest, 1.1 * finest, 1.2 * finest),
    }[grid]


def normalise_as(dataset_json):
    if "CT" in dataset_json.channel_names.values():
        return {"schemes": ["CTNormalization"]}
    return {"schemes": ["ZScoreNormalization"] * dataset_json.num_channels, "within_mask": True}


def compare_with_stock(job, tmp_path):
    files = write_case(job)
    image, labels = (blosc2.open(str(file), mode="r")[:] for file in files[:2])
    properties = pickle.loads(files[2].read_bytes())
    expected, expected_labels, expected_properties = run_stock(job.case, job.plan, job.dataset_json["labels"])
    assert image.shape == expected.shape and image.dtype == np.float32
    for channel, wanted in zip(image, expected, strict=True):
        assert np.abs(channel - wanted).max() <= TOLERANCE * wanted.std(), job.case.id
    assert labels.dtype == np.int16
    assert np.array_equal(labels, expected_labels), job.case.id
    locations, wanted_locations = (found.pop("class_locations") for found in (properties, expected_properties))
    assert properties == expected_properties, job.case.id
    assert list(locations) == list(wanted_locations)
    for key, places in locations.items():
        assert len(places) == min(10_000, np.isin(labels, key).sum())
        assert np.isin(labels[tuple(np.asarray(places, dtype=int).T)], key).all() if len(places) else True


def check_dataset(name, grid, tmp_path, *, limit=None):
    folder = require(name)
    dataset_json = read_dataset_json(folder / "dataset.json")
    cases = list_training_cases(folder, dataset_json)
    spacings = [read_header(case.image_files[0]).spacing_mm for case in cases]
    planned = np.median(spacings, axis=0)
    for index, case in list(enumerate(cases))[:limit]:
        plan = make_case_plan(spacing=choose_spacing(grid, planned, spacings[index]), **normalise_as(dataset_json))
        job = make_job(case, plan, dataset_json.engine_description["labels"], tmp_path)
        compare_with_stock(job, tmp_path)


@pytest.mark.parametrize("grid", ["3d_fullres", "coarser", "separate axis"])
@pytest.mark.parametrize("name", DATASETS)
def test_a_real_case_is_prepared_as_nnunet_does_it(name, grid, tmp_path):
    check_dataset(name, grid, tmp_path, limit=1)


@pytest.mark.slow
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", DATASETS)
def test_every_real_case_is_prepared_as_nnunet_does_it(name, grid, tmp_path):
    check_dataset(name, grid, tmp_path)

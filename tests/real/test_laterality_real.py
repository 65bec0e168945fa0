"""Left and right on real data: parotids and a whole body, geometry included."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from stu_pipeline.datasets.dataset_json import read_dataset_json
from stu_pipeline.datasets.laterality import Mirroring, find_side_labels
from stu_pipeline.datasets.reading import read_header, read_label_map
from stu_pipeline.nnunet.reader_properties import make_reader_properties
from stu_pipeline.planfile import parse_plan
from stu_pipeline.training.run.mirroring import choose_mirroring
from tests.real_data import DATASETS, require

pytestmark = pytest.mark.real

REFERENCE = Path(__file__).parents[2] / "plans" / "reference" / "large_ct" / "plan.json"


def choose(name, place, wanted="auto"):
    """Choose for all training images, with the properties that preprocessing stores."""
    folder = require(name)
    plan = parse_plan(json.loads(REFERENCE.read_text(encoding="utf-8")))
    cases = []
    for image in sorted((folder / "imagesTr").iterdir()):
        if "_0000." in image.name:
            cases.append(image.name.partition("_0000.")[0])
            properties = make_reader_properties(read_header(image), "SimpleITKIO")
            (place / f"{cases[-1]}.pkl").write_bytes(pickle.dumps({**properties, "class_locations": {}}))
    return choose_mirroring(
        wanted,
        dataset_json=read_dataset_json(folder).engine_description,
        plan=plan,
        configuration="3d_fullres",
        data_folder=place,
        case_ids=cases,
    )


def test_the_parotids_of_openkbp_swap_along_the_last_axis(tmp_path):
    mirroring, reason = choose("Dataset101_OpenKBP", tmp_path)
    assert mirroring == Mirroring(axes=(0, 1, 2), swapping_axes=(2,), pairs=((3, 4),)), reason


def test_the_left_parotid_lies_to_the_left_along_the_swapping_axis(tmp_path):
    folder = require("Dataset101_OpenKBP")
    mirroring, _ = choose("Dataset101_OpenKBP", tmp_path)
    (axis,) = mirroring.swapping_axes
    for path in sorted((folder / "labelsTr").iterdir()):
        labels = read_label_map(path)
        right, left = (np.argwhere(labels.array == label).mean(axis=0) for label in (3, 4))
        apart = np.abs((left - right) * np.array(labels.spacing_mm))
        assert apart.argmax() == axis, path.name


def test_the_whole_body_has_one_label_without_a_partner(tmp_path):
    sides = find_side_labels(read_dataset_json(require("Dataset112_TotalSegCT")))
    assert sides.lone == ("lung_upper_lobe_left",) and len(sides.pairs) == 18
    names = {name for pair in sides.names for name in pair}
    assert not any("vertebrae" in name for name in names)
    mirroring, reason = choose("Dataset112_TotalSegCT", tmp_path)
    assert mirroring == Mirroring(axes=(0, 1)) and "'lung_upper_lobe_left' has no partner" in reason
    asked, _ = choose("Dataset112_TotalSegCT", tmp_path, "0,1,2")
    assert asked.swapping_axes == (2,) and len(asked.pairs) == 18


@pytest.mark.parametrize("name", sorted(set(DATASETS) - {"Dataset101_OpenKBP", "Dataset112_TotalSegCT"}))
def test_other_real_labels_have_no_sides(name):
    assert not find_side_labels(read_dataset_json(require(name))).has_sides

"""Which axes a training mirrors: from the wish of the user, the names of the labels and the geometry of the images."""

from __future__ import annotations

import itertools
import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from stu_pipeline.datasets.laterality import Mirroring
from stu_pipeline.errors import DataError, UsageError
from stu_pipeline.planfile import PlanFile, parse_plan
from stu_pipeline.training.run.mirroring import choose_mirroring

REFERENCE = Path(__file__).parents[4] / "plans" / "reference" / "large_ct" / "plan.json"
KIDNEYS = {"background": 0, "kidney_right": 1, "liver": 2, "kidney_left": 3}
LIVER = {"background": 0, "liver": 1, "spleen": 2}
LONE = {"background": 0, "kidney_right": 1, "kidney_left": 2, "lung_middle_lobe_right": 3}
IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
CODES = ("LPS", "RAS", "RAI", "LAS", "PIR", "ASL", "SRA", "IPL")


def make_plan(transpose=(0, 1, 2), patch=(16, 16, 16)) -> PlanFile:
    raw = json.loads(REFERENCE.read_text(encoding="utf-8"))
    raw |= {"transpose_forward": list(transpose), "transpose_backward": [transpose.index(axis) for axis in range(3)]}
    planned = raw["configurations"]["3d_fullres"]
    planned["patch_size"] = list(patch)
    network = planned["architecture"]["arch_kwargs"]
    network["strides"] = [stride[-len(patch) :] for stride in network["strides"]]
    return parse_plan(raw)


def write_cases(folder: Path, properties) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"case_{index:03d}" for index in range(len(properties))]
    for name, content in zip(names, properties, strict=True):
        (folder / f"{name}.pkl").write_bytes(pickle.dumps({**content, "class_locations": {1: np.zeros((9, 4), int)}}))
    return names


def describe_simpleitk(direction):
    return {
        "sitk_stuff": {"spacing": (1, 1, 1), "origin": (0, 0, 0), "direction": tuple(direction)},
        "spacing": [1] * 3,
    }


def turn(degrees):
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return (c, -s, 0.0, s, c, 0.0, 0.0, 0.0, 1.0)


def choose(tmp_path, wanted="auto", *, labels=None, directions=(IDENTITY,), properties=None, plan=None, **more):
    description = {"channel_names": {"0": "CT"}, "labels": labels or KIDNEYS, "numTraining": 4}
    description |= {"file_ending": ".nii.gz", **more}
    known = properties if properties is not None else [describe_simpleitk(direction) for direction in directions]
    return choose_mirroring(
        wanted,
        dataset_json=description,
        plan=plan or make_plan(),
        configuration="3d_fullres",
        data_folder=tmp_path / "data",
        case_ids=write_cases(tmp_path / "data", known),
    )


def test_without_sides_all_axes_are_mirrored_and_no_file_is_read(tmp_path):
    mirroring, reason = choose_mirroring(
        "auto",
        dataset_json={"channel_names": {"0": "CT"}, "labels": LIVER, "numTraining": 4, "file_ending": ".nii.gz"},
        plan=make_plan(),
        configuration="3d_fullres",
        data_folder=tmp_path / "not there",
        case_ids=["case_000"],
    )
    assert mirroring == Mirroring(axes=(0, 1, 2)) and reason == ""


def test_pairs_swap_along_the_left_right_axis(tmp_path):
    mirroring, reason = choose(tmp_path)
    assert mirroring == Mirroring(axes=(0, 1, 2), swapping_axes=(2,), pairs=((1, 3),))
    assert reason == "left/right: 1 pair of labels swap along axis 2"


@pytest.mark.parametrize("transpose", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("code", CODES)
def test_the_axis_is_the_one_along_which_the_patient_runs_left(tmp_path, code, transpose):
    image = sitk.DICOMOrient(sitk.Image(4, 5, 6, sitk.sitkUInt8), code)
    # Where SimpleITK places the voxels says which array axis moves them to the patient's left.
    steps = []
    for file_axis in (2, 1, 0):
        index = [0, 0, 0]
        index[file_axis] = 1
        steps.append(image.TransformIndexToPhysicalPoint(index)[0] - image.TransformIndexToPhysicalPoint((0, 0, 0))[0])
    array_axis = int(np.argmax(np.abs(steps)))
    shape = [1, 1, 1]
    shape[array_axis] = 2
    moved = np.empty(shape).transpose(transpose).shape  # as nnU-Net turns its arrays
    mirroring, _ = choose(tmp_path, directions=[image.GetDirection()], plan=make_plan(transpose))
    assert mirroring.swapping_axes == (moved.index(2),) and mirroring.axes == (0, 1, 2)


@pytest.mark.parametrize("code", CODES)
def test_nibabels_and_simpleitks_geometry_tell_the_same(tmp_path, code):
    image = sitk.DICOMOrient(sitk.Image(4, 5, 6, sitk.sitkUInt8), code)
    image.SetSpacing((0.5, 2.0, 3.0))
    lps_to_ras = np.diag([-1.0, -1.0, 1.0])
    affine = np.eye(4)
    affine[:3, :3] = lps_to_ras @ np.array(image.GetDirection()).reshape(3, 3) @ np.diag(image.GetSpacing())
    expected, _ = choose(tmp_path / "itk", directions=[image.GetDirection()])
    found, _ = choose(tmp_path / "nibabel", properties=[{"nibabel_stuff": {"original_affine": affine}, "spacing": []}])
    assert found == expected and len(found.swapping_axes) == 1


@pytest.mark.parametrize("transpose", list(itertools.permutations(range(3))))
def test_a_flat_patch_swaps_only_along_an_axis_it_has(tmp_path, transpose):
    mirroring, reason = choose(tmp_path, plan=make_plan(transpose, patch=(16, 16)))
    place = transpose.index(2) - 1
    if place < 0:  # sagittal slices
        assert mirroring == Mirroring(axes=(0, 1)) and reason == ""
    else:
        assert mirroring == Mirroring(axes=(0, 1), swapping_axes=(place,), pairs=((1, 3),))


@pytest.mark.parametrize(
    ("directions", "kept", "told"),
    [
        ((IDENTITY, turn(90)), (0,), "left-right runs differently in the images: 1 along axis 1 and 1 along axis 2"),
        ((IDENTITY, turn(45)), (0,), "1 of 2 images lie oblique"),
        ((turn(30), turn(-30)), (0, 1, 2), ""),
    ],
)
def test_axes_that_cannot_be_told_are_not_mirrored(tmp_path, directions, kept, told):
    mirroring, reason = choose(tmp_path, directions=directions)
    assert mirroring.axes == kept and told in reason
    assert bool(mirroring.swapping_axes) == (len(kept) == 3)


@pytest.mark.parametrize("properties", [{"spacing": (999, 1, 1)}, {"sitk_stuff": {"direction": (1.0, 0.0, 0.0, 1.0)}}])
def test_images_without_geometry_are_not_mirrored_at_all(tmp_path, properties):
    mirroring, reason = choose(tmp_path, properties=[properties])
    assert mirroring == Mirroring(axes=())
    assert "axes 0, 1, 2 are not mirrored" in reason and "do not say how the patient lies" in reason
    assert "\n" not in reason and "--mirror" in reason


def test_a_label_without_partner_leaves_the_axis_out(tmp_path):
    mirroring, reason = choose(tmp_path, labels=LONE)
    assert mirroring == Mirroring(axes=(0, 1))
    assert "axis 2 is not mirrored, because 'lung_middle_lobe_right' has no partner" in reason


def test_given_pairs_decide_about_a_label_without_partner(tmp_path):
    mirroring, _ = choose(tmp_path, labels=LONE, left_right_pairs=[["kidney_left", "kidney_right"]])
    assert mirroring == Mirroring(axes=(0, 1, 2), swapping_axes=(2,), pairs=((1, 2),))


def test_an_empty_list_of_pairs_mirrors_as_nnunet(tmp_path):
    assert choose(tmp_path, left_right_pairs=[]) == (Mirroring(axes=(0, 1, 2)), "")


def test_given_pairs_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(DataError, match="'spleen' is not a label") as caught:
        choose(tmp_path, left_right_pairs=[["liver", "spleen"]])
    assert caught.value.where == tmp_path / "dataset.json"


def test_none_mirrors_nothing(tmp_path):
    assert choose(tmp_path, "none") == (Mirroring(axes=()), "")


def test_all_mirrors_as_nnunet_and_says_that_nothing_swaps(tmp_path):
    mirroring, reason = choose(tmp_path, "all")
    assert mirroring == Mirroring(axes=(0, 1, 2)) and "1 pair of labels is not swapped" in reason
    assert choose(tmp_path, "all", labels=LIVER) == (Mirroring(axes=(0, 1, 2)), "")


@pytest.mark.parametrize(
    ("wanted", "axes", "swapping"), [("0,1", (0, 1), ()), ("2", (2,), (2,)), ("2, 0", (0, 2), (2,)), ("1", (1,), ())]
)
def test_axes_asked_for_are_mirrored_and_swap_where_known(tmp_path, wanted, axes, swapping):
    mirroring, _ = choose(tmp_path, wanted)
    assert (mirroring.axes, mirroring.swapping_axes) == (axes, swapping)
    assert bool(mirroring.pairs) == bool(swapping)


def test_axes_asked_for_against_a_doubt_are_mirrored_and_told(tmp_path):
    mirroring, reason = choose(tmp_path, "0,2", labels=LONE)
    assert mirroring == Mirroring(axes=(0, 2), swapping_axes=(2,), pairs=((1, 2),))
    assert "swap along axis 2" in reason and "mirrored as asked although 'lung_middle_lobe_right'" in reason
    mirroring, reason = choose(tmp_path, "1,2", directions=(IDENTITY, turn(90)))
    assert mirroring == Mirroring(axes=(1, 2)) and "mirrored as asked although left-right runs" in reason


@pytest.mark.parametrize("wanted", ["", "3", "0,0", "-1", "x", "0;1", "auto,0", "1.0", "0,"])
def test_a_wish_that_makes_no_sense_is_refused(tmp_path, wanted):
    with pytest.raises(UsageError, match="mirror"):
        choose(tmp_path, wanted, labels=LIVER)


def test_an_axis_that_a_flat_patch_does_not_have_is_refused(tmp_path):
    with pytest.raises(UsageError, match="axis 2, the network has 0, 1"):
        choose(tmp_path, "2", plan=make_plan(patch=(16, 16)))


def test_a_case_without_properties_is_named(tmp_path):
    with pytest.raises(DataError, match=r"'case_9.pkl' cannot be read"):
        choose_mirroring(
            "auto",
            dataset_json={"channel_names": {"0": "CT"}, "labels": KIDNEYS, "numTraining": 4, "file_ending": ".nii.gz"},
            plan=make_plan(),
            configuration="3d_fullres",
            data_folder=tmp_path,
            case_ids=["case_9"],
        )


def test_listed_files_and_readers_of_stock_datasets_do_not_matter(tmp_path):
    mirroring, _ = choose(tmp_path, dataset={"a": {}}, overwrite_image_reader_writer="NibabelIOWithReorient")
    assert mirroring.swapping_axes == (2,)

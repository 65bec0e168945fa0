"""The arrays, properties and files of a case equal those of nnU-Net's own preprocessor, and its loader reads them."""

from __future__ import annotations

import json
import pickle

import blosc2
import numpy as np
import pytest

from stu_pipeline.datasets.cases import list_training_cases
from stu_pipeline.datasets.dataset_json import read_dataset_json
from stu_pipeline.datasets.reading import read_channels, read_label_map
from stu_pipeline.nnunet.preprocessor import prepare_with_engine
from stu_pipeline.nnunet.reader_properties import make_reader_properties
from stu_pipeline.preparation.case_settings import find_engine_reasons, read_case_settings
from stu_pipeline.preparation.prepare import prepare_image
from stu_pipeline.preprocessing.case import write_case
from tests.case_plans import describe, make_case_plan, make_job, run_stock
from tests.synthetic import write_tiny_dataset, write_volume

LABELS = {"background": 0, "a": 1, "b": 2}


def make_case(root, **changes):
    folder = write_tiny_dataset(root, num_cases=1, **changes)
    case = list_training_cases(folder, read_dataset_json(folder / "dataset.json"))[0]
    return case, json.loads((folder / "dataset.json").read_text())["labels"]


def surround_with_zeros(case):
    """Make a border and a hole of zeros in every channel, and a label that reaches into the border."""
    for index, file in enumerate(case.image_files):
        image = read_channels([file]).array[0]
        image[:2] = image[:, -3:] = image[..., :1] = 0
        image[8:10, 8:10, 8:10] = 0
        image[5, 5, 5] = index
        write_volume(file, image, spacing_mm=(2.0, 1.0, 1.0))
    labels = read_label_map(case.label_file).array
    labels[1, 4:9, 4:9] = 1
    write_volume(case.label_file, labels, spacing_mm=(2.0, 1.0, 1.0))


def compare(case, plan, labels, tmp_path):
    assert find_engine_reasons(plan, "test") == ()
    files = write_case(make_job(case, plan, labels, tmp_path))
    image, found_labels = (blosc2.open(str(file), mode="r")[:] for file in files[:2])
    properties = pickle.loads(files[2].read_bytes())
    expected, expected_labels, expected_properties = run_stock(case, plan, labels)
    assert image.shape == expected.shape
    assert np.abs(image - expected).max() <= 5e-6 * expected.std()
    assert np.array_equal(found_labels, expected_labels)
    assert list(properties) == list(expected_properties)
    locations, expected_locations = properties.pop("class_locations"), expected_properties.pop("class_locations")
    assert_same_properties(properties, expected_properties)
    assert list(locations) == list(expected_locations)
    for key, places in expected_locations.items():  # few enough voxels to be taken all, in an order of chance
        assert {tuple(place) for place in places} == {tuple(place) for place in locations[key]}


def assert_same_properties(found, expected):
    found, expected = dict(found), dict(expected)
    ours, theirs = (given.pop("nibabel_stuff", None) for given in (found, expected))
    assert (ours is None) == (theirs is None)
    if ours is not None:
        assert np.array_equal(ours["original_affine"], theirs["original_affine"])
    assert {**found, "spacing": list(found["spacing"])} == {**expected, "spacing": list(expected["spacing"])}


@pytest.mark.parametrize("spacing", [(2.0, 1.0, 1.0), (1.5, 1.3, 0.8), (5.0, 1.2, 1.1), (2.0, 0.5, 0.5), (0.9, 1.4)])
@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
def test_a_case_is_prepared_as_by_nnunet(spacing, transpose, tmp_path):
    case, labels = make_case(tmp_path)
    compare(case, make_case_plan(spacing=spacing, transpose=transpose), labels, tmp_path)


@pytest.mark.parametrize("scheme", ["ZScoreNormalization", "CTNormalization"])
def test_an_image_without_labels_is_prepared_as_for_nnunets_prediction(scheme, tmp_path):
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    case, _ = make_case(tmp_path)
    surround_with_zeros(case)
    plan = make_case_plan(spacing=(1.7, 1.2, 1.3), schemes=[scheme], within_mask=True, transpose=(2, 0, 1))
    volume = read_channels(case.image_files)
    plans = PlansManager(plan)
    expected, _, properties = DefaultPreprocessor(verbose=False).run_case_npy(
        volume.array, None, {"spacing": list(volume.spacing_mm)}, plans, plans.get_configuration("test"), {}
    )
    prepared = prepare_image(volume.array.copy(), volume.spacing_mm, read_case_settings(plan, "test"))
    assert np.abs(prepared.array - expected).max() <= 5e-6 * expected.std()
    assert prepared.shape_before_cropping == properties["shape_before_cropping"]
    assert [list(side) for side in prepared.box] == properties["bbox_used_for_cropping"]
    assert prepared.shape_after_cropping == properties["shape_after_cropping_and_before_resampling"]


@pytest.mark.parametrize("force", [None, False, True])
def test_a_forced_separate_axis_is_obeyed(force, tmp_path):
    case, labels = make_case(tmp_path)
    compare(case, make_case_plan(spacing=(4.0, 1.3, 1.2), force_separate_z=force), labels, tmp_path)


@pytest.mark.parametrize("within_mask", [False, True])
@pytest.mark.parametrize(
    "scheme", ["CTNormalization", "ZScoreNormalization", "NoNormalization", "RescaleTo01Normalization"]
)
def test_a_zero_border_is_cropped_and_normalised_as_by_nnunet(scheme, within_mask, tmp_path):
    case, labels = make_case(tmp_path, num_channels=2)
    surround_with_zeros(case)
    plan = make_case_plan(spacing=(1.7, 1.2, 1.2), schemes=[scheme] * 2, within_mask=within_mask, transpose=(1, 0, 2))
    compare(case, plan, labels, tmp_path)


@pytest.mark.parametrize("form", [{"regions": True}, {"ignore_label": True}, {"regions": True, "ignore_label": True}])
def test_regions_and_ignored_voxels_are_located_as_by_nnunet(form, tmp_path):
    case, labels = make_case(tmp_path, num_labels=3, **form)
    compare(case, make_case_plan(spacing=(2.0, 1.4, 1.0)), labels, tmp_path)


def test_a_cubic_spline_may_run_along_the_separate_axis(tmp_path):
    case, labels = make_case(tmp_path)
    plan = make_case_plan(spacing=(4.0, 1.0, 1.2))
    for order in (1, 3):
        plan["configurations"]["test"]["resampling_fn_data_kwargs"]["order_z"] = order
        compare(case, plan, labels, tmp_path)


@pytest.mark.parametrize(
    ("reader", "ending", "changes"),
    [
        ("NibabelIO", ".nii.gz", {}),
        ("NibabelIO", ".nii", {}),
        ("SimpleITKIO", ".nrrd", {}),
        ("SimpleITKIO", ".mha", {}),
        ("SimpleITKIO", ".nii.gz", {"shape": (40, 44), "spacing_mm": (0.7, 0.6)}),
        ("NaturalImage2DIO", ".png", {"shape": (40, 44)}),
        ("Tiff3DIO", ".tif", {}),
    ],
)
def test_every_format_is_prepared_as_by_nnunet(reader, ending, changes, tmp_path):
    case, labels = make_case(tmp_path, file_ending=ending, **changes)
    spacing = (0.8, 0.9) if "shape" in changes else (1.5, 1.2, 1.0)
    compare(case, make_case_plan(spacing=spacing, reader=reader), labels, tmp_path)


@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIO"])
@pytest.mark.parametrize("direction", [(0.8, -0.6, 0, 0.6, 0.8, 0, 0, 0, 1), (0, 0, -1, 1, 0, 0, 0, -1, 0)])
def test_oblique_and_reflected_images_keep_their_geometry(reader, direction, tmp_path):
    case, labels = make_case(tmp_path)
    for file in (*case.image_files, case.label_file):
        array = read_channels([file]).array[0]
        write_volume(file, array, spacing_mm=(2.0, 1.1, 0.9), origin=(-11.5, 3.25, 70.0), direction=direction)
    compare(case, make_case_plan(spacing=(2.0, 1.0, 1.0), reader=reader), labels, tmp_path)


def test_the_stock_writer_gets_the_geometry_it_needs(tmp_path):
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

    case, _ = make_case(tmp_path)
    grid = read_channels(case.image_files).grid
    _, expected = SimpleITKIO().read_images([str(file) for file in case.image_files])
    target = tmp_path / "mask.nii.gz"
    SimpleITKIO().write_seg(
        np.zeros(grid.shape, dtype=np.uint8), str(target), make_reader_properties(grid, "SimpleITKIO")
    )
    _, written = SimpleITKIO().read_seg(str(target))
    assert written == expected


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"resampling_fn_data": "resample_torch_fornnunet"}, "image resampling 'resample_torch_fornnunet'"),
        ({"normalization_schemes": ["MyNormalization"]}, "normalisation 'MyNormalization'"),
        ({"preprocessor_name": "MyPreprocessor"}, "preprocessor 'MyPreprocessor'"),
        (
            {"resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, "order_z": 1}},
            "label resampling of order 1 along a separate axis",
        ),
        (
            {"resampling_fn_data_kwargs": {"is_seg": False, "order": 5, "device": "cpu"}},
            "image resampling with 'device'",
        ),
    ],
)
def test_a_plan_with_other_parts_names_them(change, reason):
    assert reason in find_engine_reasons(make_case_plan(spacing=(1.0, 1.0, 1.0), **change), "test")


def test_a_plan_with_a_reorienting_reader_goes_through_nnunets_own_code(tmp_path):
    case, labels = make_case(tmp_path)
    plan = make_case_plan(spacing=(1.6, 1.3, 1.0), reader="NibabelIOWithReorient")
    files = write_case(make_job(case, plan, labels, tmp_path))
    expected, expected_labels, expected_properties = run_stock(case, plan, labels)
    assert np.array_equal(blosc2.open(str(files[0]), mode="r")[:], expected)
    assert np.array_equal(blosc2.open(str(files[1]), mode="r")[:], expected_labels)
    assert set(pickle.loads(files[2].read_bytes())) == set(expected_properties)


def test_the_engine_path_maps_label_ids_with_gaps(tmp_path):
    from stu_pipeline.datasets.label_ids import LabelIds

    case, labels = make_case(tmp_path)
    plan = make_case_plan(spacing=(2.0, 1.0, 1.0))
    expected = prepare_with_engine(case, plan=plan, configuration="test", dataset_json=describe(plan, labels))[1]
    ids = LabelIds((0, 7, 300))
    write_volume(case.label_file, ids.to_original(read_label_map(case.label_file).array), spacing_mm=(2.0, 1.0, 1.0))
    found = prepare_with_engine(
        case, plan=plan, configuration="test", dataset_json=describe(plan, labels), label_ids=ids
    )[1]
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("form", [{}, {"regions": True}, {"ignore_label": True}])
@pytest.mark.parametrize("patch", [(16, 24, 24), (24, 24)])
def test_nnunets_loader_draws_foreground_patches_from_the_files(form, patch, tmp_path):
    from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
    from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    case, labels = make_case(tmp_path, **form)
    plan = make_case_plan(spacing=(2.0, 1.0, 1.0), patch_size=patch)
    files = write_case(make_job(case, plan, labels, tmp_path))
    folder = str(files[0].parent)
    description = describe(plan, labels)
    manager = LabelManager(description["labels"], description.get("regions_class_order"))
    dataset = infer_dataset_class(folder)(folder)
    loader = nnUNetDataLoader(dataset, 4, patch, patch, manager, oversample_foreground_percent=1.0)
    batch = next(loader)
    assert batch["data"].shape == (4, 1, *patch) and batch["target"].shape == (4, 1, *patch)
    assert all((target > 0).any() for target in batch["target"])

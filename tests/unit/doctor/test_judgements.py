"""The pure parts: what is measured of one case, and how cases are judged against each other."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from stu_pipeline.datasets.volume import Grid
from stu_pipeline.doctor.finding import ACTIONS, Finding, group_findings
from stu_pipeline.doctor.hard_problems import sort_problem, sort_warning
from stu_pipeline.doctor.screening import alignment
from stu_pipeline.doctor.screening.alignment import FLIPS, measure_alignment
from stu_pipeline.doctor.screening.duplicates import find_similar
from stu_pipeline.doctor.screening.mirrored import find_mirrored, find_shifted
from stu_pipeline.doctor.screening.observation import observe_case
from stu_pipeline.doctor.screening.orientation import read_orientation, view_along_patient
from stu_pipeline.doctor.screening.robust import measure_deviation
from tests.unit.doctor.conftest import SHAPE, SPACING_MM, make_case


def observe(image, label, **options):
    return observe_case(image[None], Grid(shape=label.shape, spacing_mm=SPACING_MM), label, **options)


def test_an_observation_is_small_and_pickles():
    seen = observe(*make_case(0))
    assert len(pickle.dumps(seen)) < 16_000


def test_labels_end_where_the_image_changes():
    seen = observe(*make_case(0)).alignment
    assert seen.edge_contrast.argmax() == 0 and seen.spread.argmin() == 0
    assert seen.shift_contrast.argmax(axis=1).tolist() == [alignment.MAX_SHIFT] * 3


@pytest.mark.parametrize("flip", FLIPS[1:])
def test_mirroring_the_labels_exchanges_what_was_measured(flip):
    image, label = make_case(0)
    axes = tuple(axis for axis in range(3) if flip[axis])
    as_is = observe(image, label).alignment
    mirrored = observe(image, np.flip(label, axes).copy()).alignment
    assert mirrored.edge_contrast[FLIPS.index(flip)] == pytest.approx(as_is.edge_contrast[0], rel=1e-5)
    assert mirrored.spread[0] == pytest.approx(as_is.spread[FLIPS.index(flip)], rel=1e-5)


def test_a_single_case_is_judged_by_its_image_alone():
    image, label = make_case(0)
    assert find_mirrored([observe(image, label).alignment]) == []
    (found,) = find_mirrored([observe(image, label[:, ::-1].copy()).alignment])
    assert found.axes == (1,) and not found.fits_image and found.edge_ratio > 1


def test_symmetric_anatomy_says_nothing():
    ball = sum((axis - 10) ** 2 for axis in np.meshgrid(*[np.arange(21)] * 3, indexing="ij")) < 36
    generator = np.random.default_rng(0)
    seen = []
    for number in range(8):
        image = (ball * 100 + generator.normal(0, 10, ball.shape)).astype(np.float32)
        label = ball.astype(np.uint8)
        seen.append(observe(image, label[:, :, ::-1].copy() if number == 3 else label).alignment)
    assert find_mirrored(seen) == [] and find_shifted(seen) == []


def test_cases_without_foreground_are_skipped():
    image, label = make_case(0)
    nothing = observe(image, label * 0)
    assert nothing.alignment is None and nothing.components == {}
    assert find_mirrored([nothing.alignment, observe(image, label).alignment]) == []
    assert find_mirrored([]) == [] and find_shifted([nothing.alignment]) == []


def test_large_volumes_are_thinned(monkeypatch):
    image, label = make_case(0)
    monkeypatch.setattr("stu_pipeline.doctor.screening.observation._MAX_VOXELS", label.size // 4)
    thin = observe(image, label)
    assert thin.alignment.edge_contrast.argmax() == 0
    assert thin.components[1].largest == observe(image, label).components[1].largest


def test_components_are_counted_per_label():
    label = np.zeros((6, 8, 8), dtype=np.uint16)
    label[0, 0, 0] = label[1, 1, 1] = 300  # touching corners are one part
    label[4, 4, 4] = 300
    label[0, 7, :5] = 2
    seen = observe(label.astype(np.float32), label).components
    assert (seen[300].count, seen[300].largest, seen[300].smallest) == (2, 2, (1, 2))
    assert (seen[2].count, seen[2].largest) == (1, 5)


def test_an_ignore_label_counts_as_background():
    image, label = make_case(0)
    marked = label.copy()
    marked[:, :2] = 9
    assert observe(image, marked, ignore_label=9).components.keys() == {1, 2}


@pytest.mark.parametrize(
    ("direction", "code"),
    [
        ((1, 0, 0, 0, 1, 0, 0, 0, 1), "LPS"),
        ((-1, 0, 0, 0, -1, 0, 0, 0, 1), "RAS"),
        ((0, 0, 1, 1, 0, 0, 0, 1, 0), "PSL"),
        ((0.9, 0.1, 0, -0.1, 0.9, 0, 0, 0, 1), "LPS"),
    ],
)
def test_orientations_are_named_by_the_nearest_axes(direction, code):
    assert read_orientation(tuple(map(float, direction))).code == code


def test_views_agree_whatever_the_storage():
    volume = np.random.default_rng(0).normal(size=(3, 4, 5))
    straight = view_along_patient(volume, read_orientation((1, 0, 0, 0, 1, 0, 0, 0, 1)))
    assert np.array_equal(straight, volume)
    mirrored = view_along_patient(volume[:, ::-1, ::-1], read_orientation((-1, 0, 0, 0, -1, 0, 0, 0, 1)))
    assert np.array_equal(mirrored, volume)
    # File axes x, y, z run along the patient's y, z, x, so the array holds the patient's (x, z, y).
    turned = view_along_patient(volume.transpose(2, 0, 1), read_orientation((0, 0, 1, 1, 0, 0, 0, 1, 0)))
    assert np.array_equal(turned, volume)


def test_near_duplicates_are_judged_against_the_usual_neighbour():
    generator = np.random.default_rng(0)
    shared = generator.normal(size=500)

    def normalise(rows):
        rows = rows - rows.mean(axis=1, keepdims=True)
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    # Registered heads are alike (correlation about 0.96); that alone is no duplicate.
    rows = shared + 0.2 * generator.normal(size=(1200, 500))
    assert find_similar(normalise(rows)) == []
    rows[700] = rows[3] + 0.01 * generator.normal(size=500)
    ((first, second, correlation),) = find_similar(normalise(rows))
    assert (first, second) == (3, 700) and correlation > 0.999


def test_two_constant_images_are_not_alike():
    assert find_similar(np.zeros((4, 10), dtype=np.float32)) == [] and find_similar(np.zeros((1, 10))) == []


def test_few_values_have_no_outlier():
    assert measure_deviation(np.array([1.0, 1.0, 99.0]), 1.0).tolist() == [0, 0, 0]
    assert measure_deviation(np.array([1.0, 1.0, 1.0, 1.0, 99.0]), 1.0)[-1] == 98


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("'a.nii.gz' is cut short: its gzip stream has no end after 4000 bytes", "export"),
        ("'a.nii.gz' is 4D and holds 3 volumes of 5x5x5, expected one", "convert"),
        ("'a.nii.gz' has 4 voxels that are NaN or infinite, first at (z, y, x) = (0, 0, 0)", "clean"),
        ("label map 'a.nii.gz': origin 1, 0, 0 differs from 0, 0, 0 mm (x, y, z), 1 voxels", "regrid"),
        ("label map 'a.nii.gz' has 3 voxels of label 7, which dataset.json does not name", "relabel"),
        ("case 'a' has 1 of 2 channels, missing 'a_0001.nii.gz'", "complete"),
        ("the worker process for 'a' was killed by signal 9 (SIGKILL)", "repeat"),
        ("something nobody thought of", "correct"),
    ],
)
def test_problems_are_sorted_by_what_to_do(text, action):
    finding = sort_problem(text)
    assert finding.action == action and finding.what == text and action in ACTIONS


def test_remarks_of_the_reader_are_notes():
    finding = sort_warning("'a.nii.gz': direction re-orthonormalised, off by 2.1e-05", "a")
    assert (finding.action, finding.severity, finding.files) == ("headers", "note", ("a.nii.gz",))


def test_groups_put_problems_first_and_join_cases():
    findings = [
        Finding(action="grid", severity="warning", what="x", cases=("a",)),
        Finding(action="export", severity="problem", what="y", cases=("b",)),
        Finding(action="grid", severity="note", what="z", cases=("a", "c")),
    ]
    groups = group_findings(findings)
    assert [group.key for group in groups] == ["export", "grid"] and groups[1].cases == ("a", "c")


def test_measuring_leaves_its_input_alone():
    image, label = make_case(0)
    before = image.copy(), label.copy()
    assert measure_alignment(image[None], label) is not None and label.shape == SHAPE
    observe(image, label)
    assert np.array_equal(image, before[0]) and np.array_equal(label, before[1])

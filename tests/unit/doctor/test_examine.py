"""A sound dataset is silent; each fault is found, named, and sorted by what to do."""

from __future__ import annotations

import json

import numpy as np
import pytest

from stu_pipeline.doctor.examine import examine_dataset
from tests.synthetic import write_volume
from tests.unit.doctor.conftest import SHAPE, SPACING_MM, make_case


def find(dataset, action, **options):
    return [finding for finding in examine_dataset(dataset.folder, **options).findings if finding.action == action]


def test_a_sound_dataset_has_no_findings(dataset):
    examination = examine_dataset(dataset.folder)
    assert examination.findings == () and examination.num_cases == 10


def test_workers_find_what_one_process_finds(dataset):
    dataset.write_label(4, make_case(4)[1][:, :, ::-1].copy())
    alone, together = examine_dataset(dataset.folder), examine_dataset(dataset.folder, num_workers=2)
    assert alone.findings == together.findings != ()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_mirrored_label_map_is_found_with_its_axis(dataset, axis):
    dataset.write_label(4, np.flip(make_case(4)[1], axis).copy())
    examination = examine_dataset(dataset.folder)
    (finding,) = examination.findings
    assert finding.action == "mirrored" and finding.severity == "warning" and finding.cases == ("case_04",)
    assert ("head-feet", "front-back", "left-right")[axis] in finding.what
    assert examination.corrections["case_04"].flipped_axes == (axis,)
    assert finding.files == ("imagesTr/case_04_0000.nii.gz", "labelsTr/case_04.nii.gz")


def test_a_case_mirrored_as_a_whole_is_a_question_of_sides(dataset):
    image, label = make_case(4)
    dataset.write_image(4, image[:, :, ::-1].copy())
    dataset.write_label(4, label[:, :, ::-1].copy())
    (finding,) = examine_dataset(dataset.folder).findings
    assert finding.action == "sides" and finding.cases == ("case_04",) and "fits its own image" in finding.what


def test_a_moved_label_map_is_found_with_its_distance(dataset):
    dataset.write_label(4, np.roll(make_case(4)[1], 3, axis=2))
    (finding,) = find(dataset, "shifted")
    assert finding.cases == ("case_04",) and "3 voxels away left-right" in finding.what


def test_one_damaged_file_costs_one_case(dataset):
    data = dataset.image(2).read_bytes()
    dataset.image(2).write_bytes(data[: len(data) // 2])
    examination = examine_dataset(dataset.folder)
    (finding,) = examination.findings
    assert finding.action == "export" and finding.severity == "problem" and finding.cases == ("case_02",)
    assert finding.files == ("case_02_0000.nii.gz",)
    assert sum(case.observation is not None for case in examination.cases) == 9


def test_faults_of_every_kind_come_in_one_run(dataset):
    image, label = make_case(0)
    dataset.image(0).write_bytes(dataset.image(0).read_bytes()[:300])
    dataset.write_image(1, np.where(image > 300, np.nan, image))
    dataset.write_label(2, label, spacing_mm=(4.0, 1.0, 1.0))
    dataset.write_label(3, label + 7 * (label == 2).astype(np.uint8))
    dataset.label(5).unlink()
    write_volume(dataset.folder / "labelsTr" / "alone.nii.gz", label, spacing_mm=SPACING_MM)
    actions = [group.key for group in examine_dataset(dataset.folder).groups if group.severity == "problem"]
    assert actions == ["complete", "export", "clean", "regrid", "relabel"]


def test_a_missing_label_map_names_its_case_and_the_others_are_read(dataset):
    dataset.label(5).unlink()
    examination = examine_dataset(dataset.folder)
    (finding,) = examination.findings
    assert finding.action == "complete" and finding.cases == ("case_05",) and examination.num_cases == 9


def test_a_constant_image_is_found(dataset):
    dataset.write_image(3, np.full(SHAPE, 7, dtype=np.float32))
    (finding,) = find(dataset, "intensities")
    assert finding.cases == ("case_03",) and "every voxel is 7" in finding.what


def test_an_offset_of_1024_in_ct_is_found(dataset):
    dataset.describe(numTraining=10, channel_names={"0": "CT"})
    dataset.write_image(3, make_case(3)[0] + 1024)
    (finding,) = find(dataset, "intensities")
    assert finding.severity == "warning" and finding.cases == ("case_03",) and "HU" in finding.what


def test_a_factor_is_a_warning_in_ct_and_a_note_elsewhere(dataset):
    dataset.write_image(3, make_case(3)[0] * 50)
    (finding,) = find(dataset, "intensities")
    assert finding.severity == "note" and "times the usual one" in finding.what
    dataset.describe(numTraining=10, channel_names={"0": "CT"})
    assert {item.severity for item in find(dataset, "intensities")} == {"warning"}


def test_a_foreground_that_is_dark_where_it_usually_is_bright_is_found(dataset):
    image, label = make_case(3)
    dataset.write_image(3, np.where(label > 0, image - 250, image))
    (finding,) = find(dataset, "intensities")
    assert finding.severity == "warning" and "of the range" in finding.what


def test_an_odd_spacing_is_found(dataset):
    image, label = make_case(3)
    dataset.write_image(3, image, spacing_mm=(2.0, 1.0, 10.0))
    dataset.write_label(3, label, spacing_mm=(2.0, 1.0, 10.0))
    findings = find(dataset, "grid")
    assert [item.cases for item in findings] == [("case_03",)] * 2 and "10 mm along x" in findings[0].what


def test_another_orientation_is_named(dataset):
    image, label = make_case(3)
    turned = {"direction": (-1, 0, 0, 0, -1, 0, 0, 0, 1)}
    dataset.write_image(3, image, **turned)
    dataset.write_label(3, label, **turned)
    (finding,) = find(dataset, "grid")
    assert finding.what == "stored as RAS, most cases as LPS" and finding.cases == ("case_03",)


def test_a_copy_with_noise_is_a_near_duplicate(dataset):
    generator = np.random.default_rng(0)
    dataset.write_image(3, make_case(7)[0] + generator.normal(0, 5, SHAPE).astype(np.float32))
    dataset.write_label(3, make_case(7)[1])
    (finding,) = find(dataset, "duplicates")
    assert finding.cases == ("case_03", "case_07") and "nearly the same image" in finding.what
    assert "the same label map" in finding.what


def test_an_exact_copy_is_a_duplicate(dataset):
    dataset.image(3).write_bytes(dataset.image(7).read_bytes())
    dataset.label(3).write_bytes(dataset.label(7).read_bytes())
    (finding,) = find(dataset, "duplicates")
    assert finding.cases == ("case_03", "case_07") and finding.what == "the same image, voxel for voxel"


def test_the_same_label_map_on_another_image_is_found(dataset):
    dataset.label(3).write_bytes(dataset.label(7).read_bytes())
    (finding,) = find(dataset, "duplicates")
    assert finding.cases == ("case_03", "case_07") and "with different images" in finding.what


def test_an_empty_label_map_is_a_warning_and_an_empty_dataset_a_problem(dataset):
    empty = np.zeros(SHAPE, dtype=np.uint8)
    dataset.write_label(3, empty)
    (finding,) = find(dataset, "empty")
    assert finding.severity == "warning" and finding.cases == ("case_03",)
    for number in range(10):
        dataset.write_label(number, empty)
    (finding,) = find(dataset, "empty")
    assert finding.severity == "problem" and len(finding.cases) == 10


def test_stray_voxels_are_counted(dataset):
    label = make_case(3)[1]
    label[0, 0, 0] = label[17, 21, 25] = 1
    dataset.write_label(3, label)
    (finding,) = find(dataset, "components")
    assert finding.cases == ("case_03",) and "2 parts of at most 1 voxel in 1 of 10 cases" in finding.what


def test_a_rare_label_names_the_folds_that_miss_it(dataset):
    for number in range(9):
        dataset.write_label(number, (make_case(number)[1] == 1).astype(np.uint8))
    texts = [finding.what for finding in find(dataset, "rare") if finding.severity == "warning"]
    assert len(texts) == 1 and "no training case with" in texts[0] and "small" in texts[0]


def test_a_label_that_never_occurs_is_named(dataset):
    dataset.describe(numTraining=10, labels={"background": 0, "big": 1, "small": 2, "ghost": 3})
    texts = [finding.what for finding in find(dataset, "rare")]
    assert texts == ["label 3 'ghost' does not occur in any case"]


def test_an_ignore_label_is_no_anatomy(dataset):
    dataset.describe(numTraining=10, labels={"background": 0, "big": 1, "small": 2, "ignore": 3})
    for number in range(10):
        label = make_case(number)[1]
        label[:, :3] = 3
        dataset.write_label(number, label)
    assert [finding.what for finding in examine_dataset(dataset.folder).findings] == []


def test_an_old_description_is_a_problem_and_the_cases_are_read_all_the_same(dataset):
    (dataset.folder / "dataset.json").unlink()
    dataset.describe(modality={"0": "MRI"}, labels={"0": "background", "1": "big", "2": "small"})
    content = (dataset.folder / "dataset.json").read_text().replace('"channel_names"', '"was"')
    (dataset.folder / "dataset.json").write_text(content)
    examination = examine_dataset(dataset.folder)
    assert [finding.action for finding in examination.findings] == ["describe"] and examination.num_cases == 10


def test_a_task_that_can_be_planned_as_it_is_has_notes_only(dataset):
    names = sorted(path.name for path in (dataset.folder / "labelsTr").iterdir())
    for name in names:
        image = dataset.folder / "imagesTr" / name.replace(".nii.gz", "_0000.nii.gz")
        image.rename(image.with_name(name))
    content = {
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "big", "2": "small"},
        "numTraining": len(names),
        "training": [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names],
        "test": [],
    }
    (dataset.folder / "dataset.json").write_text(json.dumps(content))
    examination = examine_dataset(dataset.folder)
    assert examination.num_problems == 0 and examination.num_cases == len(names)
    assert {finding.action for finding in examination.findings} == {"describe", "complete"}
    assert all("stu plan takes this task as it is" in finding.hint for finding in examination.findings)


def test_a_description_that_is_no_json_is_one_problem(dataset):
    (dataset.folder / "dataset.json").write_text("{")
    examination = examine_dataset(dataset.folder)
    assert [finding.action for finding in examination.findings] == ["describe"] and examination.cases == ()

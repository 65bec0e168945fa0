"""The pages on the report of a prediction say what the report holds."""

from __future__ import annotations

import dataclasses
import re

import numpy as np

from stu_pipeline.prediction.config import CaseReport, PredictConfig
from stu_pipeline.prediction.outputs import Outputs
from stu_pipeline.prediction.proof.recipe import describe_recipe
from stu_pipeline.prediction.quality.document import QUALITY_FILE
from stu_pipeline.prediction.quality.estimate import CaseQuality, LabelQuality
from stu_pipeline.prediction.report.document import build_document
from stu_pipeline.prediction.report.tables import CSV_COLUMNS
from stu_pipeline.prediction.report.training_data import TrainingData, Usual
from stu_pipeline.prediction.report.volumes import count_voxels
from stu_pipeline.prediction.report.warnings import (
    warn_of_cut_labels,
    warn_of_empty_mask,
    warn_of_extent,
    warn_of_intensities,
    warn_of_spacing,
)
from tests.docs.pages import DOCS, PACKAGE, read

REPORT = DOCS / "reference" / "prediction-report.md"
GUIDE = DOCS / "how-to" / "read-the-report.md"
FOLDERS = DOCS / "reference" / "folders.md"


def list_keys(text):
    """List what the first columns of a page's tables name, between backticks."""
    cells = re.findall(r"^\| (.+?) \|", text, re.MULTILINE)
    return {key for cell in cells for key in re.findall(r"`([^`]+)`", cell)}


def read_section(page, heading):
    return re.split(r"\n#{2,3} ", read(page).partition(f"# {heading}\n")[2])[0]


def test_every_key_of_the_report_is_on_its_page():
    document = build_document(recipe={}, recipe_sha256="", entries={}, wanted=())
    named = list_keys(read_section(REPORT, "`predictions.json`"))
    assert named == set(document)
    assert list_keys(read_section(REPORT, "`totals`")) == set(document["totals"])


def test_every_field_of_a_case_is_on_its_page():
    fields = {field.name for field in dataclasses.fields(CaseReport)} - {"case"}
    added = {"output_sha256", "inputs", "recipe_sha256", "version"}
    assert list_keys(read_section(REPORT, "A case")) == fields | added
    quality = read_section(REPORT, "`quality`")
    labels = {field.name for field in dataclasses.fields(LabelQuality)}
    assert list_keys(quality) == {field.name for field in dataclasses.fields(CaseQuality)} | {"reasons"}
    assert labels <= set(re.findall(r"`(\w+)`", quality))


def test_every_option_that_can_be_in_a_recipe_is_on_its_page(tmp_path):
    fields = {field.name for field in dataclasses.fields(PredictConfig)}
    plain = PredictConfig(input=tmp_path, output=tmp_path, models=(tmp_path,))
    other = PredictConfig(
        input=tmp_path, output=tmp_path, models=(tmp_path,), tta="none", effort="elastic", step=0.7, precision="fp32",
        probabilities="zarr", probability_bits=16, per_label_files=True, dicom_seg=True, postprocessing="none",
        overwrite=True, verify=True, dry_run=True, gpus=2, max_ram_gib=3.0, num_workers=1, device="cuda",
        model_weights=(2.0,), folds=(0,), checkpoint="best", configuration="2d", report=tmp_path / "report.json",
    )  # fmt: skip
    same = {name for name in fields if getattr(plain, name) == getattr(other, name)}
    assert same == {"input", "output", "models"}  # no option was forgotten above
    recipe = describe_recipe(other, [], postprocessing_sha256="0")
    assert list_keys(read_section(REPORT, "`recipe`")) >= set(recipe)


def test_the_columns_of_the_table_are_on_the_page():
    assert list_keys(read_section(REPORT, "`predictions.csv`")) == set(CSV_COLUMNS)


def test_every_file_beside_a_mask_is_on_the_page_of_folders(tmp_path):
    outputs = Outputs(folder=tmp_path, masks={"CASE": tmp_path / "CASE.nii.gz"}, is_single_file=False)
    page = read(FOLDERS)
    beside = [outputs.probabilities("CASE"), outputs.probabilities("CASE", "zarr"), outputs.properties("CASE")]
    beside += [
        outputs.label_folder("CASE"),
        outputs.dicom_seg("CASE"),
        outputs.report,
        outputs.journal,
        *outputs.tables,
    ]
    assert [path.name for path in beside if f"`{path.name}" not in page] == []
    assert f"`{QUALITY_FILE}`" in page


def test_the_warnings_of_the_guide_are_ours_word_for_word():
    mask, image = np.zeros((2, 2, 5), int), np.zeros((1, 2, 2, 5), np.float32)
    mask[..., 0] = 1
    usual = TrainingData(
        spacing_mm=(Usual(0.6, 6.25), None, None),
        extent_mm=(None, Usual(32, 73.8), None),
        intensities=(Usual(-91, 242),),
    )
    bright = image + 500
    bright[0, 0, 0, 0] = 50
    ours = [
        *warn_of_empty_mask(count_voxels(mask * 0, 2)),
        *warn_of_cut_labels({"liver": [(0, 1)]}, (1, 0, 0, 0, 1, 0, 0, 0, 1)),
        *warn_of_spacing((9, 1, 1), usual),
        *warn_of_extent((40, 29, 40), (1, 1, 1), usual),
        *warn_of_intensities(bright, mask, usual, ["CT"]),
        *warn_of_intensities(image, mask, usual, ["CT"]),
    ]
    table = list_keys(read_section(GUIDE, "What to do about a warning"))
    assert len(ours) == 6 and set(ours) <= table
    reasons = table - set(ours)
    code = read(PACKAGE / "prediction" / "quality" / "estimate.py")
    assert len(reasons) == 3
    for words in (
        "expected Dice",
        "below",
        "the calibration cases had",
        "not found",
        "of the calibration cases had it",
    ):
        assert words in code and any(words in reason for reason in reasons), words

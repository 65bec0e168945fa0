"""The pages stand alone, are well formed, open with any number of cases, and escape what they did not write."""

from __future__ import annotations

import csv
import json
import re
from html.parser import HTMLParser

import imageio.v3
import numpy as np
import pytest

from stu_pipeline.errors import DataError, UsageError
from stu_pipeline.evaluation.cases import CasePair
from stu_pipeline.evaluation.comparison.compare import CompareConfig, compare
from stu_pipeline.evaluation.config import CaseResult
from stu_pipeline.evaluation.evaluate import EvaluateConfig, evaluate
from stu_pipeline.evaluation.report import Table
from stu_pipeline.evaluation.reporting import charts
from stu_pipeline.evaluation.reporting.overlays import (
    BOTH_COLOUR,
    PREDICTION_COLOUR,
    REFERENCE_COLOUR,
    draw_case,
    find_image,
)
from stu_pipeline.evaluation.reporting.page import make_page, make_table
from stu_pipeline.evaluation.reporting.texts import format_csv, format_markdown
from stu_pipeline.evaluation.reporting.writing import choose_cases
from stu_pipeline.log import Notice
from tests.synthetic import make_label_map, write_dataset_json, write_volume

VOID = {"meta", "img", "br"}
EVIL = '<script>alert("1")</script>&\'$x$'


class Balance(HTMLParser):
    """Checks that every tag that opens also closes, and collects ids, links and text."""

    def __init__(self):
        super().__init__()
        self.open, self.loaded, self.wrong, self.ids, self.tags, self.text = [], [], [], [], set(), []

    def handle_starttag(self, tag, attrs):
        self._note(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self._note(tag, attrs)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        self.text.append(data)

    def _note(self, tag, attrs):
        self.tags.add(tag)
        self.loaded += [value for name, value in attrs if name in ("src", "href", "xlink:href", "srcset", "data")]
        self.ids += [value for name, value in attrs if name == "id"]


def parse_page(path):
    """Read a page and refuse one that is not well formed or needs anything from elsewhere."""
    text = path.read_text(encoding="utf-8")
    parser = Balance()
    parser.feed(text)
    assert parser.open == [] and parser.wrong == []
    assert len(set(parser.ids)) == len(parser.ids)
    assert parser.tags.isdisjoint({"script", "link", "iframe", "object", "embed", "base"})
    inside = {f"#{name}" for name in parser.ids}
    assert all(link in inside or link.startswith("data:image/png;base64,") for link in parser.loaded)
    assert re.findall(r"https?:|//[a-z]|@import|url\((?!#)|\bon[a-z]+=", re.sub(r"base64,[^\"]*", "", text)) == []
    assert {name for name in re.findall(r"url\((#[^)]*)\)", text)} <= inside
    return text, parser


def write_cases(root, num_cases, *, name="case", shift=1, images=False):
    for index in range(num_cases):
        labels = make_label_map((6, 9, 14), generator=np.random.default_rng(index)).astype(np.uint8)
        write_volume(root / "labelsTr" / f"{name}_{index:03d}.nii.gz", labels)
        write_volume(root / "pred" / f"{name}_{index:03d}.nii.gz", np.roll(labels, shift * (1 + index % 2), axis=2))
        if images:
            write_volume(root / "images" / f"{name}_{index:03d}_0000.nii.gz", labels.astype(np.float32) * 50)
    return {"reference": root / "labelsTr", "prediction": root / "pred", "report": root / "report"}


def run(folders, *, listen=lambda event: None, **options):
    return evaluate(EvaluateConfig(**folders, **options), listen=listen)


@pytest.mark.parametrize("num_cases", [1, 2, 100])
def test_the_page_opens_with_any_number_of_cases(tmp_path, num_cases):
    result = run(write_cases(tmp_path, num_cases), surface=num_cases < 100)
    text, parser = parse_page(result.report_files[2])
    assert [path.name for path in result.report_files] == ["scores.csv", "summary.md", "report.html"]
    assert text.count("data:image/png") == min(num_cases, 3)
    assert text.count("<svg") == 3
    assert f"{num_cases:d}" in parser.text
    assert ("all 100 cases" in text) == (num_cases == 100)


def test_no_case_with_a_score_still_makes_a_page(tmp_path):
    folders = write_cases(tmp_path, 1)
    for part in ("labelsTr", "pred"):
        write_volume(tmp_path / part / "case_000.nii.gz", np.zeros((4, 5, 6), dtype=np.uint8))
    write_dataset_json(tmp_path, labels={"background": 0, "left": 1})
    text, _ = parse_page(run(folders).report_files[2])
    assert "<svg" not in text and "Cases to look at" not in text


def test_names_are_escaped_and_shown_as_they_are(tmp_path):
    write_dataset_json(tmp_path, labels={"background": 0, EVIL: 1, "b|c": 2})
    folders = write_cases(tmp_path, 2, name="<script>&'$x$")
    result = run(folders)
    _, parser = parse_page(result.report_files[2])
    assert EVIL in parser.text and "<script>&'$x$_001" in "".join(parser.text)
    summary = result.report_files[1].read_text()
    assert "<script" not in summary and "b\\|c" in summary
    with result.report_files[0].open() as stream:
        rows = list(csv.DictReader(stream))
    assert {row["name"] for row in rows} == {EVIL, "b|c"}


def test_the_page_shows_what_was_compared_and_found(tmp_path):
    result = run(write_cases(tmp_path, 7))
    text, parser = parse_page(result.report_files[2])
    for expected in ("prefers-color-scheme", "stu-pipeline", "HD95 mm", "NSD 1 mm", "volume error ml", "Volumes",
                     "Worst: ", "Median: ", "Best: ", "If a label is empty", "stu compare"):  # fmt: skip
        assert expected in text, expected
    assert str(tmp_path / "pred") in parser.text and f"{result.mean_dice:.3f}" in parser.text
    assert text.count("<title>case_") == 7 * 2 * 3  # each case and label in three plots


def test_scores_csv_has_every_score_unrounded(tmp_path):
    folders = write_cases(tmp_path, 3)
    result = run(folders)
    summary = json.loads(result.summary_path.read_text())
    with result.report_files[0].open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 6
    for case, row in zip(summary["metric_per_case"], rows[::2], strict=True):
        scores = case["metrics"][row["label"]]
        assert {name: float(row[name]) for name in scores} == scores


def test_many_labels_stay_readable():
    generator = np.random.default_rng(0)
    dice = generator.uniform(0.2, 1.0, (12, 105))
    dice[:, 7] = np.nan
    rows = charts.choose_rows(dice)
    assert len(rows) == charts.MAX_ROWS and 7 not in rows and list(rows) == sorted(rows)
    medians = np.median(dice, axis=0)
    assert medians[rows].max() <= np.nanmin(np.delete(medians, rows))
    svg = charts.draw_dice(dice, [f"label {index}" for index in range(105)], [f"case {index}" for index in range(12)])
    assert svg.count("<title>") == 12 * 30 and "label 7<" not in svg


def test_many_points_are_thinned_and_it_is_said():
    volumes = np.random.default_rng(0).uniform(1, 2, (100, 100))
    svg = charts.draw_volumes(
        volumes, volumes, [f"l{index}" for index in range(100)], [f"c{index}" for index in range(100)]
    )
    assert svg.count("<title>") == 2500
    assert charts.describe_undrawn(volumes, volumes) == " 2500 of 10000 points are drawn."
    volumes[0, 0] = 0.0
    assert "1 pairs of case and label" in charts.describe_undrawn(volumes, np.ones_like(volumes))


def test_drawings_follow_the_style_of_the_page():
    svg = charts.draw_dice(np.array([[0.5], [0.9]]), ["a"], ["x", "y"])
    assert "var(--ink)" in svg and "var(--fill)" in svg and "#0102" not in svg and "http" not in svg


def test_wide_volumes_get_plain_numbers_on_a_logarithmic_axis():
    volumes = np.array([[1.0, 1000.0], [2.0, 2000.0]])
    svg = charts.draw_bland_altman(volumes, volumes * 1.1, ["a", "b"], ["x", "y"])
    assert ">1000<" in svg and "mathdefault" not in svg and "in %" in svg


def read_png(overlay):
    return imageio.v3.imread(overlay.png)


def find_colours(pixels):
    return {tuple(int(value) for value in colour) for colour in np.unique(pixels.reshape(-1, 3), axis=0)}


def test_outlines_say_which_is_which(tmp_path):
    reference, prediction = np.zeros((2, 10, 12, 14), dtype=np.uint8)
    reference[2:8, 3:9, 3:9] = 1
    prediction[2:8, 3:9, 5:11] = 1
    for name, labels in (("r", reference), ("p", prediction)):
        write_volume(tmp_path / f"{name}.nii.gz", labels)
    pair = CasePair(case="a", reference=tmp_path / "r.nii.gz", prediction=tmp_path / "p.nii.gz")
    overlay = draw_case(pair)
    pixels = read_png(overlay)
    assert {REFERENCE_COLOUR, PREDICTION_COLOUR, BOTH_COLOUR} <= find_colours(pixels)
    assert [plane for plane, _ in overlay.slices] == ["axial", "coronal", "sagittal"] and not overlay.with_image
    # The patient's right is on the left: x grows to the left of the patient, so what lies further in x is right.
    axial = pixels[:, : pixels.shape[1] // 3]
    first = np.argwhere((axial == REFERENCE_COLOUR).all(axis=2))[:, 1].mean()
    assert first < np.argwhere((axial == PREDICTION_COLOUR).all(axis=2))[:, 1].mean()


def test_planes_go_through_the_errors(tmp_path):
    reference = np.zeros((10, 12, 14), dtype=np.uint8)
    reference[2:8, 3:9, 3:9] = 1
    prediction = reference.copy()
    prediction[6, 4:7, 4] = 0
    for name, labels in (("r", reference), ("p", prediction)):
        write_volume(tmp_path / f"{name}.nii.gz", labels)
    pair = CasePair(case="a", reference=tmp_path / "r.nii.gz", prediction=tmp_path / "p.nii.gz")
    slices = dict(draw_case(pair).slices)
    assert (slices["axial"], slices["sagittal"]) == (6, 4) and 4 <= slices["coronal"] <= 6


def test_the_image_is_shown_where_it_fits(tmp_path):
    folders = write_cases(tmp_path, 1, images=True)
    pair = CasePair(
        case="case_000",
        reference=folders["reference"] / "case_000.nii.gz",
        prediction=folders["prediction"] / "case_000.nii.gz",
    )
    image = find_image(tmp_path / "images", "case_000")
    with_image, alone = draw_case(pair, image=image), draw_case(pair)
    assert with_image.with_image and not np.array_equal(read_png(with_image), read_png(alone))
    write_volume(image, np.zeros((3, 3, 3), dtype=np.float32))
    other = draw_case(pair, image=image)
    assert not other.with_image and "not on the grid" in other.note
    image.write_bytes(b"damaged")
    assert not draw_case(pair, image=image).with_image


def test_a_missing_image_is_told(tmp_path):
    events = []
    (tmp_path / "images").mkdir()
    run(write_cases(tmp_path, 1), images=tmp_path / "images", listen=events.append)
    assert [event.text for event in events if isinstance(event, Notice)] == [
        f"no image of case 'case_000' in '{tmp_path / 'images'}': its picture has masks alone"
    ]


def test_images_that_would_not_be_shown_are_refused_first(tmp_path):
    folders = write_cases(tmp_path, 1)
    with pytest.raises(UsageError, match="in the report only"):
        run(folders | {"report": None}, images=tmp_path)
    with pytest.raises(DataError, match="images 'nowhere' not found"):
        run(folders, images=tmp_path / "nowhere")
    assert not (tmp_path / "pred" / "summary.json").exists()


def test_a_flat_picture_has_one_plane(tmp_path):
    labels = np.zeros((1, 20, 30), dtype=np.uint8)
    labels[0, 5:12, 5:20] = 1
    for name in "rp":
        write_volume(tmp_path / f"{name}.nii.gz", labels)
    pair = CasePair(case="a", reference=tmp_path / "r.nii.gz", prediction=tmp_path / "p.nii.gz")
    overlay = draw_case(pair)
    assert overlay.slices == (("axial", 0),) and BOTH_COLOUR in find_colours(read_png(overlay))


def test_ignored_voxels_are_not_drawn(tmp_path):
    reference, prediction = np.zeros((2, 8, 8, 8), dtype=np.uint8)
    reference[:, :4], prediction[:, 1:3] = 9, 1
    for name, labels in (("r", reference), ("p", prediction)):
        write_volume(tmp_path / f"{name}.nii.gz", labels)
    pair = CasePair(case="a", reference=tmp_path / "r.nii.gz", prediction=tmp_path / "p.nii.gz")
    assert {REFERENCE_COLOUR, PREDICTION_COLOUR}.isdisjoint(find_colours(read_png(draw_case(pair, ignore=9))))


def test_worst_median_and_best_are_chosen():
    def make(*dice):
        return [CaseResult(case=str(value), mean_dice=value, worst_label=None, worst_dice=None) for value in dice]

    def names(*dice):
        return [(role, case.mean_dice) for role, case in choose_cases(make(*dice))]

    assert names() == names(None) == []
    assert names(0.5) == [("the case", 0.5)]
    assert names(0.5, 0.6, None) == [("worst", 0.5), ("best", 0.6)]
    assert names(0.1, 0.2, 0.3, 0.4, 0.5) == [("worst", 0.1), ("median", 0.3), ("best", 0.5)]


def test_a_report_never_lands_among_the_references(tmp_path):
    folders = write_cases(tmp_path, 1)
    with pytest.raises(UsageError, match="among the references"):
        run(folders | {"report": folders["reference"]})


def test_lesions_are_counted_when_asked(tmp_path):
    result = run(write_cases(tmp_path, 2), lesions=True, lesion_size_mm3=1.0)
    assert result.labels[0].lesion_f1.mean == 1.0
    assert "lesion F1" in result.report_files[2].read_text()
    assert json.loads(result.summary_path.read_text())["mean"]["1"]["lesion_tp"] == 1.0


def test_tables_break_on_nothing():
    table = Table(title="t", columns=("a", "b"), rows=(("<b>", "0.5"), ("x|y\n", "-")))
    assert "&lt;b&gt;" in make_table(table, bar_column=1) and "\\n" in make_table(table)
    assert format_markdown(table).splitlines()[-1] == "| x\\|y\\\\n | - |"
    assert format_csv(("a",), [(None,), (float("nan"),), (float("inf"),)]) == 'a\n""\n""\ninf\n'
    assert make_page("<t>", ["", "x"]).count("&lt;t&gt;") == 1


def write_scores(path, num_cases, *, seed):
    """Write a summary as nnU-Net does: two labels, no names."""
    generator = np.random.default_rng(seed)
    entries = [
        {
            "metrics": {key: {"Dice": generator.uniform(0.5, 0.9), "n_ref": 9, "n_pred": 9} for key in "12"},
            "prediction_file": f"<script>_{index:03d}.nii.gz",
        }
        for index in range(num_cases)
    ]
    path.write_text(json.dumps({"metric_per_case": entries}))
    return path


@pytest.mark.parametrize(("num_cases", "num_runs"), [(1, 2), (2, 2), (100, 3)])
def test_the_page_of_a_comparison_stands_alone(tmp_path, num_cases, num_runs):
    runs = tuple(write_scores(tmp_path / f"run{seed}.json", num_cases, seed=seed) for seed in range(num_runs))
    names = ("a", EVIL, "c")[:num_runs]
    result = compare(CompareConfig(runs=runs, output=tmp_path / "out", names=names))
    text, parser = parse_page(result.files[3])
    assert EVIL in "".join(parser.text) and text.count("<svg") == 3 * len(result.pairs)
    assert f"{result.pairs[0].sentence}." in "".join(parser.text)
    assert text.count("<title>&lt;script&gt;_") == num_cases * len(result.pairs)
    assert ("Does any run differ" in text) == (num_runs > 2)

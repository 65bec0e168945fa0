"""The page stands alone, escapes what it did not write itself, and shows suspicious cases."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import imageio.v3
import numpy as np
import pytest

from stu_pipeline.doctor.examine import examine_dataset
from stu_pipeline.doctor.report.page import make_page, require_page, write_page
from stu_pipeline.doctor.report.pictures import PictureRequest, draw_case
from stu_pipeline.doctor.screening.suspicions import Correction
from stu_pipeline.errors import UsageError
from tests.unit.doctor.conftest import make_case

VOID = {"meta", "img", "br", "rect", "line"}


class Balance(HTMLParser):
    """Checks that every tag that opens also closes, and collects what would be loaded."""

    def __init__(self):
        super().__init__()
        self.open, self.loaded, self.wrong = [], [], []

    def handle_starttag(self, tag, attrs):
        self.loaded += [value for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


@pytest.fixture
def page(dataset, tmp_path):
    dataset.write_label(4, make_case(4)[1][:, :, ::-1].copy())
    dataset.image(2).write_bytes(dataset.image(2).read_bytes()[:500])
    write_page(examine_dataset(dataset.folder), tmp_path / "page.html")
    return (tmp_path / "page.html").read_text(encoding="utf-8")


def test_the_page_needs_nothing_from_elsewhere(page):
    parser = Balance()
    parser.feed(page)
    assert parser.open == [] and parser.wrong == []
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in parser.loaded) and len(parser.loaded) > 3
    assert re.findall(r"https?://|<script|@import|url\(", page) == []


def test_a_mirrored_case_is_shown_as_it_is_and_mirrored_back(page):
    pictures = [imageio.v3.imread(base64.b64decode(text)) for text in re.findall(r'base64,([^"]+)"', page)]
    assert len(pictures) == 2 and pictures[0].shape[1] > 3 * 100
    assert not np.array_equal(pictures[0], pictures[1]) if pictures[0].shape == pictures[1].shape else True
    assert "label mirrored left-right" in page


def test_the_page_has_every_section(page):
    for text in (
        "prefers-color-scheme",
        ">Labels<",
        ">Intensities<",
        ">Cases<",
        "export or copy",
        "case_02_0000.nii.gz",
    ):
        assert text in page
    assert page.count("<title>case_") == 9  # one intensity box per sound case


def test_names_are_escaped(dataset):
    dataset.describe(
        numTraining=10,
        channel_names={"0": "<b>MR & CT"},
        labels={"background": 0, "<script>alert(1)</script>": 1, "\"small'": 2},
    )
    page = make_page(examine_dataset(dataset.folder), {})
    assert "<script" not in page and "<b>MR" not in page and "&lt;script&gt;alert(1)" in page


def test_a_dataset_without_description_still_has_a_page(dataset):
    (dataset.folder / "dataset.json").unlink()
    page = make_page(examine_dataset(dataset.folder), {})
    assert "correct dataset.json" in page and page.endswith("</html>\n")


def test_outlines_follow_the_label_and_move_with_the_correction(dataset):
    examination = examine_dataset(dataset.folder)
    request = PictureRequest(case=examination.files["case_00"], correction=Correction(shift_axis=2, shift_voxels=4))
    picture = draw_case(request)
    first, second = imageio.v3.imread(picture.png), imageio.v3.imread(picture.corrected)
    coloured = [np.flatnonzero((item.max(2) - item.min(2) > 60).any(0)).min() for item in (first, second)]
    assert coloured[1] > coloured[0] and picture.caption == "moved by 4 voxels left-right"


def test_a_page_that_cannot_be_written_is_refused_first(tmp_path):
    with pytest.raises(UsageError, match="is a folder"):
        require_page(tmp_path, "Dataset801_Doctor")
    with pytest.raises(UsageError, match="none was given"):
        require_page(tmp_path / "page.html", None)

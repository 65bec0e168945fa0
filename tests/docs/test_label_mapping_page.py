"""The label mappings on the pages can be read, and what they say of the published names is true."""

from __future__ import annotations

import json

import pytest

from stu_pipeline.datasets.label_mapping import read_label_mapping
from stu_pipeline.datasets.label_names import match_names
from stu_pipeline.datasets.side_names import read_side
from tests.docs.pages import DOCS, REPOSITORY, list_blocks

PAGES = (DOCS / "how-to" / "predict-without-training.md", DOCS / "reference" / "label-mapping.md")
BTCV = (
    "spleen", "right kidney", "left kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta",
    "inferior vena cava", "portal vein and splenic vein", "pancreas", "right adrenal gland", "left adrenal gland",
)  # fmt: skip


@pytest.fixture
def published():
    names = json.loads((REPOSITORY / "plans" / "published" / "stunet_labels.json").read_text())["names"]
    return names[1:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_mappings_on_the_page_fit_the_published_names(page, published, tmp_path):
    (block,) = list_blocks(page, "json")
    path = tmp_path / "mapping.json"
    path.write_text(block)
    entries = json.loads(block)["labels"]
    reference = {}
    for name, entry in entries.items():
        for label in entry.get("reference", [name]) if isinstance(entry, dict) else [name]:
            reference.setdefault(label, (len(reference) + 1,))
    prediction = {name: (value,) for value, name in enumerate(published, start=1)}
    assert len(read_label_mapping(path, prediction=prediction, reference=reference)) == len(entries)


def test_the_names_of_btcv_need_no_mapping(published):
    matched = match_names(BTCV, published)
    assert list(matched) == list(BTCV)
    assert matched["left kidney"] == "kidney_left" and matched["right adrenal gland"] == "adrenal_gland_right"


def test_no_published_name_is_another_one_in_disguise(published):
    assert len(match_names(published, published)) == 104
    mirrored = [name for name in published if read_side(name) is not None]
    assert match_names(mirrored, [name for name in published if name not in mirrored]) == {}

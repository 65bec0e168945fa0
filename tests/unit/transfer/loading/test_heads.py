"""Outputs are reused where they mean the same, and never across sides."""

from __future__ import annotations

import pytest

from stu_pipeline.errors import ModelError, UsageError
from stu_pipeline.transfer.loading.heads import HeadLabels, choose_heads
from stu_pipeline.transfer.loading.mappings import HeadMapping, parse_channel_mapping

TRAINED = ("background", "kidney_left", "kidney_right", "liver", "spleen")


def labels(*names, regions=False):
    return HeadLabels(names=names, num_outputs=len(names), has_regions=regions)


def choose(*targets, **declared):
    mapping = HeadMapping(**declared) if declared else None
    rows = choose_heads(labels(*TRAINED), labels(*targets), mapping)
    return {row.target: row.source for row in rows}


def test_spelling_does_not_matter_but_sides_do():
    assert choose("background", "Left Kidney", "kidney-R", "LIVER", "Spleen ") == {
        "background": "background",
        "Left Kidney": "kidney_left",
        "kidney-R": "kidney_right",
        "LIVER": "liver",
        "Spleen ": "spleen",
    }


def test_a_name_without_side_takes_no_sided_output():
    assert choose("background", "liver", "kidney") == {"background": "background", "liver": "liver", "kidney": None}


def test_the_background_alone_is_not_kept_unless_it_is_declared():
    rows = choose_heads(labels(*TRAINED), labels("background", "tumour"))
    assert [row.source for row in rows] == [None, None]
    assert rows[0].reason == "kept only beside another label that is kept"
    declared = choose("background", "tumour", names={"background": "background"})
    assert declared == {"background": "background", "tumour": None}


def test_one_side_never_takes_the_other_and_is_told_so():
    rows = choose_heads(labels("background", "kidney_left"), labels("background", "kidney_right"))
    assert rows[1].source is None
    assert rows[1].reason == "not among the labels of the weights ('kidney_left' is not the same side)"


def test_two_spellings_of_one_label_take_nothing_unless_one_is_exact():
    kept = {"background": "background", "spleen": "spleen"}
    assert choose("background", "spleen", "Liver", "LIVER") == {**kept, "Liver": None, "LIVER": None}
    assert choose("background", "liver", "LIVER") == {"background": "background", "liver": "liver", "LIVER": None}


def test_a_declared_source_goes_before_the_name():
    assert choose("background", "liver", "organ", names={"organ": "Spleen", "liver": None}) == {
        "background": "background",
        "liver": None,
        "organ": "spleen",
    }


def test_a_declaration_of_unknown_names_lists_all_of_them():
    with pytest.raises(ModelError, match="this dataset has no label 'lever'") as caught:
        choose("background", "liver", names={"lever": "liver", "liver": "spleeen"})
    assert caught.value.details == ("the weights have no label 'spleeen' (nearest: 'spleen')",)


@pytest.mark.parametrize("by_index", [False, True])
def test_regions_and_labels_never_share_a_head(by_index):
    source, target = labels("whole", "core", regions=True), labels("background", "core")
    if not by_index:
        assert [row.reason for row in choose_heads(source, target)] == [
            "the weights have regions, this dataset labels"
        ] * 2
        return
    with pytest.raises(ModelError, match="regions, this dataset labels"):
        choose_heads(source, target, HeadMapping(by_index=True))


def test_regions_are_reused_by_name_among_regions():
    rows = choose_heads(labels("whole", "core", regions=True), labels("core", "edema", regions=True))
    assert [(row.target, row.source_index) for row in rows] == [("core", 1), ("edema", None)]


def test_a_declaration_needs_known_names():
    unknown = HeadLabels(names=None, num_outputs=3)
    with pytest.raises(ModelError, match="label names of the weights are not known"):
        choose_heads(unknown, labels("background", "liver"), HeadMapping(names={"liver": "liver"}))


def test_two_ways_of_mapping_are_one_too_many():
    with pytest.raises(UsageError, match="not both"):
        HeadMapping(names={"liver": "liver"}, by_index=True)


def test_a_channel_mapping_is_read():
    assert parse_channel_mapping("T1=CT, FLAIR = mean").sources == {"T1": "CT", "FLAIR": "mean"}


@pytest.mark.parametrize("text", ["", "T1", "T1=", "=CT", "T1=CT,", "T1=CT,T1=mean"])
def test_a_broken_channel_mapping_is_refused(text):
    with pytest.raises(UsageError):
        parse_channel_mapping(text)

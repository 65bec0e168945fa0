"""What users declare about weights, and what is known of the released ones."""

from __future__ import annotations

import json

import pytest

from stu_pipeline.errors import DataError, UsageError
from stu_pipeline.transfer.packages.config import ConvertConfig
from stu_pipeline.transfer.packages.declaration import (
    complete_strides,
    declare_facts,
    find_dataset_json,
    find_median_voxels,
    list_label_names,
    read_published_plan,
)
from stu_pipeline.transfer.weight_file import WeightFacts

FIVE = ((2, 2, 2),) * 4 + ((1, 1, 2),)


def write(path, content):
    path.write_text(json.dumps(content))
    return path


def test_the_released_plan_is_the_published_one():
    facts = read_published_plan().facts
    assert facts.strides == ((1, 1, 1), *FIVE) and facts.spacing_mm == (1.5, 1.5, 1.5)
    assert facts.patch_voxels == (128, 128, 128) and facts.normalization_schemes == ("ZScoreNormalization",)
    assert facts.channel_names == ("CT",) and facts.label_names is not None and len(facts.label_names) == 105
    assert facts.label_names[:2] == ("background", "adrenal_gland_left") and facts.label_names[-1] == "vertebrae_T9"


def test_the_median_size_is_known_of_the_released_weights_only():
    facts = read_published_plan().facts
    assert find_median_voxels(facts) == (228, 228, 240)
    assert find_median_voxels(WeightFacts(spacing_mm=(1.5, 1.5, 1.5), patch_voxels=(96, 96, 96))) is None
    assert find_median_voxels(WeightFacts()) is None


def test_without_flags_nothing_is_declared(tmp_path):
    assert declare_facts(ConvertConfig(file=tmp_path)) is None


def test_published_declares_everything_but_the_epochs(tmp_path):
    facts = declare_facts(ConvertConfig(file=tmp_path, published=True))
    assert facts is not None and facts.strides is not None and facts.num_epochs is None
    for flags in ({"strides": FIVE}, {"labels": tmp_path}):
        with pytest.raises(UsageError, match="--published"):
            declare_facts(ConvertConfig(file=tmp_path, published=True, **flags))


def test_five_strides_get_their_leading_ones():
    assert complete_strides(FIVE) == complete_strides(((1, 1, 1), *FIVE)) == ((1, 1, 1), *FIVE)
    assert complete_strides(((2, 2),) * 5)[0] == (1, 1)


@pytest.mark.parametrize(
    "strides", [(), FIVE[:4], (*FIVE, FIVE[0]), ((2, 2), *FIVE[1:]), ((0, 2, 2), *FIVE[1:]), ((2,),) * 5]
)
def test_other_strides_are_refused(strides):
    with pytest.raises(UsageError) as error:
        complete_strides(strides)
    assert "--strides" in error.value.hint


@pytest.mark.parametrize(
    "content",
    [
        ["background", "liver", "spleen"],
        {"0": "background", "2": "spleen", "1": "liver"},
        {"background": 0, "spleen": 2, "liver": 1},
        {"schema": 1, "names": ["background", "liver", "spleen"]},
    ],
)
def test_names_are_read_in_the_order_of_the_outputs(tmp_path, content):
    config = ConvertConfig(file=tmp_path, labels=write(tmp_path / "labels.json", content))
    facts = declare_facts(config)
    assert facts is not None and facts.label_names == ("background", "liver", "spleen")


@pytest.mark.parametrize(
    "content",
    [
        [], {}, "liver", 7, None, ["background", "liver", "liver"], ["background", 3], ["background", ""],
        {"0": "background", "2": "spleen"}, {"background": 0, "liver": True}, ["liver", "background"],
    ],
)  # fmt: skip
def test_other_lists_of_names_are_refused(tmp_path, content):
    with pytest.raises(DataError):
        list_label_names(content, tmp_path / "labels.json")


def test_a_dataset_json_is_taken_as_a_whole(tmp_path):
    path = write(tmp_path / "dataset.json", {"labels": {"background": 0, "whole": [1, 2]}})
    assert declare_facts(ConvertConfig(file=tmp_path, labels=path)).label_names is None
    assert find_dataset_json(path) == {"labels": {"background": 0, "whole": [1, 2]}}
    assert find_dataset_json(write(tmp_path / "names.json", ["background"])) is None
    assert find_dataset_json(None) is None


def test_a_dataset_name_and_a_folder_contradict_each_other(tmp_path):
    with pytest.raises(UsageError, match="not both"):
        ConvertConfig(file=tmp_path, dataset_name="Dataset801_A", output=tmp_path)
    with pytest.raises(UsageError, match="is not a dataset name"):
        ConvertConfig(file=tmp_path, dataset_name="Liver")
    with pytest.raises(UsageError, match="mirror"):
        ConvertConfig(file=tmp_path, mirror="some")

"""Block D1: hostile values in `dataset.json` are refused: code 3, no traceback, in time, nothing written outside."""

from __future__ import annotations

import itertools
import json
import time

import pytest

from stu_pipeline.datasets.cases import list_training_cases
from stu_pipeline.datasets.dataset_json import read_dataset_json
from stu_pipeline.errors import DataError
from tests.acceptance.in_process import make_refusal_check
from tests.synthetic import write_tiny_dataset

LIMIT_S = 2.0
GOOD = {
    "channel_names": {"0": "MR"},
    "labels": {"background": 0, "a": 1},
    "numTraining": 1,
    "file_ending": ".nii.gz",
}
LISTED = {"images": ["imagesTr/case_000_0000.nii.gz"], "label": "labelsTr/case_000.nii.gz"}
# What stands in for a value, as JSON text.
HOSTILE = {
    "null": "null",
    "a bool": "true",
    "NaN": "NaN",
    "1e400": "1e400",
    "-1": "-1",
    "2^63": str(2**63),
    "nothing": '""',
    "10 MB of text": '"' + "x" * 10_000_000 + '"',
    "a list": "[0, 1]",
    "an object": '{"x": 1}',
    "100k levels": "[" * 100_000 + "]" * 100_000,
}


def replace(key, text):
    """Return the good description as text, with one value replaced."""
    content = {name: json.dumps(value) for name, value in GOOD.items()} | {key: text}
    return "{" + ", ".join(f'"{name}": {value}' for name, value in content.items()) + "}"


def change(**changes):
    return json.dumps({**GOOD, **changes})


def list_file(name):
    """Return a description that lists a hostile file as the label map of its case."""
    return change(dataset={"case_000": {**LISTED, "label": name}})


def list_image(name):
    return change(dataset={"case_000": {**LISTED, "images": [name]}})


REPLACED = {f"{key} is {name}": replace(key, text) for key, (name, text) in itertools.product(GOOD, HOSTILE.items())}
LABEL_IS = {
    f"a label is {name}": replace("labels", f'{{"background": 0, "a": {text}}}')
    for name, text in HOSTILE.items()
    if name != "a list"  # a region, see below
}
OTHERS = {
    "a key twice": '{"labels": {"background": 0, "a": 1, "a": 2}}',
    "100k keys twice": "{" + ", ".join(f'"k{i // 2}": 0' for i in range(200_000)) + "}",
    "UTF-16": change().encode("utf-16"),
    "bytes that are no text": b"\xff\x00{}",
    "half a file": change()[:-20],
    "no file content": "",
    "a number of 5000 digits": replace("numTraining", "9" * 5000),
    "60 levels in a key of its own": replace("extra", "[" * 60 + "]" * 60),
    "half a character": replace("extra", '"\\ud800"'),
    "an ending with a path": change(file_ending="/../../x.nii.gz"),
    "an ending with a folder": change(file_ending=".nii.gz/x"),
    "an ending in a list": change(file_ending=[".nii.gz"]),
    "no background": change(labels={"a": 1}),
    "a background of 1": change(labels={"background": 1, "a": 0}),
    "a label as text": change(labels={"background": 0, "a": "1"}),
    "a label with a fraction": change(labels={"background": 0, "a": 1.5}),
    "a label as a float": change(labels={"background": 0, "a": 1.0}),
    "label 70000": change(labels={"background": 0, "a": 70000}),
    "a label twice": change(labels={"background": 0, "a": 1, "b": 1}),
    "40000 labels": change(labels={"background": 0, **{f"l{i}": i for i in range(1, 40_001)}}),
    "a region without an order": change(labels={"background": 0, "a": [1, 2], "b": 2}),
    "an order of the wrong length": change(labels={"background": 0, "a": [1, 2], "b": 2}, regions_class_order=[1]),
    "an order of a class": change(labels={"background": 0, "a": [1, 2], "b": 2}, regions_class_order="os.system"),
    "a label name that drives the terminal": change(labels={"background": 0, "\x1b[2J": 1}),
    "channels in a list": change(channel_names=["MR"]),
    "channels with a gap": change(channel_names={"0": "MR", "2": "CT"}),
    "channel 10 alone": change(channel_names={"10": "MR"}),
    "a channel without a name": change(channel_names={"0": ""}),
    "a table of ids that is a class": change(stu_label_ids="os.system"),
    "a table of ids too long": change(stu_label_ids=[0, 3, 9]),
    "a reader that is a class": change(overwrite_image_reader_writer="os.system"),
    "a reader that is a list": change(overwrite_image_reader_writer=["SimpleITKIO"]),
    "a reader that reorients": change(overwrite_image_reader_writer="NibabelIOWithReorient"),
    "a path upwards": list_file("../../evil.nii.gz"),
    "an absolute path": list_file("/etc/passwd"),
    "a path at home": list_file("~/evil.nii.gz"),
    "a path from a variable": list_file("$HOME/evil.nii.gz"),
    "an address": list_file("file:///etc/passwd"),
    "a dash": list_file("-"),
    "a dot": list_file("."),
    "a zero byte": list_file("labelsTr/a\0.nii.gz"),
    "links in a circle": list_file("circle.nii.gz"),
    "a name of 10 MB": list_file("x" * 10_000_000),
    "a path of 5000 characters": list_file("x/" * 2500),
    "an image upwards": list_image("../x.nii.gz"),
    "an image of another kind": list_image("dataset.json"),
    "an image that is a number": list_image(7),
    "no images": change(dataset={"case_000": {**LISTED, "images": []}}),
    "cases in a list": change(dataset=[LISTED]),
    "no cases": change(dataset={}),
}
FAULTS = {**OTHERS, **REPLACED, **LABEL_IS}
FAST_COMMANDS = (
    "a key twice",
    "UTF-16",
    "labels is 100k levels",
    "a path upwards",
    "a reader that is a class",
    "a label is NaN",
)


@pytest.fixture
def dataset(tmp_path):
    folder = write_tiny_dataset(tmp_path / "raw", num_cases=1, num_labels=1, shape=(4, 6, 8))
    (folder / "circle.nii.gz").symlink_to(folder / "circle.nii.gz")
    return folder


def write(folder, content):
    (folder / "dataset.json").write_bytes(content if isinstance(content, bytes) else content.encode())


def test_there_are_at_least_80_of_them():
    assert len(FAULTS) >= 80 and set(FAST_COMMANDS) <= set(FAULTS)


@pytest.mark.parametrize("name", FAULTS)
def test_a_hostile_description_is_refused_in_time(dataset, name):
    write(dataset, FAULTS[name])
    start = time.monotonic()
    with pytest.raises(DataError) as error:
        list_training_cases(dataset, read_dataset_json(dataset))
    assert time.monotonic() - start < LIMIT_S
    lines = (str(error.value), *error.value.details)
    assert all(len(line) < 500 for line in lines) and len(lines) < 10


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in FAST_COMMANDS else pytest.mark.slow) for name in FAULTS]
)
def test_the_command_refuses_with_code_3(dataset, tmp_path, monkeypatch, capsys, name):
    write(dataset, FAULTS[name])
    refuse = make_refusal_check(tmp_path, monkeypatch, capsys)
    start = time.monotonic()
    refuse("plan", str(dataset), "--dry-run", "--workers", "0")
    assert time.monotonic() - start < LIMIT_S


@pytest.mark.parametrize("text", [change(), "\ufeff" + change(), change(numTraining=7), change(description="\u00e4\n")])
def test_what_is_only_unusual_is_read(dataset, text):
    write(dataset, text)
    assert len(list_training_cases(dataset, read_dataset_json(dataset))) == 1


@pytest.mark.parametrize("target", ["nowhere", "dataset.json", "/dev/zero"])
def test_a_description_that_is_no_file_is_refused_in_time(dataset, target):
    (dataset / "dataset.json").unlink()
    (dataset / "dataset.json").symlink_to(target)
    start = time.monotonic()
    with pytest.raises(DataError, match=r"'dataset\.json' not found"):
        read_dataset_json(dataset)
    assert time.monotonic() - start < LIMIT_S

"""The JSON beside safetensors: what is written is read, and what is malformed is refused."""

from __future__ import annotations

import json

import pytest
import torch

from stu_pipeline.errors import ModelError
from stu_pipeline.networks.weights import RecognisedNetwork
from stu_pipeline.storage import hash_file
from stu_pipeline.transfer.files.description import find_description_path, read_description, write_description
from stu_pipeline.transfer.files.facts import describe_facts, list_fact_names, parse_facts
from stu_pipeline.transfer.weight_file import WeightFacts, WeightFile

FACTS = WeightFacts(
    label_names=("background", "liver"),
    has_regions=False,
    channel_names=("CT",),
    strides=((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2), (1, 1, 2)),
    spacing_mm=(1.5, 1.5, 1.25),
    patch_voxels=(128, 128, 96),
    normalization_schemes=("ZScoreNormalization",),
    use_mask_for_norm=(False,),
    transpose_forward=(0, 1, 2),
    dataset_name="Dataset701_Liver",
    num_epochs=1000,
    source="side-car 'a.model.pkl'",
)


@pytest.fixture
def path(tmp_path):
    """The JSON of a file of weights."""
    weights = WeightFile(
        path=tmp_path / "first.model",
        form="published",
        identity="ab" * 32,
        network=RecognisedNetwork("B", 1, 2),
        tensors={"a": torch.zeros(1, 1, 3, 3, 3)},
        facts=FACTS,
    )
    (tmp_path / "liver.safetensors").write_bytes(b"tensors")
    return write_description(tmp_path / "liver.safetensors", weights)


def test_what_is_written_is_read(path, tmp_path):
    assert path == find_description_path(tmp_path / "liver.safetensors") == tmp_path / "liver.json"
    found = read_description(path)
    assert (found.identity, found.network, found.num_axes) == ("ab" * 32, RecognisedNetwork("B", 1, 2), 3)
    assert found.sha256 == hash_file(tmp_path / "liver.safetensors")
    assert describe_facts(found.facts) | {"source": ""} == describe_facts(FACTS) | {"source": ""}
    assert found.facts.source == "'liver.json', which has it from side-car 'a.model.pkl'"


def test_what_is_unknown_stays_unknown():
    content = json.loads(json.dumps(describe_facts(WeightFacts())))
    assert {content[name] for name in list_fact_names()} == {None}
    assert parse_facts(content, "x") == WeightFacts(source="x, which has it from the weights alone")


@pytest.mark.parametrize(("key", "value", "reason"), [
    ("schema", 2, "its schema is '2', known: 1"),
    ("scale", "M", "scale, channels, outputs or axes"),
    ("scale", ["S"], "unhashable"),
    ("num_classes", True, "scale, channels, outputs or axes"),
    ("sha256", None, "a hash is malformed"),
    ("facts", [], "not an object"),
])  # fmt: skip
def test_malformed_entries_are_refused(path, key, value, reason):
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(ModelError, match=f"'liver.json' does not describe weights: .*{reason}"):
        read_description(path)


@pytest.mark.parametrize(("fact", "value"), [
    ("label_names", []), ("label_names", ["a\x1b[2J"]), ("label_names", "background"), ("strides", [[2, 2, 2]] * 6),
    ("strides", [[1, 1, 1]] * 5), ("strides", [[1, 1, 1], [0, 2, 2], *[[2, 2, 2]] * 4]), ("spacing_mm", [0, 1, 1]),
    ("spacing_mm", [float("nan")] * 3), ("spacing_mm", [True]), ("patch_voxels", [1.5]), ("num_epochs", -1),
    ("use_mask_for_norm", [0]), ("dataset_name", 7), ("has_regions", "yes"),
])  # fmt: skip
def test_malformed_facts_are_refused_by_name(path, fact, value):
    content = json.loads(path.read_text())
    content["facts"][fact] = value
    path.write_text(json.dumps(content))
    with pytest.raises(ModelError, match=f"{fact} is malformed"):
        read_description(path)


@pytest.mark.parametrize("text", ["", "[]", "[" * 50_000, "{", '{"schema": 1}', "null"])
def test_other_files_are_refused(path, text):
    path.write_text(text)
    with pytest.raises(ModelError, match=r"liver\.json"):
        read_description(path)


def test_a_missing_one_and_a_huge_one_are_refused(path):
    with pytest.raises(ModelError, match=r"'none\.json' not found"):
        read_description(path.with_name("none.json"))
    with path.open("wb") as stream:
        stream.truncate(17 << 20)
    with pytest.raises(ModelError, match="is 17 MiB long"):
        read_description(path)

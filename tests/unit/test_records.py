"""`run.json`: what was run, in plain JSON."""

from __future__ import annotations

import datetime
import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from stu_pipeline.planning.config import PlanConfig
from stu_pipeline.records import SCHEMA, describe, read_versions, write_record


@dataclass(frozen=True)
class Inner:
    path: Path
    sizes: tuple[int, ...]


def test_a_record_says_what_was_run_with_what(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["stu", "plan", "4", "--scale", "B"])
    (tmp_path / "in.json").write_text("{}")
    write_record(
        tmp_path / "run.json",
        stage="plan",
        config=PlanConfig(dataset="4", scale="B"),
        inputs={"dataset.json": tmp_path / "in.json"},
        device="cpu",
    )
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["schema"] == SCHEMA and record["stage"] == "plan" and record["device"] == "cpu"
    assert record["command_line"] == ["stu", "plan", "4", "--scale", "B"]
    assert record["config"]["dataset"] == "4" and record["config"]["scale"] == "B"
    assert hashlib.sha256(b"{}").hexdigest() in json.dumps(record["inputs"])
    written = datetime.datetime.fromisoformat(record["written"])
    assert abs((datetime.datetime.now(datetime.UTC) - written).total_seconds()) < 60
    assert record["versions"]["nnunetv2"].startswith("2.8")


def test_every_config_field_is_in_the_record(tmp_path):
    config = PlanConfig(dataset="4")
    write_record(tmp_path / "run.json", stage="plan", config=config)
    recorded = json.loads((tmp_path / "run.json").read_text())["config"]
    assert set(recorded) == set(PlanConfig.__dataclass_fields__)


def test_versions_name_what_is_not_installed():
    versions = read_versions()
    assert {"stu-pipeline", "nnunetv2", "torch"} <= set(versions)
    assert all(isinstance(version, str) and version for version in versions.values())


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Inner(Path("a/b"), (1, 2)), {"path": "a/b", "sizes": [1, 2]}),
        ({1: Path("x")}, {"1": "x"}),
        ({"a": (1, [2, {"b": 3}])}, {"a": [1, [2, {"b": 3}]]}),
        (np.float32(0.5), 0.5),
        (np.int64(7), 7),
        (np.bool_(True), True),
        (float("nan"), None),
        (np.float64("inf"), None),
        (float("-inf"), None),
        (True, True),
        (None, None),
        ("text", "text"),
    ],
)
def test_values_become_plain_json(value, expected):
    plain = describe(value)
    assert plain == expected and type(plain) is type(expected)
    json.dumps(plain, allow_nan=False)


def test_a_class_is_not_mistaken_for_its_instance():
    assert describe(Inner) is Inner

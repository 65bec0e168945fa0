"""Block H1, preprocessing: a disk that fills up is exit 5, damages nothing, and the same command goes on later.

A limit on the size of files is the full disk that needs no rights.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.kills import hash_tree, python_command
from tests.planned import PLAN_NAME, write_planned_dataset

# Below all files, and between the smallest and the largest of them.
FAST = (512, 8192)
LIMITS = (0, 1, 100, 300, 512, 1024, 2048, 4096, 6144, 8192, 10240, 11264)
SCRIPT = """
import resource, sys
from stu_pipeline import PreprocessConfig, preprocess
from stu_pipeline.errors import StuError

if int(sys.argv[4]) >= 0:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]), int(sys.argv[4])))
try:
    preprocess(PreprocessConfig(dataset=sys.argv[1], plan_name=sys.argv[2], num_workers=int(sys.argv[3])))
except StuError as error:
    print(error, error.where)
    sys.exit(error.exit_code)
"""


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    root = tmp_path_factory.mktemp("reference")
    dataset = write_planned_dataset(root, num_cases=4)
    planned = tmp_path_factory.mktemp("planned") / dataset.name
    shutil.copytree(dataset.preprocessed, planned)
    code, output, _ = run(dataset.raw, root / "nnUNet_preprocessed", -1)
    assert code == 0, output
    return dataset.raw, planned, hash_tree(dataset.preprocessed)


def run(raw, preprocessed, limit, num_workers=1):
    command = python_command(SCRIPT, raw, PLAN_NAME, num_workers, limit, nnUNet_preprocessed=str(preprocessed))
    return command.finish()


@pytest.mark.parametrize("limit", [pytest.param(x, marks=[] if x in FAST else pytest.mark.slow) for x in LIMITS])
def test_a_full_disk_is_said_and_damages_nothing(reference, tmp_path, limit):
    raw, planned, tree = reference
    folder = tmp_path / planned.name
    shutil.copytree(planned, folder)
    code, output, _ = run(raw, tmp_path, limit)
    assert (code, "Traceback" in output) == (5, False), output
    assert "no space left to write" in output and "GiB free" in output
    for name, sha256 in hash_tree(folder).items():
        if not name.endswith((".manifest.json", ".manifest.jsonl")) and not Path(name).name.startswith("."):
            assert tree[name] == sha256, f"{name} is damaged"
    assert not [name for name in hash_tree(folder) if ".stu-tmp-" in name or ".partial" in name or ".lock" in name]
    code, output, _ = run(raw, tmp_path, -1)
    assert code == 0, output
    assert hash_tree(folder) == tree

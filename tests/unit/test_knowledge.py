"""The data of plans/ is found in a checkout and shipped in the wheel."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from stu_pipeline.knowledge import find_knowledge_folder, read_knowledge

ROOT = Path(__file__).resolve().parents[2]


def test_the_repository_comes_first() -> None:
    assert find_knowledge_folder() == ROOT / "plans"


def test_every_file_of_plans_is_json_with_a_purpose() -> None:
    for path in find_knowledge_folder().glob("*.json"):
        assert json.loads(path.read_text())["what"], path.name


def test_the_published_plan_ends_in_an_uneven_stride() -> None:
    published = read_knowledge("published/stunet_pretraining.json")
    assert published["strides"][-1] == [1, 1, 2]
    assert (published["patch_size"], published["spacing"]) == ([128] * 3, [1.5] * 3)


@pytest.mark.integration
def test_the_wheel_carries_every_file_of_plans(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    wheel = next(tmp_path.glob("*.whl"))
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        f"stu_pipeline/_plans/{path.relative_to(ROOT / 'plans').as_posix()}"
        for path in (ROOT / "plans").rglob("*.json")
    }
    assert len(expected) > 10
    assert expected <= names
    # Unpacked alone, the package finds its own copy.
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = "from stu_pipeline.knowledge import find_knowledge_folder as f; print(f())"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "site", check=True, capture_output=True, text=True
    )
    assert Path(found.stdout.strip()) == tmp_path / "site" / "stu_pipeline" / "_plans"

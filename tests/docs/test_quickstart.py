"""The quickstart does what it says: its commands run as they stand on the page."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys

import pytest

from tests.docs.pages import DOCS, REPOSITORY, list_blocks, read

PAGE = DOCS / "quickstart.md"
LIMIT_S = 900  # about 50 s of computing; the rest is for a machine that is busy with other things


@pytest.fixture
def environment(tmp_path):
    """An environment in which `stu` and `python` are the ones under test."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, command in (("stu", f'"{sys.executable}" -m stu_pipeline'), ("python", f'"{sys.executable}"')):
        (folder / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n', encoding="ascii")
        (folder / name).chmod(0o755)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("nnUNet", "STU_"))}
    paths = os.pathsep.join([str(folder), kept["PATH"]])
    return {**kept, "PATH": paths, "PYTHONPATH": str(REPOSITORY), "NO_COLOR": "1"}


def run_script(script, here, environment):
    """Run a script in a process group of its own, so that nothing of it is left when it takes too long."""
    process = subprocess.Popen(
        ["bash", "-c", script],
        cwd=here,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=LIMIT_S)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    return process.returncode, out, err


@pytest.mark.integration
def test_the_commands_of_the_quickstart_lead_to_scores(tmp_path, environment):
    here = tmp_path / "empty"
    here.mkdir()
    script = "set -euxo pipefail\n" + "\n".join(list_blocks(PAGE, "bash"))
    returncode, out, err = run_script(script, here, environment)
    assert returncode == 0, err[-3000:]
    # What the page shows of the output is what comes out.
    for line in "".join(list_blocks(PAGE, "")).splitlines():
        assert line in out.splitlines(), line
    assert "already complete" in out
    model = here / "stu_workspace/nnUNet_results/Dataset701_Phantom/nnUNetTrainer__stuSPlans__3d_fullres"
    assert (model / "fold_0" / "progress.png").stat().st_size > 10_000
    masks = sorted(path.name for path in (here / "masks").glob("*.nii.gz"))
    assert masks == ["phantom_test_000.nii.gz", "phantom_test_001.nii.gz"]
    scores = json.loads((here / "masks" / "summary.json").read_text())
    # Eight steps teach nothing reliable; that there is a number for both cases is what the page promises.
    assert 0 <= scores["foreground_mean"]["Dice"] <= 1 and len(scores["metric_per_case"]) == 2
    assert list_undocumented(here) == set()
    # Nothing is written but the workspace and the masks.
    assert sorted(path.name for path in here.iterdir()) == ["masks", "stu_workspace"]


def list_undocumented(here):
    """List the files below a finished quickstart that the page on folders does not name."""
    page = read(DOCS / "reference" / "folders.md")
    undocumented = set()
    for path in [*here.glob("stu_workspace/nnUNet_[pr][re][es]*/**/*"), *here.glob("masks/*")]:
        name = path.name
        for pattern, word in (
            (r"phantom_(test_)?\d+", "CASE"),
            (r"stuSPlans", "PLAN"),
            (r"nnUNetPlans_3d_fullres", "DATA"),
            (r"checkpoint_(best|final|latest)\.pth", "checkpoint_KIND.pth"),
        ):
            name = re.sub(pattern, word, name)
        if path.is_file() and "tensorboard" not in path.parts and name not in page:
            undocumented.add(str(path.relative_to(here)))
    return undocumented


def test_the_quickstart_names_only_files_of_its_workspace():
    model = "stu_workspace/nnUNet_results/Dataset701_Phantom/nnUNetTrainer__stuSPlans__3d_fullres/fold_0/progress.png"
    assert model in read(PAGE)
    assert set(re.findall(r"Dataset\d+_\w+", read(PAGE))) == {"Dataset701_Phantom"}

"""Several devices share the cases of a folder; here two processes on the CPU stand for two GPUs."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from stu_pipeline.datasets.cases import list_input_cases
from stu_pipeline.datasets.reading import read_label_map
from stu_pipeline.errors import StorageError, UsageError
from stu_pipeline.prediction.config import CaseReport, PredictConfig
from stu_pipeline.prediction.outputs import choose_outputs
from stu_pipeline.prediction.predict import predict
from stu_pipeline.prediction.proof.manifest import Manifest
from stu_pipeline.prediction.run.case_runner import CaseFailure
from stu_pipeline.prediction.run.crew import list_devices, run_on_devices
from tests.model_folders import write_model_folder
from tests.synthetic import make_image, make_label_map, write_volume

NUM_CASES = 4


@pytest.fixture
def config(tmp_path: Path) -> PredictConfig:
    model = write_model_folder(tmp_path / "results", network="PlainConvUNet", mirror_axes=())
    for index in range(NUM_CASES):
        image = make_image(make_label_map((12 + index, 14, 16)))
        write_volume(tmp_path / "images" / f"case_{index}_0000.nii.gz", image, spacing_mm=(2, 1, 1))
    return PredictConfig(input=tmp_path / "images", output=tmp_path / "out", models=(model,), precision="fp32")


def open_manifest(config: PredictConfig) -> tuple[Manifest, list]:
    cases = list_input_cases(config.input, 1, ".nii.gz")
    config.output.mkdir(exist_ok=True)
    return Manifest(choose_outputs(config.input, config.output, cases), {"recipe": 1}), cases


def read_masks(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: read_label_map(path).array for path in sorted(folder.glob("*.nii.gz"))}


def test_two_devices_make_the_masks_of_one(config: PredictConfig, tmp_path: Path):
    manifest, cases = open_manifest(config)
    outcomes = list(run_on_devices(["cpu", "cpu"], cases, manifest, config=config))
    assert sorted(outcome.case for outcome in outcomes) == [case.id for case in cases]
    assert all(outcome.status == "done" for outcome in outcomes)
    manifest.write()
    # What the processes announced is in the report of the one that started them.
    again, _ = open_manifest(config)
    assert all(again.explain_unproven(case) is None for case in cases)
    alone = tmp_path / "alone"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the processes: more would add up in another order
    try:
        predict(PredictConfig(input=config.input, output=alone, models=config.models, precision="fp32"))
    finally:
        torch.set_num_threads(threads)
    found, expected = read_masks(config.output), read_masks(alone)
    assert list(found) == list(expected) and len(found) == NUM_CASES
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])


def test_an_output_that_cannot_be_written_stops_the_run_and_is_no_failed_case(config: PredictConfig):
    manifest, cases = open_manifest(config)
    (config.output / "case_0.nii.gz").mkdir()  # nothing can get this name
    with pytest.raises(StorageError):
        list(run_on_devices(["cpu"], cases, manifest, config=config))


def test_a_damaged_case_costs_one_case(config: PredictConfig):
    (config.input / "case_1_0000.nii.gz").write_bytes(b"damaged")
    manifest, cases = open_manifest(config)
    outcomes = list(run_on_devices(["cpu"], cases, manifest, config=config))
    failed = [outcome for outcome in outcomes if isinstance(outcome, CaseFailure)]
    assert [failure.report.case for failure in failed] == ["case_1"]
    assert "case_1_0000.nii.gz" in str(failed[0].error)


def test_a_process_that_dies_is_named_and_what_it_had_announced_stays(config: PredictConfig):
    manifest, cases = open_manifest(config)
    stream = run_on_devices(["cpu"], cases, manifest, config=config)
    first = next(stream)
    assert isinstance(first, CaseReport) and first.status == "done"
    for line in Path("/proc").glob("[0-9]*/stat"):
        pid = int(line.parent.name)
        if _parent_of(pid) == os.getpid() and b"spawn_main" in _command_of(pid):
            os.kill(pid, signal.SIGKILL)
    rest = list(stream)
    failed = [outcome for outcome in rest if isinstance(outcome, CaseFailure)]
    assert failed and "signal 9" in str(failed[0].error)
    assert len(rest) == NUM_CASES - 1  # the ones after it went to a new process


def test_devices_that_are_not_there_are_refused(config: PredictConfig):
    with pytest.raises(UsageError, match="GPUs wanted, found"):
        list_devices(PredictConfig(input=config.input, output=config.output, models=config.models, gpus=1000))
    with pytest.raises(UsageError, match="contradict"):
        PredictConfig(input=config.input, output=config.output, models=config.models, gpus=2, device="cpu")


def _parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""

"""Find out what is wrong with this machine, this installation or this dataset, and what to do.

Reads: versions, devices, folders, and every case of a dataset when one is given. Writes nothing.
"""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stu_pipeline.errors import StuError
from stu_pipeline.log import Listener, Progress, ignore_events
from stu_pipeline.records import read_versions
from stu_pipeline.storage import measure_free_gib
from stu_pipeline.workspace import Workspace, find_dataset, list_dataset_names, open_workspace

Status = Literal["ok", "warning", "problem"]
_LOW_DISK_GIB = 10.0
_LOW_RAM_GIB = 8.0
_PYTHON_VERSIONS = ((3, 11), (3, 13))


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    area: str
    what: str
    status: Status = "ok"
    hint: str = ""


def diagnose(dataset: str | None = None, *, num_workers: int = 1, listen: Listener = ignore_events) -> list[Finding]:
    """Look at everything and return what was found, problems included; nothing is raised for them."""
    workspace = open_workspace()
    findings = [*_check_installation(), *_check_devices(), *_check_machine(workspace), *_check_folders(workspace)]
    if dataset is not None:
        findings += _check_dataset(dataset, num_workers, listen)
    return findings


def _check_installation() -> list[Finding]:
    version = sys.version_info[:2]
    is_supported = _PYTHON_VERSIONS[0] <= version <= _PYTHON_VERSIONS[1]
    findings = [
        Finding(
            area="python",
            what=f"{platform.python_version()} on {platform.system()}",
            status="ok" if is_supported else "warning",
            hint="" if is_supported else "tested with Python 3.11 to 3.13",
        )
    ]
    for package, installed in read_versions().items():
        missing = installed == "not installed"
        findings.append(
            Finding(
                area="package",
                what=f"{package} {installed}",
                status="problem" if missing and package != "stu-pipeline" else "ok",
                hint=f"pip install {package}" if missing and package != "stu-pipeline" else "",
            )
        )
    return findings


def _check_devices() -> list[Finding]:
    import torch

    from stu_pipeline.nnunet.session import choose_precision, cpu_computes_bf16

    findings = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        precision = choose_precision("auto", torch.device("cuda", index))
        memory = properties.total_memory / 2**30
        findings.append(Finding(area="gpu", what=f"{properties.name}, {memory:.1f} GiB, trains in {precision}"))
    if not findings:
        findings.append(
            Finding(
                area="gpu",
                what="none that PyTorch can use",
                status="warning",
                hint="training real datasets needs one; a CPU is enough for the demo and small volumes",
            )
        )
    precision = "bf16 in hardware" if cpu_computes_bf16() else "fp32 (no bf16 in hardware)"
    findings.append(Finding(area="cpu", what=f"trains in {precision}, {torch.get_num_threads()} threads"))
    return findings


def _check_machine(workspace: Workspace) -> list[Finding]:
    from stu_pipeline.nnunet.environment import count_usable_cores, measure_free_ram_gib

    ram = measure_free_ram_gib()
    return [
        Finding(area="cores", what=f"{count_usable_cores()} usable"),
        Finding(
            area="memory",
            what=f"{ram:.1f} GiB RAM free",
            status="ok" if ram >= _LOW_RAM_GIB else "warning",
            hint="" if ram >= _LOW_RAM_GIB else "preprocessing large volumes may run out; use --workers 1",
        ),
        *[_check_disk(name, path) for name, path in _roots(workspace)[1:]],
    ]


def _check_disk(name: str, path: Path) -> Finding:
    free = measure_free_gib(path)
    is_low = free < _LOW_DISK_GIB
    return Finding(
        area="disk",
        what=f"{free:.1f} GiB free for {name}",
        status="warning" if is_low else "ok",
        hint="free some space before a long training" if is_low else "",
    )


def _check_folders(workspace: Workspace) -> list[Finding]:
    findings = []
    for name, path in _roots(workspace):
        state = "there" if path.is_dir() else "not there yet"
        findings.append(Finding(area="folder", what=f"{name}: {path} ({state})"))
    names = list_dataset_names(workspace)
    findings.append(Finding(area="datasets", what=", ".join(names) if names else "none found"))
    return findings


def _roots(workspace: Workspace) -> list[tuple[str, Path]]:
    return [
        ("nnUNet_raw", workspace.raw),
        ("nnUNet_preprocessed", workspace.preprocessed),
        ("nnUNet_results", workspace.results),
    ]


def _check_dataset(dataset: str, num_workers: int, listen: Listener) -> list[Finding]:
    from stu_pipeline.datasets.check import check_dataset

    def report(done: int, total: int) -> None:
        listen(Progress(step="check cases", done=done, total=total))

    try:
        paths = find_dataset(dataset)
        result = check_dataset(paths.raw, num_workers=num_workers, on_progress=report)
    except StuError as error:
        problems = error.details or (str(error),)
        return [Finding(area="dataset", what=text, status="problem", hint=error.hint) for text in problems]
    findings = [Finding(area="dataset", what=f"{result.name}: {result.num_cases} cases read")]
    findings += [Finding(area="dataset", what=text, status="warning") for text in result.warnings]
    return findings + [Finding(area="dataset", what=text, status="problem") for text in result.problems]

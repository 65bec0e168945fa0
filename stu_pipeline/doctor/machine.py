"""Find out what is wrong with this machine and this installation.

Reads: versions, devices, folders. Writes nothing.
"""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from stu_pipeline.records import read_versions
from stu_pipeline.storage import measure_free_gib
from stu_pipeline.workspace import Workspace, list_dataset_names, open_workspace

Status = Literal["ok", "warning", "problem"]
_LOW_DISK_GIB = 10.0
_LOW_RAM_GIB = 8.0
_PYTHON_VERSIONS = ((3, 11), (3, 13))


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineCheck:
    """One thing that was looked at."""

    area: str
    what: str
    status: Status = "ok"
    hint: str = ""


def check_machine() -> list[MachineCheck]:
    """Look at the installation, devices, memory, disks and folders; nothing is raised for what is found."""
    workspace = open_workspace()
    return [*_check_installation(), *_check_devices(), *_check_machine(workspace), *_check_folders(workspace)]


def _check_installation() -> list[MachineCheck]:
    version = sys.version_info[:2]
    is_supported = _PYTHON_VERSIONS[0] <= version <= _PYTHON_VERSIONS[1]
    findings = [
        MachineCheck(
            area="python",
            what=f"{platform.python_version()} on {platform.system()}",
            status="ok" if is_supported else "warning",
            hint="" if is_supported else "tested with Python 3.11 to 3.13",
        )
    ]
    for package, installed in read_versions().items():
        missing = installed == "not installed"
        findings.append(
            MachineCheck(
                area="package",
                what=f"{package} {installed}",
                status="problem" if missing and package != "stu-pipeline" else "ok",
                hint=f"pip install {package}" if missing and package != "stu-pipeline" else "",
            )
        )
    return findings


def _check_devices() -> list[MachineCheck]:
    import torch

    from stu_pipeline.inference.execution import cpu_computes_bf16
    from stu_pipeline.nnunet.session import choose_precision

    findings = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        precision = choose_precision("auto", torch.device("cuda", index))
        memory = properties.total_memory / 2**30
        findings.append(MachineCheck(area="gpu", what=f"{properties.name}, {memory:.1f} GiB, trains in {precision}"))
    if not findings:
        findings.append(
            MachineCheck(
                area="gpu",
                what="none that PyTorch can use",
                status="warning",
                hint="training real datasets needs one; a CPU is enough for the demo and small volumes",
            )
        )
    precision = "bf16 in hardware" if cpu_computes_bf16() else "fp32 (no bf16 in hardware)"
    findings.append(MachineCheck(area="cpu", what=f"trains in {precision}, {torch.get_num_threads()} threads"))
    return findings


def _check_machine(workspace: Workspace) -> list[MachineCheck]:
    from stu_pipeline.host import count_usable_cores, measure_free_ram_gib

    ram = measure_free_ram_gib()
    return [
        MachineCheck(area="cores", what=f"{count_usable_cores()} usable"),
        MachineCheck(
            area="memory",
            what=f"{ram:.1f} GiB RAM free",
            status="ok" if ram >= _LOW_RAM_GIB else "warning",
            hint="" if ram >= _LOW_RAM_GIB else "preprocessing large volumes may run out; use --workers 1",
        ),
        *[_check_disk(name, path) for name, path in _roots(workspace)[1:]],
    ]


def _check_disk(name: str, path: Path) -> MachineCheck:
    free = measure_free_gib(path)
    is_low = free < _LOW_DISK_GIB
    return MachineCheck(
        area="disk",
        what=f"{free:.1f} GiB free for {name}",
        status="warning" if is_low else "ok",
        hint="free some space before a long training" if is_low else "",
    )


def _check_folders(workspace: Workspace) -> list[MachineCheck]:
    findings = []
    for name, path in _roots(workspace):
        state = "there" if path.is_dir() else "not there yet"
        findings.append(MachineCheck(area="folder", what=f"{name}: {path} ({state})"))
    names = list_dataset_names(workspace)
    findings.append(MachineCheck(area="datasets", what=", ".join(names) if names else "none found"))
    return findings


def _roots(workspace: Workspace) -> list[tuple[str, Path]]:
    return [
        ("nnUNet_raw", workspace.raw),
        ("nnUNet_preprocessed", workspace.preprocessed),
        ("nnUNet_results", workspace.results),
    ]

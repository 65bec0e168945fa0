"""Job scripts: one per cell, and an array for SLURM that runs them.

Writes: `<folder>/<cell>.sh`, `<folder>/cells.txt`, `<folder>/study.sbatch`.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from stu_pipeline.storage import write_text
from stu_pipeline.study.cells import Cell
from stu_pipeline.study.manifest import Manifest

_CELL = """#!/bin/sh
# Cell {name} of study {study}. Run it again and it continues.
exec {command}
"""
_ARRAY = """#!/bin/bash
# The {num_cells} cells of study {study}, as an array: sbatch {file}
# Add what your cluster wants: a partition, an account, the modules and the environment of stu.
#SBATCH --job-name={study}
#SBATCH --array=0-{last}%{num_at_once}
#SBATCH --ntasks=1
#SBATCH --cpus-per-task={num_cpus}
{gpu_line}#SBATCH --output=%x-%a.log
# SIGTERM before the time is over lets the cell save its state; a new submission continues it.
#SBATCH --signal=B:TERM@300
#SBATCH --requeue
cell=$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" {cells_file})
exec stu study {manifest} --cell "$cell"
"""


def export_jobs(folder: Path, manifest: Manifest, cells: Sequence[Cell], *, num_at_once: int) -> tuple[Path, ...]:
    """Write the scripts.

    Args:
        folder: made when missing; scripts of the same names are replaced.
        manifest: of the study.
        cells: which cells get a script, at least one.
        num_at_once: array tasks that run at the same time.

    Returns:
        Every file, the array last.

    Raises:
        StorageError: a file cannot be written.
    """
    folder = folder.absolute()
    scripts = []
    for cell in cells:
        script = folder / f"{cell.name}.sh"
        command = shlex.join(["stu", "study", str(manifest.path), "--cell", cell.name])
        write_text(script, _CELL.format(name=cell.name, study=manifest.name, command=command))
        script.chmod(0o755)
        scripts.append(script)
    names = folder / "cells.txt"
    write_text(names, "".join(f"{cell.name}\n" for cell in cells))
    array = folder / "study.sbatch"
    write_text(
        array,
        _ARRAY.format(
            num_cells=len(cells),
            study=manifest.name,
            file=array.name,
            last=len(cells) - 1,
            num_at_once=num_at_once,
            num_cpus=(manifest.budget.num_workers or 0) + 1,
            gpu_line="" if manifest.budget.device == "cpu" else "#SBATCH --gres=gpu:1\n",
            cells_file=shlex.quote(str(names)),
            manifest=shlex.quote(str(manifest.path)),
        ),
    )
    return (*scripts, names, array)

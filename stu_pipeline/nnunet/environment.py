"""What nnU-Net reads from the environment, set for the length of one block.

nnU-Net finds its folders and worker counts in environment variables, in worker processes too.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from stu_pipeline.workspace import Workspace


@contextlib.contextmanager
def engine_environment(workspace: Workspace, *, num_workers: int | None = None) -> Iterator[None]:
    """Point nnU-Net at a workspace inside the block.

    Args:
        workspace: the three roots.
        num_workers: augmentation workers of a training; None leaves nnU-Net's default.
    """
    values = {
        "nnUNet_raw": str(workspace.raw),
        "nnUNet_preprocessed": str(workspace.preprocessed),
        "nnUNet_results": str(workspace.results),
    }
    if num_workers is not None:
        values["nnUNet_n_proc_DA"] = str(num_workers)
    with set_variables(values):
        yield


def read_variables() -> dict[str, str]:
    """Return a copy of the environment: what torchrun and Slurm say of a process, and what a new process inherits."""
    return dict(os.environ)


def is_first_process() -> bool:
    """Tell whether this process speaks for a training that torchrun has started; always where it has not."""
    return os.environ.get("RANK", "0") == "0"


@contextlib.contextmanager
def set_variables(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables inside the block and restore them after it."""
    previous = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in previous.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

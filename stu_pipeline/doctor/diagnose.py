"""The doctor's one entry: this machine, and a dataset when one is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from stu_pipeline.doctor.examine import Examination, examine_dataset
from stu_pipeline.doctor.locate import find_folder
from stu_pipeline.doctor.machine import MachineCheck, check_machine
from stu_pipeline.doctor.report.summary import describe_examination
from stu_pipeline.log import Listener, ignore_events
from stu_pipeline.records import describe


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What the doctor found. `dataset` is None when none was asked for."""

    machine: tuple[MachineCheck, ...]
    dataset: Examination | None = None

    @property
    def num_problems(self) -> int:
        """What keeps something from working."""
        own = sum(1 for check in self.machine if check.status == "problem")
        return own + (self.dataset.num_problems if self.dataset else 0)

    @property
    def num_warnings(self) -> int:
        """What someone should look at."""
        own = sum(1 for check in self.machine if check.status == "warning")
        return own + (self.dataset.num_warnings if self.dataset else 0)

    def describe(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        return {
            "machine": describe(self.machine),
            "dataset": describe_examination(self.dataset) if self.dataset else None,
            "num_problems": self.num_problems,
            "num_warnings": self.num_warnings,
        }


def diagnose(dataset: str | None = None, *, num_workers: int = 1, listen: Listener = ignore_events) -> Diagnosis:
    """Look at this machine, and at a dataset when one is given; nothing is raised for what is found.

    Args:
        dataset: id, name or path.
        num_workers: worker processes that read cases; 0 reads in this process.
        listen: receives `Progress`.

    Raises:
        StuError: there is no such dataset.
    """
    machine = tuple(check_machine())
    if dataset is None:
        return Diagnosis(machine=machine)
    folder = find_folder(dataset)
    return Diagnosis(machine=machine, dataset=examine_dataset(folder, num_workers=num_workers, listen=listen))

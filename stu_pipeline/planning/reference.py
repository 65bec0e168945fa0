"""Reference plans: fixed datasets in, plans out, so that a change of the planner is seen in a diff.

Run as `python -m stu_pipeline.planning.reference` (`make plans`).
Reads: `plans/reference/<case>/input.json`. Writes: `plan.json` beside it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from stu_pipeline.datasets.dataset_json import parse_dataset_json
from stu_pipeline.knowledge import find_knowledge_folder
from stu_pipeline.plan_pretrained import find_pretrained, pretrained_plan_name
from stu_pipeline.planfile import STU_KEY
from stu_pipeline.planning.budget import Budget
from stu_pipeline.planning.choose import propose
from stu_pipeline.planning.config import PlanConfig
from stu_pipeline.planning.draft import PlanInput
from stu_pipeline.planning.geometry import choose_geometry
from stu_pipeline.storage import read_json, write_json
from stu_pipeline.workspace import DatasetPaths, Workspace

INPUT_NAME = "input.json"
PLAN_NAME = "plan.json"


def list_reference_cases() -> list[Path]:
    """List the folders of the reference cases, sorted by name."""
    return sorted(path.parent for path in (find_knowledge_folder() / "reference").glob(f"*/{INPUT_NAME}"))


def plan_reference_case(folder: Path) -> dict[str, Any]:
    """Plan one reference case and return the plan, without the version that made it.

    The input holds `dataset_name`, `dataset_json`, `fingerprint`, `num_cases`, `reader_name`, `scale`,
    `gpu_memory_gib` and, for a plan that starts from weights, what a plan says of them under `pretrained`. No image
    and no file of weights is opened.
    """
    given = read_json(folder / INPUT_NAME)
    nowhere = folder / "not-there"
    dataset = DatasetPaths(
        name=given["dataset_name"],
        raw=nowhere,
        preprocessed=nowhere,
        results=nowhere,
        workspace=Workspace(raw=nowhere, preprocessed=nowhere, results=nowhere),
    )
    config = PlanConfig(dataset=given["dataset_name"], scale=given["scale"], gpu_memory_gib=given["gpu_memory_gib"])
    start = find_pretrained(given)
    plan_input = PlanInput(
        dataset=dataset,
        dataset_json=parse_dataset_json(given["dataset_json"], folder / INPUT_NAME),
        fingerprint=given["fingerprint"],
        num_cases=given["num_cases"],
        reader_name=given["reader_name"],
    )
    budget = Budget(
        memory_gib=given["gpu_memory_gib"],
        source="given",
        scale=config.wanted_scale if start is None else start.scale,
        start=start,
        geometry=choose_geometry(config, {}, start),
        plan_name=None if start is None else pretrained_plan_name(start.scale),
    )
    proposal = propose(plan_input, config=config, budget=budget)
    plan = proposal.raw
    del plan[STU_KEY]["version"]
    return plan


def main() -> None:
    """Write the plan of every reference case."""
    for folder in list_reference_cases():
        write_json(folder / PLAN_NAME, plan_reference_case(folder))
        sys.stderr.write(f"{folder.name}: {folder / PLAN_NAME}\n")


if __name__ == "__main__":
    main()

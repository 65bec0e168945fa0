"""Images of every shape are planned as nnU-Net plans them: 2D, anisotropic, low resolution, cascade.

Stock runs without our bound on its search, on the meta device (it counts shapes only; two cases run on the CPU to
show that this changes nothing).
"""

from __future__ import annotations

import functools
import json
import random
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner

from stu_pipeline.datasets.dataset_json import parse_dataset_json
from stu_pipeline.nnunet.environment import engine_environment
from stu_pipeline.nnunet.output import engine_output
from stu_pipeline.nnunet.planner import draft_plan
from stu_pipeline.planning.budget import Budget
from stu_pipeline.planning.choose import propose
from stu_pipeline.planning.config import PlanConfig
from stu_pipeline.planning.draft import PlanInput
from stu_pipeline.planning.topology import fit_strides, multiply_strides
from stu_pipeline.workspace import DatasetPaths, Workspace

NAME = "Dataset902_Shapes"
READER = "SimpleITKIO"
DESCRIPTION = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "a": 1}, "file_ending": ".nii.gz"}
STATISTICS = dict.fromkeys(("max", "mean", "median", "min", "percentile_00_5", "percentile_99_5", "std"), 1.0)
# More than any search that ends: 1.03 to this power is twenty million.
FAR_TOO_MANY = 568
# Their slices are single voxels: nnU-Net plans a 2D patch of 1 x 1, which no network with instance norms can train.
LONE_VOXELS = ("a line", "one voxel")


@dataclass(frozen=True)
class Images:
    """Shapes and spacings `(z, y, x)` of a dataset, one entry per distinct image."""

    shapes: list[list[int]]
    spacings: list[list[float]]
    num_cases: int = 40

    def fingerprint(self) -> dict[str, Any]:
        return {
            "foreground_intensity_properties_per_channel": {"0": STATISTICS},
            "median_relative_size_after_cropping": 1.0,
            "shapes_after_crop": self.shapes,
            "spacings": self.spacings,
        }


# Name: images, and the configurations that come of them. What nnU-Net makes of each is computed, not written down.
IMAGES = {
    "a large CT": (Images([[600, 512, 512]], [[0.7, 0.7, 0.7]]), "lowres"),
    "prime sizes, large": (Images([[509, 521, 523]], [[0.9, 0.9, 0.9]]), "lowres"),
    "many thick slices": (Images([[120, 512, 512]], [[5.0, 0.4, 0.4]]), "lowres"),
    "thick slices along x": (Images([[512, 512, 120]], [[0.4, 0.4, 5.0]]), "lowres"),
    "microscopy": (Images([[4000, 4000, 4000]], [[0.001, 0.001, 0.001]]), "lowres"),
    "thick slices": (Images([[30, 512, 512]], [[5.0, 0.7, 0.7]]), "3d"),
    "few thick slices": (Images([[10, 256, 216]], [[10.0, 1.56, 1.56]]), "3d"),
    "three slices": (Images([[3, 512, 512]], [[8.0, 0.5, 0.5]]), "3d"),
    "two slices": (Images([[2, 512, 512]], [[1.0, 1.0, 1.0]]), "3d"),
    "thin along y": (Images([[512, 4, 512]], [[0.5, 8.0, 0.5]]), "3d"),
    "thin along x": (Images([[512, 512, 4]], [[0.5, 0.5, 8.0]]), "3d"),
    "a rod": (Images([[700, 5, 5]], [[1.0, 1.0, 1.0]]), "3d"),
    "prime sizes": (Images([[97, 101, 103]], [[1.0, 1.0, 1.0]]), "3d"),
    "tiny": (Images([[7, 5, 3]], [[1.0, 1.0, 1.0]]), "3d"),
    "mixed": (Images([[40, 200, 200], [100, 400, 380], [1, 256, 256]],
                     [[5.0, 1.0, 1.0], [2.5, 0.6, 0.6], [8.0, 1.2, 1.2]]), "3d"),
    "flat": (Images([[1, 512, 512]], [[999.0, 1.0, 1.0]]), "2d"),
    "flat and huge": (Images([[1, 8000, 8000]], [[999.0, 1.0, 1.0]]), "2d"),
    "a line": (Images([[200, 1, 1]], [[1.0, 1.0, 1.0]]), "3d"),
    "one voxel": (Images([[1, 1, 1]], [[1.0, 1.0, 1.0]]), "2d"),
}  # fmt: skip
CONFIGURATIONS = {
    "lowres": {"2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres"},
    "3d": {"2d", "3d_fullres"},
    "2d": {"2d"},
}


@functools.cache
def plan_named(name: str) -> dict[str, Any]:
    """Return stock's plan of one of `IMAGES`, planned once."""
    with tempfile.TemporaryDirectory() as folder:
        return plan_as_stock(IMAGES[name][0], Path(folder))


def draft(images: Images) -> dict[str, Any]:
    return draft_plan(NAME, DESCRIPTION, images.fingerprint(), num_cases=images.num_cases, reader_name=READER)


def plan_as_stock(images: Images, folder: Path, device: str = "meta") -> dict[str, Any]:
    """Return the file that nnU-Net's own planner writes; its search is watched, not stopped before it has failed."""
    workspace = Workspace(raw=folder / "raw", preprocessed=folder / "preprocessed", results=folder / "results")
    listed = {"dataset": {"case": {"images": ["image"], "label": "label"}}, "overwrite_image_reader_writer": READER}
    write(workspace.raw / NAME / "dataset.json", {**DESCRIPTION, **listed, "numTraining": images.num_cases})
    write(workspace.preprocessed / NAME / "dataset_fingerprint.json", images.fingerprint())

    class Stock(ExperimentPlanner):
        num_probes = 0

        def static_estimate_VRAM_usage(self, *args: Any, **kwargs: Any) -> Any:
            with torch.device(device) if device == "meta" else nullcontext():
                return ExperimentPlanner.static_estimate_VRAM_usage(*args, **kwargs)

        def get_plans_for_configuration(self, *args: Any) -> Any:
            self.num_probes += 1
            if self.num_probes > FAR_TOO_MANY:
                pytest.fail("stock does not end here: this is no case to compare with")
            return super().get_plans_for_configuration(*args)

    with engine_environment(workspace, num_workers=1), engine_output(None):
        Stock(NAME).plan_experiment()
    plan = json.loads((workspace.preprocessed / NAME / "nnUNetPlans.json").read_text())
    return {**plan, "experiment_planner_used": "ExperimentPlanner"}


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize("name", IMAGES)
def test_the_draft_is_nnunets_plan(name: str) -> None:
    images, kind = IMAGES[name]
    ours = draft(images)
    assert ours == plan_named(name)
    assert set(ours["configurations"]) == CONFIGURATIONS[kind]


@pytest.mark.parametrize("name", ["few thick slices", "prime sizes"])
def test_counting_on_the_meta_device_changes_nothing(name: str, tmp_path: Path) -> None:
    assert draft(IMAGES[name][0]) == plan_as_stock(IMAGES[name][0], tmp_path, device="cpu")


@pytest.mark.parametrize("seed", [*range(4), *[pytest.param(seed, marks=pytest.mark.slow) for seed in range(4, 100)]])
def test_random_images_are_drafted_as_nnunet_plans_them(seed: int, tmp_path: Path) -> None:
    images = make_random_images(seed)
    assert draft(images) == plan_as_stock(images, tmp_path)


def make_random_images(seed: int) -> Images:
    """Make up to five similar images, of 4 to 700 voxels and 0.3 to 8 mm along each axis."""
    generator = random.Random(seed)
    shape = [int(4 * 175 ** generator.random()) for _ in range(3)]
    spacing = [0.3 * 27 ** generator.random() for _ in range(3)]
    wobble: Callable[[], float] = lambda: generator.uniform(0.8, 1.25)  # noqa: E731
    num_images = generator.randint(1, 5)
    return Images(
        [[max(1, int(size * wobble())) for size in shape] for _ in range(num_images)],
        [[step * wobble() for step in spacing] for _ in range(num_images)],
        num_cases=generator.randint(5, 300),
    )


@pytest.mark.parametrize("name", [name for name in IMAGES if name not in LONE_VOXELS])
def test_the_plan_keeps_what_nnunet_decided_where_memory_allows(name: str, tmp_path: Path) -> None:
    images, kind = IMAGES[name]
    stock = plan_named(name)["configurations"]
    ours = propose_plan(images, tmp_path / "nowhere")["configurations"]
    assert set(ours) == set(stock) == CONFIGURATIONS[kind]
    for configuration in set(stock) - {"3d_cascade_fullres"}:
        mine, theirs = ours[configuration], stock[configuration]
        for key in ("patch_size", "batch_size", "spacing", "median_image_size_in_voxels", "normalization_schemes"):
            assert mine[key] == theirs[key], (configuration, key)
        strides = mine["architecture"]["arch_kwargs"]["strides"]
        assert len(strides) == 6
        assert strides == [list(stride) for stride in fit_strides(theirs["architecture"]["arch_kwargs"]["strides"])]
        assert all(size % step == 0 for size, step in zip(mine["patch_size"], multiply_strides(strides), strict=True))
    if kind == "lowres":
        assert ours["3d_lowres"]["next_stage"] == "3d_cascade_fullres"
        assert ours["3d_cascade_fullres"]["previous_stage"] == "3d_lowres"


@pytest.mark.parametrize("name", LONE_VOXELS)
def test_a_patch_of_one_voxel_is_widened(name: str, tmp_path: Path) -> None:
    stock = plan_named(name)["configurations"]
    ours = propose_plan(IMAGES[name][0], tmp_path / "nowhere")["configurations"]
    assert (stock["2d"]["patch_size"], ours["2d"]["patch_size"]) == ([1, 1], [2, 2])
    assert set(ours) == set(stock)
    assert name == "one voxel" or ours["3d_fullres"]["patch_size"] == stock["3d_fullres"]["patch_size"]


def propose_plan(images: Images, nowhere: Path, memory_gib: float = 1000.0) -> dict[str, Any]:
    """Return our plan of these images for scale S and this much memory."""
    workspace = Workspace(raw=nowhere, preprocessed=nowhere, results=nowhere)
    dataset = DatasetPaths(name=NAME, raw=nowhere, preprocessed=nowhere, results=nowhere, workspace=workspace)
    description = {**DESCRIPTION, "numTraining": images.num_cases}
    given = PlanInput(
        dataset=dataset,
        dataset_json=parse_dataset_json(description, nowhere / "dataset.json"),
        fingerprint=images.fingerprint(),
        num_cases=images.num_cases,
        reader_name=READER,
    )
    config = PlanConfig(dataset=NAME, scale="S", gpu_memory_gib=memory_gib)
    return propose(given, config=config, budget=Budget(memory_gib=memory_gib, source="given", scale="S")).raw


@pytest.mark.parametrize(
    "images",
    [
        Images([[2, 20000, 20000]], [[1.0, 1.0, 1.0]]),
        Images([[20000, 3, 20000]], [[1.0, 1.0, 1.0]]),
        Images([[2, 2, 10**8]], [[1.0, 1.0, 1.0]]),
    ],
    ids=["two slices", "three columns", "a wire"],
)
def test_a_search_that_stock_never_ends_ends_without_a_low_resolution(images: Images) -> None:
    # A thin axis is rounded to no voxels, a patch of none covers nothing, and stock goes on (nnUNet#2809).
    assert set(draft(images)["configurations"]) == CONFIGURATIONS["3d"]

"""Make ready what a cell trains on: splits, plan and preprocessed data, once for all cells that share them.

Reads: the raw dataset. Writes: the study's preprocessed folder, `splits/` and `prepared/`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from stu_pipeline.errors import DataError, LockedError
from stu_pipeline.log import Listener, Notice
from stu_pipeline.plan_architecture import resolve_configuration
from stu_pipeline.planfile import STU_KEY, preprocessing_settings, read_plan_file, write_plan_file
from stu_pipeline.planning.config import PlanConfig
from stu_pipeline.records import describe
from stu_pipeline.storage import hash_file, hold_lock, read_json, write_json
from stu_pipeline.study.cells import Cell, list_splits
from stu_pipeline.study.folders import StudyFolder
from stu_pipeline.study.manifest import Arm, Manifest
from stu_pipeline.study.splitting import make_study_splits, write_study_splits
from stu_pipeline.workspace import DatasetPaths

_WAIT_S = 2.0
_REFERENCE_PLAN = "stuS-reference"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What a cell needs to train."""

    dataset: DatasetPaths
    plan_name: str
    configuration: str
    fold: int
    plan_sha256: str


def prepare_cell(manifest: Manifest, cell: Cell, listen: Listener) -> Prepared:
    """Split, plan and preprocess for a cell what is not there yet. Call it in the study's workspace.

    Other cells of the dataset that want the same wait until it is done.

    Raises:
        StuError: as `plan` and `preprocess` say, or a split of the study would change.
    """
    folder = StudyFolder(manifest.folder)
    dataset = manifest.find_dataset(cell.dataset)
    paths = folder.find_dataset(dataset.raw)
    with _wait_for_lock(folder, cell.dataset, listen):
        splits = make_study_splits(dataset, list_splits(manifest), manifest.curve, provided=paths)
        numbers = write_study_splits(folder, paths, splits)
        _prepare_plan(manifest, cell, paths, listen)
    plan = read_plan_file(paths.plan_file(cell.plan_name))
    return Prepared(
        dataset=paths,
        plan_name=cell.plan_name,
        configuration=manifest.configuration or plan.default_configuration,
        fold=numbers[cell.split.name],
        plan_sha256=hash_file(paths.plan_file(cell.plan_name)),
    )


def make_plan_config(manifest: Manifest, cell: Cell, *, dry_run: bool = False) -> PlanConfig:
    """Return how an STU-Net arm is planned; an arm that takes another's plan is planned as that one."""
    arm = find_plan_arm(manifest, cell.arm)
    scale = cell.scale or "S"
    return PlanConfig(
        dataset=str(manifest.find_dataset(cell.dataset).raw),
        scale=scale,
        gpu_memory_gib=manifest.budget.gpu_memory_gib,
        pretrained=arm.weights.get(scale),
        plan_name=f"stu{scale}-{arm.name}",
        configurations=(manifest.configuration,) if manifest.configuration else (),
        num_workers=manifest.budget.num_workers,
        dry_run=dry_run,
        **arm.plan,
    )


def find_plan_arm(manifest: Manifest, name: str) -> Arm:
    """Return the arm whose plan an arm trains: itself, or the one it names."""
    arm = manifest.find_arm(name)
    return manifest.find_arm(arm.plan_of) if arm.plan_of else arm


def _prepare_plan(manifest: Manifest, cell: Cell, paths: DatasetPaths, listen: Listener) -> None:
    """Plan and preprocess unless the same was done before; the marker is written last."""
    folder = StudyFolder(manifest.folder)
    marker = folder.prepared(cell.dataset, cell.plan_name)
    arm = manifest.find_arm(cell.arm)
    wanted = {
        "plan": describe(make_plan_config(manifest, cell)) if arm.is_stu else {"kind": arm.kind, "preset": arm.preset},
        "plan_of": arm.plan_of,
        "configuration": manifest.configuration,
        "weights_sha256": _hash_weights(manifest, cell),
        "cases": len(manifest.find_dataset(cell.dataset).case_ids),
    }
    digest = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()
    plan_file = paths.plan_file(cell.plan_name)
    if marker.is_file() and plan_file.is_file():
        known = read_json(marker)
        if known["digest"] == digest and known["plan_sha256"] == hash_file(plan_file):
            return
    if arm.is_stu:
        _plan_stu(manifest, cell, paths, listen)
    else:
        _plan_stock(manifest, cell, paths, listen)
    _preprocess(manifest, cell, paths, listen)
    write_json(marker, {"digest": digest, "plan_sha256": hash_file(plan_file), "made_from": wanted})


def _plan_stu(manifest: Manifest, cell: Cell, paths: DatasetPaths, listen: Listener) -> None:
    from stu_pipeline import plan

    config = make_plan_config(manifest, cell)
    planned = plan(config, listen=listen)
    if planned.plan_name == cell.plan_name:
        return
    is_from_scratch = not manifest.find_arm(cell.arm).weights
    shared = share_plan(read_json(planned.plan_file), cell.plan_name, is_from_scratch=is_from_scratch)
    write_plan_file(paths.plan_file(cell.plan_name), shared)


def share_plan(plan: Mapping[str, Any], name: str, *, is_from_scratch: bool) -> dict[str, Any]:
    """Return another arm's plan under the name of this arm's.

    From scratch an arm only trains in the geometry of the other's weights, so the plan no longer names them. With
    weights of its own it keeps what the plan was made for: the training compares.
    """
    dropped = ("pretrained",) if is_from_scratch else ()
    block = {key: value for key, value in plan[STU_KEY].items() if key not in dropped}
    return {**plan, "plans_name": name, STU_KEY: block}


def _plan_stock(manifest: Manifest, cell: Cell, paths: DatasetPaths, listen: Listener) -> None:
    from stu_pipeline import plan
    from stu_pipeline.nnunet.stock_plan import StockNetwork, draft_stock_plan

    arm = manifest.find_arm(cell.arm)
    config = PlanConfig(
        dataset=str(paths.raw),
        scale="S",
        gpu_memory_gib=manifest.budget.gpu_memory_gib,
        plan_name=_REFERENCE_PLAN,
        num_workers=manifest.budget.num_workers,
    )
    reference = plan(config, listen=listen)  # for the fingerprint and the reader
    networks: dict[str, StockNetwork] = {"M": "ResEncM", "L": "ResEncL", "XL": "ResEncXL"}
    raw: dict[str, Any] = draft_stock_plan(
        networks[arm.preset] if arm.kind == "resenc" else "PlainConvUNet",
        cell.plan_name,
        read_json(paths.preprocessed_dataset_json),
        read_json(paths.fingerprint),
        dataset_name=paths.name,
        num_cases=reference.num_cases,
        reader_name=read_json(reference.plan_file)["image_reader_writer"],
        log_path=paths.plan_log,
    )
    write_plan_file(paths.plan_file(cell.plan_name), share_data(raw, read_json(reference.plan_file)))


def share_data(plan: Mapping[str, Any], reference: Mapping[str, Any]) -> dict[str, Any]:
    """Return a plan that reads the data folders of another one wherever that would make the same voxels."""
    configurations: dict[str, Any] = {}
    for name, content in plan["configurations"].items():
        configurations[name] = dict(content)
        is_known = name in reference["configurations"] and "data_identifier" in content
        if is_known and preprocessing_settings(plan, name) == preprocessing_settings(reference, name):
            identifier = resolve_configuration(reference["configurations"], name)["data_identifier"]
            configurations[name]["data_identifier"] = identifier
    return {**plan, "configurations": configurations}


def _preprocess(manifest: Manifest, cell: Cell, paths: DatasetPaths, listen: Listener) -> None:
    from stu_pipeline import PreprocessConfig, preprocess

    plan = read_plan_file(paths.plan_file(cell.plan_name))
    configuration = manifest.configuration or plan.default_configuration
    if plan.configuration(configuration).previous_stage is not None:
        raise DataError(
            f"configuration '{configuration}' is a cascade, which a study does not train",
            where=plan.path,
            hint="choose 3d_fullres, 3d_lowres or 2d in the manifest",
        )
    preprocess(
        PreprocessConfig(
            dataset=str(paths.raw),
            plan_name=cell.plan_name,
            configurations=(configuration,),
            num_workers=manifest.budget.num_workers,
        ),
        listen=listen,
    )


def _hash_weights(manifest: Manifest, cell: Cell) -> str | None:
    weights = find_plan_arm(manifest, cell.arm).weights.get(cell.scale) if cell.scale else None
    return hash_file(weights) if weights is not None else None


@contextlib.contextmanager
def _wait_for_lock(folder: StudyFolder, dataset: str, listen: Listener) -> Iterator[None]:
    """Hold the lock of a dataset; whoever holds it is making what we need, so it is waited for."""
    lock = folder.prepare_lock(dataset)
    has_told = False
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(hold_lock(lock, what=f"'{dataset}' of the study"))
                break
            except LockedError as error:
                if not has_told:
                    listen(Notice(text=f"waiting: {error}"))
                has_told = True
                time.sleep(_WAIT_S)
        yield

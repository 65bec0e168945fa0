"""Make a model folder of a file of weights, so that `stu predict` and nnU-Net's own command run it.

Reads: the weights and their side-car. Writes: a model folder, complete or not at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stu_pipeline.datasets.laterality import Mirroring
from stu_pipeline.errors import ModelError, UsageError
from stu_pipeline.log import Listener, Notice, ignore_events
from stu_pipeline.planfile import require_plan_name
from stu_pipeline.records import write_record
from stu_pipeline.transfer.files.reading import read_weight_file
from stu_pipeline.transfer.packages.config import ConvertConfig, ConvertResult
from stu_pipeline.transfer.packages.declaration import (
    declare_facts,
    find_dataset_json,
    looks_released,
    name_released_channel,
    read_published_plan,
)
from stu_pipeline.transfer.packages.model_plan import build_dataset_json, build_plan, name_plan, require_known_facts
from stu_pipeline.transfer.packages.model_writing import write_model
from stu_pipeline.transfer.packages.staging import open_staging, place_folders, require_free, require_space
from stu_pipeline.transfer.weight_file import WeightFile
from stu_pipeline.workspace import TRAINER_NAME, Workspace, list_dataset_names, open_workspace, split_dataset_name

RELEASED_DATASET = "Dataset801_TotalSegmentator104"
_CONFIGURATIONS = {2: "2d", 3: "3d_fullres"}
_RELEASED_NOTES = (
    "nnU-Net v1, under which these weights were trained, resampled before it normalised and averaged probabilities; "
    "nnU-Net v2 normalises first and averages logits, as stu does, so masks differ a little at borders",
    "no released file could be tried when this was written: the layout is known from the authors' code and side-cars",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where a model goes, and what it is called."""

    target: Path
    dataset_name: str
    plan_name: str
    configuration: str


def convert_weights(config: ConvertConfig, *, listen: Listener = ignore_events) -> ConvertResult:
    """Make a model folder with one fold of a file of weights.

    Args:
        config: the file, what is declared of it, and where the model goes.
        listen: receives `Notice` events.

    Raises:
        ModelError: the file is refused, or too little is known of it to predict as it was trained.
        NonFiniteError: a weight is NaN or infinite.
        UsageError: the model is there already, or the flags contradict each other.
        DataError: the file of the labels cannot be used.
        StorageError: the disk is full or not writable; nothing of the model is left then.
        LockedError: another process puts models into the same folder.
    """
    given = find_dataset_json(config.labels)
    weights = read_weight_file(config.file, sidecar=config.sidecar, declared=declare_facts(config))
    require_known_facts(weights, has_labels=given is not None)
    is_released = config.published or looks_released(weights)
    if is_released:
        weights = name_released_channel(weights)
        _require_known_strides(weights, is_declared=config.published or config.strides is not None)
    place = _choose_place(config, weights, is_released=is_released)
    require_free([place.target], overwrite=config.overwrite)
    notes = _write_notes(config, weights, is_released=is_released)
    for text in notes:
        listen(Notice(text=text))
    _write(config, weights, place, given)
    strides = weights.facts.strides or ()
    return ConvertResult(
        model_folder=place.target,
        scale=weights.network.scale,
        num_labels=weights.network.num_classes,
        strides=strides,
        facts_source=weights.facts.source,
        notes=notes,
    )


def _write(config: ConvertConfig, weights: WeightFile, place: _Place, given: dict[str, Any] | None) -> None:
    story = {"file": weights.path.name, "form": weights.form, "identity": weights.identity,
             "facts": weights.facts.source}  # fmt: skip
    plan = build_plan(
        weights,
        plan_name=place.plan_name,
        dataset_name=place.dataset_name,
        configuration=place.configuration,
        story=story,
    )
    num_bytes = sum(tensor.nbytes for tensor in weights.tensors.values())
    axes = tuple(range(weights.num_axes)) if config.mirror == "all" else ()
    with open_staging(place.target.parent) as staging:
        require_space(staging, num_bytes)
        folder = staging / place.target.name
        write_model(
            folder,
            weights.tensors,
            plan=plan,
            dataset_json=given or build_dataset_json(weights),
            configuration=place.configuration,
            mirroring=Mirroring(axes=axes),
            num_epochs=weights.facts.num_epochs,
        )
        inputs = {"weights": config.file} | ({"sidecar": config.sidecar} if config.sidecar is not None else {})
        write_record(
            folder / "run.json",
            stage="convert",
            config=config,
            inputs=inputs,
            identity=weights.identity,
            form=weights.form,
            network=weights.network._asdict(),
            facts=weights.facts,
        )
        place_folders({folder: place.target}, staging, overwrite=config.overwrite)


def _require_known_strides(weights: WeightFile, *, is_declared: bool) -> None:
    """Refuse the released weights with strides they were not trained with, unless the user says that they were."""
    known = read_published_plan().facts.strides
    if weights.facts.strides != known and not is_declared:
        raise ModelError(
            f"{weights.facts.source} says strides {_show(weights.facts.strides)}, the released weights were trained "
            f"with {_show(known)}; wrong ones load without a word and give wrong masks",
            where=weights.path.parent,
            hint=f"--published, or declare that they are right: --strides {_show(weights.facts.strides)}",
        )


def _choose_place(config: ConvertConfig, weights: WeightFile, *, is_released: bool) -> _Place:
    plan_name = require_plan_name(config.plan_name or name_plan(weights, is_released=is_released))
    configuration = _CONFIGURATIONS[weights.num_axes]
    if config.output is not None:
        target = config.output.expanduser().absolute()
        is_named = split_dataset_name(target.parent.name) is not None
        name = target.parent.name if is_named else weights.facts.dataset_name or target.name
        return _Place(target=target, dataset_name=name, plan_name=plan_name, configuration=configuration)
    known = weights.facts.dataset_name or ""
    dataset = config.dataset_name or (known if split_dataset_name(known) else RELEASED_DATASET if is_released else "")
    if not dataset:
        raise UsageError(
            "nothing says under which dataset the model belongs", hint="--dataset-name Dataset801_Name, or -o FOLDER"
        )
    workspace = open_workspace()
    _require_free_id(dataset, workspace)
    return _Place(
        target=workspace.results / dataset / f"{TRAINER_NAME}__{plan_name}__{configuration}",
        dataset_name=dataset,
        plan_name=plan_name,
        configuration=configuration,
    )


def _require_free_id(dataset: str, workspace: Workspace) -> None:
    """Refuse a number that another dataset has: nnU-Net's `-d` would find both."""
    found = split_dataset_name(dataset)
    results = [entry.name for entry in workspace.results.iterdir()] if workspace.results.is_dir() else []
    for name in (*list_dataset_names(workspace), *results):
        other = split_dataset_name(name)
        if name != dataset and other is not None and found is not None and other[0] == found[0]:
            raise UsageError(
                f"'{dataset}' has the number of '{name}'", hint="--dataset-name with a number that is free"
            )


def _write_notes(config: ConvertConfig, weights: WeightFile, *, is_released: bool) -> tuple[str, ...]:
    if not is_released:
        return ()
    mirrored = (
        "predictions average all eight mirrored copies, as the authors' first command did"
        if config.mirror == "all"
        else "predictions average no mirrored copies, as the authors recommend for these weights; --mirror all does"
    )
    return (*_RELEASED_NOTES, mirrored)


def _show(strides: tuple[tuple[int, ...], ...] | None) -> str:
    return ",".join("x".join(map(str, stride)) for stride in (strides or ())[1:])

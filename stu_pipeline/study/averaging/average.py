"""Average the folds of a model, score the average on held-out cases, and keep it if they say so.

Reads: a model folder, held-out images and label maps. Writes: a model folder with `fold_all`, or nothing.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import stu_pipeline
from stu_pipeline.datasets.endings import split_ending
from stu_pipeline.errors import DataError, ModelError, UsageError
from stu_pipeline.log import Listener, Notice, ignore_events
from stu_pipeline.nnunet.checkpoint import write_checkpoint
from stu_pipeline.nnunet.checkpoint_identity import identify_checkpoint
from stu_pipeline.storage import copy_file, read_json, storage_errors, sync_folder, write_json
from stu_pipeline.study.averaging.blending import blend_checkpoints, find_start
from stu_pipeline.study.averaging.config import AverageConfig, AverageResult, Fold, Member
from stu_pipeline.study.averaging.decision import choose_average
from stu_pipeline.workspace import RunPaths, fold_folder

RECORD = "averaging.json"
_MODEL_FILES = ("plans.json", "dataset.json", "dataset_fingerprint.json")
_AVERAGE_FOLD = "all"


def average_weights(config: AverageConfig, *, listen: Listener = ignore_events) -> AverageResult:
    """Average the folds of a model that began with the same weights.

    Raises:
        ModelError: folds are missing, unfinished, of different networks, or began with different weights.
        DataError: a held-out case was trained on, or has no label map.
        UsageError: the output is there already.
    """
    _require_free(config)
    folds = _choose_folds(config)
    sources = {fold: RunPaths(fold_folder(config.model, fold)).checkpoint("final") for fold in folds}
    _require_one_start(sources, config.model)
    _require_held_out(config)
    config.output.absolute().parent.mkdir(parents=True, exist_ok=True)
    with (
        storage_errors(config.output),
        tempfile.TemporaryDirectory(prefix=f".{config.output.name}.", dir=config.output.absolute().parent) as scratch,
    ):
        averages = _write_averages(config, sources, Path(scratch))
        members, cases = _score_all(config, folds, averages, Path(scratch), listen)
        chosen, verdict = choose_average(members, seed=config.seed)
        result = AverageResult(members=members, cases=cases, kept=None, output=None, verdict=verdict)
        if chosen is None:
            return result
        result = replace(result, kept=chosen.name, output=config.output)
        _publish(config, averages[chosen.name], sources, result)
    return result


def _require_free(config: AverageConfig) -> None:
    if not config.output.exists():
        return
    if not config.overwrite:
        raise UsageError("output is there already", where=config.output, hint="--overwrite, or choose another -o")
    if not (config.output / RECORD).is_file():
        raise UsageError("output was not made by averaging, so it is never replaced", where=config.output)


def _choose_folds(config: AverageConfig) -> list[Fold]:
    found = sorted(folder.name.removeprefix("fold_") for folder in config.model.glob("fold_*") if folder.is_dir())
    there: list[Fold] = [int(name) for name in found if name.isdigit()]
    wanted = list(config.folds) or [fold for fold in there if _is_trained(config.model, fold)]
    missing = [fold for fold in wanted if not _is_trained(config.model, fold)]
    if missing or not wanted:
        raise ModelError(
            f"fold {missing[0]} is not trained" if missing else "model has no trained fold",
            where=config.model,
            hint="stu train DATASET --fold 0,1,2,3,4 --pretrained FILE",
        )
    return wanted


def _is_trained(model: Path, fold: Fold) -> bool:
    return RunPaths(fold_folder(model, fold)).checkpoint("final").is_file()


def _require_one_start(sources: Mapping[Fold, Path], model: Path) -> None:
    """Refuse to average trainings of different starts: between them lie weights that are good for nothing."""
    if len(sources) == 1:
        return
    starts = {fold: find_start(path) for fold, path in sources.items()}
    if None in starts.values() or len(set(starts.values())) > 1:
        told = ", ".join(f"fold {fold}: {start[:12] if start else 'untrained'}" for fold, start in starts.items())
        raise ModelError(
            f"folds did not begin with the same pretrained weights ({told})",
            where=model,
            hint="train the folds with --pretrained and the same file",
        )


def _require_held_out(config: AverageConfig) -> None:
    """Refuse cases that a fold was trained on: every training case is in the validation of some fold."""
    known = set()
    for summary in config.model.glob("fold_*/validation/summary.json"):
        for entry in read_json(summary).get("metric_per_case", []):
            name = Path(str(entry.get("prediction_file") or entry.get("reference_file"))).name
            known.add(split_ending(name)[0])
    held_out = {split_ending(path.name)[0] for path in config.labels.iterdir() if not path.name.startswith(".")}
    overlap = sorted(known & held_out)
    if overlap:
        raise DataError(
            f"{len(overlap)} of the held-out cases belong to the training data, for example '{overlap[0]}'",
            where=config.labels,
            hint="score an average on cases that no fold has seen",
        )


def _write_averages(config: AverageConfig, sources: Mapping[Fold, Path], scratch: Path) -> dict[str, Path]:
    """Write each average as a model folder of its own; they share nothing with the model but its plan."""
    averages = {}
    kinds = {"average of folds": list(sources.values())} if len(sources) > 1 else {}
    moving = [RunPaths(path.parent).checkpoint("ema") for path in sources.values()]
    if all(path.is_file() for path in moving):
        kinds["average of moving averages" if len(moving) > 1 else "moving average"] = moving
    if not kinds:
        raise ModelError(
            "one fold without a moving average leaves nothing to average",
            where=config.model,
            hint="train with --ema 0.999, or more folds",
        )
    for place, (name, paths) in enumerate(kinds.items()):
        folder = scratch / f"average_{place}" / config.model.name
        target = RunPaths(fold_folder(folder, _AVERAGE_FOLD))
        target.folder.mkdir(parents=True)
        for file in _MODEL_FILES:
            if (config.model / file).is_file():
                copy_file(config.model / file, folder / file)
        checkpoint = blend_checkpoints(paths)
        checkpoint["init_args"] = {**checkpoint["init_args"], "fold": _AVERAGE_FOLD}
        write_checkpoint(target.checkpoint("final"), checkpoint)
        averages[name] = folder
    return averages


def _score_all(
    config: AverageConfig, folds: Sequence[Fold], averages: Mapping[str, Path], scratch: Path, listen: Listener
) -> tuple[tuple[Member, ...], tuple[str, ...]]:
    runs: list[tuple[str, Path, Fold, bool]] = [(f"fold {fold}", config.model, fold, False) for fold in folds]
    runs += [(name, folder, _AVERAGE_FOLD, True) for name, folder in averages.items()]
    found: dict[str, dict[str, float]] = {}
    for place, (name, folder, fold, _) in enumerate(runs):
        found[name] = _score(config, folder, fold, scratch / f"masks_{place}", listen)
        listen(Notice(text=f"{name}: Dice {sum(found[name].values()) / max(1, len(found[name])):.4f}"))
    cases = tuple(sorted(set.intersection(*(set(scores) for scores in found.values()))))
    if not cases:
        raise DataError("no held-out case has a label to score", where=config.labels)
    members = []
    for name, _, _, is_candidate in runs:
        scores = tuple(found[name][case] for case in cases)
        members.append(Member(name=name, is_candidate=is_candidate, mean_dice=sum(scores) / len(scores), scores=scores))
    return tuple(members), cases


def _score(config: AverageConfig, folder: Path, fold: Fold, masks: Path, listen: Listener) -> dict[str, float]:
    stu_pipeline.predict(
        stu_pipeline.PredictConfig(
            input=config.images,
            output=masks,
            models=(folder,),
            folds=("all",) if fold == "all" else (int(fold),),
            tta="full" if config.tta == "full" else "none",
            device=config.device,
        ),
        listen=listen,
    )
    result = stu_pipeline.evaluate(
        stu_pipeline.EvaluateConfig(reference=config.labels, prediction=masks, surface=False)
    )
    return {case.case: case.mean_dice for case in result.cases if case.mean_dice is not None}


def _publish(config: AverageConfig, folder: Path, sources: Mapping[Fold, Path], result: AverageResult) -> None:
    """Move a finished model to its place, in one step."""
    write_json(
        folder / RECORD,
        {
            "schema": 1,
            "version": stu_pipeline.__version__,
            "model": config.model.name,
            "kept": result.kept,
            "verdict": result.verdict,
            "sources": {str(fold): identify_checkpoint(path) for fold, path in sources.items()},
            "cases": list(result.cases),
            "scores": {member.name: list(member.scores) for member in result.members},
        },
    )
    old = folder.with_name("replaced")
    if config.output.exists():
        config.output.replace(old)
    try:
        folder.replace(config.output)
    except OSError:
        if old.exists():
            old.replace(config.output)
        raise
    sync_folder(config.output.absolute().parent)
    shutil.rmtree(old, ignore_errors=True)

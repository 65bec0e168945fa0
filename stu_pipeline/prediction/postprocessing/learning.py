"""Learn from a model's own cross-validation how to clean up its masks.

Reads: `fold_N/validation/<case><ending>` of finished folds, the label maps of the dataset. Writes nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from stu_pipeline.datasets.cases import list_training_cases
from stu_pipeline.datasets.dataset_json import read_dataset_json
from stu_pipeline.errors import DataError
from stu_pipeline.log import Listener, Notice, Progress, ignore_events
from stu_pipeline.nnunet.checkpoint_identity import identify_checkpoint
from stu_pipeline.nnunet.model_dataset import parse_model_dataset
from stu_pipeline.prediction.postprocessing.case_files import (
    CleanedCase,
    LearningCase,
    LearningTask,
    clean_files,
    tabulate_files,
)
from stu_pipeline.prediction.postprocessing.choosing import CANDIDATES, Limits, Step, choose_steps
from stu_pipeline.prediction.postprocessing.rules import LabelRule, PostprocessingRules
from stu_pipeline.prediction.postprocessing.tables import NOTHING, CaseTable
from stu_pipeline.prediction.postprocessing.targets import Target, list_targets, make_foreground
from stu_pipeline.records import describe
from stu_pipeline.storage import read_json
from stu_pipeline.workers import run_in_workers
from stu_pipeline.workspace import RunPaths, find_dataset, fold_folder

MIN_FOLDS = 3
NUM_GROUPS = 5
_MAX_LISTED = 5
_DEFAULT_LIMITS = Limits()
Result = TypeVar("Result")


def learn_postprocessing(
    model: Path,
    folds: Mapping[int, Sequence[str]],
    dataset: str,
    *,
    limits: Limits = _DEFAULT_LIMITS,
    num_workers: int = 0,
    listen: Listener = ignore_events,
) -> PostprocessingRules:
    """Learn rules from the validation cases of a model's finished folds.

    Args:
        model: the model folder.
        folds: names of the validation cases of every fold.
        dataset: id, name or path of the dataset it was trained on.
        limits: when an operation is kept.
        num_workers: processes that read cases; 0 reads them in this one.
        listen: receives `Progress` and `Notice`.

    Returns:
        Rules that may be none, with the numbers behind them.

    Raises:
        DataError: the dataset cannot be used, or no case can.
    """
    cases, task, notes = _find_cases(model, folds, dataset)
    for note in notes[:_MAX_LISTED]:
        listen(Notice(text=note, is_warning=True))
    rules = learn_rules(cases, task, limits=limits, num_workers=num_workers, listen=listen)
    places = {str(fold): RunPaths(fold_folder(model, fold)).checkpoint("final") for fold in folds}
    return replace(
        rules,
        checkpoints={fold: identify_checkpoint(place) for fold, place in places.items()},
        evidence={**rules.evidence, "left_out": [*notes, *rules.evidence["left_out"]]},
    )


def learn_rules(
    cases: Sequence[LearningCase],
    task: LearningTask,
    *,
    limits: Limits = _DEFAULT_LIMITS,
    num_workers: int = 0,
    listen: Listener = ignore_events,
) -> PostprocessingRules:
    """Learn rules from masks and references.

    Every case is read twice at most: once to count components, and once more to apply what was chosen and to see
    that no label loses.

    Args:
        cases: unseen by the model that made their masks.
        task: labels and ids.
        limits: when an operation is kept.
        num_workers: processes; 0 for this one.
        listen: receives `Progress` and `Notice`.

    Returns:
        The rules; no checkpoints are named.

    Raises:
        DataError: no case can be used.
    """
    done, failed = _map_cases(functools.partial(tabulate_files, task=task), cases, num_workers, listen, "counted")
    if not done:
        raise DataError("no validation case can be used to learn post-processing", details=tuple(failed[:_MAX_LISTED]))
    names = [target.name for target in task.targets]
    steps = choose_steps([t for _, t in done], [case.group for case, _ in done], names, limits)
    rules = build_rules(steps, task.targets)
    used = [case for case, _ in done]
    rules, cleaned = _confirm(
        rules, used, task, limits, functools.partial(_map_cases, num_workers=num_workers, listen=listen)
    )
    evidence: dict[str, Any] = {
        "num_cases": len(done),
        "num_groups": len({case.group for case in used}),
        "candidates": describe(CANDIDATES[1:]),
        "limits": describe(limits),
        "steps": describe(steps),
        "labels": _describe_labels(done, cleaned, task.targets),
        "left_out": failed,
    }
    return PostprocessingRules(checkpoints={}, rules=rules, evidence=evidence)


def build_rules(steps: Sequence[Step], targets: Sequence[Target]) -> tuple[LabelRule, ...]:
    """Turn the steps that are kept into rules: the foreground first, then the labels in their order."""
    kept = [step for step in steps if step.is_kept]
    whole = [step for step in kept if step.operation == "foreground"]
    rules = [_build_rule(make_foreground(tuple(targets)), whole)] if whole else []
    for target in targets:
        own = [step for step in kept if step.label == target.name and step.operation != "foreground"]
        if own:
            rules.append(_build_rule(target, own))
    return tuple(rules)


def _build_rule(target: Target, steps: Sequence[Step]) -> LabelRule:
    removal = next((step.removal for step in steps if step.operation != "fill"), NOTHING)
    return LabelRule(
        label=target.name,
        values=target.values,
        removed_value=target.removed_value,
        fill_value=target.fill_value if any(step.operation == "fill" for step in steps) else None,
        keep_largest=removal.keep_largest,
        min_size_mm3=removal.min_size_mm3,
    )


def _find_cases(
    model: Path, folds: Mapping[int, Sequence[str]], dataset: str
) -> tuple[list[LearningCase], LearningTask, list[str]]:
    """Find the files of every validation case, and say what cannot be used."""
    paths = find_dataset(dataset)
    raw = read_dataset_json(paths.dataset_json)
    own = parse_model_dataset(read_json(model / "dataset.json"), model / "plans.json")
    if raw.labels != own.labels:
        raise DataError(
            f"dataset '{paths.raw.name}' has other labels than the model",
            where=paths.dataset_json,
            hint="give the dataset the model was trained on: --dataset NAME",
        )
    targets, refused = list_targets(own)
    notes = [f"region '{name}' is not cleaned up: it overlaps another that does not hold it" for name in refused]
    references = {case.id: case.label_file for case in list_training_cases(paths.raw, raw)}
    cases = []
    for place, (name, fold) in enumerate(sorted((name, fold) for fold, names in folds.items() for name in names)):
        prediction = fold_folder(model, fold) / "validation" / f"{name}{own.file_ending}"
        reference = references.get(name)
        if reference is None or not prediction.is_file():
            notes.append(f"{name}: {'not among the training cases' if reference is None else 'has no validation mask'}")
            continue
        group = fold if len(folds) >= MIN_FOLDS else place % NUM_GROUPS
        cases.append(LearningCase(name=name, group=group, prediction=prediction, reference=reference))
    return cases, LearningTask(targets=targets, reference_ids=raw.file_label_ids, ignore=raw.ignore_label), notes


def _map_cases(
    function: Callable[[LearningCase], Result],
    cases: Sequence[LearningCase],
    num_workers: int,
    listen: Listener,
    step: str,
) -> tuple[list[tuple[LearningCase, Result]], list[str]]:
    """Return what a function makes of each case, in the order of the cases, and what is wrong with the others."""
    found: dict[int, Result] = {}
    failed = []
    outcomes = run_in_workers(function, cases, num_workers=num_workers, name_of=lambda case: case.name)
    for count, outcome in enumerate(outcomes, start=1):
        if outcome.error is not None:
            failed.append(f"{outcome.item.name}: {outcome.error.problem}")
        elif outcome.result is not None:
            found[outcome.index] = outcome.result
        listen(Progress(step=step, done=count, total=len(cases), item=outcome.item.name))
    return [(cases[index], found[index]) for index in sorted(found)], sorted(failed)


def _confirm(
    rules: tuple[LabelRule, ...],
    cases: Sequence[LearningCase],
    task: LearningTask,
    limits: Limits,
    run: Callable[..., tuple[list[tuple[LearningCase, CleanedCase]], list[str]]],
) -> tuple[tuple[LabelRule, ...], list[CleanedCase]]:
    """Apply rules to whole masks, and drop those of labels that lose; return what is left, and what it does.

    The choice looked at each operation by itself. In a mask they meet: a region that is taken out takes the regions
    inside along, and a hole may be filled that a removal has opened.
    """
    while rules:
        done, _ = run(functools.partial(clean_files, task=task, rules=rules), cases, step="confirmed")
        cleaned = [result for _, result in done]
        changes = np.array([np.subtract(case.after, case.before) for case in cleaned])
        losers = (changes.mean(axis=0) < 0) | (changes.min(axis=0) < -limits.max_harm)
        harmed = {value for target, loses in zip(task.targets, losers, strict=True) if loses for value in target.values}
        if not harmed:
            return rules, cleaned
        left = tuple(rule for rule in rules if not harmed & set(rule.values))
        rules = left if len(left) < len(rules) else ()
    return (), []


def _describe_labels(
    done: Sequence[tuple[LearningCase, CaseTable]], cleaned: Sequence[CleanedCase], targets: Sequence[Target]
) -> dict[str, Any]:
    """Return the mean Dice of every label over all cases, before and after; the same where no rule is kept."""
    described = {}
    for index, target in enumerate(targets):
        if cleaned:
            before, after = (float(np.mean([getattr(c, key)[index] for c in cleaned])) for key in ("before", "after"))
        else:
            before = float(np.mean([t.measure_dice(index, t.keep_foreground(NOTHING), NOTHING) for _, t in done]))
            after = before
        described[target.name] = {"dice_before": before, "dice_after": after}
    return described

"""Turn the tables of a manifest into its typed parts, noting every problem on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stu_pipeline.errors import StuError
from stu_pipeline.networks.scales import Scale, parse_scale
from stu_pipeline.study.arm_options import read_plan_options, read_train_options
from stu_pipeline.study.fields import Fields
from stu_pipeline.study.manifest import (
    KINDS,
    NAME,
    RESENC_PRESETS,
    STU_KINDS,
    Arm,
    Budget,
    Comparison,
    LearningCurve,
    Manifest,
    StudyDataset,
)
from stu_pipeline.study.manifest_datasets import parse_datasets
from stu_pipeline.training.config import DEFAULT_LEARNING_RATE, DEVICES, PRECISIONS

_DEFAULT_TOLERANCE_MM = 1.0
_DEFAULT_GPU_MEMORY_GIB = 8.0


def parse_manifest(top: Fields, path: Path, data_problems: list[str]) -> Manifest | None:
    """Read a whole manifest.

    Args:
        top: the file's content; its problems grow.
        path: of the file, absolute; relative paths in it are beside it.
        data_problems: what is wrong with the datasets themselves; grows.

    Returns:
        None where the problems leave nothing to build from.
    """
    problems = top.problems
    before = len(problems)
    name = top.text("name", default=path.stem)
    if not NAME.match(name):
        top.complain("name", f"must be letters, digits and '-', found '{name}'")
    folder = top.text("folder", default=f"{name}.study")
    arms = _parse_arms(top, path.parent)
    scales = _parse_scales(top, arms)
    curve = _parse_curve(top)
    folds = top.integers("folds", default=() if curve else (0,))
    if curve is not None and folds:
        top.complain("folds", "and 'learning_curve' exclude each other")
    datasets = parse_datasets(top.tables("datasets"), path.parent, data_problems, problems)
    if not top.has("datasets"):
        top.complain("datasets", "is missing: a study needs at least one, written [[datasets]]")
    budget = _parse_budget(top.table("budget"))
    comparisons = _parse_comparisons(top, arms)
    pretraining = top.table("pretraining")
    labels = pretraining.texts("labels")
    pretraining.close()
    seeds = top.integers("seeds", default=(0,))
    configuration = top.text("configuration") or None
    top.close()
    _check_curve(curve, datasets, data_problems)
    _check_weights(arms, scales, problems)
    if len(problems) > before or data_problems or budget is None:
        return None
    return Manifest(
        path=path,
        name=name,
        folder=(path.parent / Path(folder).expanduser()).absolute(),
        datasets=tuple(datasets),
        arms=tuple(arms),
        scales=scales,
        seeds=seeds,
        folds=folds,
        curve=curve,
        budget=budget,
        comparisons=comparisons,
        pretraining_labels=labels,
        configuration=configuration,
    )


def _parse_arms(top: Fields, beside: Path) -> list[Arm]:
    tables = top.tables("arms")
    if not tables:
        top.complain("arms", "is missing: a study needs at least one, written [[arms]]")
    arms = [_parse_arm(table, beside) for table in tables]
    names = [arm.name for arm in arms]
    for name in sorted({name for name in names if names.count(name) > 1}):
        top.complain("arms", f"has the name '{name}' twice")
    for arm, table in zip(arms, tables, strict=True):
        others = [other.name for other in arms if other.is_stu and other.name != arm.name and other.plan_of is None]
        if arm.plan_of is not None and (not arm.is_stu or arm.plan_of not in others):
            table.complain("plan_of", f"must name another STU-Net arm with a plan of its own, found '{arm.plan_of}'")
        if arm.plan_of is not None and arm.plan:
            table.complain("plan", "goes without 'plan_of': the plan is the other arm's")
    return arms


def _parse_arm(table: Fields, beside: Path) -> Arm:
    name = table.text("name", is_required=True)
    if name and not NAME.match(name):
        table.complain("name", f"must be letters, digits and '-', found '{name}'")
    kind: Any = table.text("kind", choices=KINDS, is_required=True, default="scratch")
    weights = _parse_weights(table.table("weights"), beside)
    preset = table.text("preset", choices=RESENC_PRESETS, default="M")
    for key, own in (("preset", ("resenc",)), ("weights", ("pretrained",)), ("recipe", ("pretrained",)),
                     ("plan", STU_KINDS)):  # fmt: skip
        if table.has(key) and kind not in own:
            table.complain(key, f"is for arms of kind {', '.join(own)}, this one is '{kind}'")
    recipe = table.text("recipe") or None
    plan_of = table.text("plan_of") or None
    some_weights = next((path for path in weights.values() if path.is_file()), None)
    plan = read_plan_options(table.table("plan"), beside, some_weights)
    train = read_train_options(table.table("train"), beside, some_weights, recipe)
    table.close()
    return Arm(
        name=name,
        kind=kind,
        weights=weights,
        preset=preset,
        plan_of=plan_of,
        plan=plan,
        train=train,
    )


def _parse_weights(table: Fields, beside: Path) -> dict[Scale, Path]:
    weights: dict[Scale, Path] = {}
    for key, value in table.raw().items():
        try:
            scale = parse_scale(key)
        except StuError:
            table.complain(key, "is not a scale, expected S, B, L or H")
            continue
        if not isinstance(value, str):
            table.complain(key, "must be the path of a file of weights")
            continue
        weights[scale] = (beside / Path(value).expanduser()).absolute()
        if not weights[scale].is_file():
            table.complain(key, f"names '{value}', which is not there")
    return weights


def _parse_scales(top: Fields, arms: list[Arm]) -> tuple[Scale, ...]:
    scales: list[Scale] = []
    for text in top.texts("scales"):
        try:
            scales.append(parse_scale(text))
        except StuError:
            top.complain("scales", f"holds '{text}', expected S, B, L or H")
    if not scales and any(arm.is_stu for arm in arms) and not top.has("scales"):
        top.complain("scales", "is missing: which of S, B, L and H the STU-Net arms have")
    return tuple(dict.fromkeys(scales))


def _parse_curve(top: Fields) -> LearningCurve | None:
    if not top.has("learning_curve"):
        return None
    table = top.table("learning_curve")
    numbers = table.integers("num_training_cases", least=1)
    num_validation = table.integer("num_validation_cases", least=1)
    seed = table.integer("validation_seed", default=0)
    table.close()
    for key, value in (("num_training_cases", numbers), ("num_validation_cases", num_validation)):
        if not value and not table.has(key):
            table.complain(key, "is missing")
    return LearningCurve(
        num_training_cases=tuple(sorted(numbers)), num_validation_cases=num_validation or 1, seed=seed or 0
    )


def _parse_budget(table: Fields) -> Budget | None:
    epochs = table.integer("epochs", least=1)
    iterations = table.integer("iterations", least=1, default=250)
    if not table.has("epochs"):
        table.complain("epochs", "is missing: how long every cell trains")
    budget = Budget(
        num_epochs=epochs or 1,
        num_iterations=iterations or 1,
        learning_rate=table.number("learning_rate", default=DEFAULT_LEARNING_RATE) or DEFAULT_LEARNING_RATE,
        fine_tuning_learning_rate=table.number("fine_tuning_learning_rate"),
        precision=table.text("precision", default="auto", choices=PRECISIONS),
        device=table.text("device", default="auto", choices=DEVICES),
        gpu_memory_gib=table.number("gpu_memory_gib", default=_DEFAULT_GPU_MEMORY_GIB) or _DEFAULT_GPU_MEMORY_GIB,
        num_workers=table.integer("workers"),
        tolerance_mm=table.number("tolerance_mm", default=_DEFAULT_TOLERANCE_MM) or _DEFAULT_TOLERANCE_MM,
    )
    table.close()
    return budget


def _parse_comparisons(top: Fields, arms: list[Arm]) -> tuple[Comparison, ...]:
    names = [arm.name for arm in arms]
    found = []
    for table in top.tables("comparisons"):
        arm = table.text("arm", is_required=True, choices=names)
        baseline = table.text("baseline", is_required=True, choices=names)
        table.close()
        if arm and arm == baseline:
            table.complain("baseline", f"is the arm itself, '{arm}'")
        found.append(Comparison(arm=arm, baseline=baseline))
    if found or len(names) < 2 or top.has("comparisons"):
        return tuple(found)
    # Without a wish, every arm has to beat the first.
    return tuple(Comparison(arm=name, baseline=names[0]) for name in names[1:])


def _check_curve(curve: LearningCurve | None, datasets: list[StudyDataset], problems: list[str]) -> None:
    if curve is None or not curve.num_training_cases:
        return
    needed = curve.num_training_cases[-1] + curve.num_validation_cases
    problems += [
        f"dataset '{dataset.name}' has {len(dataset.case_ids)} cases, the learning curve needs {needed}: "
        f"{curve.num_training_cases[-1]} to train and {curve.num_validation_cases} to validate"
        for dataset in datasets
        if len(dataset.case_ids) < needed
    ]


def _check_weights(arms: list[Arm], scales: tuple[Scale, ...], problems: list[str]) -> None:
    for arm in arms:
        missing = [scale for scale in scales if scale not in arm.weights]
        if arm.kind == "pretrained" and missing:
            problems.append(f"arm '{arm.name}' has no weights for scale {', '.join(missing)}")

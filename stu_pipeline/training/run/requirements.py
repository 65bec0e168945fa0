"""What must be there before a training starts: plan, fold, preprocessed data, previous stage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stu_pipeline.datasets.splits.files import read_splits
from stu_pipeline.errors import DataError, UsageError
from stu_pipeline.training.config import TrainConfig
from stu_pipeline.workspace import DatasetPaths, next_stage_folder

if TYPE_CHECKING:
    from stu_pipeline.planfile import PlanFile


def find_plan(dataset: DatasetPaths, config: TrainConfig) -> PlanFile:
    """Find the plan to train: by name, by scale, or the only one there is.

    A training that begins with weights takes the plan that was made for them, where there is one; one from scratch
    takes a plan that was made for none.

    Raises:
        ModelError: it does not exist.
        UsageError: there are several and none was chosen.
    """
    from stu_pipeline.networks.scales import SCALES, parse_scale
    from stu_pipeline.planfile import list_plan_names, read_plan_file

    if config.plan_name is not None:
        return read_plan_file(dataset.plan_file(config.plan_name))
    scale = None if config.scale in (None, "auto") else parse_scale(str(config.scale))
    usual = dataset.plan_file(SCALES[scale or "B"].plan_name)
    if scale is not None and config.pretrained is None and usual.is_file():
        return read_plan_file(usual)
    names = [name for name in list_plan_names(dataset.preprocessed) if name.startswith("stu")]
    plans = [read_plan_file(dataset.plan_file(name)) for name in names]
    found = _choose_made_for(plans, config, scale) or _choose_by_scale(plans, scale)
    if found is None and scale is None and len(plans) > 1:
        raise UsageError(
            f"'{dataset.name}' has several plans: {', '.join(names)}", hint="choose one with --scale or --plan"
        )
    return found or read_plan_file(usual)


def _choose_made_for(plans: Sequence[PlanFile], config: TrainConfig, scale: str | None) -> PlanFile | None:
    """Return the plan that was made for the weights of `--pretrained`."""
    if config.pretrained is None:
        return None
    made_for = [(plan, made) for plan in plans if (made := plan.pretrained) and scale in (None, plan.scale)]
    if len(made_for) < 2:
        return made_for[0][0] if made_for else None
    from stu_pipeline.plan_pretrained import pretrained_plan_name
    from stu_pipeline.transfer.files.reading import read_weight_file

    weights = read_weight_file(config.pretrained, sidecar=config.sidecar)
    same = [plan for plan, made in made_for if made.identity == weights.identity]
    usual = pretrained_plan_name(weights.network.scale)
    named = [plan for plan in same or [plan for plan, _ in made_for] if plan.name == usual]
    return next(iter(named or same), None)


def _choose_by_scale(plans: Sequence[PlanFile], scale: str | None) -> PlanFile | None:
    """Return the only plan of a scale (of any, for None), not counting those made for weights where there are others.

    None where there is none, or where several are left and none has the usual name.
    """
    from stu_pipeline.networks.scales import SCALES

    fitting = [plan for plan in plans if scale in (None, plan.scale)]
    plain = [plan for plan in fitting if plan.pretrained is None]
    usual = [plan for plan in plain if scale is not None and plan.name == SCALES[scale].plan_name]  # type: ignore[index]
    left = usual or plain or fitting
    return left[0] if len(left) == 1 else None


def require_fold(dataset: DatasetPaths, fold: int | str) -> int:
    """Return how many folds there are.

    Raises:
        UsageError: the one asked for is not among them.
    """
    from stu_pipeline.datasets.splits.files import read_splits

    num_folds = len(read_splits(dataset.splits)) if dataset.splits.is_file() else 5
    if fold != "all" and int(fold) >= num_folds:
        raise UsageError(
            f"fold {fold} does not exist, '{dataset.name}' has folds 0 to {num_folds - 1}",
            where=dataset.splits,
            hint="choose one of these, or 'all'",
        )
    return num_folds


def require_preprocessed(dataset: DatasetPaths, plan: PlanFile, configuration: str) -> None:
    """Require every case of the splits to be preprocessed, and the previous stage of a cascade predicted.

    Raises:
        DataError: something is missing; the cases are named.
    """
    from stu_pipeline.nnunet.preprocessor import case_files

    identifier = plan.configuration(configuration).data_identifier
    folder = dataset.data_folder(identifier)
    hint = f"{_name_plan_command(dataset, plan)} --configuration {configuration}"
    missing = [case for case in _list_cases(dataset, folder) if not all(p.is_file() for p in case_files(folder, case))]
    if not folder.is_dir() or missing:
        problem = f"{len(missing)} cases are not preprocessed" if folder.is_dir() else "data is not preprocessed"
        raise DataError(
            f"{problem} for configuration '{configuration}'", where=folder, hint=hint, details=tuple(missing[:10])
        )
    _require_previous_stage(dataset, plan, configuration)


def _name_plan_command(dataset: DatasetPaths, plan: PlanFile) -> str:
    """Name the command that would make this plan again."""
    from stu_pipeline.networks.scales import SCALES

    command = f"stu plan {dataset.name}"
    if plan.scale is None:
        return f"{command} --plan {plan.name}"
    command += f" --scale {plan.scale}"
    memory_gib = plan.raw.get("stu", {}).get("gpu_memory_gib")
    command += f" --gpu-memory {memory_gib:g}" if memory_gib else ""
    return command if plan.name == SCALES[plan.scale].plan_name else f"{command} --plan {plan.name}"


def _list_cases(dataset: DatasetPaths, folder: Path) -> list[str]:
    from stu_pipeline.datasets.splits.files import read_splits

    if dataset.splits.is_file():
        return sorted({case for split in read_splits(dataset.splits) for case in (*split["train"], *split["val"])})
    return sorted(path.stem for path in folder.glob("*.pkl")) if folder.is_dir() else []


def _require_previous_stage(dataset: DatasetPaths, plan: PlanFile, configuration: str) -> None:
    previous = plan.configuration(configuration).previous_stage
    if previous is None:
        return
    source = next_stage_folder(dataset.model_folder(plan.name, previous), configuration)
    data = dataset.data_folder(plan.configuration(configuration).data_identifier)
    missing = [case for case in _list_cases(dataset, data) if not (source / f"{case}.b2nd").is_file()]
    if missing:
        folds = ",".join(str(fold) for fold in range(len(read_splits(dataset.splits))))
        raise DataError(
            f"configuration '{configuration}' needs predictions of '{previous}', {len(missing)} cases are missing",
            where=source,
            hint=f"train all folds of {previous} first: "
            f"stu train {dataset.name} --plan {plan.name} --configuration {previous} --fold {folds}",
            details=tuple(missing[:10]),
        )

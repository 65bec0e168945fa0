"""Find the model folder of a dataset by scale or plan."""

from __future__ import annotations

from pathlib import Path

from stu_pipeline.errors import ModelError, UsageError
from stu_pipeline.networks.scales import SCALES, parse_scale
from stu_pipeline.prediction.models.folds import NAME_PARTS
from stu_pipeline.workspace import DatasetPaths, find_dataset

DEFAULT_CONFIGURATION = "3d_fullres"


def find_model(
    dataset: str, *, scale: str | None = None, plan: str | None = None, configuration: str | None = None
) -> Path:
    """Return the model folder of a dataset.

    Args:
        dataset: id, name or path.
        scale: `S`, `B`, `L`, `H` or a long name.
        plan: a plan name, instead of the scale. With neither, the only model there is.
        configuration: None takes `3d_fullres`, or the only one there is.

    Raises:
        DataError: no such dataset.
        ModelError: no such model; the message lists what is there.
        UsageError: both scale and plan, or several models fit.
    """
    if scale is not None and plan is not None:
        raise UsageError("give either a scale or a plan, not both")
    paths = find_dataset(dataset)
    plan = SCALES[parse_scale(scale)].plan_name if scale is not None else plan
    found = _list_models(paths)
    fitting = [
        folder
        for folder, (of_plan, of_configuration) in found.items()
        if plan in (None, of_plan) and configuration in (None, of_configuration)
    ]
    if len(fitting) > 1:
        standard = [folder for folder in fitting if found[folder][1] == DEFAULT_CONFIGURATION]
        fitting = standard if len(standard) == 1 else fitting
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        raise _explain_missing(paths, plan, configuration, found)
    raise UsageError(
        f"{len(fitting)} models of '{paths.name}' fit: {', '.join(folder.name for folder in fitting)}",
        where=paths.results,
        hint="choose one with --scale, --plan, --configuration or -m",
    )


def _list_models(paths: DatasetPaths) -> dict[Path, tuple[str, str]]:
    """List the model folders of a dataset with plan name and configuration, by name."""
    if not paths.results.is_dir():
        return {}
    parts = {folder: folder.name.split("__") for folder in sorted(paths.results.iterdir()) if folder.is_dir()}
    return {folder: (names[1], names[2]) for folder, names in parts.items() if len(names) == NAME_PARTS}


def _explain_missing(
    paths: DatasetPaths, plan: str | None, configuration: str | None, found: dict[Path, tuple[str, str]]
) -> ModelError:
    wanted = " ".join(
        part
        for part in (f"plan '{plan}'" * bool(plan), f"configuration '{configuration}'" * bool(configuration))
        if part
    )
    listed = ", ".join(folder.name for folder in found) or "none"
    letter = next((spec.letter for spec in SCALES.values() if spec.plan_name == plan), None)
    which = f" --scale {letter}" if letter else f" --plan {plan}" if plan else ""
    return ModelError(
        f"no trained model of '{paths.name}'{f' with {wanted}' if wanted else ''}, found: {listed}",
        where=paths.results,
        hint=f"stu train {paths.name}{which} --fold 0",
    )

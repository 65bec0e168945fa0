"""Plan for the weights that a training will start from: their scale, and what of their training does not match.

Reads: the file of weights. Nothing of it but names and numbers stays in memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from stu_pipeline.errors import ModelError
from stu_pipeline.networks.scales import Scale
from stu_pipeline.plan_pretrained import PretrainedStart, find_pretrained
from stu_pipeline.planfile import STU_KEY
from stu_pipeline.planning.carried_normalisation import warn_of_normalisation
from stu_pipeline.planning.config import PlanConfig
from stu_pipeline.planning.fit import Fit

if TYPE_CHECKING:
    from stu_pipeline.transfer.weight_file import WeightFile

# Our line: twice or half along an axis. Published is that far matters: Wald et al. (arXiv 2410.23132) report a Dice of
# 28.7 against 42.6 on aneurysms in ToF.
_FAR_RATIO = 2.0


def read_start(config: PlanConfig) -> PretrainedStart | None:
    """Read the weights that the plan is to be made for; None where none are named.

    Raises:
        ModelError: the file is refused, or is of another scale than the one asked for.
        NonFiniteError: the weights are not finite.
    """
    if config.pretrained is None:
        return None
    from stu_pipeline.transfer.files.reading import read_weight_file

    start = describe_weights(
        read_weight_file(config.pretrained, sidecar=config.sidecar),
        takes_geometry=config.keep_geometry,
        any_normalisation=config.any_normalisation,
    )
    wanted = config.wanted_scale
    if wanted is not None and wanted != start.scale:
        raise ModelError(
            f"weights '{start.file}' are of scale {start.scale}, so no plan of scale {wanted} can start from them: "
            "the tensors of one scale do not fit another",
            where=config.pretrained,
            hint=f"--scale {start.scale}, or weights of scale {wanted}",
        )
    return start


def describe_weights(
    weights: WeightFile, *, takes_geometry: bool = False, any_normalisation: bool = False
) -> PretrainedStart:
    """Describe weights as a plan does, without their tensors."""
    facts = weights.facts
    return PretrainedStart(
        file=weights.path.name,
        identity=weights.identity,
        scale=weights.network.scale,
        num_axes=weights.num_axes,
        num_input_channels=weights.network.num_input_channels,
        strides=facts.strides,
        spacing_mm=facts.spacing_mm,
        patch_voxels=facts.patch_voxels,
        normalization_schemes=facts.normalization_schemes,
        use_mask_for_norm=facts.use_mask_for_norm,
        transpose_forward=facts.transpose_forward,
        source=facts.source,
        takes_geometry=takes_geometry,
        any_normalisation=any_normalisation,
    )


def recall_start(
    start: PretrainedStart | None, story: Mapping[str, Any], scale: Scale | None
) -> PretrainedStart | None:
    """Return the weights to plan for: those that are named, else those of the existing plan.

    Args:
        start: the weights that are named now.
        story: our block of the existing plan of that name; empty without one.
        scale: the scale asked for.

    Raises:
        ModelError: the existing plan is of another scale, or its description of weights is malformed.
    """
    planned = story.get("scale")
    if start is not None:
        if planned is not None and planned != start.scale:
            raise ModelError(
                f"the plan of that name is of scale {planned}, weights '{start.file}' are of scale {start.scale}",
                hint="--plan NAME with another name, or weights of that scale",
            )
        return start
    try:
        known = find_pretrained(story)
    except ValueError as error:
        raise ModelError(f"the plan of that name cannot be continued, {error}", hint="--pretrained FILE") from error
    if known is not None and scale not in (None, known.scale):
        raise ModelError(
            f"the plan of that name is for weights '{known.file}' of scale {known.scale}, not {scale}",
            hint="--plan NAME with another name",
        )
    return known


def accept_strides(start: PretrainedStart, fits: Sequence[Fit]) -> PretrainedStart:
    """Note whether a configuration with the axes of the weights has other strides, or theirs are unknown."""
    others = [fit for fit in fits if len(fit.patch) == start.num_axes and fit.strides != start.strides]
    return replace(start, accepts_other_strides=bool(others))


def list_warnings(
    start: PretrainedStart,
    plan: Mapping[str, Any],
    fits: Mapping[str, Fit],
    *,
    main: str,
    wanted: Sequence[str],
    num_channels: int,
) -> list[str]:
    """List what makes the weights a less likely help.

    Args:
        start: the weights.
        plan: the plan as it would be written.
        fits: what its configurations got, those that inherit left out.
        main: the configuration that is trained first.
        wanted: configurations that were asked for; empty asks for `main`.
        num_channels: of the dataset.
    """
    warnings = [
        warn_of_normalisation(start, plan["configurations"][main]),
        _warn_of_spacing(start, fits[main]),
        _warn_of_strides(start, fits[main]),
        _warn_of_axes(start, wanted or (main,), fits),
    ]
    if start.num_input_channels != num_channels:
        warnings.append(
            f"the weights have {_count(start.num_input_channels, 'input channel')}, this dataset has {num_channels}: "
            "their first layer is adapted"
        )
    return [text for text in warnings if text]


def is_start_kept(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Tell whether two plans start from the same weights; a description that cannot be read equals none."""
    try:
        starts = [find_pretrained(plan.get(STU_KEY)) for plan in (first, second)]
    except ValueError:
        return False
    if starts[0] is None or starts[1] is None:
        return starts[0] is starts[1]
    return starts[0].is_same_start(starts[1])


def _warn_of_spacing(start: PretrainedStart, fit: Fit) -> str:
    here = fit.demand.spacing_mm
    # Flat images are compared with the slices of the volumes that 3D weights saw.
    there = (start.spacing_mm or ())[-len(here) :]
    if len(here) != len(there):
        return ""
    ratios = [ours / theirs for ours, theirs in zip(here, there, strict=True)]
    if all(1 / _FAR_RATIO <= ratio <= _FAR_RATIO for ratio in ratios):
        return ""
    listed = " x ".join(f"{ratio:.2g}" for ratio in ratios)
    return (
        f"spacing {_join(here)} mm is {listed} times the pre-training's {_join(there)}: weights from so far away are "
        "unlikely to help, and can harm (aneurysms in ToF, arXiv 2410.23132: Dice 28.7 against 42.6); compare with a "
        "training from scratch, or plan with --pretrained-geometry"
    )


def _warn_of_strides(start: PretrainedStart, fit: Fit) -> str:
    if len(fit.strides[0]) != start.num_axes:
        return ""
    if start.strides is None:
        return f"the strides of the pre-training are not known ({start.source}); those of the plan may be others"
    if start.strides == fit.strides:
        return ""
    return (
        f"strides {_list_strides(fit.strides)} differ from the pre-training's {_list_strides(start.strides)}: usual in "
        "fine-tuning, every weight still fits, but it saw other neighbourhoods"
    )


def _warn_of_axes(start: PretrainedStart, names: Sequence[str], fits: Mapping[str, Fit]) -> str:
    others = [name for name in names if name in fits and len(fits[name].patch) != start.num_axes]
    if not others:
        return ""
    if start.num_axes > len(fits[others[0]].patch):
        return f"{', '.join(others)}: the kernels of the weights are 3D and are summed along their first axis"
    return f"{', '.join(others)}: the weights are 2D, so no 3D configuration can start from them; train the 2d one"


def _join(spacing_mm: Sequence[float]) -> str:
    return " x ".join(f"{step:.3g}" for step in spacing_mm)


def _list_strides(strides: Sequence[Sequence[int]]) -> str:
    return " ".join("x".join(str(step) for step in stride) for stride in strides[1:])


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"

"""Normalise the images of a new dataset as those of a pre-training were, where that is known and makes sense."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from stu_pipeline.plan_pretrained import PretrainedStart

# These look at one image and take any values. The others need statistics of the dataset, or bytes.
_CARRIED_SCHEMES = frozenset({"ZScoreNormalization", "RescaleTo01Normalization", "NoNormalization"})
T = TypeVar("T")


def carry_normalisation(draft: Mapping[str, Any], start: PretrainedStart) -> dict[str, Any]:
    """Return a draft that normalises as the pre-training did, where that is known and can be carried over.

    One scheme of the pre-training serves every channel; several serve as many channels in their order. Only schemes
    that look at one image are carried: the statistics of another dataset would not fit.
    """
    plan = copy.deepcopy(dict(draft))
    for configuration in plan["configurations"].values():
        if "normalization_schemes" not in configuration:
            continue
        carried = _choose_schemes(start, configuration)
        if carried is not None:
            configuration["normalization_schemes"], configuration["use_mask_for_norm"] = carried
    return plan


def explain_normalisation(planned: Mapping[str, Any], carried: Mapping[str, Any], start: PretrainedStart) -> list[str]:
    """Say in a line how a configuration is normalised and whose choice that is; none where nothing was carried.

    Args:
        planned: the configuration as nnU-Net drafted it, resolved.
        carried: the same after `carry_normalisation`.
        start: the weights.
    """
    before, after = (_describe_schemes(item) for item in (planned, carried))
    if before != after:
        return [f"normalisation: {after}, as the weights '{start.file}' were trained, instead of {before}"]
    if _choose_schemes(start, carried) is not None:
        return [f"normalisation: {after}, nnU-Net's and the pre-training's"]
    return []


def warn_of_normalisation(start: PretrainedStart, configuration: Mapping[str, Any]) -> str:
    """Return a warning where a configuration is normalised in a way that the weights did not see, or may not have."""
    own = _describe_schemes(configuration)
    if start.normalization_schemes is None:
        return (
            f"how the images of the pre-training were normalised is not known ({start.source}), so the plan keeps its "
            f"own way: {own}; --sidecar FILE names what was stored beside the weights"
        )
    if _choose_schemes(start, configuration) is not None:
        return ""
    seen = ", ".join(dict.fromkeys(scheme.removesuffix("Normalization") for scheme in start.normalization_schemes))
    if start.any_normalisation and seen != own:
        return f"the weights saw images normalised by {seen}, the plan keeps {own} as asked for: training has to adapt"
    if set(start.normalization_schemes) <= set(configuration["normalization_schemes"]):
        return ""
    return f"the weights saw images normalised by {seen}, which cannot be carried over; the plan keeps {own}"


def _choose_schemes(start: PretrainedStart, configuration: Mapping[str, Any]) -> tuple[list[str], list[bool]] | None:
    """Return schemes and masks of the pre-training for the channels of a configuration; None keeps its own."""
    schemes = start.normalization_schemes
    if schemes is None or start.any_normalisation or not set(schemes) <= _CARRIED_SCHEMES:
        return None
    own_masks = [bool(flag) for flag in configuration["use_mask_for_norm"]]
    carried = _spread(schemes, len(own_masks))
    masks = own_masks if start.use_mask_for_norm is None else _spread(start.use_mask_for_norm, len(own_masks))
    return None if carried is None or masks is None else (carried, masks)


def _spread(values: Sequence[T], num_channels: int) -> list[T] | None:
    """Give every channel its value: all the same, or one for each; None where they are of other channels."""
    if len(set(values)) == 1:
        return [values[0]] * num_channels
    return list(values) if len(values) == num_channels else None


def _describe_schemes(configuration: Mapping[str, Any]) -> str:
    pairs = zip(configuration["normalization_schemes"], configuration["use_mask_for_norm"], strict=True)
    names = [scheme.removesuffix("Normalization") + (" inside the object" if mask else "") for scheme, mask in pairs]
    return ", ".join(dict.fromkeys(names))

"""What a plan says about one case, as typed values, and which plans need nnU-Net's own code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stu_pipeline.nnunet.reader_properties import READERS
from stu_pipeline.plan_architecture import resolve_configuration
from stu_pipeline.preparation.interpolation import SPLINE_ORDERS
from stu_pipeline.preparation.label_resampling import LABEL_ORDERS
from stu_pipeline.preparation.normalisation import NORMALISATIONS, Normalisation
from stu_pipeline.preparation.target_grid import ANISOTROPY_THRESHOLD

_PREPROCESSOR = "DefaultPreprocessor"
_RESAMPLING = "resample_data_or_seg_to_shape"
_LABEL_MANAGER = "LabelManager"
_KNOWN_ARGUMENTS = frozenset({"is_seg", "order", "order_z", "force_separate_z", "separate_z_anisotropy_threshold"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Resampling:
    """How images or label maps are resampled."""

    order: int
    separate_order: int = 0
    force_separate: bool | None = None
    threshold: float = ANISOTROPY_THRESHOLD


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseSettings:
    """What decides the arrays of a case. Axes of `spacing_mm` and `patch_size` are those after `transpose`."""

    reader: str
    transpose: tuple[int, int, int]
    spacing_mm: tuple[float, ...]
    patch_size: tuple[int, ...]
    normalisations: tuple[Normalisation, ...]
    image_resampling: Resampling
    label_resampling: Resampling


def find_engine_reasons(plan: Mapping[str, Any], configuration: str) -> tuple[str, ...]:
    """List what in a configuration only nnU-Net's own code can do; empty when ours does it all.

    Args:
        plan: the content of a plan file.
        configuration: its name; what it inherits is resolved.
    """
    resolved = resolve_configuration(plan["configurations"], configuration)
    named = (
        ("image reader", plan["image_reader_writer"], READERS),
        ("label manager", plan.get("label_manager", _LABEL_MANAGER), (_LABEL_MANAGER,)),
        ("preprocessor", resolved["preprocessor_name"], (_PREPROCESSOR,)),
        ("image resampling", resolved["resampling_fn_data"], (_RESAMPLING,)),
        ("label resampling", resolved["resampling_fn_seg"], (_RESAMPLING,)),
        *(("normalisation", scheme, NORMALISATIONS) for scheme in resolved["normalization_schemes"]),
    )
    reasons = [f"{what} '{name}'" for what, name, known in named if name not in known]
    reasons += _check_arguments("image", resolved["resampling_fn_data_kwargs"], SPLINE_ORDERS, SPLINE_ORDERS)
    reasons += _check_arguments("label", resolved["resampling_fn_seg_kwargs"], LABEL_ORDERS, (0,))
    return tuple(reasons)


def read_case_settings(plan: Mapping[str, Any], configuration: str) -> CaseSettings:
    """Return the settings of a configuration for which `find_engine_reasons` is empty."""
    resolved = resolve_configuration(plan["configurations"], configuration)
    statistics = plan["foreground_intensity_properties_per_channel"]
    first, second, third = (int(axis) for axis in plan["transpose_forward"])
    return CaseSettings(
        reader=plan["image_reader_writer"],
        transpose=(first, second, third),
        spacing_mm=tuple(float(step) for step in resolved["spacing"]),
        patch_size=tuple(int(size) for size in resolved["patch_size"]),
        normalisations=tuple(
            Normalisation(scheme=scheme, within_mask=bool(within_mask), statistics=statistics.get(str(channel), {}))
            for channel, (scheme, within_mask) in enumerate(
                zip(resolved["normalization_schemes"], resolved["use_mask_for_norm"], strict=True)
            )
        ),
        image_resampling=_read_resampling(resolved["resampling_fn_data_kwargs"]),
        label_resampling=_read_resampling(resolved["resampling_fn_seg_kwargs"]),
    )


def _check_arguments(
    what: str, arguments: Mapping[str, Any], orders: tuple[int, ...], separate_orders: tuple[int, ...]
) -> list[str]:
    reasons = [f"{what} resampling with '{name}'" for name in sorted(set(arguments) - _KNOWN_ARGUMENTS)]
    if bool(arguments.get("is_seg", False)) != (what == "label"):
        reasons.append(f"{what} resampling with is_seg {arguments.get('is_seg', False)}")
    found = _read_resampling(arguments)
    if found.order not in orders:
        reasons.append(f"{what} resampling of order {found.order}")
    if found.separate_order not in separate_orders:
        reasons.append(f"{what} resampling of order {found.separate_order} along a separate axis")
    return reasons


def _read_resampling(arguments: Mapping[str, Any]) -> Resampling:
    # The defaults of nnU-Net where a plan is silent.
    return Resampling(
        order=int(arguments.get("order", 3)),
        separate_order=int(arguments.get("order_z", 0)),
        force_separate=arguments.get("force_separate_z", False),
        threshold=float(arguments.get("separate_z_anisotropy_threshold", ANISOTROPY_THRESHOLD)),
    )

"""What the networks of a plan see of a case, and the grids on the way back.

Our own arrays where they equal nnU-Net's (docs/decisions/0008), its code for plans that name anything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from stu_pipeline.errors import DataError
from stu_pipeline.inference.case_grid import CaseGrid
from stu_pipeline.nnunet.export_grid import is_export_known, make_case_grid, spacing_of
from stu_pipeline.nnunet.model import EngineModel
from stu_pipeline.nnunet.raw_case import RawCase, engine_errors, explain_memory
from stu_pipeline.preparation.case_settings import find_engine_reasons, read_case_settings
from stu_pipeline.preparation.prepare import PreparedImage, prepare_case, prepare_image
from stu_pipeline.preparation.target_grid import complete_target_spacing

Mask = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class PreparedCase:
    """What the network sees, float32 `(c, z, y, x)` in the plan's axes and spacing, and how to go back."""

    data: npt.NDArray[np.float32]
    grid: CaseGrid
    properties: dict[str, Any]
    """As nnU-Net hands them on to its export."""
    needs_engine_export: bool
    """Whether the plan resamples scores with something that only nnU-Net knows."""
    spacing_mm: tuple[float, ...]
    """Of the network's grid, in the plan's axes."""

    def without_voxels(self) -> PreparedCase:
        """Return the geometry alone, to free the memory of the voxels."""
        return replace(self, data=np.empty((0, 0, 0, 0), dtype=np.float32))


def prepare_raw_case(
    model: EngineModel, raw: RawCase, previous_mask: Mask | None = None, *, may_use_memory: bool = False
) -> PreparedCase:
    """Transpose, crop, normalise and resample a case as the plan says.

    Args:
        model: whose plan is applied.
        raw: the case.
        previous_mask: for a cascade, the mask of the previous stage `(z, y, x)` on the image's grid; one channel
            per foreground label is added.
        may_use_memory: whether the voxels of `raw` may be overwritten; they are copied otherwise.

    Raises:
        DataError: the case cannot be preprocessed.
        MemoryLimitError: it does not fit the memory.
    """
    _require_voxels_left(model, raw)
    if uses_engine(model):
        return _prepare_with_engine(model, raw, previous_mask)
    settings = read_case_settings(model.plans.plans, model.configuration_name)
    array = raw.array if may_use_memory else raw.array.copy()
    spacing = raw.properties["spacing"]
    try:
        if previous_mask is None:
            prepared, labels = prepare_image(array, spacing, settings), None
        else:
            prepared, labels = prepare_case(array, previous_mask, spacing, settings)
    except DataError as error:
        where = raw.case.image_files[0].parent
        raise DataError(f"case '{raw.case.id}' {error.problem}", where=where, hint=error.hint) from error
    except MemoryError as error:
        raise explain_memory(error, f"case '{raw.case.id}'") from error
    data = prepared.array if labels is None else _append_labels(model, prepared.array, labels)
    return _complete(model, np.ascontiguousarray(data), _describe(raw, prepared))


def describe_preparation(model: EngineModel) -> dict[str, Any]:
    """Return what of a plan decides the network's grid and intensities: models that agree see the same array."""
    plan, configuration = model.plans.plans, model.configuration.configuration
    named = ("preprocessor_name", "spacing", "normalization_schemes", "use_mask_for_norm")
    resampling = [key for key in configuration if key.startswith("resampling_fn_")]
    return {
        "reader": model.reader_name,
        "transpose": list(plan["transpose_forward"]),
        "intensities": plan.get("foreground_intensity_properties_per_channel"),
        "previous_stage": model.previous_stage,
        **{key: configuration.get(key) for key in (*named, *sorted(resampling))},
    }


def uses_engine(model: EngineModel) -> bool:
    """Tell whether cases of a plan are prepared by nnU-Net's own code."""
    try:
        return bool(find_engine_reasons(model.plans.plans, model.configuration_name))
    except KeyError:  # a plan of an older form: nnU-Net fills in what it lacks
        return True


def _append_labels(model: EngineModel, image: npt.NDArray[np.float32], labels: Mask) -> npt.NDArray[np.float32]:
    """Add one channel per foreground label of the previous stage."""
    foreground = model.labels.foreground_labels
    data = np.empty((len(image) + len(foreground), *image.shape[1:]), dtype=np.float32)
    data[: len(image)] = image
    for channel, label in zip(data[len(image) :], foreground, strict=True):
        np.equal(labels, label, out=channel, casting="unsafe")
    return data


def _describe(raw: RawCase, prepared: PreparedImage) -> dict[str, Any]:
    return {
        **raw.properties,
        "shape_before_cropping": prepared.shape_before_cropping,
        "bbox_used_for_cropping": [list(side) for side in prepared.box],
        "shape_after_cropping_and_before_resampling": prepared.shape_after_cropping,
    }


def _prepare_with_engine(model: EngineModel, raw: RawCase, previous_mask: Mask | None) -> PreparedCase:
    seg = None if previous_mask is None else previous_mask[None].astype(np.float32)
    preprocessor = model.configuration.preprocessor_class(verbose=False)
    with engine_errors(raw.case):
        data, seg, properties = preprocessor.run_case_npy(
            raw.array, seg, dict(raw.properties), model.plans, model.configuration, model.dataset_json
        )
        if previous_mask is not None:
            data = _append_labels(model, np.asarray(data, dtype=np.float32), seg[0])
    return _complete(model, np.ascontiguousarray(data, dtype=np.float32), properties)


def _complete(model: EngineModel, data: npt.NDArray[np.float32], properties: dict[str, Any]) -> PreparedCase:
    grid = make_case_grid(model.plans, model.configuration, data.shape[1:], properties)
    return PreparedCase(
        data=data,
        grid=grid,
        properties=properties,
        needs_engine_export=not is_export_known(model.configuration),
        spacing_mm=complete_target_spacing(spacing_of(model.plans, properties), model.configuration.spacing),
    )


def _require_voxels_left(model: EngineModel, raw: RawCase) -> None:
    """Refuse an image that resampling would leave without a voxel along some axis; cropping only makes it smaller."""
    axes = model.plans.transpose_forward
    shape = [raw.array.shape[1 + axis] for axis in axes]
    spacing = spacing_of(model.plans, raw.properties)
    target = complete_target_spacing(spacing, model.configuration.spacing)
    if all(round(size * step / wanted) >= 1 for size, step, wanted in zip(shape, spacing, target, strict=True)):
        return
    raise DataError(
        f"case '{raw.case.id}' has no voxel left at the model's spacing {_show(target)} mm: "
        f"{'x'.join(map(str, shape))} voxels of {_show(spacing)} mm",
        where=raw.case.image_files[0].parent,
        hint="correct the voxel size in the header, or use a model for images of this size",
    )


def _show(values: Sequence[float]) -> str:
    return " x ".join(f"{value:g}" for value in values)

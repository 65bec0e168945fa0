"""One case through nnU-Net's own preprocessing and back: read, prepare, and return logits to the image's grid.

Reads: the channel files of a case.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from stu_pipeline.datasets.cases import Case
from stu_pipeline.datasets.reading import Grid, read_channels
from stu_pipeline.errors import DataError, MemoryLimitError, ModelError
from stu_pipeline.nnunet.allowed_names import READERS
from stu_pipeline.nnunet.model import EngineModel
from stu_pipeline.nnunet.reader_properties import READERS as SAME_AXES_READERS
from stu_pipeline.nnunet.reader_properties import make_reader_properties

_LARGEST_BYTE_LABEL = 255
_REGION_THRESHOLD = 0.5
NUM_AXES = 3

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class RawCase:
    """A case as nnU-Net's reader gives it: float32 `(c, z, y, x)` with the reader's properties."""

    case: Case
    array: npt.NDArray[np.float32]
    properties: dict[str, Any]
    grid: Grid

    @property
    def voxel_ml(self) -> float | None:
        """Volume of one voxel in millilitres; None for a flat image."""
        return float(np.prod(self.grid.spacing_mm)) / 1000 if self.grid.num_dimensions == NUM_AXES else None


@dataclass(frozen=True, slots=True, eq=False)
class PreparedCase:
    """What the network sees, float32 `(c, z, y, x)` in the plan's axes and spacing, and how to go back."""

    data: npt.NDArray[np.float32]
    properties: dict[str, Any]


def make_reader(model: EngineModel) -> Any:
    """Make nnU-Net's reader-writer of a plan."""
    return model.plans.image_reader_writer_class()


def read_raw_case(model: EngineModel, case: Case) -> RawCase:
    """Read the files of a case, verified byte by byte, with the properties that the plan's own reader would give.

    Raises:
        DataError: damaged, not finite, channels that do not fit the model or each other, or an ending that the
            plan's reader cannot read.
    """
    endings = READERS[model.reader_name]
    if case.ending.lower() not in endings:
        raise DataError(
            f"'{case.image_files[0].name}' ends in {case.ending}, but the model reads {', '.join(endings)}",
            where=case.image_files[0].parent,
            hint=f"convert it to {model.dataset.file_ending}",
        )
    verified = read_channels(case.image_files)
    if len(verified.array) != model.num_image_channels:
        raise DataError(
            f"case '{case.id}' has {len(verified.array)} channels, the model expects {model.num_image_channels}",
            where=case.image_files[0].parent,
            hint=f"expected: {', '.join(model.dataset.channel_names.values())}",
        )
    if model.reader_name not in SAME_AXES_READERS:
        return _read_reoriented(model, case, verified.grid)
    # Reading again with nnU-Net's reader would cost as much, and fail on a direction that was repaired here.
    array = verified.array.astype(np.float32, copy=False)
    properties = make_reader_properties(verified.grid, model.reader_name)
    return RawCase(case=case, array=array, properties=properties, grid=verified.grid)


def prepare_case(model: EngineModel, raw: RawCase, previous_mask: Array | None = None) -> PreparedCase:
    """Transpose, crop, normalise and resample a case as the plan says.

    Args:
        model: whose plan is applied.
        raw: the case.
        previous_mask: for a cascade, the mask of the previous stage `(z, y, x)` on the image's grid; one channel
            per foreground label is added.

    Raises:
        DataError: the case cannot be preprocessed.
        MemoryLimitError: it does not fit the memory.
    """
    _require_voxels_left(model, raw)
    seg = None if previous_mask is None else previous_mask[None].astype(np.float32)
    preprocessor = model.configuration.preprocessor_class(verbose=False)
    with _engine_errors(raw.case):
        data, seg, properties = preprocessor.run_case_npy(
            raw.array, seg, dict(raw.properties), model.plans, model.configuration, model.dataset_json
        )
        if previous_mask is not None:
            one_hot = [seg[0] == label for label in model.labels.foreground_labels]
            data = np.concatenate([data, np.stack(one_hot).astype(np.float32)])
    return PreparedCase(data=np.ascontiguousarray(data, dtype=np.float32), properties=properties)


def resample_logits(model: EngineModel, logits: torch.Tensor, properties: dict[str, Any]) -> npt.NDArray[np.float32]:
    """Resample logits `(c, z, y, x)` back to the cropped image's grid, still in the plan's axes.

    Raises:
        MemoryLimitError: the full-size logits do not fit the memory.
    """
    spacing = [float(properties["spacing"][axis]) for axis in model.plans.transpose_forward]
    target = [int(size) for size in properties["shape_after_cropping_and_before_resampling"]]
    current = list(model.configuration.spacing)
    if len(current) < len(target):  # a 2D plan leaves the distance of the slices alone
        current = [spacing[0], *current]
    try:
        resampled = model.configuration.resampling_fn_probabilities(logits.numpy(), target, current, spacing)
    except (MemoryError, RuntimeError) as error:
        raise _explain_memory(error, f"{len(logits)} outputs of {'x'.join(map(str, target))} voxels") from error
    return np.asarray(resampled, dtype=np.float32)


def logits_to_mask(model: EngineModel, logits: Array, properties: dict[str, Any]) -> Array:
    """Turn resampled logits into a mask `(z, y, x)` on the image's own grid; on a tie the lower label wins."""
    # sigmoid(x) > 0.5 is x > 0, up to the rounding of the sigmoid, which has no say here.
    return _restore_grid(model, _decide(model, logits, threshold=0.0), properties)


def logits_to_probabilities(model: EngineModel, logits: Array, properties: dict[str, Any]) -> npt.NDArray[np.float32]:
    """Turn resampled logits into probabilities `(c, z, y, x)` on the image's own grid; outside the crop: background."""
    values = torch.from_numpy(np.ascontiguousarray(logits))
    is_regions = model.region_values is not None
    inside = (torch.sigmoid(values) if is_regions else torch.softmax(values, dim=0)).numpy()
    full = np.zeros((len(inside), *properties["shape_before_cropping"]), dtype=np.float32)
    if not is_regions:
        full[0] = 1
    full[(slice(None), *_crop_slices(properties))] = inside
    return full.transpose(0, *(axis + 1 for axis in model.plans.transpose_backward))


def probabilities_to_mask(model: EngineModel, probabilities: Array) -> Array:
    """Turn probabilities `(c, z, y, x)` on the image's own grid into a mask `(z, y, x)`."""
    return _decide(model, probabilities, threshold=_REGION_THRESHOLD)


def _decide(model: EngineModel, scores: Array, *, threshold: float) -> Array:
    """Argmax, or regions painted one over the other where they exceed the threshold. Slice by slice, to save memory."""
    regions = model.region_values
    highest = max(model.num_outputs - 1, *(regions or (0,)))
    mask = np.zeros(scores.shape[1:], dtype=np.uint8 if highest <= _LARGEST_BYTE_LABEL else np.uint16)
    for index in range(len(mask)):
        if regions is None:
            mask[index] = scores[:, index].argmax(axis=0)
            continue
        for channel, value in enumerate(regions):
            mask[index][scores[channel, index] > threshold] = value
    return mask


def _restore_grid(model: EngineModel, mask: Array, properties: dict[str, Any]) -> Array:
    full = np.zeros(properties["shape_before_cropping"], dtype=mask.dtype)
    full[_crop_slices(properties)] = mask
    return full.transpose(model.plans.transpose_backward)


def _crop_slices(properties: dict[str, Any]) -> tuple[slice, ...]:
    return tuple(slice(int(low), int(high)) for low, high in properties["bbox_used_for_cropping"])


def _require_voxels_left(model: EngineModel, raw: RawCase) -> None:
    """Refuse an image that resampling would leave without a voxel along some axis; cropping only makes it smaller."""
    axes = model.plans.transpose_forward
    shape = [raw.array.shape[1 + axis] for axis in axes]
    spacing = [float(raw.properties["spacing"][axis]) for axis in axes]
    target = list(model.configuration.spacing)
    target = [spacing[0], *target] if len(target) < NUM_AXES else target
    if all(round(size * step / wanted) >= 1 for size, step, wanted in zip(shape, spacing, target, strict=True)):
        return
    raise DataError(
        f"case '{raw.case.id}' has no voxel left at the model's spacing {_show(target)} mm: "
        f"{'x'.join(map(str, shape))} voxels of {_show(spacing)} mm",
        where=raw.case.image_files[0].parent,
        hint="correct the voxel size in the header, or use a model for images of this size",
    )


def _show(values: list[float]) -> str:
    return " x ".join(f"{value:g}" for value in values)


def _read_reoriented(model: EngineModel, case: Case, grid: Grid) -> RawCase:
    """Read a verified case again with a reader that turns the axes."""
    reader = make_reader(model)
    with _engine_errors(case):
        # File by file: nnU-Net compares the channels' grids without tolerance, and prints; that is done before.
        parts = [reader.read_images([str(file)]) for file in case.image_files]
    array = parts[0][0] if len(parts) == 1 else np.concatenate([part for part, _ in parts])
    return RawCase(case=case, array=array.astype(np.float32, copy=False), properties=parts[0][1], grid=grid)


@contextlib.contextmanager
def _engine_errors(case: Case) -> Iterator[None]:
    """Turn what nnU-Net raises on one case into our errors."""
    from nibabel.filebasedimages import ImageFileError

    folder: Path = case.image_files[0].parent
    try:
        yield
    except MemoryError as error:
        raise _explain_memory(error, f"case '{case.id}'") from error
    except (KeyError, IndexError, TypeError) as error:
        raise ModelError(f"plan does not fit case '{case.id}': {error!r}", where=folder) from error
    except (AssertionError, RuntimeError, ValueError, OSError, ImageFileError) as error:
        reason = next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), repr(error))
        raise DataError(f"case '{case.id}' cannot be preprocessed: {reason[:200]}", where=folder) from error


def _explain_memory(error: BaseException, what: str) -> BaseException:
    text = str(error)
    if isinstance(error, MemoryError) or "allocate" in text or "not enough memory" in text:
        return MemoryLimitError(f"not enough memory for {what}", hint="crop the image, or use a machine with more RAM")
    return error

"""What one case takes at each step, in bytes, from its headers: an upper bound, as if nothing were cropped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stu_pipeline.datasets.cases import Case
from stu_pipeline.datasets.formats.mha import read_mha_header
from stu_pipeline.datasets.formats.nifti import read_nifti_header
from stu_pipeline.datasets.formats.nrrd import read_nrrd_header
from stu_pipeline.datasets.reading import Grid, read_header
from stu_pipeline.inference.case_grid import CaseGrid
from stu_pipeline.inference.mask_canvas import choose_mask_type
from stu_pipeline.nnunet.model import EngineModel
from stu_pipeline.nnunet.prepared_case import uses_engine
from stu_pipeline.nnunet.raw_case import choose_sample_step
from stu_pipeline.nnunet.uncropped_case import describe_uncropped_case
from stu_pipeline.prediction.combining.ensemble import Ensemble
from stu_pipeline.prediction.config import PredictConfig
from stu_pipeline.prediction.memory.slabs_need import forecast_slabs
from stu_pipeline.preparation.memory import FLOAT_BYTES, forecast_preparing_bytes, forecast_reading_bytes

_HEADERS = {".nii.gz": read_nifti_header, ".nii": read_nifti_header, ".nrrd": read_nrrd_header, ".mha": read_mha_header}
# Of a mask, beside itself: a copy, ITK's image and the packed file; or the voxels read back, the packed file and the
# voxels that differ.
_WRITING_COPIES = 3
# One binary mask at a time, written and read back as the mask is.
_LABEL_FILE_COPIES = 4
# Frames of a DICOM SEG: what is kept of each label, its pixels, and the file.
_DICOM_COPIES = 4
# Of a label at work, per voxel of its box, here of the image: its members, the numbers of components, and those widened
# to be counted.
_CLEANING_BYTES = 13


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseNeed:
    """Bytes of one case. All are in RAM but `on_gpu` and `disk`."""

    case_id: str
    image_voxels: int
    network_voxels: int
    """Of the first group."""
    loading: int
    """At the worst moment while it is read and prepared."""
    loaded: int
    """What stays of it until its mask is written."""
    computing: int
    """Beside what is loaded, from the first tile to the last."""
    passing: int
    """Beside both, the input and the output of a forward pass."""
    exporting: int
    """Beside both, while a slab becomes labels; then no pass runs."""
    writing: int
    """Beside what is loaded, while the mask and what belongs to it are written and read back."""
    on_gpu: int
    """Beside networks and what is inside of them."""
    disk: int
    """At most; masks are compressed."""
    passes: int
    tiles: int
    """The most that one window lays over it."""

    def count_predicting(self, pass_bytes: int) -> int:
        """Return the peak of its prediction, where a network takes `pass_bytes` of RAM inside."""
        return self.loaded + self.computing + max(self.passing + pass_bytes, self.exporting)

    def count_alone(self, pass_bytes: int) -> int:
        """Return the peak where it is read, predicted and written one after the other."""
        return max(self.loading, self.count_predicting(pass_bytes), self.loaded + self.writing)


def measure_need(
    case: Case, ensemble: Ensemble, config: PredictConfig, *, has_quality: bool = False, has_rules: bool = False
) -> CaseNeed:
    """Forecast what a case takes.

    Args:
        case: of which the header of the first channel is read.
        ensemble: the networks.
        config: says what is made besides the mask.
        has_quality: whether slabs are measured for an expected Dice.
        has_rules: whether masks are cleaned up.

    Raises:
        DataError: the header cannot be read.
    """
    grid = read_header(case.image_files[0])
    # The order of axes by group, as it is prepared: the plan's.
    grids = [describe_uncropped_case(group.model, grid) for group in ensemble.groups]
    slabs = forecast_slabs(ensemble, grids, config, has_quality=has_quality)
    loading, loaded = _forecast_loading(case, grid, ensemble, grids)
    computing = slabs.computing + max(0, _forecast_previous(ensemble, grid, config) - slabs.computing)
    mask = _count_mask_bytes(ensemble, grid)
    return CaseNeed(
        case_id=case.id,
        image_voxels=grid.num_voxels,
        network_voxels=math.prod(grids[0].network_shape),
        loading=loading,
        loaded=loaded,
        computing=computing,
        passing=slabs.passing,
        exporting=slabs.exporting,
        writing=mask
        + max(mask * _count_copies(ensemble.model, config), grid.num_voxels * _CLEANING_BYTES if has_rules else 0),
        on_gpu=slabs.on_gpu,
        disk=mask + _count_probability_bytes(ensemble, grid, config),
        passes=slabs.passes + sum(_count_passes(previous, grid, config) for previous in ensemble.previous if previous),
        tiles=slabs.tiles,
    )


def _forecast_loading(case: Case, grid: Grid, ensemble: Ensemble, grids: Sequence[CaseGrid]) -> tuple[int, int]:
    """Return the peak of reading and preparing, and what stays."""
    keeps_voxels = any(ensemble.previous)
    num_channels = ensemble.model.num_image_channels
    image = FLOAT_BYTES * num_channels * grid.num_voxels
    readers = len({group.model.reader_name for group in ensemble.groups})
    sample = image // choose_sample_step(grid.num_voxels) ** 3
    kept = readers * sample + (readers * image if keeps_voxels else 0)
    peak = (readers - 1) * (image + sample) + _forecast_reading(case, grid, num_channels)
    held = 0
    for index, (group, case_grid) in enumerate(zip(ensemble.groups, grids, strict=True)):
        if ensemble.previous[index] is not None:
            continue
        is_copied = keeps_voxels or any(
            later.model.reader_name == group.model.reader_name for later in ensemble.groups[index + 1 :]
        )
        peak = max(peak, readers * sample + (readers - 1) * image + held + _forecast_preparing(
            group.model, case_grid, is_copied=is_copied))  # fmt: skip
        held += FLOAT_BYTES * num_channels * math.prod(case_grid.network_shape)
    return peak, kept + held


def _forecast_reading(case: Case, grid: Grid, num_channels: int) -> int:
    stored_bytes, is_packed = _read_storage(case.image_files[0], case.ending.lower())
    packed = max(path.stat().st_size for path in case.image_files) if is_packed else 0
    return forecast_reading_bytes(grid.num_voxels, num_channels, stored_bytes=stored_bytes, packed_bytes=packed)


def _read_storage(path: Path, ending: str) -> tuple[int, bool]:
    """Return the bytes of a stored voxel beside its form as float32, and whether the file is compressed."""
    if path.is_dir() or ending not in _HEADERS:
        return FLOAT_BYTES, False
    with path.open("rb") as stream:
        stored = _HEADERS[ending](stream, path)
    is_used_as_it_is = stored.dtype.newbyteorder("=") == np.float32 and not stored.is_scaled
    return 0 if is_used_as_it_is else stored.dtype.itemsize, stored.packing != "raw"


def _forecast_preparing(model: EngineModel, grid: CaseGrid, *, is_copied: bool) -> int:
    content = model.configuration.configuration
    return forecast_preparing_bytes(
        grid.full_shape,
        grid.network_shape,
        model.num_image_channels,
        is_z_score="ZScoreNormalization" in content["normalization_schemes"],
        within_mask=any(content["use_mask_for_norm"]),
        is_copied=is_copied,
        uses_engine=uses_engine(model),
    )


def _forecast_previous(ensemble: Ensemble, grid: Grid, config: PredictConfig) -> int:
    """Return what the first stages of cascades take, and their masks become: one at a time, before the others run."""
    largest = added = 0
    for group, previous in zip(ensemble.groups, ensemble.previous, strict=True):
        if previous is None:
            continue
        before = describe_uncropped_case(previous.model, grid)
        after = describe_uncropped_case(group.model, grid)
        slabs = forecast_slabs(previous, [before], config, has_quality=False, has_probabilities=False)
        image = FLOAT_BYTES * math.prod(before.network_shape) * group.model.num_image_channels
        first = (
            image
            + _forecast_preparing(previous.model, before, is_copied=True)
            + slabs.computing
            + max(slabs.passing, slabs.exporting)
        )
        own = FLOAT_BYTES * math.prod(after.network_shape) * group.model.num_network_channels
        second = _forecast_preparing(group.model, after, is_copied=True) + own + 4 * grid.num_voxels
        largest = max(largest, added + first, added + second)
        added += own
    return largest


def _count_passes(previous: Ensemble, grid: Grid, config: PredictConfig) -> int:
    before = describe_uncropped_case(previous.model, grid)
    return forecast_slabs(previous, [before], config, has_quality=False, has_probabilities=False).passes


def _count_mask_bytes(ensemble: Ensemble, grid: Grid) -> int:
    return grid.num_voxels * np.dtype(choose_mask_type(ensemble.groups[0].decision)).itemsize


def _count_copies(model: EngineModel, config: PredictConfig) -> int:
    """Count the copies of a mask while everything is written."""
    own = 0 if model.dataset.label_ids is None else 2  # 16 bits
    extras = max(_LABEL_FILE_COPIES if config.per_label_files else 0, _DICOM_COPIES if config.dicom_seg else 0)
    return own + max(_WRITING_COPIES, extras)


def _count_probability_bytes(ensemble: Ensemble, grid: Grid, config: PredictConfig) -> int:
    """Count the bytes of probabilities as if nothing could be compressed; an npz is packed from a raw file."""
    sizes: Mapping[str, int] = {"none": 0, "npz": 2 * FLOAT_BYTES, "zarr": config.probability_bits // 8}
    return sizes[config.probabilities] * ensemble.model.num_outputs * grid.num_voxels

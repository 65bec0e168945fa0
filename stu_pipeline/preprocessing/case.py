"""Preprocess one training case: read it verified, prepare its arrays, write nnU-Net's files.

Reads: the image and label files of the case. Writes: `<case>.b2nd`, `<case>_seg.b2nd`, `<case>.pkl` in a
scratch folder. Runs in worker processes, so neither torch nor nnU-Net is imported unless the plan needs them.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped, unused-ignore]

from stu_pipeline.datasets.cases import Case
from stu_pipeline.datasets.label_ids import LabelIds
from stu_pipeline.datasets.reading import check_same_grid, read_channels, read_label_map
from stu_pipeline.datasets.volume import Volume
from stu_pipeline.errors import DataError, MemoryLimitError
from stu_pipeline.nnunet.preprocessor import case_files, prepare_with_engine
from stu_pipeline.nnunet.reader_properties import make_reader_properties
from stu_pipeline.plan_architecture import resolve_configuration
from stu_pipeline.preparation.case_settings import find_engine_reasons, read_case_settings
from stu_pipeline.preparation.prepare import prepare_case
from stu_pipeline.preprocessing.case_files import write_case_files
from stu_pipeline.preprocessing.class_locations import as_labels, list_location_keys, sample_class_locations

__all__ = ["CaseJob", "case_files", "estimate_case_memory_gib", "write_case"]

Prepared = tuple[npt.NDArray[np.float32], npt.NDArray[np.int16], dict[str, Any]]
"""Image `(c, z, y, x)`, labels `(z, y, x)` and properties."""

# Measured on 160 to 240 voxels cubed, 1 and 4 channels, noise and a border of zeros: 0 to 30 % too high.
_IMPORTS_GIB = 0.13
_READING_BYTES, _LABEL_BYTES, _RESAMPLING_BYTES = 12, 2, 10
_PLANES_AT_ONCE = 16

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseJob:
    """One case to preprocess for one configuration of a plan."""

    case: Case
    plan: dict[str, Any]
    configuration: str
    dataset_json: dict[str, Any]
    """What the engine gets: labels are consecutive."""
    label_ids: LabelIds | None = None
    """The ids in the label files, where they are not consecutive."""
    data_folder: Path
    scratch_folder: Path


def write_case(job: CaseJob) -> tuple[Path, ...]:
    """Preprocess one case into the scratch folder; return its files in commit order, not synced.

    Equal input gives equal bytes, whichever process does it.

    Raises:
        DataError: an input file is damaged or does not fit the plan or `dataset.json`.
        StorageError: the result could not be written.
        MemoryLimitError: the case does not fit the memory.
    """
    files = case_files(job.scratch_folder, job.case.id)
    try:
        # One thread: the pool is the parallelism, and sums would depend on their number.
        with _find_thread_pools().limit(limits=1):
            image, labels, properties = _prepare(job)
            return write_case_files(
                job.scratch_folder,
                job.case.id,
                image=image,
                labels=labels,
                properties=properties,
                patch_size=resolve_configuration(job.plan["configurations"], job.configuration)["patch_size"],
            )
    except BaseException as error:
        for file in files:
            with contextlib.suppress(OSError):  # the error that matters is on its way
                file.unlink(missing_ok=True)
        if isinstance(error, MemoryError):
            raise MemoryLimitError(
                f"case '{job.case.id}' does not fit the memory",
                where=job.case.image_files[0],
                hint="run the same command with fewer --workers",
            ) from error
        raise


def estimate_case_memory_gib(shape_before: Sequence[int], shape_after: Sequence[int], num_channels: int) -> float:
    """Estimate the largest resident size of a worker while it preprocesses a case, imports included.

    Args:
        shape_before: voxels as read.
        shape_after: voxels on the planned grid.
        num_channels: of the image.
    """
    before, after = math.prod(shape_before), math.prod(shape_after)
    image_bytes = 4 * num_channels
    peak_bytes = max(
        before * (image_bytes + _READING_BYTES),
        before * (image_bytes + _LABEL_BYTES) + after * (image_bytes + _RESAMPLING_BYTES),
        # What cannot be compressed is there three times: as voxels, as chunks, as the bytes of the file.
        after * (3 * image_bytes + 2 * _LABEL_BYTES),
    )
    return _IMPORTS_GIB + peak_bytes / 2**30


@lru_cache(maxsize=1)
def _find_thread_pools() -> ThreadpoolController:
    return ThreadpoolController()  # once: it looks through the loaded libraries, and numpy's is there from the start


def _prepare(job: CaseJob) -> Prepared:
    image, labels = _read(job)
    reasons = find_engine_reasons(job.plan, job.configuration)
    if not reasons:
        return _prepare_here(job, image, labels)
    _LOG.info("case '%s' goes through nnU-Net's own code because of %s", job.case.id, ", ".join(reasons))
    del image, labels  # read again by the engine, now that they are known to be sound
    return prepare_with_engine(
        job.case,
        plan=job.plan,
        configuration=job.configuration,
        dataset_json=job.dataset_json,
        label_ids=job.label_ids,
    )


def _read(job: CaseJob) -> tuple[Volume, npt.NDArray[np.integer[Any]]]:
    """Read the image and the consecutive labels of a case, verified."""
    case = job.case
    if case.label_file is None:
        raise DataError(f"case '{case.id}' has no label map", where=case.image_files[0].parent)
    image, label_map = read_channels(case.image_files), read_label_map(case.label_file)
    if problems := check_same_grid(image, label_map):
        raise DataError(
            f"label map '{case.label_file.name}' does not fit its image: {problems[0]}",
            where=case.label_file.parent,
            hint="export the label map again, on the grid of the image",
            details=tuple(problems) if len(problems) > 1 else (),
        )
    if unknown := _count_unknown(label_map.array, job):
        label, count = next(iter(unknown.items()))
        raise DataError(
            f"label map '{case.label_file.name}' has {count} voxels of label {label}, which dataset.json does not name",
            where=case.label_file.parent,
            hint="name the label in dataset.json, or correct the label map",
            details=tuple(f"label {label}: {count} voxels" for label, count in unknown.items()),
        )
    labels = label_map.array if job.label_ids is None else job.label_ids.to_consecutive(label_map.array)
    return image, labels  # type: ignore[return-value]


def _count_unknown(labels: npt.NDArray[np.generic], job: CaseJob) -> Counter[int]:
    values = job.dataset_json["labels"].values()
    known = job.label_ids or LabelIds(tuple(sorted({label for value in values for label in as_labels(value)})))
    unknown: Counter[int] = Counter()
    for start in range(0, len(labels), _PLANES_AT_ONCE):  # looking up widens labels to 64 bit
        unknown.update(known.count_unknown(labels[start : start + _PLANES_AT_ONCE]))
    return unknown


def _prepare_here(job: CaseJob, image: Volume, labels: npt.NDArray[np.integer[Any]]) -> Prepared:
    settings = read_case_settings(job.plan, job.configuration)
    properties = make_reader_properties(image.grid, settings.reader)
    try:
        prepared, arranged = prepare_case(image.array, labels, properties["spacing"], settings)  # type: ignore[arg-type]
    except DataError as error:
        where = job.case.image_files[0].parent
        raise DataError(f"case '{job.case.id}' {error.problem}", where=where, hint=error.hint) from error
    properties["shape_before_cropping"] = prepared.shape_before_cropping
    properties["bbox_used_for_cropping"] = [list(side) for side in prepared.box]
    properties["shape_after_cropping_and_before_resampling"] = prepared.shape_after_cropping
    keys = list_location_keys(job.dataset_json["labels"])
    properties["class_locations"] = sample_class_locations(arranged, keys)
    return prepared.array, arranged, properties

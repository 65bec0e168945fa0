"""A DICOM segmentation of a mask, for archives and viewers; needs the source series and the extra `dicom`.

Every frame has the position of its source slice and refers to it, so that viewers lay it over the right one.
Reads: the headers of the source slices. Writes: one `.seg.dcm`, read back before it gets its name.
"""

from __future__ import annotations

import colorsys
import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stu_pipeline import __version__
from stu_pipeline.datasets.dataset_fields import BACKGROUND, IGNORE, Label, values_of
from stu_pipeline.datasets.formats.dicom_files import SEG_ENDING, list_slice_files
from stu_pipeline.datasets.volume import ORIGIN_TOLERANCE_VOXELS, Grid
from stu_pipeline.errors import DataError, UsageError
from stu_pipeline.prediction.writing.scratch import unproven
from stu_pipeline.storage import write_atomically

__all__ = ["SEG_ENDING", "SegmentationSource", "require_highdicom", "write_dicom_seg"]

_MAX_TEXT = 64  # a DICOM long string
_SERIES_NUMBER = 9000
_GOLDEN = 0.618034
# A segmentation points at these; without them it belongs to nothing.
_NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "FrameOfReferenceUID")
# What has to be there, but may be empty.
_MAY_BE_EMPTY = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime",
    "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentationSource:
    """What a segmentation says of its origin."""

    series: Path
    """Folder of the source slices."""
    grid: Grid
    """Of the series, which is the mask's."""
    labels: Mapping[str, Label]
    """Name to value as the mask holds it, or to the values of a region."""
    model: str
    """Short name of the model, for the algorithm's entry."""


def require_highdicom() -> Any:
    """Import highdicom.

    Raises:
        UsageError: it, or pydicom, is not installed.
    """
    try:
        import highdicom
        import highdicom.seg
    except ImportError as error:
        raise UsageError(
            "DICOM segmentations need the packages 'pydicom' and 'highdicom', which are not installed",
            hint="pip install 'stu-pipeline[dicom]'",
        ) from error
    return highdicom


def write_dicom_seg(mask: npt.NDArray[Any], source: SegmentationSource, path: Path) -> Path:
    """Write a mask as a binary DICOM segmentation with one segment per label; labels that do not occur are described.

    Args:
        mask: label values `(z, y, x)` on the grid of the series.
        source: series, labels and model.
        path: ends in `.seg.dcm`, so that it is never taken for a slice.

    Returns:
        `path`.

    Raises:
        UsageError: highdicom is not installed.
        DataError: the source slices lack what a segmentation refers to.
        StorageError: the file cannot be written, or does not hold the mask.
    """
    highdicom = require_highdicom()
    slices = _read_sources(source)
    names = [name for name, label in source.labels.items() if _is_segment(name, label)]
    pixels = _number_segments(mask, [values_of(source.labels[name]) for name in names])
    with _quiet():
        segmentation = highdicom.seg.Segmentation(
            source_images=slices,
            pixel_array=pixels,
            segmentation_type="BINARY",
            segment_descriptions=_describe(highdicom, names, source),
            series_instance_uid=highdicom.UID(),
            series_number=_SERIES_NUMBER,
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer="stu-pipeline",
            manufacturer_model_name="stu",
            software_versions=__version__,
            device_serial_number="none",
            content_label="STU",
            content_description=f"Segmentation by {source.model}"[:_MAX_TEXT],
        )
        segmentation.SeriesDescription = f"stu {source.model}"[:_MAX_TEXT]

        def write(temporary: Path) -> None:
            segmentation.save_as(temporary)
            _verify(highdicom, temporary, pixels, slices, source.grid)

        write_atomically(path, write, suffix=".dcm")
    return path


def _is_segment(name: str, label: Label) -> bool:
    return name not in (BACKGROUND, IGNORE) and values_of(label) != (0,)


def _read_sources(source: SegmentationSource) -> list[Any]:
    """Read the headers of the source slices, in the order of the grid."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    try:
        slices = [pydicom.dcmread(path, stop_before_pixels=True) for path in list_slice_files(source.series)]
    except (InvalidDicomError, OSError, ValueError, AttributeError, KeyError) as error:
        raise DataError(f"a slice cannot be read for its segmentation: {error}", where=source.series) from error
    for ds in slices:
        for name in ("SOPClassUID", "SOPInstanceUID"):  # an anonymiser may have left them only in the file's preface
            if not ds.get(name):
                setattr(ds, name, ds.file_meta.get(f"MediaStorage{name}", ""))
        if missing := [name for name in _NEEDED if not ds.get(name)]:
            raise DataError(
                f"'{Path(str(ds.filename)).name}' has no {', '.join(missing)}, which a segmentation refers to",
                where=source.series,
                hint="leave out --dicom-seg, or use a series that keeps its identifiers",
            )
        for name in _MAY_BE_EMPTY:
            if name not in ds:
                setattr(ds, name, "")
    normal = np.array(source.grid.direction).reshape(3, 3)[:, 2]
    slices.sort(key=lambda ds: float(np.dot([float(value) for value in ds.ImagePositionPatient], normal)))
    if len(slices) != source.grid.shape[0]:
        raise DataError(f"{len(slices)} slices, the mask has {source.grid.shape[0]}", where=source.series)
    return slices


def _number_segments(mask: npt.NDArray[Any], values: list[tuple[int, ...]]) -> npt.NDArray[Any]:
    """Return segment numbers from 1, `(z, y, x)`; where regions overlap, binary `(z, y, x, segment)`."""
    every = [value for group in values for value in group]
    found = np.flatnonzero(np.bincount(mask.ravel())).tolist()
    if unknown := set(found) - {0, *every}:
        raise ValueError(f"the mask holds {sorted(unknown)[:5]}, which no label names")
    if len(every) != len(set(every)):
        return np.stack([np.isin(mask, group) for group in values], axis=-1).astype(np.uint8)
    table = np.zeros(max([0, *every]) + 1, dtype=np.uint8 if len(values) < 256 else np.uint16)
    for number, group in enumerate(values, start=1):
        table[list(group)] = number
    numbers: npt.NDArray[Any] = table[mask]
    return numbers


def _describe(highdicom: Any, names: list[str], source: SegmentationSource) -> list[Any]:
    from pydicom.sr.codedict import codes

    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=source.model[:_MAX_TEXT],
        family=codes.DCM.ArtificialIntelligence,
        version=__version__,
        source="stu-pipeline",
    )
    return [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=name[:_MAX_TEXT],
            # What a label means is known to the dataset alone, so its name is the code, under a scheme of our own.
            segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=highdicom.sr.CodedConcept(f"L{number}", "99STU", name[:_MAX_TEXT]),
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
            display_color=highdicom.color.CIELabColor.from_rgb(*_choose_colour(number)),
        )
        for number, name in enumerate(names, start=1)
    ]


def _choose_colour(number: int) -> tuple[int, ...]:
    """Return red, green and blue; neighbouring numbers differ most."""
    return tuple(round(255 * part) for part in colorsys.hsv_to_rgb((number * _GOLDEN) % 1, 0.75, 0.95))


def _verify(highdicom: Any, path: Path, pixels: npt.NDArray[Any], slices: list[Any], grid: Grid) -> None:
    """Compare voxels by the source slice they refer to, and the position of every frame with the grid."""
    found = highdicom.seg.segread(path)
    voxels = found.get_pixels_by_source_instance(
        [ds.SOPInstanceUID for ds in slices],
        combine_segments=pixels.ndim == 3,
        assert_missing_frames_are_empty=True,
        rescale_fractional=False,
    )
    if not np.array_equal(voxels, pixels):
        raise unproven(path, "the voxels differ")
    positions = np.array([list(ds.ImagePositionPatient) for ds in slices], dtype=np.float64)
    step = np.array(grid.direction).reshape(3, 3)[:, 2] * grid.spacing_mm[0]
    planes = np.array(grid.origin) + np.outer(np.arange(len(slices)), step)
    if float(np.abs(positions - planes).max()) > ORIGIN_TOLERANCE_VOXELS * max(grid.spacing_mm):
        raise unproven(path, "its source lies elsewhere than the mask")
    known = {tuple(np.round(position, 3)) for position in positions}
    for frame in found.PerFrameFunctionalGroupsSequence:
        place = frame.PlanePositionSequence[0].ImagePositionPatient
        if tuple(np.round([float(value) for value in place], 3)) not in known:
            raise unproven(path, "a frame lies at no slice of its source")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep highdicom's remarks (an empty mask is one) out of the log."""
    logger = logging.getLogger("highdicom")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)

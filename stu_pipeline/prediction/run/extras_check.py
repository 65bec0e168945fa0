"""Whether what is wanted besides masks can be written at all. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

from stu_pipeline.datasets.cases import Case
from stu_pipeline.errors import UsageError
from stu_pipeline.prediction.config import PredictConfig


def require_extras(config: PredictConfig, cases: Sequence[Case]) -> None:
    """Refuse what cannot be written, before anything is computed.

    Raises:
        UsageError: a package is missing, or the inputs are no DICOM series.
    """
    if config.probabilities == "zarr":
        from stu_pipeline.prediction.writing.zarr_file import require_zarr

        require_zarr()
    if config.dicom_seg:
        from stu_pipeline.prediction.writing.dicom_seg import require_highdicom

        require_highdicom()
        others = [case.id for case in cases if not case.is_dicom]
        if others:
            raise UsageError(
                f"--dicom-seg needs DICOM series, {len(others)} of {len(cases)} cases are none: {others[0]}",
                hint="leave it out, or give folders of slices with -i",
            )

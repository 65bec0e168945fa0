"""Preprocess one training case with nnU-Net's own code, committed atomically.

Writes: `<case>.b2nd`, `<case>_seg.b2nd` and `<case>.pkl` in the data folder.
"""

from __future__ import annotations

import copy
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stu_pipeline.datasets.cases import Case
from stu_pipeline.errors import StorageError
from stu_pipeline.nnunet.output import engine_output
from stu_pipeline.storage import measure_free_gib, storage_errors, sync_file, sync_folder

CASE_ENDINGS = (".b2nd", "_seg.b2nd", ".pkl")
"""In commit order: the properties come last, so a case with a `.pkl` has its arrays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseJob:
    """One case to preprocess for one configuration of a plan."""

    case: Case
    plan: dict[str, Any]
    dataset_json: dict[str, Any]
    configuration: str
    data_folder: Path
    scratch_folder: Path


def case_files(data_folder: Path, case_id: str) -> list[Path]:
    """List the files of one preprocessed case, in commit order."""
    return [data_folder / f"{case_id}{ending}" for ending in CASE_ENDINGS]


def preprocess_case(job: CaseJob) -> str:
    """Preprocess one case and return its id.

    Raises:
        DataError: an input file is damaged.
        StorageError: the result could not be written.
    """
    import torch

    torch.set_num_threads(1)  # the pool is the parallelism
    _verify_inputs(job.case)
    job.scratch_folder.mkdir(parents=True, exist_ok=True)
    try:
        with storage_errors(job.data_folder), engine_output(None), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _run_engine(job)
        _commit(job)
    finally:
        for file in case_files(job.scratch_folder, job.case.id):
            file.unlink(missing_ok=True)
    return job.case.id


def _verify_inputs(case: Case) -> None:
    # nnU-Net's reader accepts truncated files; ours reads to the end and checks (facts: 198 of 200 passed).
    from stu_pipeline.datasets.reading import read_image, read_label_map

    for file in case.image_files:
        read_image(file)
    if case.label_file is not None:
        read_label_map(case.label_file)


def _run_engine(job: CaseJob) -> None:
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    plans = PlansManager(copy.deepcopy(job.plan))
    configuration = plans.get_configuration(job.configuration)
    preprocessor = configuration.preprocessor_class(verbose=False)
    try:
        preprocessor.run_case_save(
            str(job.scratch_folder / job.case.id),
            [str(file) for file in job.case.image_files],
            str(job.case.label_file),
            plans,
            configuration,
            job.dataset_json,
        )
    except RuntimeError as error:
        # blosc2 reports a full disk as "Error while creating the NDArray".
        if "NDArray" in str(error):
            raise StorageError(
                f"cannot write case '{job.case.id}' ({measure_free_gib(job.scratch_folder):.2f} GiB free)",
                where=job.scratch_folder,
                hint="free some space and run the same command again",
            ) from error
        raise


def _commit(job: CaseJob) -> None:
    with storage_errors(job.data_folder):
        job.data_folder.mkdir(parents=True, exist_ok=True)
        finished = zip(
            case_files(job.scratch_folder, job.case.id), case_files(job.data_folder, job.case.id), strict=True
        )
        for source, target in finished:
            sync_file(source)
            shutil.move(source, target)
        sync_folder(job.data_folder)

"""Preprocess one training case with nnU-Net's own code, for plans that name parts only nnU-Net has."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from stu_pipeline.datasets.cases import Case
from stu_pipeline.datasets.label_ids import LabelIds
from stu_pipeline.nnunet.output import engine_output

CASE_ENDINGS = (".b2nd", "_seg.b2nd", ".pkl")
"""In commit order: the properties come last, so a case with a `.pkl` has its arrays."""


def case_files(folder: Path, case_id: str) -> tuple[Path, ...]:
    """Return the files of one preprocessed case, in commit order."""
    return tuple(folder / f"{case_id}{ending}" for ending in CASE_ENDINGS)


def prepare_with_engine(
    case: Case,
    *,
    plan: Mapping[str, Any],
    configuration: str,
    dataset_json: Mapping[str, Any],
    label_ids: LabelIds | None = None,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int16], dict[str, Any]]:
    """Return the image `(c, z, y, x)`, the labels `(z, y, x)` and the properties that nnU-Net makes of a case.

    Args:
        case: its files, which must have been verified: nnU-Net reads damaged ones without a word.
        plan: the content of a plan file.
        configuration: its name.
        dataset_json: the description with consecutive labels.
        label_ids: the ids in the label file, where they are not consecutive.
    """
    import torch
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    torch.set_num_threads(1)  # the pool is the parallelism
    plans = PlansManager(copy.deepcopy(dict(plan)))
    planned = plans.get_configuration(configuration)
    with engine_output(None), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reader = plans.image_reader_writer_class()
        image, properties = reader.read_images([str(file) for file in case.image_files])
        labels, _ = reader.read_seg(str(case.label_file))
        if label_ids is not None:
            labels = label_ids.to_consecutive(np.rint(labels).astype(np.uint16)).astype(np.float32)
        preprocessor = planned.preprocessor_class(verbose=False)
        image, labels, properties = preprocessor.run_case_npy(
            image, labels, properties, plans, planned, copy.deepcopy(dict(dataset_json))
        )
    return image.astype(np.float32, copy=False), labels[0].astype(np.int16, copy=False), properties

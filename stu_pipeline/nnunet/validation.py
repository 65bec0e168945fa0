"""The final validation of a fold: predict its validation cases and score them.

In this process and case by case, so that it continues where it stopped; same tiles and same export as
nnU-Net's own. Writes: `validation/<case>.<ending>`, `validation/summary.json`, and the input of the
next cascade stage.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.inference.export_prediction import export_prediction_from_logits, resample_and_save
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.label_handling.label_handling import convert_labelmap_to_one_hot

from stu_pipeline.datasets.reading import read_label_map
from stu_pipeline.errors import DataError, NonFiniteError, StorageError
from stu_pipeline.log import Progress
from stu_pipeline.nnunet.mirrored_inference import MirroredPredictor
from stu_pipeline.nnunet.summary import score_case, summarise_cases, write_summary
from stu_pipeline.nnunet.trainer import StopTrainingError, nnUNetTrainer
from stu_pipeline.storage import measure_free_gib, storage_errors, sync_file
from stu_pipeline.workspace import DatasetPaths, next_stage_folder


def validate_fold(
    trainer: nnUNetTrainer,
    dataset: DatasetPaths,
    *,
    choose_share: Callable[[list[str]], list[str]] = list,
    wait_for_others: Callable[[], None] = lambda: None,
    is_averaged: bool = False,
) -> dict[str, Any]:
    """Predict and score the validation cases of a trained fold; finished cases are kept.

    Args:
        trainer: with trained weights.
        dataset: its label maps are the reference.
        choose_share: with several ranks, picks the cases of this one; the first rank scores them all.
        wait_for_others: returns when every rank has predicted its cases.
        is_averaged: the weights are averaged ones: their scores stand beside (`validation_ema/`), and their
            predictions feed no cascade.

    Returns:
        The summary, as written to `validation/summary.json`.

    Raises:
        NonFiniteError: the network computes numbers that are not finite.
        DataError: the preprocessed data of a next cascade stage is missing.
    """
    trainer.set_deep_supervision_enabled(False)
    trainer.bare_network.eval()
    predictor = _open_predictor(trainer)
    _, case_ids = trainer.do_split()
    cases = trainer.dataset_class(
        trainer.preprocessed_dataset_folder,
        case_ids,
        folder_with_segs_from_previous_stage=trainer.folder_with_segs_from_previous_stage,
    )
    folder = (trainer.paths.averaged_summary if is_averaged else trainer.paths.validation_summary).parent
    ending = trainer.dataset_json["file_ending"]
    try:
        own_ids = choose_share(sorted(case_ids))
        for count, case_id in enumerate(own_ids, start=1):
            if trainer.is_stop_asked():
                raise StopTrainingError
            if not _is_done(trainer, folder, case_id, ending):
                _predict_case(trainer, predictor, cases, case_id, folder)
            trainer.listen(Progress(step="validate", done=count, total=len(own_ids), item=case_id))
    finally:
        trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
    wait_for_others()
    summary = _score(trainer, dataset, folder, sorted(case_ids), ending)
    if trainer.local_rank == 0:
        write_summary(folder / "summary.json", summary)
    return summary


def _open_predictor(trainer: nnUNetTrainer) -> MirroredPredictor:
    predictor = MirroredPredictor(
        use_mirroring=True,
        perform_everything_on_device=trainer.device.type == "cuda",
        device=trainer.device,
        allow_tqdm=False,
    )
    predictor.manual_initialization(
        trainer.bare_network,
        trainer.plans_manager,
        trainer.configuration_manager,
        None,
        trainer.dataset_json,
        trainer.__class__.__name__,
        trainer.mirroring.plain_axes or None,
    )
    predictor.use_mirroring_of(trainer.mirroring, num_image_channels=len(trainer.dataset_json["channel_names"]))
    return predictor


def _predict_case(trainer: nnUNetTrainer, predictor: MirroredPredictor, cases: Any, case_id: str, folder: Path) -> None:
    data, _, previous, properties = cases.load_case(case_id)
    data = data[:]
    if trainer.is_cascaded:
        one_hot = convert_labelmap_to_one_hot(previous[:], trainer.label_manager.foreground_labels, data.dtype)
        data = np.vstack((data, one_hot))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logits = predictor.predict_sliding_window_return_logits(torch.from_numpy(np.ascontiguousarray(data))).cpu()
    if not torch.isfinite(logits).all():
        raise NonFiniteError(f"logits of validation case '{case_id}' are not finite", where=trainer.paths.folder)
    _write_next_stages(trainer, logits, case_id, properties, folder)
    ending = trainer.dataset_json["file_ending"]
    scratch = folder.with_name(f"{folder.name}.partial")
    with storage_errors(folder):
        scratch.mkdir(parents=True, exist_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        export_prediction_from_logits(
            logits,
            properties,
            trainer.configuration_manager,
            trainer.plans_manager,
            trainer.dataset_json,
            str(scratch / case_id),
            num_threads_torch=torch.get_num_threads(),
        )
        _require_written(scratch / f"{case_id}{ending}")
        sync_file(scratch / f"{case_id}{ending}")
        (scratch / f"{case_id}{ending}").replace(folder / f"{case_id}{ending}")
        if not any(scratch.iterdir()):
            scratch.rmdir()


def _require_written(mask: Path) -> None:
    # SimpleITK reports no error on a full disk, so only reading back shows what is there.
    try:
        read_label_map(mask)
    except DataError as error:
        raise StorageError(
            f"validation mask '{mask.name}' could not be verified after writing "
            f"({measure_free_gib(mask):.2f} GiB free)",
            where=mask.parent,
            hint="free some space and run the same command again",
        ) from error


def _write_next_stages(
    trainer: nnUNetTrainer, logits: torch.Tensor, case_id: str, properties: Any, folder: Path
) -> None:
    for name, target_folder in _next_stages(trainer, folder):
        configuration = trainer.plans_manager.get_configuration(name)
        data_folder = Path(trainer.preprocessed_dataset_folder_base) / configuration.data_identifier
        if not (data_folder / f"{case_id}.pkl").is_file():
            raise DataError(
                f"next stage '{name}' is not preprocessed, case '{case_id}' is missing",
                where=data_folder,
                hint=f"stu plan {trainer.plans_manager.dataset_name} --configuration {name}, then run this again",
            )
        dataset_class = infer_dataset_class(str(data_folder))
        data, _, _, _ = dataset_class(str(data_folder), [case_id]).load_case(case_id)
        target_folder.mkdir(parents=True, exist_ok=True)
        resample_and_save(
            logits,
            data.shape[1:],
            str(target_folder / case_id),
            trainer.plans_manager,
            trainer.configuration_manager,
            properties,
            trainer.dataset_json,
            torch.get_num_threads(),
            dataset_class,
        )


def _next_stages(trainer: nnUNetTrainer, folder: Path) -> list[tuple[str, Path]]:
    if folder == trainer.paths.averaged_summary.parent:
        return []
    names = trainer.configuration_manager.next_stage_names or []
    return [(name, next_stage_folder(Path(trainer.output_folder_base), name)) for name in names]


def _is_done(trainer: nnUNetTrainer, folder: Path, case_id: str, ending: str) -> bool:
    has_next = all((target / f"{case_id}.b2nd").is_file() for _, target in _next_stages(trainer, folder))
    return has_next and (folder / f"{case_id}{ending}").is_file()


def _score(
    trainer: nnUNetTrainer, dataset: DatasetPaths, folder: Path, case_ids: list[str], ending: str
) -> dict[str, Any]:
    manager = trainer.label_manager
    labels = manager.foreground_regions if manager.has_regions else manager.foreground_labels
    reader = trainer.plans_manager.image_reader_writer_class()
    return summarise_cases(
        [
            score_case(
                dataset.ground_truth / f"{case_id}{ending}",
                folder / f"{case_id}{ending}",
                reader=reader,
                labels=labels,
                ignore_label=manager.ignore_label,
            )
            for case_id in case_ids
        ]
    )

"""The final validation of a fold: predict its validation cases and score them.

In this process and case by case, so that it continues where it stopped. Writes: `validation/<case>.<ending>`,
`validation/summary.json`, and the input of the next cascade stage.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from stu_pipeline.datasets.marked_outputs import MarkedOutputs
from stu_pipeline.log import Progress
from stu_pipeline.nnunet.marked_outputs import find_trainer_marks
from stu_pipeline.nnunet.summary import score_case, summarise_cases, write_summary
from stu_pipeline.nnunet.trainer import StopTrainingError, nnUNetTrainer
from stu_pipeline.nnunet.validation_case import list_next_stages, open_window_network, predict_case
from stu_pipeline.workspace import DatasetPaths


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
        DataError: the preprocessed data of a next cascade stage is missing, or the table of partial labels does not
            fit the cases.
    """
    marked = find_trainer_marks(trainer)
    trainer.set_deep_supervision_enabled(False)
    trainer.bare_network.eval()
    network = open_window_network(trainer)
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
                predict_case(trainer, network, cases, case_id, folder=folder)
            trainer.listen(Progress(step="validate", done=count, total=len(own_ids), item=case_id))
    finally:
        trainer.set_deep_supervision_enabled(trainer.enable_deep_supervision)
    wait_for_others()
    summary = _score(trainer, dataset, folder, sorted(case_ids), marked)
    if trainer.local_rank == 0:
        write_summary(folder / "summary.json", summary)
    return summary


def _is_done(trainer: nnUNetTrainer, folder: Path, case_id: str, ending: str) -> bool:
    has_next = all((target / f"{case_id}.b2nd").is_file() for _, target in list_next_stages(trainer, folder))
    return has_next and (folder / f"{case_id}{ending}").is_file()


def _score(
    trainer: nnUNetTrainer, dataset: DatasetPaths, folder: Path, case_ids: list[str], marked: MarkedOutputs | None
) -> dict[str, Any]:
    manager, ending = trainer.label_manager, trainer.dataset_json["file_ending"]
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
                # Outputs begin with the background, where there is one.
                marked=None if marked is None else marked.list_flags(case_id)[-len(labels) :],
            )
            for case_id in case_ids
        ]
    )

"""What a finished fold came to, read from its files."""

from __future__ import annotations

from typing import Any

from stu_pipeline.records import describe
from stu_pipeline.storage import read_json
from stu_pipeline.training.config import TrainResult
from stu_pipeline.training.cross_validation import summarise_folds
from stu_pipeline.training.run.job import Job
from stu_pipeline.training.run.record import read_start


def read_result(job: Job, *, elapsed_s: float, was_finished: bool) -> TrainResult:
    """Read the scores of a finished fold; with the last fold the summary over all is written.

    Raises:
        DataError: the summary of its validation is missing.
    """
    paths = job.paths
    summary = read_json(paths.validation_summary)
    names = name_labels(read_json(job.dataset.preprocessed_dataset_json)["labels"])
    record = read_json(paths.record) if paths.record.is_file() else {}
    start = read_start(paths)
    return TrainResult(
        dataset=job.dataset.name,
        plan_name=job.plan.name,
        configuration=job.configuration,
        fold=job.config.fold,
        run_folder=paths.folder,
        model_folder=job.model_folder,
        num_epochs=int(record.get("settings", {}).get("num_epochs", 0)),
        mean_dice=describe(summary["foreground_mean"]["Dice"]),
        dice={names.get(key, key): describe(scores["Dice"]) for key, scores in summary["mean"].items()},
        elapsed_s=elapsed_s,
        was_finished=was_finished,
        start=str(start["kind"]),
        pretrained=start.get("file"),
        recipe=start.get("recipe"),
        cross_validation=None if job.config.fold == "all" else summarise_folds(job.model_folder, job.num_folds),
    )


def name_labels(labels: dict[str, Any]) -> dict[str, str]:
    """Map the keys of a summary, `1` or `(1, 2)` for a region, to label names."""
    names = {}
    for name, ids in labels.items():
        values = ids if isinstance(ids, list) else [ids]
        names[str(tuple(values))] = name
        if len(values) == 1:  # beside true regions nnU-Net keeps a list of one label as it is
            names[str(values[0])] = name
    return names

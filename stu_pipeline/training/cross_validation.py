"""The summary over all folds, once every one is validated.

Reads: `fold_N/validation/summary.json`. Writes: `crossval_results_folds_0_1_..../summary.json`.
"""

from __future__ import annotations

from pathlib import Path

from stu_pipeline.workspace import RunPaths, cross_validation_summary, fold_folder


def summarise_folds(model_folder: Path, num_folds: int) -> Path | None:
    """Merge the validation scores of all folds; None while a fold is missing.

    Every case is scored once, by the fold that did not train on it; the means are over all cases, as
    nnU-Net accumulates them.
    """
    from stu_pipeline.nnunet.summary import read_summary, summarise_cases, write_summary

    summaries = [RunPaths(fold_folder(model_folder, fold)).validation_summary for fold in range(num_folds)]
    if not all(path.is_file() for path in summaries):
        return None
    cases = [case for path in summaries for case in read_summary(path)["metric_per_case"]]
    target = cross_validation_summary(model_folder, num_folds)
    write_summary(target, summarise_cases(cases))
    return target

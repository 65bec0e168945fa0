"""Compare evaluated runs on the same cases, label by label.

Reads: `summary.json` of each run. Writes: `comparison.json`, `.csv`, `.md` and `.html`.
"""

from __future__ import annotations

from dataclasses import asdict
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from stu_pipeline.evaluation.comparison.config import (
    METRICS,
    CompareConfig,
    ComparedRun,
    CompareResult,
    Difference,
    FriedmanResult,
    PairResult,
)
from stu_pipeline.evaluation.comparison.matching import MatchedScores, match_runs
from stu_pipeline.evaluation.comparison.paired import (
    PairedScores,
    compare_paired,
    correct_holm,
    rank_runs,
    run_friedman,
)
from stu_pipeline.evaluation.comparison.runs import EvaluatedRun, name_runs, read_run
from stu_pipeline.evaluation.comparison.sentence import write_sentence
from stu_pipeline.evaluation.comparison.writing import list_comparison_files, write_comparison
from stu_pipeline.evaluation.statistics import mean_of_finite
from stu_pipeline.log import Listener, Notice, ignore_events

ALL_LABELS = "all labels"

Values = NDArray[np.float64]


def compare(config: CompareConfig, *, listen: Listener = ignore_events) -> CompareResult:
    """Compare runs pair by pair, per label and over all labels, and write the result where asked.

    Args:
        config: what to compare.
        listen: receives a `Notice` for what only some runs have.

    Raises:
        DataError: a summary is missing or broken, or cases, labels, references or tolerances differ.
        StorageError: the result cannot be written.
    """
    names = config.names or name_runs(config.runs)
    runs = [read_run(path, config.metric) for path in config.runs]
    matched = match_runs(runs, names, metric=config.metric, common=config.common)
    for line in matched.left_out:
        listen(Notice(text=f"left out {line}", is_warning=True))
    over_labels = average_labels(matched.values)
    result = CompareResult(
        metric=config.metric,
        higher_is_better=METRICS[config.metric],
        runs=_describe_runs(runs, names, over_labels, higher_is_better=METRICS[config.metric]),
        pairs=_compare_pairs(matched, over_labels, names, config),
        friedman=_test_all(matched, over_labels),
        cases=matched.cases,
        labels=matched.labels,
        left_out=matched.left_out,
        files=list_comparison_files(config.output) if config.output is not None else (),
    )
    if config.output is not None:
        write_comparison(config.output, result, over_labels)
    return result


def average_labels(values: Values) -> Values:
    """Average each case over the labels that have a finite score in every run.

    Only labels that all runs have are averaged, so that no run gains by lacking a hard one.

    Args:
        values: `(runs, cases, labels)`.

    Returns:
        `(runs, cases)`; NaN for a case without such a label.
    """
    is_shared = np.isfinite(values).all(axis=0)
    numbers = is_shared.sum(axis=1)
    sums = np.where(is_shared, values, 0.0).sum(axis=2)
    means: Values = np.divide(sums, numbers, out=np.full(sums.shape, np.nan), where=numbers > 0)
    return means


def _describe_runs(
    runs: list[EvaluatedRun], names: tuple[str, ...], over_labels: Values, *, higher_is_better: bool
) -> tuple[ComparedRun, ...]:
    ranks = rank_runs(over_labels, higher_is_better=higher_is_better)
    return tuple(
        ComparedRun(
            name=name,
            path=run.path,
            mean=mean_of_finite(scores),
            mean_rank=None if np.isnan(rank) else float(rank),
            num_cases=len(run.scores),
        )
        for run, name, scores, rank in zip(runs, names, over_labels, ranks, strict=True)
    )


def _compare_pairs(
    matched: MatchedScores, over_labels: Values, names: tuple[str, ...], config: CompareConfig
) -> tuple[PairResult, ...]:
    pairs = list(combinations(range(len(names)), 2))
    higher = METRICS[config.metric]

    def score(first: Values, second: Values) -> PairedScores:
        return compare_paired(first, second, higher_is_better=higher, seed=config.seed)

    overall = [score(over_labels[a], over_labels[b]) for a, b in pairs]
    overall_p = correct_holm([scores.p_value for scores in overall])
    columns = range(len(matched.labels))
    per_label = [[score(matched.values[a][:, k], matched.values[b][:, k]) for k in columns] for a, b in pairs]
    # One family of tests: with many labels or runs, some p-value is small by chance.
    label_p = correct_holm([scores.p_value for row in per_label for scores in row])
    results = []
    for place, (a, b) in enumerate(pairs):
        start = place * len(matched.labels)
        total = _make_difference(ALL_LABELS, overall[place], overall_p[place])
        labels = tuple(
            _make_difference(label, scores, label_p[start + k])
            for k, (label, scores) in enumerate(zip(matched.labels, per_label[place], strict=True))
        )
        sentence = write_sentence(names[a], names[b], total, metric=config.metric, num_pairs=len(pairs))
        results.append(PairResult(first=names[a], second=names[b], sentence=sentence, overall=total, labels=labels))
    return tuple(results)


def _make_difference(label: str, scores: PairedScores, p_corrected: float | None) -> Difference:
    return Difference(label=label, p_corrected=p_corrected, **asdict(scores))


def _test_all(matched: MatchedScores, over_labels: Values) -> tuple[FriedmanResult, ...]:
    per_label = [run_friedman(matched.values[:, :, k]) for k in range(len(matched.labels))]
    corrected = correct_holm([test[1] if test else None for test in per_label])
    tests = [(ALL_LABELS, run_friedman(over_labels), None), *zip(matched.labels, per_label, corrected, strict=True)]
    return tuple(
        FriedmanResult(label=label, statistic=test[0], p_value=test[1], p_corrected=p, num_cases=test[2])
        for label, test, p in tests
        if test is not None
    )

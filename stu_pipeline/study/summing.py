"""Sum up what is done of a study: rows, averages, gains, tables and the page.

Reads: `scores/<cell>.json` of finished cells. Writes: `results/`.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace

from stu_pipeline.study.cells import Cell, list_cells
from stu_pipeline.study.config import StudyResult
from stu_pipeline.study.folders import StudyFolder
from stu_pipeline.study.gains import DatasetGain, OverallGain, compare_arms, sum_gains
from stu_pipeline.study.groups import GroupScore, find_pretraining_labels, group_scores
from stu_pipeline.study.manifest import Manifest
from stu_pipeline.study.pooling import ArmKey, ArmScores, pool_rows
from stu_pipeline.study.rows import ScoreRow, read_rows
from stu_pipeline.study.tables import show, show_p_value


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySummary:
    """Everything that the tables and the page show."""

    manifest: Manifest
    result: StudyResult
    rows: list[ScoreRow]
    dice: dict[ArmKey, ArmScores]
    nsd: dict[ArmKey, ArmScores]
    gains: list[DatasetGain]
    overall: list[OverallGain]
    groups: list[GroupScore]
    pretraining_labels: frozenset[str]


def sum_up(manifest: Manifest, result: StudyResult) -> StudyResult:
    """Write the tables over the cells that are done; none are written when there is none.

    Raises:
        StorageError: a file cannot be written.
        DataError: scores cannot be read.
    """
    from stu_pipeline.study.writing import list_result_files, write_results

    folder = StudyFolder(manifest.folder)
    states = {status.name: status for status in result.cells}
    done = [cell for cell in list_cells(manifest) if states[cell.name].state == "done"]
    result = replace(result, missing=_list_missing(result))
    if not done:
        return result
    rows = [row for cell in done for row in read_rows(folder.cell_summary(cell.name), cell)]
    flags: dict[ArmKey, list[str]] = {}
    for cell in done:
        for flag in states[cell.name].flags:
            flags.setdefault(_key_of(cell), []).append(f"{cell.split.name}: {flag}")
    dice = pool_rows(rows)
    gains = compare_arms(dice, manifest.comparisons, flags)
    overall = sum_gains(gains, manifest.comparisons)
    labels = find_pretraining_labels(manifest)
    result = replace(
        result,
        summaries=tuple(_write_sentence(item) for item in overall if item.has_failed_runs),
        compare_commands=_list_compare_commands(manifest, done),
        files=list_result_files(folder.results),
    )
    summary = StudySummary(
        manifest=manifest,
        result=result,
        rows=rows,
        dice=dice,
        nsd=pool_rows(rows, "nsd"),
        gains=gains,
        overall=overall,
        groups=group_scores(manifest, dice, labels),
        pretraining_labels=labels,
    )
    write_results(folder.results, summary)
    return result


def _key_of(cell: Cell) -> ArmKey:
    return ArmKey(cell.dataset, cell.arm, cell.scale or "", cell.split.num_training_cases or 0)


def _list_missing(result: StudyResult) -> tuple[str, ...]:
    """Say which arms are not complete, so that nobody takes a part for the whole."""
    counts: dict[str, list[int]] = {}
    for status in result.cells:
        name = " ".join(part for part in (status.dataset, status.arm, status.scale) if part)
        if status.num_training_cases is not None:
            name += f" with {status.num_training_cases} training cases"
        own = counts.setdefault(name, [0, 0])
        own[0] += status.state == "done"
        own[1] += 1
    return tuple(f"{name}: {done} of {total} cells are done" for name, (done, total) in counts.items() if done < total)


def _list_compare_commands(manifest: Manifest, done: Sequence[Cell]) -> tuple[str, ...]:
    """List a `stu compare` for every pair of finished cells that differ in the compared arms only."""
    folder = StudyFolder(manifest.folder)
    commands = []
    for comparison in manifest.comparisons:
        for cell in done:
            for other in done:
                is_pair = (cell.arm, other.arm) == (comparison.arm, comparison.baseline)
                is_same = (cell.dataset, cell.split) == (other.dataset, other.split)
                if is_pair and is_same and (other.scale in (cell.scale, None) or cell.scale is None):
                    paths = [str(folder.cell_summary(one.name)) for one in (other, cell)]
                    names = ["--name", comparison.baseline, "--name", comparison.arm]
                    commands.append(shlex.join(["stu", "compare", *paths, *names]))
    return tuple(commands)


def _write_sentence(item: OverallGain) -> str:
    arm, baseline = f"{item.comparison.arm} {item.scale}".strip(), item.comparison.baseline
    where = f" with {item.num_training_cases} training cases" if item.num_training_cases else ""
    if item.mean is None:
        return f"{arm} against {baseline}{where}: no case can be compared"
    text = f"{arm} against {baseline}{where}: {show(item.mean, signed=True)} Dice"
    if item.num_datasets == 1:
        return f"{text} on one dataset"
    return (
        f"{text} on average over {item.num_datasets} datasets, median {show(item.median, signed=True)}, better on "
        f"{item.wins}, worse on {item.losses} (p {show_p_value(item.p_value)})"
    )
